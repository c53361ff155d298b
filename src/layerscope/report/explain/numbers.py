"""Real numbers as the documents print them: so many digits that the printed sums can be checked."""

import math

import numpy as np

from layerscope.explain.values import Value

DIGITS = 6  # that count, at least; after the point too
_MOST_DIGITS = 10


def full(value: float, digits: int = DIGITS) -> str:
    """With six decimals or more, at least so many digits that count: `-0.0285714`."""
    value += 0.0  # -0.0 as 0
    if _is_far_from_one(value):
        return f"{value:.{max(digits, DIGITS) - 1}e}"
    return f"{value:.{_decimals(value, digits)}f}"


def short(value: float, digits: int = DIGITS) -> str:
    """The same without the zeros at the end: `0.2`; a 0 as `0`.

    A float32 number that fewer digits tell from its neighbours has these: `0.3`.
    """
    mantissa, mark, exponent = full(value, digits).partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    text = "0" if mantissa == "-0" else f"{mantissa}{mark}{exponent}"
    if digits > DIGITS and math.isfinite(value) and float(np.float32(value)) == value:
        if not mark:
            return min(text, np.format_float_positional(np.float32(value), trim="-"), key=len)
        fewer = np.format_float_scientific(np.float32(value), trim="-", exp_digits=2)
        return min(text, fewer, key=len)
    return text


def digits_of(value: Value) -> int:
    """So many digits of each factor that the printed terms give the printed sum."""
    size, magnitude = abs(value.computed), value.magnitude
    if not size or value.cancels or not math.isfinite(magnitude):
        return DIGITS + 1
    last = DIGITS - 1 - _exponent(size) if _is_far_from_one(size) else _decimals(size, DIGITS)
    return min(max(DIGITS, 1 + last + _exponent(magnitude)), _MOST_DIGITS)


def ulps_text(ulps: float) -> str:
    """Two digits are enough."""
    if ulps == 0:
        return "0"
    return f"{ulps:.2g}" if ulps < 1000 else f"{ulps:.3g}"


def _decimals(value: float, digits: int) -> int:
    """After the point."""
    if not value or not math.isfinite(value):
        return DIGITS
    return max(DIGITS, digits - 1 - _exponent(value))


def _exponent(value: float) -> int:
    """Of ten, where the first digit stands."""
    return math.floor(math.log10(abs(value)))


def _is_far_from_one(value: float) -> bool:
    return value != 0 and not 1e-3 <= abs(value) < 1e6
