"""Formulas: an expression as LaTeX, LaTeX as MathML for a page and as plain text for a terminal.

The function that counts is called with sympy symbols, so what is printed is what was computed. The
printer is our own: sympy's sorts the factors by name, here they stand in the order in which the
function takes them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whose room imports torch, for which a terminal's first line does not wait
    from layerscope.operations import CostFormula

# Writing LaTeX --------------------------------------------------------------------------------


def general_latex(formula: "CostFormula", coloured: bool = False) -> str:
    """Return the formula with its symbols, without dollar signs.

    Args:
        coloured: each symbol in the colour of what it counts.
    """
    return _Writer(tuple(formula.arguments), coloured, None).written(formula)


def substituted_latex(formula: "CostFormula", coloured: bool = False) -> str:
    """Return the formula with each symbol's number, not evaluated, and the result behind it."""
    line = _Writer(tuple(formula.arguments), coloured, formula.arguments).written(formula)
    return f"{line} = {latex_count(formula.value)}"


def symbol_latex(name: str, coloured: bool = True) -> str:
    """Return `C_in`, in its colour."""
    base, _, index = name.partition("_")
    if len(base) > 1:  # `in_features` is a word
        base, index = rf"\text{{{name.replace('_', ' ')}}}", ""
    latex = rf"{base}_{{\text{{{index.replace('_', ' ')}}}}}" if index else base
    return _in_colour(name, latex) if coloured else latex


def number_latex(name: str, value: object) -> str:
    """Return what `name` is here, in its colour."""
    return _in_colour(name, str(value))


def latex_count(count: int) -> str:
    """Return a count with its thousands separated."""
    return f"{count:,}".replace(",", "{,}")


def shape_latex(names: Iterable[tuple[str, int]]) -> str:
    """Return a shape, each size in its colour."""
    return f"({', '.join(number_latex(name, size) for name, size in names)})"


def colour_of(name: str) -> str | None:
    """Return a symbol's colour: one each for batch, channels and sizes in and out, and kernel.

    What has no colour is black.
    """
    if name.startswith("k_"):
        return "purple"
    return _COLOURS.get(name.removesuffix("_per_group"))


_COLOURS: Mapping[str, str] = {
    **dict.fromkeys(("N", "rows"), "magenta"),
    **dict.fromkeys(("C_in", "F_in", "in_features"), "blue"),
    **dict.fromkeys(("D_in", "H_in", "W_in", "L_in"), "orange"),
    **dict.fromkeys(("C_out", "F_out", "out_features", "C"), "green"),
    **dict.fromkeys(("D_out", "H_out", "W_out", "L_out"), "red"),
    "k": "purple",
}


def _in_colour(name: str, latex: str) -> str:
    colour = colour_of(name)
    return latex if colour is None else rf"\textcolor{{{colour}}}{{{latex}}}"


def coloured(latex: str) -> str:
    """Put the sizes of a general formula in their colours; words in it stay as they are."""
    parts = re.split(r"(\\text\{[^{}]*\})", latex)
    symbol = _SIZE_SYMBOL if re.search(r"k *=|, k", latex) is None else _SIZE_BUT_KERNEL
    return "".join(
        part if part.startswith("\\text{") else upright(symbol.sub(_size_in_colour, part))
        for part in parts
    )


_SIZE_SYMBOL = re.compile(r"(?<![A-Za-z\\])(?:[CDFHWL]_\{(?:in|out)\}|k(?:_[dhw])?|N)(?![A-Za-z_])")
# Where k is an index of its own, it is no kernel.
_SIZE_BUT_KERNEL = re.compile(r"(?<![A-Za-z\\])(?:[CDFHWL]_\{(?:in|out)\}|N)(?![A-Za-z_])")


def _size_in_colour(match: re.Match[str]) -> str:
    return symbol_latex(match[0].replace("{", "").replace("}", ""))


def upright(text: str) -> str:
    """Return `H_{out}` with a word as its index, which is no product of letters."""
    return re.sub(r"_\{(in|out|new)\}", r"_{\\text{\1}}", text)


@lru_cache(maxsize=4096)
def _expression(function: Callable[..., Any], names: tuple[str, ...]) -> Any:
    import sympy  # 32 MiB, which a report without formulas does not need

    # Padding may be 0; all other sizes are at least 1.
    symbols = {
        name: sympy.Symbol(name, integer=True, **_sign(name))  # type: ignore[arg-type]
        for name in names
    }
    return sympy.sympify(function(**symbols))


def _sign(name: str) -> dict[str, bool]:
    return {"nonnegative": True} if name.startswith("p") else {"positive": True}


_BRACKETS = {
    "floor": (r"\left\lfloor ", r" \right\rfloor"),
    "ceiling": (r"\left\lceil ", r" \right\rceil"),
}


@dataclass(frozen=True)
class _Writer:
    """An expression in LaTeX; with `numbers`, each symbol as its number."""

    order: tuple[str, ...]
    coloured: bool
    numbers: Mapping[str, int] | None

    def written(self, formula: "CostFormula") -> str:
        return self.write(_expression(formula.function, self.order))

    def write(self, expression: Any) -> str:
        if expression.is_Symbol:
            return self._symbol(expression.name)
        if expression.is_Rational and not expression.is_negative:
            return str(expression.p) if expression.q == 1 else _frac(expression.p, expression.q)
        if expression.is_Add:
            return self._sum(expression)
        if expression.is_Mul:
            return self._product(expression)
        if expression.is_Pow:
            return self._power(expression)
        if type(expression).__name__ not in _BRACKETS:
            raise TypeError(f"no notation for {type(expression).__name__} in {expression}")
        left, right = _BRACKETS[type(expression).__name__]
        return f"{left}{self.write(expression.args[0])}{right}"

    def _symbol(self, name: str) -> str:
        if self.numbers is None:
            return symbol_latex(name, self.coloured)
        number = str(self.numbers[name])
        return _in_colour(name, number) if self.coloured else number

    def _sum(self, expression: Any) -> str:
        """Terms that are added first, then those taken away, a bare number last among each."""
        first, *others = sorted(
            expression.args,
            key=lambda term: (
                term.could_extract_minus_sign(),
                term.is_Number,
                self._rank(term),
                -len(term.free_symbols),
            ),
        )
        text = self.write(first)
        for term in others:
            taken = term.could_extract_minus_sign()
            text += f" {'-' if taken else '+'} {self.write(-term if taken else term)}"
        return text

    def _product(self, expression: Any) -> str:
        above, below = expression.as_numer_denom()
        if below != 1:
            return _frac(self.write(above), self.write(below))
        factors = sorted(expression.args, key=self._rank)
        return r" \times ".join(self._enclosed(factor, factor.is_Add) for factor in factors)

    def _power(self, expression: Any) -> str:
        base, exponent = expression.args
        if exponent.is_negative:
            return _frac(1, self.write(1 / expression))
        return f"{{{self._enclosed(base, not base.is_Atom)}}}^{{{self.write(exponent)}}}"

    def _enclosed(self, part: Any, in_brackets: bool) -> str:
        text = self.write(part)
        return rf"\left({text}\right)" if in_brackets else text

    def _rank(self, part: Any) -> int:
        """Numbers first, then in the order of the function's arguments, the kernel's sizes last."""
        names = {symbol.name for symbol in part.free_symbols}
        places = [
            self.order.index(name) + len(self.order) * name.startswith("k_") for name in names
        ]
        return min(places, default=-1)


def _frac(above: object, below: object) -> str:
    return rf"\frac{{{above}}}{{{below}}}"


# Reading it for other formats -----------------------------------------------------------------

_COLOUR = re.compile(r'<mstyle mathcolor="([a-z]+)">')
_GROUPED_DIGITS = re.compile(r"</mn><mrow><mo>&#x0002C;</mo></mrow><mn>")


@lru_cache(maxsize=16384)
def mathml(latex: str, display: bool) -> str:
    """Return a `<math>` element; colours are classes, so that a dark page can have lighter ones."""
    from latex2mathml.converter import convert  # only where a page is made

    converted = convert(latex, display="block" if display else "inline")
    converted = converted.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "", 1)
    converted = converted.replace(' display="inline"', "", 1)
    converted = _GROUPED_DIGITS.sub(",", converted)  # 1{,}024 is one number
    # Browsers know this variant of a letter, not as an attribute.
    converted = converted.replace('<mn mathvariant="double-struck">1</mn>', "<mn>𝟙</mn>")
    return _COLOUR.sub(r'<mstyle class="\1">', converted)


_PLAIN = (
    (r"\\(?:text|operatorname|mathbf|mathbb)\{([^{}]*)\}", r"\1"),
    (r"\\textcolor\{\w+\}\{([^{}]*)\}", r"\1"),
    (r"[_^]\{(\w+)\}", lambda found: found[0][0] + found[1]),
    (r"\{,\}", ","),
    (r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)"),
    (r"\\sqrt\{([^{}]*)\}", r"√(\1)"),
)
_SIGNS = {
    r"\times": "×", r"\cdot": "·", r"\le": "≤", r"\ge": "≥", r"\sum": "Σ", r"\epsilon": "ε",
    r"\lfloor": "⌊", r"\rfloor": "⌋", r"\lceil": "⌈", r"\rceil": "⌉", r"\partial": "∂",
    r"\left": "", r"\right": "", "\\,": " ",
}  # fmt: skip


def plain_formula(latex: str) -> str:
    """Return a formula in letters and signs that a terminal has; what it has not stays LaTeX."""
    before = ""
    while before != latex:
        before = latex
        for pattern, replacement in _PLAIN:
            latex = re.sub(pattern, replacement, latex)
    for name, sign in _SIGNS.items():
        latex = re.sub(re.escape(name) + r"(?![A-Za-z])", sign, latex)
    return " ".join(latex.split())
