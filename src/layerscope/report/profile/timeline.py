"""Memory over a training step, predicted and measured, along the layers in execution order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from layerscope.base.formatting import bytes_short
from layerscope.dry_run import Moment
from layerscope.reconcile.profile import Peak
from layerscope.report.profile.svg import (
    FONT_SIZE,
    Scale,
    chart,
    element,
    label,
    left_axis,
    legend,
    line,
    rising_scale,
    shortened,
    staircase,
    tooltip,
)

WIDTH, HEIGHT = 860, 380
LEFT, RIGHT, TOP, BOTTOM = 74, 846, 52, 282
MAX_LABELS = 40
LABEL_LENGTH = 16

Place = tuple[str, str | None]  # phase and layer


@dataclass(frozen=True)
class Point:
    """So many bytes were allocated there."""

    place: Place
    num_bytes: int


@dataclass(frozen=True)
class Curve:
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


def memory_timeline(peak: Peak) -> str | None:
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
        Curve(name, tuple(_placed(points, slots)), end)
        for name, points in (("measured", measured), ("predicted", predicted))
        if points
    ]
    if not curves:
        return None
    return _draw(slots, curves)


def _place(moment: Moment) -> Place:
    """Return phase and layer; what runs in no layer has its phase's name in its place."""
    return moment.phase, None if moment.layer == moment.phase else moment.layer


def _slots(points: Sequence[Point]) -> list[Place]:
    return [place for place, _ in groupby(points, key=lambda point: point.place)]


def _placed(points: Sequence[Point], slots: Sequence[Place]) -> Iterator[tuple[float, int]]:
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


def _draw(slots: Sequence[Place], curves: Sequence[Curve]) -> str:
    highest = max(num_bytes for curve in curves for _, num_bytes in curve.points)
    unit, unit_name = _unit(highest)
    across = Scale(0, len(slots), LEFT, RIGHT)
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


def _caption(curve: Curve) -> str:
    return f"{curve.name}, peak {bytes_short(curve.peak[1])}"


def _curve(curve: Curve, across: Scale, up: Scale, unit: int) -> str:
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


def _phases(slots: Sequence[Place], across: Scale) -> str:
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


def _layer_labels(slots: Sequence[Place], across: Scale) -> str:
    every = -(-len(slots) // MAX_LABELS)
    parts = []
    for number in range(0, len(slots), every):
        phase, layer = slots[number]
        x, y = across(number + 0.5), BOTTOM + 12
        parts.append(
            element(
                "text",
                tooltip(f"{phase}: {layer or '-'}"),
                escape(shortened(layer or phase, LABEL_LENGTH)),
                transform=f"translate({x:.1f} {y}) rotate(-60)",
                text_anchor="end",
                class_="layer-name",
            )
        )
    return "".join(parts)


def _unit(num_bytes: int) -> tuple[int, str]:
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**power:
            return 1024**power, name
    return 1, "B"


def _unit_label(words: str) -> str:
    middle = (TOP + BOTTOM) / 2
    return label(0, 0, words, transform=f"translate(16 {middle}) rotate(-90)", text_anchor="middle")
