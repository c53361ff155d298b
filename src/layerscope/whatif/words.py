"""How names and numbers are written in a sentence."""

from collections.abc import Iterable, Sequence

from layerscope.formatting import bytes_exact, share


def code(name: str) -> str:
    """A name from outside, as Markdown's code."""
    name = " ".join(name.split())
    longest = max((len(run) for run in _runs(name, "`")), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{name}{space}{fence}"


def _runs(text: str, character: str) -> Iterable[str]:
    return "".join(c if c == character else " " for c in text).split()


def listed(names: Iterable[str]) -> str:
    """Names as code, `a`, `b` and `c`; of many the first and the last."""
    return shortened([code(name) for name in names])


def shortened(shown: Sequence[str]) -> str:
    """a, b and c; of many the first and the last."""
    if len(shown) > 6:
        return f"{', '.join(shown[:3])} … {shown[-1]} ({len(shown)} of them)"
    return joined(shown)


def joined(parts: Sequence[str]) -> str:
    """Parts of a sentence: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def count(number: float) -> str:
    """With thousands."""
    return f"{number:,}"


def bytes_(number: int) -> str:
    """Exact, and short from a KiB on."""
    return bytes_exact(number)


def ratio(over: float | None, under: float | None) -> float | None:
    """None where either is not known."""
    return None if over is None or not under else over / under


def times(over: float, under: float) -> str:
    """A ratio, with as many digits as tell it from a whole number."""
    factor = over / under
    digits = 2
    while float(f"{factor:.{digits}f}") == round(factor) != factor and digits < 12:
        digits += 1
    return f"{factor:.{digits}f}×"


def fewer(before: float, after: float) -> str:
    """How many times fewer, or more, there are after than before."""
    if before == after:
        return "as many as before"
    less = after < before
    return f"{times(before, after)} fewer" if less else f"{times(after, before)} as many"


def percent(part: float, whole: float) -> str:
    """Return a part in percent of the whole; 100.0 % is all of it."""
    written, digits = share(part / whole if whole else None), 1
    while part != whole and written.startswith("100.") and digits < 12:
        digits += 1
        written = f"{100 * part / whole:.{digits}f} %"
    return written
