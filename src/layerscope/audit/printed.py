"""Figures as the walkthrough prints them: what they say, how precisely, and whether that is right.

"MB" is 2^20 bytes and "KB" 2^10, "M" and "MFLOPs" are 10^6 and "K" is 10^3. What is printed may be

- a number with its unit, `≈ 56.6 MFLOPs`; "≈" and "~" excuse nothing, but zeros that end an integer
  after them hold places and are no digits: `~300M` is precise to a hundred million;
- a substituted expression, `32 × 3 × 32 × 32` or `⌊(16 - 2)/2⌋ + 1`, precise to 1;
- a range, `8-9×`, or a word that is one, `millions`: it allows for its own error, so that there is
  nothing between right and wrong;
- a shape, `(32, 10)` or `32×32`; a dash for no figure.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from layerscope.audit.formulas import Column, FormulaError, Number, Value, evaluate

Verdict = Literal["agrees", "rounding", "wrong"]

DASH = "—"

_UNITS: dict[str, Number] = {
    "": 1,
    "B": 1,
    "bytes": 1,
    "elements": 1,
    "parameters": 1,
    "-bit": 1,
    "×": 1,
    "%": Fraction(1, 100),
    "K": 10**3,
    "M": 10**6,
    "MFLOPs": 10**6,
    "KB": 2**10,
    "MB": 2**20,
}
_WORDS = {"millions": (10**6, 10**9)}

_DIGITS = r"\d{1,3}(?:,\d{3})+|\d+"
_FIGURE = re.compile(
    rf"\+?(?P<about>[~≈]?) ?(?P<low>(?:{_DIGITS})(?:\.(?P<decimals>\d+))?)(?:-(?P<high>\d+))?"
    rf"(?P<suffix> ?(?P<unit>{'|'.join(map(re.escape, _UNITS))}))"
)


@dataclass(frozen=True)
class _Figure:
    """A printed number; `low` and `high` differ for a range only.

    Args:
        step: one unit of the last printed digit.
        decimals: printed ones, in the printed unit.
        suffix: the unit with the space before it.
    """

    low: Number
    high: Number
    step: Number
    scale: Number = 1
    decimals: int = 0
    suffix: str = ""


def verdict(printed: str, right: Value) -> Verdict:
    """`agrees` within half a unit of the last printed digit, `rounding` within one, else `wrong`.

    Shapes and dashes agree or are wrong.

    Raises:
        FormulaError: nothing is printed that can be read, or there is no one right value.
    """
    if right is None or printed == DASH:
        return "agrees" if right is None and printed == DASH else "wrong"
    if isinstance(right, Column):
        raise FormulaError(f"several right values for {printed!r}")
    if isinstance(right, tuple):
        sizes = tuple(int(size) for size in re.findall(r"\d+", printed))
        return "agrees" if sizes == right else "wrong"
    figure = _read(printed)
    off = max(figure.low - right, right - figure.high, 0)
    if 2 * off <= figure.step:
        return "agrees"
    is_range = figure.low != figure.high
    return "rounding" if off <= figure.step and not is_range else "wrong"


def shown(value: Value, printed: str, decimals: int | None = None) -> str:
    """The value in the unit and at the precision of what is printed.

    Args:
        decimals: more or fewer than are printed.
    """
    if value is None:
        return DASH
    if isinstance(value, Column):
        raise FormulaError(f"several right values for {printed!r}")
    if isinstance(value, tuple):
        return str(value) if printed.startswith("(") else "×".join(map(str, value))
    figure = _Figure(0, 0, 1) if printed == DASH else _read(printed)
    places = figure.decimals if decimals is None else decimals
    digits = round(Fraction(value) / figure.scale * 10**places)
    return f"{digits / 10**places:,.{places}f}{figure.suffix}"


def _read(printed: str) -> _Figure:
    if printed in _WORDS:
        low, high = _WORDS[printed]
        return _Figure(low, high, step=0)
    match = _FIGURE.fullmatch(printed)
    if match is None:
        return _read_expression(printed)
    scale = _UNITS[match["unit"]]
    decimals = len(match["decimals"] or "")
    low = _plain(match["low"])
    high = _plain(match["high"] or match["low"])
    step = Fraction(1, 10**decimals)
    if match["about"] and not decimals:
        step = Fraction(10 ** _num_final_zeros(match["low"]))
    return _Figure(low * scale, high * scale, step * scale, scale, decimals, match["suffix"])


def _read_expression(printed: str) -> _Figure:
    formula = re.sub(_DIGITS, lambda number: number.group().replace(",", ""), printed)
    formula = re.sub(r"⌊(.+)/(.+)⌋", r"((\1) // (\2))", formula)
    formula = re.sub(r"(?<=\d)\(", "*(", formula).replace("×", "*")
    value = evaluate(formula, _no_name)
    if not isinstance(value, (int, Fraction)):
        raise FormulaError(f"no figure: {printed!r}")
    return _Figure(value, value, step=1)


def _no_name(name: str) -> Value:
    raise FormulaError(f"no figure: {name!r}")


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _num_final_zeros(digits: str) -> int:
    return len(digits) - len(digits.rstrip("0")) if digits.strip("0") else 0
