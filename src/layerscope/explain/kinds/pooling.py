"""Pooling over windows: the maximum, the average, and windows that adapt to an output size."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer
from layerscope.explain.factors import (
    DL_DY,
    gathered,
    input_gradient_at,
    output_gradient,
    places,
    product,
    total,
    where_used,
)
from layerscope.explain.kinds import pooling_formulas as formulas
from layerscope.explain.kinds import windows
from layerscope.explain.kinds.pooling_settings import (
    Averaging,
    adaptive_average,
    adaptive_axes,
    sliding_average,
    sliding_axes,
)
from layerscope.explain.values import Factor, Floats, Indices, Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall


@dataclass(frozen=True)
class _Maximum:
    """Pooling that passes on one input of each window.

    Args:
        axes: of a call.
    """

    axes: Callable[[DescribedCall], windows.Axes]

    def output(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        image, window = _split(position, self.axes(captured.spec))
        found = windows.cells_of(self.axes(captured.spec), window)
        where = places(*image, found.coordinates[found.inside])
        terms = product(gathered("x", captured.inputs[0], where))
        note = _winner_note(captured.inputs[0], where)
        if num_outside := int(np.count_nonzero(~found.inside)):
            note += f" Cells of the window outside the input, which never win: {num_outside}."
        name, actual = indexed("y", position), float(captured.output[position])
        key, dtype = captured.spec.key, captured.dtype
        return (Value(name, key, "max", (terms,), actual, dtype, note),)

    def input_gradient(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        axes = self.axes(captured.spec)
        image, coordinates = _split(position, axes)
        readers, _ = windows.readers_of(axes, coordinates)
        wins = [_winner(captured.inputs[0], axes, image, row) == position for row in readers]
        won = readers[np.array(wins, dtype=bool)]
        terms = product(gathered(DL_DY, output_gradient(captured), places(*image, won)))
        note = f"Windows that read this input: {len(readers)}; those that it wins: {len(won)}."
        actual = input_gradient_at(captured, position)
        return (total(captured, indexed("dL/dx", position), (terms,), actual, note),)

    def first_input(self, spec: DescribedCall, position: Position) -> Position:
        return _first_input(self.axes(spec), position)

    def refuses(self, spec: DescribedCall) -> str | None:
        """Of a window without a single input, the maximum is minus infinity."""
        if all(axis.inside.any(axis=1).all() for axis in self.axes(spec)):
            return None
        return "one of its windows lies wholly in the padding, so it has no maximum"


def _split(position: Position, axes: windows.Axes) -> tuple[Position, Position]:
    """The indices in front, and the spatial ones."""
    return position[: -len(axes)], position[-len(axes) :]


def _first_input(axes: windows.Axes, position: Position) -> Position:
    image, window = _split(position, axes)
    return (*image, *windows.first_inside(axes, window))


def _winner(array: Floats, axes: windows.Axes, image: Position, window: Indices) -> Position:
    found = windows.cells_of(axes, tuple(window))
    where = places(*image, found.coordinates[found.inside])
    return tuple(where[_winning(array[tuple(where.T)])].tolist())


def _winning(values: Floats) -> int:
    """The first of the largest, as PyTorch chooses; the last NaN where there is one."""
    missing = np.flatnonzero(np.isnan(values))
    return int(missing[-1]) if len(missing) else int(np.argmax(values))


def _winner_note(array: Floats, where: Indices) -> str:
    values = array[tuple(where.T)]
    winner = _winning(values)
    name = indexed("x", tuple(where[winner].tolist()))
    equals = int(np.count_nonzero(values == values[winner]))
    if equals <= 1:
        return f"{name} wins."
    return f"{name} wins, the first, row by row, of {equals} that are equal."


def _weight(average: Averaging, chosen: Indices) -> Factor:
    """Of one window, or of each of several."""
    weights = average.weights(chosen)
    values = weights.reshape(()) if len(weights) == 1 else weights
    origin = average.origin(chosen)
    arguments = tuple(argument.reshape(values.shape) for argument in origin.arguments)
    return Factor(average.factor(), values, origin=replace(origin, arguments=arguments))


@dataclass(frozen=True)
class _Average:
    """Pooling that averages each window.

    Args:
        averaging: of a call.
    """

    averaging: Callable[[DescribedCall], Averaging]

    def output(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        average = self.averaging(captured.spec)
        image, window = _split(position, average.axes)
        found = windows.cells_of(average.axes, window)
        masks = zip(average.counted, window, found.cells.T, strict=True)
        counted = np.all([mask[i, u] for mask, i, u in masks], axis=0)
        inside = found.inside[counted]
        where = places(*image, found.coordinates[counted])
        terms = product(
            gathered("x", captured.inputs[0], where, inside),
            _weight(average, np.array([window])),
            is_padding=None if inside.all() else ~inside,
        )
        actual = float(captured.output[position])
        return (total(captured, indexed("y", position), (terms,), actual),)

    def input_gradient(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        average = self.averaging(captured.spec)
        image, coordinates = _split(position, average.axes)
        readers, _ = windows.readers_of(average.axes, coordinates)
        terms = product(
            gathered(DL_DY, output_gradient(captured), places(*image, readers)),
            _weight(average, readers),
        )
        actual = input_gradient_at(captured, position)
        return (total(captured, indexed("dL/dx", position), (terms,), actual),)

    def first_input(self, spec: DescribedCall, position: Position) -> Position:
        return _first_input(self.averaging(spec).axes, position)


def _explainer(pooling: _Maximum | _Average, written: formulas.Formulas) -> Explainer:
    explainer = Explainer(
        formulas=written,
        output=pooling.output,
        input_gradient=where_used("dL/dx", pooling.input_gradient),
        first_input=pooling.first_input,
    )
    if isinstance(pooling, _Maximum):
        return replace(explainer, refuses=pooling.refuses)
    return explainer


MAX_POOL = _explainer(_Maximum(sliding_axes), formulas.max_pool)
AVG_POOL = _explainer(_Average(sliding_average), formulas.avg_pool)
ADAPTIVE_AVG_POOL = _explainer(_Average(adaptive_average), formulas.adaptive_avg_pool)
ADAPTIVE_MAX_POOL = _explainer(_Maximum(adaptive_axes), formulas.adaptive_max_pool)
