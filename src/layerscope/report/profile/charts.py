"""FLOPs and time per layer as bars, and the roofline, as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerscope.base.formatting import count_short, number, rate, seconds_short, share
from layerscope.reconcile.profile import LayerTiming, Profile
from layerscope.report.profile.findings import bound_by
from layerscope.report.profile.svg import (
    Scale,
    bottom_axis,
    chart,
    element,
    label,
    left_axis,
    legend,
    line,
    log_scale,
    plain_tick,
    shortened,
    tooltip,
)

WIDTH = 860
ROW, TOP = 20, 52
NAMED_POINTS = 6
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Panel:
    """Bars of one quantity: by layer, forward and backward; None is unknown."""

    title: str
    values: Sequence[tuple[float | None, float | None]]
    text: Callable[[float | None], str]


def layer_bars(profile: Profile) -> str:
    """FLOPs, and beside them the time where it was measured; one row per layer."""
    layers = [cost.layer for cost in profile.costs.layers]
    panels = [
        Panel(
            "FLOP, by theory",
            [(cost.forward_flops, cost.backward_flops) for cost in profile.costs.layers],
            count_short,
        )
    ]
    if profile.times:
        times = {timing.layer: timing for timing in profile.times}
        panels.append(
            Panel("time, measured", [_times(times.get(key)) for key in layers], seconds_short)
        )
    bottom = TOP + 10 + ROW * len(layers)
    left, space = 168, 24
    width = (WIDTH - left - 16 - space * (len(panels) - 1)) / len(panels)
    parts = [legend(left, 16, [("forward", "forward"), ("backward", "backward")])]
    parts += [_row_name(key, row, left) for row, key in enumerate(layers)]
    for place, panel in enumerate(panels):
        start = left + place * (width + space)
        parts.append(_panel(panel, layers, start, start + width, bottom))
    title = " and ".join(panel.title for panel in panels)
    return chart(WIDTH, bottom + 30, f"Per layer: {title}", "Bars, one row per layer.", *parts)


def _times(timing: LayerTiming | None) -> tuple[float | None, float | None]:
    if timing is None:
        return None, None
    return timing.forward.median, timing.backward.median if timing.backward else None


def _row_name(key: str, row: int, left: float) -> str:
    name = label(left - 8, _row_top(row) + 13, shortened(key, 24), text_anchor="end")
    return element("g", tooltip(key), name)


def _row_top(row: int) -> float:
    return TOP + 4 + ROW * row


def _panel(panel: Panel, layers: Sequence[str], left: float, right: float, bottom: float) -> str:
    highest = max((sum(part or 0 for part in parts) for parts in panel.values), default=0)
    # A sixth is room for the figure at the longest bar's end.
    scale = Scale(0.0, highest * 7 / 6 or 1.0, left, right)
    parts = [
        label(left, 44, panel.title, class_="panel-title"),
        bottom_axis(scale, bottom, TOP, lambda value: plain_tick(panel.text(value))),
        line(left, bottom, left, TOP, "axis"),
    ]
    for row, (key, values) in enumerate(zip(layers, panel.values, strict=True)):
        parts.append(_bar(panel, key, values, scale, _row_top(row)))
    return "".join(parts)


def _bar(
    panel: Panel, key: str, values: tuple[float | None, float | None], scale: Scale, top: float
) -> str:
    forward, backward = values
    start, middle = scale(0), scale(forward or 0)
    end = scale((forward or 0) + (backward or 0))
    words = f"{key}: forward {panel.text(forward)}, backward {panel.text(backward)}"
    total = "unknown" if forward is None else panel.text(forward + (backward or 0))
    return element(
        "g",
        tooltip(words),
        element("rect", x=start, y=top + 3, width=middle - start, height=ROW - 6, class_="forward"),
        element("rect", x=middle, y=top + 3, width=end - middle, height=ROW - 6, class_="backward"),
        label(end + 5, top + 14, total, class_="value"),
    )


def roofline(profile: Profile) -> str | None:
    """Achieved rates against intensity, under the machine's two ceilings; None if unmeasured."""
    machine = profile.machine
    points = [_RooflinePoint(timing, bound_by(timing)) for timing in profile.times or ()]
    points = [point for point in points if point.is_drawn]
    if machine is None or not points:
        return None
    bandwidth = machine.copy_bytes_per_second.median
    products = {machine.matmul_flops_per_second.median: f"{machine.matmul_precision} matrices"}
    if machine.convolution_precision != machine.matmul_precision:
        rate_of_convolutions = machine.convolution_flops_per_second.median
        products[rate_of_convolutions] = f"{machine.convolution_precision} convolutions"
    arithmetic = max(products)
    ridge = arithmetic / bandwidth
    left, right, top, bottom = 96, 840, 40, 372
    across = log_scale([ridge, *(point.intensity for point in points)], left, right, 2.2)
    rates = [arithmetic, *(point.rate for point in points)]
    up = log_scale(rates, bottom, top)
    parts = [
        left_axis(up, left, right, lambda value: plain_tick(rate(value, "FLOP"))),
        bottom_axis(across, bottom, top, lambda value: plain_tick(number(value))),
        line(left, bottom, right, bottom, "axis"),
        line(left, bottom, left, top, "axis"),
        *(_ceilings(across, up, bandwidth, flops, words) for flops, words in products.items()),
        _points(points, across, up, (bandwidth, arithmetic)),
        label((left + right) / 2, bottom + 36, "intensity, FLOP per byte", text_anchor="middle"),
        legend(
            left, 16, [("memory", "bound by memory bandwidth"), ("compute", "bound by arithmetic")]
        ),
    ]
    return chart(WIDTH, bottom + 46, "Roofline", "Achieved FLOP/s against FLOP per byte.", *parts)


@dataclass(frozen=True)
class _RooflinePoint:
    timing: LayerTiming
    bound: str | None

    @property
    def is_drawn(self) -> bool:
        """A logarithmic axis has no place for 0."""
        return bool(self.timing.intensity and self.timing.flops_per_second)

    @property
    def intensity(self) -> float:
        assert self.timing.intensity is not None
        return self.timing.intensity

    @property
    def rate(self) -> float:
        assert self.timing.flops_per_second is not None
        return self.timing.flops_per_second

    @property
    def words(self) -> str:
        return (
            f"{self.timing.layer}: {rate(self.rate, 'FLOP')} at {number(self.intensity)} FLOP/B, "
            f"{share(self.timing.roofline_fraction)} of the roofline, "
            f"{seconds_short(self.timing.forward.median)} forward"
        )


def _ceilings(across: Scale, up: Scale, bandwidth: float, arithmetic: float, words: str) -> str:
    ridge = arithmetic / bandwidth
    lowest = max(across.low, up.low / bandwidth)
    x, y = across(ridge), up(arithmetic)
    slope = line(across(lowest), up(lowest * bandwidth), x, y, "ceiling")
    flat = line(x, y, across.end, y, "ceiling")
    words_flat = label(
        across.end - 4, y - 7, f"{words} {rate(arithmetic, 'FLOP')}", text_anchor="end"
    )
    # Along the slope; both axes are logarithmic, so that its angle is the same everywhere.
    angle = math.degrees(math.atan2(y - up(lowest * bandwidth), x - across(lowest)))
    middle = math.sqrt(lowest * ridge)
    words_slope = label(
        0,
        -7,
        f"copy bandwidth {rate(bandwidth, 'B')}",
        text_anchor="middle",
        transform=f"translate({across(middle):.1f} {up(middle * bandwidth):.1f}) "
        f"rotate({angle:.1f})",
    )
    return slope + flat + words_flat + words_slope


def _points(
    points: Sequence[_RooflinePoint], across: Scale, up: Scale, ceilings: tuple[float, float]
) -> str:
    slowest = sorted(points, key=lambda point: -point.timing.forward.median)[:NAMED_POINTS]
    parts: list[str] = []
    taken = _along_ceilings(across, up, *ceilings)
    for point in points:
        x, y = across(point.intensity), up(point.rate)
        taken.append((x - 5, y - 5, x + 5, y + 5))
        if point.bound == "arithmetic":
            mark = element(
                "rect",
                tooltip(point.words),
                x=x - 5,
                y=y - 5,
                width=10,
                height=10,
                class_="compute",
            )
        else:
            mark = element("circle", tooltip(point.words), cx=x, cy=y, r=5.5, class_="memory")
        parts.append(mark)
    for point in slowest:
        words = shortened(point.timing.layer, 24)
        x, y = across(point.intensity), up(point.rate)
        box = _free_place(x, y, 6.3 * len(words), taken, across.end)
        if box is not None:
            taken.append(box)
            parts.append(label(box[0], box[3] - 2, words, class_="point-name"))
    return "".join(parts)


def _along_ceilings(across: Scale, up: Scale, bandwidth: float, arithmetic: float) -> list[Box]:
    """Boxes where names would cross the lines or what is written on them."""
    ratio = across.high / across.low
    intensities = [across.low * ratio ** (part / 99) for part in range(100)]
    places = [(across(i), up(min(arithmetic, i * bandwidth))) for i in intensities]
    rate_words = (across.end - 160, up(arithmetic) - 20, across.end, up(arithmetic))
    return [rate_words, *((x - 3, y - 3, x + 3, y + 3) for x, y in places)]


def _free_place(x: float, y: float, width: float, taken: Sequence[Box], end: float) -> Box | None:
    """Right or left of a mark, below or above, where nothing is in the way yet."""
    corners = [
        (x + 9, y - 5),
        (x - 9 - width, y - 5),
        (x - width / 2, y + 7),
        (x - width / 2, y - 18),
    ]
    boxes = [(left, top, left + width, top + 11) for left, top in corners]
    inside = [box for box in boxes if box[2] <= end]
    return next((box for box in inside if not any(_meet(box, other) for other in taken)), None)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
