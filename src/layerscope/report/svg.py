"""The little SVG that the charts need: elements, scales, axes. Colours come from the page's CSS."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Box = tuple[float, float, float, float]  # left, top, right, bottom
FONT_SIZE = 12  # of tick labels; a character is about 0.55 of it wide


def element(name: str, *children: str, **attributes: str | float | None) -> str:
    """`class_` is class, `stroke_width` is stroke-width; children are markup already."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def label(x: float, y: float, words: str, **attributes: str | float | None) -> str:
    """Text; anything may stand in `words`."""
    return element("text", escape(words), x=x, y=y, **attributes)


def tooltip(words: str) -> str:
    """Return what a pointer that rests on the parent is told."""
    return element("title", escape(words))


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight one."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def staircase(points: Sequence[tuple[float, float]], end: float) -> str:
    """The `d` of a path on which every value holds until the next point, the last until `end`."""
    (x, y), *others = points
    steps = "".join(f"H{_short(a)}V{_short(b)}" for a, b in others)
    return f"M{_short(x)} {_short(y)}{steps}H{_short(end)}"


def chart(
    width: float, height: float, title: str, description: str, *children: str, kind: str = "chart"
) -> str:
    """Return a drawing with a name and a description for those who do not see it.

    Args:
        kind: its class in the style sheets.
    """
    return element(
        "svg",
        element("title", escape(title)),
        element("desc", escape(description)),
        *children,
        viewBox=f"0 0 {width} {height}",
        role="img",
        class_=kind,
        aria_label=title,
    )


@dataclass(frozen=True)
class AxisScale:
    """Values `low` to `high` onto pixels `start` to `end`.

    Args:
        is_whole: of things that are counted, so that ticks are whole numbers.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    is_whole: bool = False

    def __call__(self, value: float) -> float:
        """The pixel; a value outside is put on the edge."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the scale."""
        if self.is_log:
            return _log_ticks(self.low, self.high)
        ticks = _ticks(self.low, self.high, about)
        return [tick for tick in ticks if tick == int(tick) or not self.is_whole]


def plain_tick(text: str) -> str:
    """`10.0 ms` as `10 ms`."""
    return re.sub(r"\.(?!\d)", "", re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text))


def rising_scale(high: float, start: float, end: float, about: int = 5) -> AxisScale:
    """Return a scale from 0 to the first round value that is not below `high`."""
    step = _step(high or 1.0, about)
    return AxisScale(0.0, step * math.ceil((high or 1.0) / step - 1e-9), start, end)


def round_scale(values: Sequence[float], start: float, end: float, about: int = 5) -> AxisScale:
    """Return a scale between the round numbers below and above all `values`."""
    low, high = min(values), max(values)
    step = _step((high - low) or abs(high) or 1.0, about)
    below = step * (math.ceil(low / step - 1e-9) - 1)
    return AxisScale(
        max(0.0, below) if low >= 0 else below,
        step * (math.floor(high / step + 1e-9) + 1),
        start,
        end,
    )


def log_scale(values: Sequence[float], start: float, end: float, room: float = 1.6) -> AxisScale:
    """Return a scale around all positive `values`, with a factor `room` on both sides."""
    return AxisScale(min(values) / room, max(values) * room, start, end, is_log=True)


def left_axis(scale: AxisScale, x: float, right: float, text: Callable[[float], str]) -> str:
    """Tick labels left of `x`, grid lines from there to `right`."""
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(line(x, y, right, y, "grid"))
        parts.append(label(x - 6, y + 4, text(tick), text_anchor="end"))
    return "".join(parts)


def bottom_axis(scale: AxisScale, y: float, top: float, text: Callable[[float], str]) -> str:
    """Tick labels below `y`, grid lines from there up to `top`."""
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(line(x, y, x, top, "grid"))
        parts.append(label(x, y + 16, text(tick), text_anchor="middle"))
    return "".join(parts)


def legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> str:
    """(class of the swatch, words), side by side."""
    parts = []
    for class_, words in entries:
        parts.append(element("rect", x=x, y=y - 9, width=16, height=10, class_=class_))
        parts.append(label(x + 22, y, words))
        x += 40 + 0.58 * FONT_SIZE * len(words)
    return "".join(parts)


def clipped(words: str, length: int) -> str:
    """The end is kept: it tells layers of a block apart."""
    return words if len(words) <= length else "…" + words[-(length - 1) :]


def free_place(
    x: float, y: float, width: float, taken: Sequence[Box], ends: tuple[float, float]
) -> Box | None:
    """Return a place for a name beside, below or above a mark; None where all are taken.

    Args:
        ends: the least and the largest x that the name may take.
    """
    corners = [
        (x + 9, y - 5),
        (x - 9 - width, y - 5),
        (x - width / 2, y + 7),
        (x - width / 2, y - 18),
        (x + 7, y + 5),
        (x + 7, y - 17),
    ]
    boxes = [(left, top, left + width, top + 11) for left, top in corners]
    inside = [box for box in boxes if ends[0] <= box[0] and box[2] <= ends[1]]
    return next((box for box in inside if not any(_meet(box, other) for other in taken)), None)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ticks(low: float, high: float, about: int) -> list[float]:
    step = _step(high - low, about)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _step(high: float, about: int) -> float:
    rough = high / about
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    every = 2 if last - first > 8 else 1
    ticks = [f * 10.0**power for power in range(first, last + 1, every) for f in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _attribute(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else _short(value)


def _short(value: float) -> str:
    """One decimal is a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
