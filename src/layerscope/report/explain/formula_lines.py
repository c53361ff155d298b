"""Cost formulas as display lines: with symbols, then with this layer's numbers, in colour."""

import re
from collections.abc import Iterable

from layerscope.base.formatting import bytes_exact, count_short
from layerscope.operations import Formula
from layerscope.report.profile.formulas import (
    general_latex,
    latex_count,
    number_latex,
    substituted_latex,
    symbol_latex,
)


def display(latex: str) -> str:
    """On a line of its own."""
    return f"$$\n{latex}\n$$"


def coloured(latex: str) -> str:
    """A general formula with its sizes in their colours; words in it stay as they are."""
    parts = re.split(r"(\\text\{[^{}]*\})", latex)
    symbol = _SIZE_SYMBOL if re.search(r"k *=|, k", latex) is None else _SIZE_BUT_KERNEL
    return "".join(
        part if part.startswith("\\text{") else upright(symbol.sub(_in_colour, part))
        for part in parts
    )


_SIZE_SYMBOL = re.compile(r"(?<![A-Za-z\\])(?:[CDFHWL]_\{(?:in|out)\}|k(?:_[dhw])?|N)(?![A-Za-z_])")


def upright(text: str) -> str:
    """`H_{out}` in a sentence: words in an index are no products of letters."""
    return re.sub(r"_\{(in|out|new)\}", r"_{\\text{\1}}", text)


# Where k is an index of its own, it is no kernel.
_SIZE_BUT_KERNEL = re.compile(r"(?<![A-Za-z\\])(?:[CDFHWL]_\{(?:in|out)\}|N)(?![A-Za-z_])")


def _in_colour(match: re.Match[str]) -> str:
    name = match[0].replace("{", "").replace("}", "")
    return symbol_latex(name)


def both_lines(left: str, formula: Formula) -> str:
    """The general formula and the substituted one; only the latter where they are alike.

    Args:
        left: LaTeX of what the formula gives.
    """
    general = general_latex(formula, coloured=True)
    return display(f"{left} = {general}") + "\n\n" + substituted_line(left, formula)


def substituted_line(left: str, formula: Formula) -> str:
    """With the numbers, and the result."""
    if len(formula.arguments) == 1:
        return display(f"{left} = {latex_count(formula.value)}")
    return display(f"{left} = {substituted_latex(formula, coloured=True)}")


def size_left(quantity: str) -> str:
    """`H_out` in its colour."""
    return symbol_latex(quantity)


def flops_left(index: str) -> str:
    """`FLOPs` with what they are of below."""
    return rf"\text{{FLOPs}}_{{\text{{{index}}}}}"


def same_lines(formulas: Iterable[tuple[str, Formula]]) -> tuple[tuple[list[str], Formula], ...]:
    """Formulas that are the same, with the same numbers, under all the names that they have."""
    found: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[list[str], Formula]] = {}
    for name, formula in formulas:
        key = (general_latex(formula), tuple(formula.arguments.items()))
        found.setdefault(key, ([], formula))[0].append(name)
    return tuple(found.values())


def flops_text(flops: int | None) -> str:
    """`56,623,104 FLOPs (56.6 M)`."""
    if flops is None:
        return "unknown"
    exact = f"{flops:,} FLOPs"
    return exact if flops < 1000 else f"{exact} ({count_short(flops)})"


def tensor_bytes(elements: int, element_size: int) -> str:
    """`98,304 × 4 B = 393,216 B (384 KiB)`."""
    return f"{elements:,} × {element_size} B = {bytes_exact(elements * element_size)}"


def shape_latex(names: Iterable[tuple[str, int]]) -> str:
    """A shape, each size in its colour."""
    sizes = [number_latex(name, size) for name, size in names]
    return f"({', '.join(sizes)})"
