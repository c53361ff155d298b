"""Drawings of a sweep: accuracy against each cost, and learning curves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from layerscope.base.formatting import (
    byte_unit,
    bytes_exact,
    count_exact,
    count_short,
    number,
    percent,
    seconds_short,
)
from layerscope.report.document import Link
from layerscope.report.html import resource
from layerscope.report.svg import (
    AxisScale,
    Box,
    bottom_axis,
    chart,
    clipped,
    element,
    free_place,
    label,
    left_axis,
    line,
    log_scale,
    plain_tick,
    round_scale,
    staircase,
    tooltip,
)
from layerscope.report.sweep.results import SweepCost, SweepResults
from layerscope.report.sweep.runs import EpochScores, SweptRun
from layerscope.report.sweep.seeds import SeedGroup

WIDTH, HEIGHT = 400, 296
LEFT, RIGHT, TOP, BOTTOM = 54, 378, 34, 250
MAX_RUNS = 1_000  # drawn as points; a page of more is slow
MAX_CURVES, MAX_CURVE_POINTS = 200, 200
NUM_COLOURS = 7
_NAMED_POINTS, _NAME_LENGTH, _LEGEND_LENGTH = 6, 26, 54
_LOG_FROM = 20  # largest by smallest value, from which an axis is logarithmic


@dataclass(frozen=True)
class Drawing:
    """A drawing without its frame."""

    title: str
    description: str
    height: float
    body: str


def on_page(drawing: Drawing) -> str:
    """Return SVG that stands in a page with `sweep_style`."""
    return chart(
        WIDTH, drawing.height, drawing.title, drawing.description, drawing.body, kind="sweep"
    )


def sweep_style() -> str:
    """Return the drawings' CSS."""
    return resource("sweep.css")


def in_one_file(title: str, drawings: Sequence[Drawing]) -> str:
    """Return the drawings, two beside each other, as a file of their own with their style."""
    pairs = [drawings[place : place + 2] for place in range(0, len(drawings), 2)]
    parts, y = [], 8.0
    for pair in pairs:
        for column, drawing in enumerate(pair):
            parts.append(
                element("g", drawing.body, transform=f"translate({8 + column * WIDTH} {y:g})")
            )
        y += max(drawing.height for drawing in pair) + 12
    width = 16 + 2 * WIDTH
    paper = element("rect", width=width, height=y, class_="paper")
    told = "; ".join(drawing.title for drawing in drawings)
    opening, rest = chart(width, y, title, told, paper, *parts, kind="sweep").split(">", 1)
    style = element("style", sweep_style())
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


# Accuracy against a cost ----------------------------------------------------------------------


@dataclass(frozen=True)
class _SweepPoint:
    """A group at its mean; None of the deviation where there are fewer than two seeds."""

    group: SeedGroup
    cost: float
    accuracy: float
    std: float | None
    is_front: bool

    @property
    def runs(self) -> tuple[SweptRun, ...]:
        return self.group.finished


def accuracy_against(sweep: SweepResults, cost: SweepCost) -> Drawing | None:
    """Draw runs, means over seeds and the Pareto front; None where no group's cost is known."""
    points = _drawn(list(_points(sweep, cost)))
    if not points:
        return None
    unit, title = _unit(cost, points)
    across = _scale([value / unit for value in _costs(points, cost)], LEFT + 8, RIGHT)
    up = _share_scale([value for point in points for value in _accuracies(point)])
    front = sorted((point for point in points if point.is_front), key=lambda point: point.cost)
    parts = [
        _frame(across, up, ("validation accuracy", title), _tick(cost), _percent_tick),
        *(_whisker(point, across, up, unit) for point in points),
        *(_mean(point, across, up, unit) for point in points if not point.is_front),
        _front_line(front, across, up, unit),
        *(_mean(point, across, up, unit) for point in front),
        # Above the means, which would hide their links.
        *(_runs(point, cost, across, up, unit) for point in points),
        _names(points, front, across, up, unit),
    ]
    return Drawing(
        f"validation accuracy against {cost.title}",
        "Points: runs, and means over seeds with one sample standard deviation; the Pareto front "
        "is joined.",
        HEIGHT,
        "".join(parts),
    )


def _points(sweep: SweepResults, cost: SweepCost) -> Iterator[_SweepPoint]:
    for place, group in enumerate(sweep.groups):
        value, spread = group.mean(cost.value), group.val_acc
        if value is not None and spread.mean is not None:
            is_front = sweep.is_on_front(cost, place)
            yield _SweepPoint(group, value, spread.mean, spread.std, is_front)


def _drawn(points: Sequence[_SweepPoint]) -> list[_SweepPoint]:
    """Keep the front and, of the others, the most accurate for which there is room."""
    kept: list[_SweepPoint] = []
    room = MAX_RUNS
    for point in sorted(points, key=lambda point: not point.is_front):
        room -= len(point.runs)
        if point.is_front or room >= 0:
            kept.append(point)
    return kept


def _costs(points: Sequence[_SweepPoint], cost: SweepCost) -> list[float]:
    values = [cost.value(run) for point in points for run in point.runs]
    return [value for value in values if value is not None]


def _accuracies(point: _SweepPoint) -> Iterator[float]:
    deviation = point.std or 0.0
    yield from (point.accuracy - deviation, point.accuracy + deviation)
    yield from (run.val_acc for run in point.runs if run.val_acc is not None)


def _unit(cost: SweepCost, points: Sequence[_SweepPoint]) -> tuple[int, str]:
    """Return what the axis counts in, and its title."""
    if cost.unit != "bytes":
        return 1, cost.title
    unit, name = byte_unit(max(_costs(points, cost)))
    return unit, f"{cost.title}, {name}"


def _tick(cost: SweepCost) -> Callable[[float], str]:
    written = {"seconds": seconds_short, "bytes": number}.get(cost.unit, count_short)
    return lambda value: plain_tick(written(value)) if value else "0"


def _scale(values: Sequence[float], start: float, end: float) -> AxisScale:
    if min(values) > 0 and max(values) >= _LOG_FROM * min(values):
        return log_scale(values, start, end)
    return round_scale(values, start, end)


def _share_scale(shares: Sequence[float]) -> AxisScale:
    scale = round_scale([min(max(share, 0.0), 1.0) for share in shares], BOTTOM, TOP)
    return replace(scale, high=min(scale.high, 1.0))


def _frame(
    across: AxisScale,
    up: AxisScale,
    titles: tuple[str, str],
    text_across: Callable[[float], str],
    text_up: Callable[[float], str],
) -> str:
    """Draw both axes; the vertical one's title comes first."""
    return "".join(
        (
            label(LEFT - 42, 18, titles[0], class_="title"),
            left_axis(up, LEFT, RIGHT, text_up),
            bottom_axis(across, BOTTOM, TOP, text_across),
            line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"),
            line(LEFT, BOTTOM, LEFT, TOP, "axis"),
            label((LEFT + RIGHT) / 2, BOTTOM + 38, titles[1], text_anchor="middle"),
        )
    )


def _front_line(front: Sequence[_SweepPoint], across: AxisScale, up: AxisScale, unit: int) -> str:
    if not front:
        return ""
    points = [(across(point.cost / unit), up(point.accuracy)) for point in front]
    return element("path", d=staircase(points, RIGHT), class_="front-line")


def _whisker(point: _SweepPoint, across: AxisScale, up: AxisScale, unit: int) -> str:
    if not point.std:
        return ""
    x = across(point.cost / unit)
    low, high = up(point.accuracy - point.std), up(point.accuracy + point.std)
    caps = (line(x - 3, y, x + 3, y, "whisker") for y in (low, high))
    return line(x, low, x, high, "whisker") + "".join(caps)


def _mean(point: _SweepPoint, across: AxisScale, up: AxisScale, unit: int) -> str:
    """Draw a group of several runs."""
    if len(point.runs) == 1:
        return ""
    deviation = f"standard deviation {percent(point.std)}"
    told = f"{percent(point.accuracy)}, mean of {len(point.runs)} seeds, {deviation}"
    place = (across(point.cost / unit), up(point.accuracy))
    return _circle(place, 5, _mean_class(point), f"{point.group.name}: {told}")


def _runs(point: _SweepPoint, cost: SweepCost, across: AxisScale, up: AxisScale, unit: int) -> str:
    """Draw each run as a link to its folder; one that is alone is its group's mean."""
    only = len(point.runs) == 1
    parts = []
    for run in point.runs:
        value = cost.value(run)
        if value is None or run.val_acc is None:
            continue
        place = (across(value / unit), up(run.val_acc))
        radius, name = (5, _mean_class(point)) if only else (3.5, "run")
        mark = _circle(place, radius, name, _words(point.group, run, cost))
        parts.append(element("a", mark, href=folder_link(run).address))
    return "".join(parts)


def _mean_class(point: _SweepPoint) -> str:
    return "mean front" if point.is_front else "mean"


def _words(group: SeedGroup, run: SweptRun, cost: SweepCost) -> str:
    written = {"bytes": _exact_bytes, "seconds": seconds_short}.get(cost.unit, _exact_count)
    figures = f"{percent(run.val_acc)}, {written(cost.value(run))}"
    return f"{group.name_of(run)}: {figures}; job {run.folder}"


def _exact_bytes(value: float | None) -> str:
    return bytes_exact(None if value is None else int(value))


def _exact_count(value: float | None) -> str:
    return count_exact(None if value is None else int(value))


def _circle(place: tuple[float, float], radius: float, name: str, words: str) -> str:
    return element("circle", tooltip(words), cx=place[0], cy=place[1], r=radius, class_=name)


def _names(
    points: Sequence[_SweepPoint],
    front: Sequence[_SweepPoint],
    across: AxisScale,
    up: AxisScale,
    unit: int,
) -> str:
    """Name points of the front for whose names there is room."""
    taken: list[Box] = []
    for point in points:
        x = across(point.cost / unit)
        low, high = (up(point.accuracy + sign * (point.std or 0.0)) for sign in (-1, 1))
        taken.append((x - 5, min(high, up(point.accuracy) - 5), x + 5, low))
    taken += _along(front, across, up, unit)
    parts = []
    for point in front[-_NAMED_POINTS:]:
        words = clipped(point.group.name, _NAME_LENGTH)
        x, y = across(point.cost / unit), up(point.accuracy)
        box = free_place(x, y, 6.3 * len(words), taken, (LEFT + 2, RIGHT))
        if box is not None:
            taken.append(box)
            parts.append(label(box[0], box[3] - 2, words, class_="point-name"))
    return "".join(parts)


def _along(
    front: Sequence[_SweepPoint], across: AxisScale, up: AxisScale, unit: int
) -> Iterator[Box]:
    """Yield boxes along the front's line, where names would cross it."""
    corners = [(across(point.cost / unit), up(point.accuracy)) for point in front]
    for (x, y), (next_x, next_y) in pairwise([*corners, *((RIGHT, y) for _, y in corners[-1:])]):
        yield (x, y - 2, next_x, y + 2)
        yield (next_x - 2, next_y, next_x + 2, y)


# Learning curves ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curve:
    """A run's values by epoch, counted from 1."""

    group: SeedGroup
    run: SweptRun
    points: tuple[tuple[int, float], ...]
    series: int  # the group's colour; 0: it has none of its own


def learning_curves(sweep: SweepResults) -> tuple[Drawing, ...]:
    """Draw validation accuracy and training loss by epoch, a curve for each run that has any."""
    accuracy = _curves(sweep, lambda epoch: epoch.val_acc)
    loss = _curves(sweep, lambda epoch: epoch.train_loss)
    drawings = []
    if accuracy:
        shares = [value for curve in accuracy for _, value in curve.points]
        up, text = _share_scale(shares), _percent_tick
        drawings.append(_drawing("validation accuracy by epoch", accuracy, up, text))
    if loss:
        up = _scale([value for curve in loss for _, value in curve.points], BOTTOM, TOP)
        drawings.append(_drawing("training loss by epoch", loss, up, lambda v: f"{v:.4g}"))
    return tuple(drawings)


def _curves(sweep: SweepResults, value: Callable[[EpochScores], float | None]) -> list[_Curve]:
    found = []
    for place, group in enumerate(sweep.groups):
        series = place + 1 if place < NUM_COLOURS else 0
        for run in group.runs:
            points = [(e.epoch + 1, y) for e in run.epochs if (y := value(e)) is not None]
            if points and len(found) < MAX_CURVES:
                every = -(-len(points) // MAX_CURVE_POINTS)
                shown = (*points[:-1:every], points[-1])
                found.append(_Curve(group, run, shown, series))
    return found


def _drawing(
    title: str, curves: Sequence[_Curve], up: AxisScale, text: Callable[[float], str]
) -> Drawing:
    epochs = [epoch for curve in curves for epoch, _ in curve.points]
    across = AxisScale(min(1, max(epochs) - 1), max(epochs), LEFT, RIGHT, is_whole=True)
    parts = [
        _frame(across, up, (title, "epoch"), lambda v: f"{v:g}", text),
        *(_path(curve, across, up) for curve in reversed(curves)),
    ]
    names: dict[int, str] = {}
    for curve in curves:
        names.setdefault(curve.series, curve.group.name if curve.series else "other settings")
    y = BOTTOM + 58.0
    for series, name in names.items():
        parts.append(line(LEFT, y - 4, LEFT + 20, y - 4, _curve_class(series)))
        shown = label(LEFT + 26, y, clipped(name, _LEGEND_LENGTH), class_="small")
        parts.append(element("g", tooltip(name), shown))
        y += 16
    return Drawing(title, "A curve for each run; settings by colour.", y, "".join(parts))


def _path(curve: _Curve, across: AxisScale, up: AxisScale) -> str:
    """Draw the curve; of a single epoch a short line."""
    points = [(across(epoch), up(value)) for epoch, value in curve.points]
    if len(points) == 1:
        ((x, y),) = points
        points = [(x - 4, y), (x + 4, y)]
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    told = f"{curve.group.name_of(curve.run)}; job {curve.run.folder}"
    path = element("path", tooltip(told), d=f"M{steps}", class_=_curve_class(curve.series))
    return element("a", path, href=folder_link(curve.run).address)


def _curve_class(series: int) -> str:
    return f"curve series-{series}" if series else "curve other"


def _percent_tick(value: float) -> str:
    return f"{100 * value:.4g} %"


def folder_link(run: SweptRun) -> Link:
    """Return the way to a run's folder.

    The run has begun.
    """
    assert run.path is not None
    return Link(run.folder or "", run.path)
