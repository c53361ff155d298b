"""Numbers as a person reads them, each with its unit; what is not known is not 0."""

import math
import textwrap
from collections.abc import Sequence

UNKNOWN = "unknown"
WIDTH = 100


def bytes_short(num_bytes: int | None) -> str:
    """4,194,304 as `4.00 MiB`."""
    if num_bytes is None:
        return UNKNOWN
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{num_bytes} B" if unit == "B" else f"{_digits(value)} {unit}"


def bytes_exact(num_bytes: int | None) -> str:
    """`4,194,304 B (4.00 MiB)`."""
    if num_bytes is None:
        return UNKNOWN
    exact = f"{num_bytes:,} B"
    return exact if abs(num_bytes) < 1024 else f"{exact} ({bytes_short(num_bytes)})"


def byte_unit(num_bytes: float) -> tuple[int, str]:
    """Return the largest unit that is not more than so many bytes, in bytes, and its name."""
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**power:
            return 1024**power, name
    return 1, "B"


def count_short(count: float | None) -> str:
    """56,623,104 as `56.6 M`."""
    if count is None:
        return UNKNOWN
    value, prefix = float(count), ""
    for larger in ("k", "M", "G", "T", "P"):
        if abs(value) < 999.5:
            break
        value, prefix = value / 1000, larger
    if not prefix and value == int(value):
        return f"{int(value)}"
    return f"{_digits(value)} {prefix}".rstrip()


def count_exact(count: int | None) -> str:
    """Thousands separated."""
    return UNKNOWN if count is None else f"{count:,}"


def seconds_short(seconds: float | None) -> str:
    """0.00123 as `1.23 ms`."""
    if seconds is None:
        return UNKNOWN
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(seconds) * factor >= 0.9995:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds * 1e9)} ns" if seconds else "0 s"


def share(part: float | None) -> str:
    """0.4512 as `45.1 %`; a small one keeps its first digit."""
    if part is None:
        return UNKNOWN
    hundredths = 100 * part
    if hundredths == 0 or abs(hundredths) >= 0.095:
        return f"{hundredths:.1f} %"
    return f"{hundredths:.2g} %" if abs(hundredths) >= 0.001 else "< 0.001 %"


def percent(part: float | None) -> str:
    """0.8365 as `83.65 %`, an accuracy."""
    return UNKNOWN if part is None else f"{100 * part:.2f} %"


def rate(per_second: float | None, unit: str) -> str:
    """`71.9 GFLOP/s`."""
    if per_second is None:
        return UNKNOWN
    short = count_short(per_second)
    return f"{short}{unit}/s" if short[-1].isalpha() else f"{short} {unit}/s"


def number(value: float | None) -> str:
    """Three digits that count, without a unit."""
    return UNKNOWN if value is None else _digits(value)


def figure(value: float | None, quantity: str) -> str:
    """Return a quantity as it was counted, seconds to three digits."""
    if value is None or quantity.endswith("_seconds"):
        return seconds_short(value)
    return count_exact(int(value))


def signed(value: float | None) -> str:
    """A difference of counts; 0 has no sign."""
    return UNKNOWN if value is None else f"{int(value):+,}" if value else "0"


def amount(value: float | None, quantity: str) -> str:
    """A signed difference of the quantity, exact, with its unit."""
    return UNKNOWN if value is None else f"{int(value):+,} {unit_of(quantity)}".rstrip()


def unit_of(quantity: str) -> str:
    """`B`, `FLOP`, `MAC`, `s`; empty for a count of things."""
    if quantity.endswith("_bytes"):
        return "B"
    if quantity.endswith("_seconds"):
        return "s"
    if quantity == "macs":
        return "MAC"
    return "FLOP" if quantity.endswith("flops") else ""


def shape_text(sizes: Sequence[int]) -> str:
    """`32x3x32x32`."""
    return "x".join(str(size) for size in sizes)


def shapes_tuple(shapes: Sequence[Sequence[int]]) -> str:
    """`(32, 3, 32, 32)`; several are joined, repeated ones counted."""
    texts = [f"({', '.join(str(size) for size in sizes)})" for sizes in shapes]
    parts = []
    for text in dict.fromkeys(texts):
        times = texts.count(text)
        parts.append(text if times == 1 else f"{times} × {text}")
    return ", ".join(parts)


def at_least(text: str, lower_bound: bool) -> str:
    """Marks a total that lacks a summand."""
    return f">= {text}" if lower_bound else text


def wrapped(text: str, indent: str = "", width: int = WIDTH) -> str:
    """Break a text at spaces into lines of at most `width` columns; further lines are indented."""
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _digits(value: float) -> str:
    """At least three digits, none of them lost before the point."""
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(float(f"{value:.3g}")))) + 1  # 0.9996 is printed as 1.00
    return f"{value:.{min(max(0, 3 - before), 12)}f}"
