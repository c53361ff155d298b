"""Real numbers as the documents print them."""

DECIMALS = 6


def full(value: float) -> str:
    """Six decimals, or six after the first digit where those would hide it: `-0.028571`."""
    value += 0.0  # -0.0 as 0
    return f"{value:.{DECIMALS}e}" if _is_far_from_one(value) else f"{value:.{DECIMALS}f}"


def short(value: float) -> str:
    """The same without the zeros at the end: `0.2`; a 0 as `0`."""
    digits, mark, exponent = full(value).partition("e")
    digits = digits.rstrip("0").rstrip(".")
    return "0" if digits == "-0" else f"{digits}{mark}{exponent}"


def ulps_text(ulps: float) -> str:
    """Two digits are enough."""
    if ulps == 0:
        return "0"
    return f"{ulps:.2g}" if ulps < 1000 else f"{ulps:.3g}"


def _is_far_from_one(value: float) -> bool:
    return value != 0 and not 1e-3 <= abs(value) < 1e6
