"""Drawings of a profile as SVG: FLOPs and time per layer, the roofline, memory over a step."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from layerscope.base.formatting import (
    byte_unit,
    bytes_short,
    count_short,
    number,
    rate,
    seconds_short,
    share,
)
from layerscope.dry_run import Moment
from layerscope.reconcile.profile import LayerTiming, Peak, Profile
from layerscope.report.profile.findings import bound_by
from layerscope.report.svg import (
    FONT_SIZE,
    AxisScale,
    Box,
    bottom_axis,
    chart,
    clipped,
    element,
    free_place,
    label,
    left_axis,
    legend,
    line,
    log_scale,
    plain_tick,
    rising_scale,
    staircase,
    tooltip,
)

WIDTH = 860
ROW, TOP = 20, 52
NAMED_POINTS = 6


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
    name = label(left - 8, _row_top(row) + 13, clipped(key, 24), text_anchor="end")
    return element("g", tooltip(key), name)


def _row_top(row: int) -> float:
    return TOP + 4 + ROW * row


def _panel(panel: Panel, layers: Sequence[str], left: float, right: float, bottom: float) -> str:
    highest = max((sum(part or 0 for part in parts) for parts in panel.values), default=0)
    # A sixth is room for the figure at the longest bar's end.
    scale = AxisScale(0.0, highest * 7 / 6 or 1.0, left, right)
    parts = [
        label(left, 44, panel.title, class_="panel-title"),
        bottom_axis(scale, bottom, TOP, lambda value: plain_tick(panel.text(value))),
        line(left, bottom, left, TOP, "axis"),
    ]
    for row, (key, values) in enumerate(zip(layers, panel.values, strict=True)):
        parts.append(_bar(panel, key, values, scale, _row_top(row)))
    return "".join(parts)


def _bar(
    panel: Panel, key: str, values: tuple[float | None, float | None], scale: AxisScale, top: float
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


def _ceilings(
    across: AxisScale, up: AxisScale, bandwidth: float, arithmetic: float, words: str
) -> str:
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
    points: Sequence[_RooflinePoint],
    across: AxisScale,
    up: AxisScale,
    ceilings: tuple[float, float],
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
        words = clipped(point.timing.layer, 24)
        x, y = across(point.intensity), up(point.rate)
        box = free_place(x, y, 6.3 * len(words), taken, (across.start, across.end))
        if box is not None:
            taken.append(box)
            parts.append(label(box[0], box[3] - 2, words, class_="point-name"))
    return "".join(parts)


def _along_ceilings(
    across: AxisScale, up: AxisScale, bandwidth: float, arithmetic: float
) -> list[Box]:
    """Boxes where names would cross the lines or what is written on them."""
    ratio = across.high / across.low
    intensities = [across.low * ratio ** (part / 99) for part in range(100)]
    places = [(across(i), up(min(arithmetic, i * bandwidth))) for i in intensities]
    rate_words = (across.end - 160, up(arithmetic) - 20, across.end, up(arithmetic))
    return [rate_words, *((x - 3, y - 3, x + 3, y + 3) for x, y in places)]


# Memory over a step ---------------------------------------------------------------------------

HEIGHT = 380
LEFT, RIGHT, BOTTOM = 74, 846, 282
MAX_LABELS = 40
LABEL_LENGTH = 16

TimelinePlace = tuple[str, str | None]  # phase and layer


@dataclass(frozen=True)
class Point:
    """Bytes that were allocated at one place."""

    place: TimelinePlace
    num_bytes: int


@dataclass(frozen=True)
class MemoryCurve:
    """Bytes along slots; slot 3 is from x = 3 to x = 4.

    Args:
        end: where the optimizer's step begins, which has no part in the peak.
    """

    name: str
    points: tuple[tuple[float, int], ...]
    end: float

    @property
    def peak(self) -> tuple[float, int]:
        """Its first highest point in forward, loss and backward."""
        points = [point for point in self.points if point[0] < self.end]
        return max(points, key=lambda point: point[1], default=(0.0, 0))


def memory_chart(peak: Peak) -> str | None:
    """An SVG; None where nothing is known over time."""
    predicted = [
        Point(_place(moment), num_bytes)
        for moment in peak.predicted_timeline
        for num_bytes in (moment.live_bytes, moment.bytes_after)
    ]
    measured = [Point((p.phase, p.layer), p.allocated_bytes) for p in peak.timeline]
    slots = _slots(predicted or measured)
    end = next((n for n, slot in enumerate(slots) if slot[0] == "optimizer"), len(slots))
    curves = [
        MemoryCurve(name, tuple(_placed(points, slots)), end)
        for name, points in (("measured", measured), ("predicted", predicted))
        if points
    ]
    if not curves:
        return None
    return _draw(slots, curves)


def _place(moment: Moment) -> TimelinePlace:
    """Return phase and layer; what runs in no layer has its phase's name in its place."""
    return moment.phase, None if moment.layer == moment.phase else moment.layer


def _slots(points: Sequence[Point]) -> list[TimelinePlace]:
    return [place for place, _ in groupby(points, key=lambda point: point.place)]


def _placed(points: Sequence[Point], slots: Sequence[TimelinePlace]) -> Iterator[tuple[float, int]]:
    """Yield of each slot the most that was alive in it, and what was alive when it ended.

    Each run of points with one place goes into the next slot of that place; a place that has no
    slot of its own stays in the slot before.
    """
    inside: dict[int, list[int]] = {}
    slot = 0
    for place, run in groupby(points, key=lambda point: point.place):
        slot = next((n for n in range(slot, len(slots)) if slots[n] == place), slot)
        inside.setdefault(slot, []).extend(point.num_bytes for point in run)
    for slot, values in inside.items():
        yield slot + 0.15, max(values)
        yield slot + 0.85, values[-1]


def _draw(slots: Sequence[TimelinePlace], curves: Sequence[MemoryCurve]) -> str:
    highest = max(num_bytes for curve in curves for _, num_bytes in curve.points)
    unit, unit_name = byte_unit(highest)
    across = AxisScale(0, len(slots), LEFT, RIGHT)
    up = rising_scale(highest / unit, BOTTOM, TOP + 10)
    parts = [left_axis(up, LEFT, RIGHT, lambda value: f"{value:g}")]
    parts += [_phases(slots, across), _layer_labels(slots, across)]
    parts += [_curve(curve, across, up, unit) for curve in curves]
    parts.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
    parts.append(_unit_label(f"allocated, {unit_name}"))
    parts.append(legend(LEFT, 16, [(f"{curve.name} swatch", _caption(curve)) for curve in curves]))
    return chart(
        WIDTH,
        HEIGHT,
        "Memory over a training step",
        "Bytes above parameters, buffers and input, along the layers in execution order; in the "
        "optimizer's step its state is among them.",
        *parts,
    )


def _caption(curve: MemoryCurve) -> str:
    return f"{curve.name}, peak {bytes_short(curve.peak[1])}"


def _curve(curve: MemoryCurve, across: AxisScale, up: AxisScale, unit: int) -> str:
    points = [(across(x), up(num_bytes / unit)) for x, num_bytes in ((0, 0), *curve.points)]
    x, num_bytes = curve.peak
    top = element(
        "circle",
        tooltip(f"{curve.name} peak: {num_bytes:,} B"),
        cx=across(x),
        cy=up(num_bytes / unit),
        r=4,
        class_=f"{curve.name} mark",
    )
    steps = staircase(points, RIGHT)
    area = element("path", d=f"{steps}V{BOTTOM}H{LEFT}Z", class_=f"{curve.name} area")
    path = element("path", d=steps, class_=f"{curve.name} curve")
    return (area if curve.name == "measured" else "") + path + top


def _phases(slots: Sequence[TimelinePlace], across: AxisScale) -> str:
    parts, start = [], 0
    for phase, run in groupby(slots, key=lambda place: place[0]):
        end = start + len(list(run))
        if start:
            parts.append(line(across(start), TOP - 12, across(start), BOTTOM, "phase"))
        if across(end) - across(start) > 0.58 * FONT_SIZE * len(phase):
            middle = (across(start) + across(end)) / 2
            parts.append(label(middle, TOP - 4, phase, text_anchor="middle", class_="phase-name"))
        start = end
    return "".join(parts)


def _layer_labels(slots: Sequence[TimelinePlace], across: AxisScale) -> str:
    every = -(-len(slots) // MAX_LABELS)
    parts = []
    for place in range(0, len(slots), every):
        phase, layer = slots[place]
        x, y = across(place + 0.5), BOTTOM + 12
        parts.append(
            element(
                "text",
                tooltip(f"{phase}: {layer or '-'}"),
                escape(clipped(layer or phase, LABEL_LENGTH)),
                transform=f"translate({x:.1f} {y}) rotate(-60)",
                text_anchor="end",
                class_="layer-name",
            )
        )
    return "".join(parts)


def _unit_label(words: str) -> str:
    middle = (TOP + BOTTOM) / 2
    return label(0, 0, words, transform=f"translate(16 {middle}) rotate(-90)", text_anchor="middle")
