"""A formula as it stands in theory/, written as MathML and LaTeX, with and without its numbers.

The function that counts is called with sympy symbols, so what is printed is what was computed. The
printers are our own: sympy's sort the factors by name, here they stand in the order in which the
function takes them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from layerscope.operations import Formula

Numbers = Mapping[str, int]


def general_mathml(formula: Formula) -> str:
    """`<math>` with symbols only."""
    return _mathml(_write(formula, _MathMl(), None))


def substituted_mathml(formula: Formula) -> str:
    """`<math>` with each symbol's number, not evaluated, and the result behind it."""
    line = _write(formula, _MathMl(), formula.arguments)
    return _mathml(f"{line}<mo>=</mo>{_MathMl().number(f'{formula.value:,}')}")


def general_latex(formula: Formula, coloured: bool = False) -> str:
    """Without dollar signs.

    Args:
        coloured: each symbol in the colour of what it counts.
    """
    return _write(formula, _ColouredLatex() if coloured else _Latex(), None)


def substituted_latex(formula: Formula, coloured: bool = False) -> str:
    """Each symbol's number, not evaluated, and the result behind it."""
    line = _write(formula, _ColouredLatex() if coloured else _Latex(), formula.arguments)
    return f"{line} = {latex_count(formula.value)}"


def symbol_latex(name: str) -> str:
    """`C_in`, in its colour."""
    return _ColouredLatex().symbol(name)


def number_latex(name: str, value: int) -> str:
    """What `name` is here, in its colour."""
    return _ColouredLatex().value(name, str(value))


def latex_count(count: int) -> str:
    """Thousands separated."""
    return f"{count:,}".replace(",", "{,}")


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


def _mathml(inner: str) -> str:
    return f'<math display="block"><mrow>{inner}</mrow></math>'


class _Notation(Protocol):
    """How a written language puts a sum, a product and so on; every part is text in it already."""

    times: str
    plus: str
    minus: str

    def number(self, digits: str) -> str: ...
    def symbol(self, name: str) -> str: ...
    def value(self, name: str, digits: str) -> str: ...
    def power(self, base: str, exponent: str) -> str: ...
    def fraction(self, numerator: str, denominator: str) -> str: ...
    def enclosed(self, left: str, inner: str, right: str) -> str: ...


class _MathMl:
    times, plus, minus = "<mo>×</mo>", "<mo>+</mo>", "<mo>−</mo>"

    def number(self, digits: str) -> str:
        return f"<mn>{digits}</mn>"

    def symbol(self, name: str) -> str:
        base, index = _split(name)
        letter = f"<mi>{base}</mi>" if len(base) == 1 else f"<mtext>{base}</mtext>"
        return f"<msub>{letter}<mtext>{index}</mtext></msub>" if index else letter

    def value(self, name: str, digits: str) -> str:
        return self.number(digits)

    def power(self, base: str, exponent: str) -> str:
        return f"<msup><mrow>{base}</mrow>{exponent}</msup>"

    def fraction(self, numerator: str, denominator: str) -> str:
        return f"<mfrac><mrow>{numerator}</mrow><mrow>{denominator}</mrow></mfrac>"

    def enclosed(self, left: str, inner: str, right: str) -> str:
        return f"<mrow><mo>{left}</mo>{inner}<mo>{right}</mo></mrow>"


class _Latex:
    times, plus, minus = r" \times ", " + ", " - "
    _brackets: Mapping[str, str] = {
        "⌊": r"\left\lfloor ",
        "⌋": r" \right\rfloor",
        "⌈": r"\left\lceil ",
        "⌉": r" \right\rceil",
        "(": r"\left(",
        ")": r"\right)",
    }

    def number(self, digits: str) -> str:
        return digits

    def symbol(self, name: str) -> str:
        base, index = _split(name)
        letter = base if len(base) == 1 else rf"\text{{{base}}}"
        return rf"{letter}_{{\text{{{index}}}}}" if index else letter

    def value(self, name: str, digits: str) -> str:
        return self.number(digits)

    def power(self, base: str, exponent: str) -> str:
        return f"{{{base}}}^{{{exponent}}}"

    def fraction(self, numerator: str, denominator: str) -> str:
        return rf"\frac{{{numerator}}}{{{denominator}}}"

    def enclosed(self, left: str, inner: str, right: str) -> str:
        return f"{self._brackets[left]}{inner}{self._brackets[right]}"


class _ColouredLatex(_Latex):
    def symbol(self, name: str) -> str:
        return self._in_colour(name, super().symbol(name))

    def value(self, name: str, digits: str) -> str:
        return self._in_colour(name, super().value(name, digits))

    def _in_colour(self, name: str, latex: str) -> str:
        colour = colour_of(name)
        return latex if colour is None else rf"\textcolor{{{colour}}}{{{latex}}}"


def _split(name: str) -> tuple[str, str]:
    """`C_in` is C with an index; `in_features` is a word."""
    base, _, index = name.partition("_")
    return (base, index.replace("_", " ")) if len(base) == 1 else (name.replace("_", " "), "")


def _write(formula: Formula, notation: _Notation, numbers: Numbers | None) -> str:
    names = tuple(formula.arguments)
    return _Writer(notation, names, numbers).write(_expression(formula.function, names))


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


@dataclass(frozen=True)
class _Writer:
    """An expression in a notation; with `numbers`, each symbol as its number."""

    notation: _Notation
    order: tuple[str, ...]
    numbers: Numbers | None

    def write(self, expression: Any) -> str:
        if expression.is_Symbol:
            return self._symbol(expression.name)
        if expression.is_Rational and not expression.is_negative:
            return self._rational(expression)
        if expression.is_Add:
            return self._sum(expression)
        if expression.is_Mul:
            return self._product(expression)
        if expression.is_Pow:
            return self._power(expression)
        brackets = {"floor": "⌊⌋", "ceiling": "⌈⌉"}.get(type(expression).__name__)
        if brackets is None:
            raise TypeError(f"no notation for {type(expression).__name__} in {expression}")
        return self.notation.enclosed(brackets[0], self.write(expression.args[0]), brackets[1])

    def _symbol(self, name: str) -> str:
        if self.numbers is None:
            return self.notation.symbol(name)
        return self.notation.value(name, str(self.numbers[name]))

    def _rational(self, value: Any) -> str:
        numerator = self.notation.number(str(value.p))
        if value.q == 1:
            return numerator
        return self.notation.fraction(numerator, self.notation.number(str(value.q)))

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
            text += self.notation.minus if taken else self.notation.plus
            text += self.write(-term if taken else term)
        return text

    def _product(self, expression: Any) -> str:
        above, below = expression.as_numer_denom()
        if below != 1:
            return self.notation.fraction(self.write(above), self.write(below))
        factors = sorted(expression.args, key=self._rank)
        return self.notation.times.join(self._factor(factor) for factor in factors)

    def _factor(self, factor: Any) -> str:
        text = self.write(factor)
        return self.notation.enclosed("(", text, ")") if factor.is_Add else text

    def _power(self, expression: Any) -> str:
        base, exponent = expression.args
        if exponent.is_negative:
            return self.notation.fraction(self.notation.number("1"), self.write(1 / expression))
        written = self.write(base)
        if not base.is_Atom:
            written = self.notation.enclosed("(", written, ")")
        return self.notation.power(written, self.write(exponent))

    def _rank(self, part: Any) -> int:
        """Numbers first, then in the order of the function's arguments, the kernel's sizes last."""
        names = {symbol.name for symbol in part.free_symbols}
        places = [
            self.order.index(name) + len(self.order) * name.startswith("k_") for name in names
        ]
        return min(places, default=-1)
