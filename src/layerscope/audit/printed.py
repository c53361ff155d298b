"""Figures as people print them: what they say, how precisely, and whether that is right.

"MB" is 2^20 bytes and "KB" 2^10, "M" and "MFLOPs" are 10^6 and "K" is 10^3, unless a file of claims
says otherwise. What is printed may be

- a number with its unit, `≈ 56.6 MFLOPs` or `1.8×10^9`; "≈" and "~" excuse nothing, but zeros that
  end an integer after them hold places and are no digits: `~300M` is precise to a hundred million;
- a substituted expression, `32 × 3 × 32 × 32` or `⌊(16 - 2)/2⌋ + 1`, precise to 1;
- a range, `8-9×`, or a word that is one, `millions`: it allows for its own error, so that there is
  nothing between right and wrong;
- a shape, `(32, 10)` or `32×32`; a dash for no figure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

from layerscope.audit.expressions import (
    ExactNumber,
    ExpressionError,
    ExpressionValue,
    LayerValues,
    expression_value,
)

Verdict = Literal["agrees", "rounding", "wrong"]

DASH = "—"

_COUNTED = ("", "B", "bytes", "elements", "parameters", "params", "FLOPs", "MACs", "-bit", "×")
_DECIMAL = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS: Mapping[str, ExactNumber] = MappingProxyType(
    {
        **dict.fromkeys(_COUNTED, 1),
        "%": Fraction(1, 100),
        **_DECIMAL,
        **{f"{prefix}FLOPs": size for prefix, size in _DECIMAL.items()},
        **{f"{prefix}MACs": size for prefix, size in _DECIMAL.items()},
        "thousand": 10**3,
        "million": 10**6,
        "billion": 10**9,
        "KB": 2**10,
        "MB": 2**20,
        "GB": 2**30,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
    }
)
_WORDS = {
    "thousands": (10**3, 10**6),
    "millions": (10**6, 10**9),
    "billions": (10**9, 10**12),
}

_DIGITS = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_FIGURE = re.compile(
    rf"\+?(?P<about>[~≈]|about)? ?(?P<low>(?:{_DIGITS})(?:\.(?P<decimals>[0-9]+))?)"
    r"(?:-(?P<high>[0-9]+))?"
    r"(?P<suffix>(?: ?[×x·] ?10(?:\^(?P<power>[0-9]{1,2})|(?P<raised>[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,2})))?"
    r" ?(?P<unit>[^0-9]*))"
)


@dataclass(frozen=True)
class _ReadFigure:
    """A printed number; `low` and `high` differ for a range only.

    Args:
        step: one unit of the last printed digit.
        decimals: printed ones, in the printed unit.
        suffix: the unit with the space before it.
    """

    low: ExactNumber
    high: ExactNumber
    step: ExactNumber
    scale: ExactNumber = 1
    decimals: int = 0
    suffix: str = ""


def verdict(
    printed: str, right: ExpressionValue, units: Mapping[str, ExactNumber] = UNITS
) -> Verdict:
    """`agrees` within half a unit of the last printed digit, `rounding` within one, else `wrong`.

    Shapes and dashes agree or are wrong.

    Raises:
        ExpressionError: nothing is printed that can be read, or there is no one right value.
    """
    if right is None or printed == DASH:
        return "agrees" if right is None and printed == DASH else "wrong"
    if isinstance(right, LayerValues):
        raise ExpressionError(f"several right values for {printed!r}")
    if isinstance(right, tuple):
        sizes = tuple(int(size) for size in re.findall("[0-9]+", printed))
        return "agrees" if sizes == right else "wrong"
    figure = _read(printed, units)
    off = max(figure.low - right, right - figure.high, 0)
    if 2 * off <= figure.step:
        return "agrees"
    is_range = figure.low != figure.high
    return "rounding" if off <= figure.step and not is_range else "wrong"


def shown(
    value: ExpressionValue,
    printed: str,
    decimals: int | None = None,
    units: Mapping[str, ExactNumber] = UNITS,
) -> str:
    """Return the value in the unit and at the precision of what is printed.

    Args:
        decimals: more or fewer than are printed.
    """
    if value is None:
        return DASH
    if isinstance(value, LayerValues):
        raise ExpressionError(f"several right values for {printed!r}")
    if isinstance(value, tuple):
        return str(value) if printed.startswith("(") else "×".join(map(str, value))
    figure = _ReadFigure(0, 0, 1) if printed == DASH else _read(printed, units)
    places = figure.decimals if decimals is None else decimals
    digits = round(Fraction(value) / figure.scale * 10**places)
    whole, rest = divmod(abs(digits), 10**places)
    fraction = f".{rest:0{places}d}" if places else ""
    return f"{'-' if digits < 0 else ''}{whole:,}{fraction}{figure.suffix}"


def _read(printed: str, units: Mapping[str, ExactNumber]) -> _ReadFigure:
    if printed in _WORDS:
        low, high = _WORDS[printed]
        return _ReadFigure(low, high, step=0)
    match = _FIGURE.fullmatch(printed)
    if match is None or match["unit"] not in units:
        return _read_expression(printed)
    power = int((match["power"] or match["raised"] or "0").translate(_SUPERSCRIPTS))
    scale = units[match["unit"]] * 10**power
    decimals = len(match["decimals"] or "")
    low = _plain(match["low"])
    high = _plain(match["high"] or match["low"])
    step = Fraction(1, 10**decimals)
    if match["about"] and not decimals:
        step = Fraction(10 ** _num_final_zeros(match["low"]))
    return _ReadFigure(low * scale, high * scale, step * scale, scale, decimals, match["suffix"])


def _read_expression(printed: str) -> _ReadFigure:
    formula = re.sub(_DIGITS, lambda number: number.group().replace(",", ""), printed)
    value = expression_value(formula, _no_name)
    if not isinstance(value, int | Fraction):
        raise ExpressionError(f"no figure: {printed!r}")
    return _ReadFigure(value, value, step=1)


def _no_name(name: str) -> ExpressionValue:
    raise ExpressionError(f"no figure: {name!r}")


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _num_final_zeros(digits: str) -> int:
    return len(digits) - len(digits.rstrip("0")) if digits.strip("0") else 0
