"""How names and numbers are written in a sentence."""

import re
from collections.abc import Iterable, Sequence

from layerscope.base.formatting import share


def code(name: str) -> str:
    """Write a name from outside as Markdown's code."""
    name = " ".join(name.split())
    longest = max(map(len, re.findall("`+", name)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{name}{space}{fence}"


def code_list(names: Iterable[str]) -> str:
    """Write names as code, `a`, `b` and `c`; of many the first and the last."""
    return shortened([code(name) for name in names])


def shortened(shown: Sequence[str]) -> str:
    """Join a, b and c; of many the first and the last."""
    if len(shown) > 6:
        return f"{', '.join(shown[:3])} … {shown[-1]} ({len(shown)} of them)"
    return enumerated(shown)


def enumerated(parts: Sequence[str]) -> str:
    """Join parts of a sentence: a, b and c."""
    return "".join(parts) if len(parts) < 2 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def sizes(shape: Iterable[int]) -> str:
    """Write sizes as `32×32`."""
    return "×".join(map(str, shape))


def times(over: float, under: float) -> str:
    """Write a ratio with as many digits as tell it from a whole number."""
    factor = over / under
    digits = 2
    while float(f"{factor:.{digits}f}") == round(factor) != factor and digits < 12:
        digits += 1
    return f"{factor:.{digits}f}×"


def percent_of(part: float, whole: float) -> str:
    """Return a part in percent of the whole; 100.0 % is all of it."""
    written, digits = share(part / whole if whole else None), 1
    while part != whole and written.startswith("100.") and digits < 12:
        digits += 1
        written = f"{100 * part / whole:.{digits}f} %"
    return written
