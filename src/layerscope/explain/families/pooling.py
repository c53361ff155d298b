"""Pooling over windows: the maximum, the average, and windows that adapt to an output size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from layerscope.explain import notation
from layerscope.explain.explainer import Explainer, Formulas, GeneralFormula, where_used
from layerscope.explain.factors import gathered, product, sum_value
from layerscope.explain.families.windows import (
    WindowSettings,
    readers_sentence,
    setting,
    spatial_dims,
    spatial_shape,
    window_letters,
    window_table,
    windows_of,
)
from layerscope.explain.linear_maps import (
    Along,
    Letters,
    Part,
    Selected,
    first_place,
    linear_explainer,
    linear_formulas,
    shared_letter,
)
from layerscope.explain.notation import (
    DL_DY,
    Dimension,
    Dimensions,
    at,
    gradient,
    size_name,
    spaced,
)
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import Factor, Floats, Indices, Origin, Position, Value, indexed


@dataclass(frozen=True, eq=False)
class _PooledAxis:
    """The windows along one dimension.

    Args:
        size: of the input.
        coordinates: (num_windows, num_cells), what each cell reads; outside of 0 to size - 1 is
            padding.
        exists: (num_windows, num_cells), which cells a window has.
    """

    size: int
    coordinates: Indices
    exists: NDArray[np.bool_]

    @property
    def inside(self) -> NDArray[np.bool_]:
        return self.exists & (self.coordinates >= 0) & (self.coordinates < self.size)


def _windows(operation: Operation) -> WindowSettings:
    dims = spatial_dims(operation)
    kernel = operation.arguments["kernel_size"]
    stride = setting(operation.get("stride"), kernel)
    found = replace(operation, arguments={**operation.arguments, "stride": stride})
    return windows_of(found, kernel, dims)


def _sliding(operation: Operation) -> tuple[_PooledAxis, ...]:
    windows, dims = _windows(operation), spatial_dims(operation)
    sizes = spatial_shape(operation.shapes["x"], dims)
    axes = []
    for dim, num_windows in enumerate(spatial_shape(operation.output_shape, dims)):
        found = windows.coordinates(dim, sizes[dim], num_windows)
        axes.append(_PooledAxis(sizes[dim], found, np.ones(found.shape, dtype=bool)))
    return tuple(axes)


def _adaptive(operation: Operation) -> tuple[_PooledAxis, ...]:
    """Window i reads from floor(i·H / n) to before ceil((i + 1)·H / n), of H inputs, n windows."""
    dims, axes = spatial_dims(operation), []
    sizes = spatial_shape(operation.shapes["x"], dims)
    for size, num_windows in zip(sizes, spatial_shape(operation.output_shape, dims), strict=True):
        windows = np.arange(num_windows)
        starts, ends = windows * size // num_windows, -(-(windows + 1) * size // num_windows)
        found = starts[:, None] + np.arange(max(ends - starts, default=0))
        axes.append(_PooledAxis(size, found, found < ends[:, None]))
    return tuple(axes)


def _part(
    operation: Operation,
    axes: Sequence[_PooledAxis],
    cells: Sequence[NDArray[np.bool_]],
    scale: Callable[[Captured, Selected], Factor] | None = None,
) -> Part:
    """Return the sum over these cells of each window."""
    shape = operation.output_shape
    leading = len(shape) - len(axes)
    front = (Along(shape[dim], {"y": dim, "x": dim}) for dim in range(leading))
    spatial = (
        window_table(axis.coordinates, mask, axis.size, {"y": dim, "x": dim})
        for dim, (axis, mask) in enumerate(zip(axes, cells, strict=True), leading)
    )
    return Part(("x",), (*front, *spatial), scale)


# Averages -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Averaging:
    """How the cells of a window are averaged.

    Args:
        counted: (num_windows, num_cells) of each axis: which cells the window has.
        divisor: where it is not the number of counted cells.
        symbol: of the divisor, in LaTeX; empty where windows differ in what they divide by.
    """

    axes: tuple[_PooledAxis, ...]
    counted: tuple[NDArray[np.bool_], ...]
    divisor: int | None
    symbol: str

    def part(self, operation: Operation) -> Part:
        return _part(operation, self.axes, self.counted, self._weight)

    def _weight(self, captured: Captured, found: Selected) -> Factor:
        """Return 1 over what each window divides by."""
        made = found.places["y"][:, -len(self.axes) :]
        if self.divisor is not None:
            return Factor(
                self.latex(), np.array(1 / self.divisor), origin=Origin(f"1/{self.divisor}", ())
            )
        counts = [mask.sum(axis=1) for mask in self.counted]
        sizes = np.array([count[i] for count, i in zip(counts, made.T, strict=True)])
        numbers = np.prod(sizes, axis=0, dtype=np.float64)
        if np.any(sizes != sizes[:, :1]):
            return Factor(self.latex(), 1 / numbers, origin=Origin("1/{}", (numbers,)))
        written = "·".join(map(str, sizes[:, 0]))
        text = f"1/({written})" if len(sizes) > 1 else f"1/{written}"
        return Factor(self.latex(), np.array(1 / numbers[0]), origin=Origin(text, ()))

    def latex(self, indices: Sequence[str] = ()) -> str:
        """Return the weight of the window at these indices."""
        return rf"\frac{{1}}{{{self.symbol or at('m', *indices)}}}"


def _sliding_average(operation: Operation) -> _Averaging:
    windows = _windows(operation)
    axes = tuple(
        replace(axis, exists=axis.exists & (axis.coordinates < axis.size + padding))
        for axis, padding in zip(_sliding(operation), windows.padding, strict=True)
    )
    counts_padding = operation.get("count_include_pad", True)
    counted = tuple(axis.exists if counts_padding else axis.inside for axis in axes)
    divisor = operation.get("divisor_override")
    if divisor is not None:
        return _Averaging(axes, counted, divisor, "D")
    letters = notation.symbols("k", windows.kernel_size)
    symbol = " ".join(letters)
    if len(letters) > 1 and len(set(letters)) == 1:
        symbol = f"{letters[0]}^{len(letters)}"
    is_fixed = all(bool(mask.all()) for mask in counted)
    return _Averaging(axes, counted, None, symbol if is_fixed else "")


def _adaptive_average(operation: Operation) -> _Averaging:
    axes = _adaptive(operation)
    letters = [notation.sized(size, "in") for size in notation.size_letters(len(axes))]
    is_global = prod(len(axis.coordinates) for axis in axes) == 1
    counted = tuple(axis.inside for axis in axes)
    return _Averaging(axes, counted, None, " ".join(letters) if is_global else "")


def _average(averaging: Callable[[Operation], _Averaging], formulas: Formulas) -> Explainer:
    return linear_explainer(lambda operation: (averaging(operation).part(operation),), formulas)


def _average_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    windows, average = _windows(operation), _sliding_average(operation)
    dims = windows.letters()
    image = _image(operation, len(dims))
    made = notation.outputs(dims)
    zeros = "Where an index lies outside the input, $x$ is 0." if _leaves_input(operation) else ""
    where = {
        "y": spaced(
            windows.numbers,
            zeros,
            _divisor(operation, average, made),
            _legend(image, dims, window_position=_cells(dims)),
        ),
        "dL/dx": spaced(readers_sentence(dims, _READERS), _input_legend(dims)),
    }
    axes = (*_image_letters(image), *map(window_letters, dims))
    return linear_formulas(axes, "x", where, scale=average.latex, num_spatial=len(dims))


def _divisor(operation: Operation, average: _Averaging, made: tuple[str, ...]) -> str:
    if average.divisor is not None:
        return f"The divisor is set: $D = {average.divisor}$."
    if average.symbol:
        return ""
    counts_padding = operation.get("count_include_pad", True)
    counted = "inside the input or its padding" if counts_padding else "inside the input"
    return f"${at('m', *made)}$ is the number of the window's cells {counted}."


def _adaptive_average_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    average, dims = _adaptive_average(operation), _adaptive_dimensions(operation)
    image = _image(operation, len(dims))
    sentence = _legend(image, dims, input_position=notation.coordinates(dims))
    if not average.symbol:
        made = at("m", *notation.outputs(dims))
        sentence = f"${made}$ is the number of inputs that the window reads. {sentence}"
    where = {"y": sentence, "dL/dx": "Only the outputs whose window holds this input count."}
    axes = (*_image_letters(image), *map(_adaptive_letters, dims))
    return linear_formulas(axes, "x", where, scale=average.latex, num_spatial=len(dims))


def _adaptive_letters(dim: Dimension) -> Letters:
    over_window = rf"\sum_{{{dim.coordinate}={_start(dim)}}}^{{{_end(dim)}-1}}"
    index = {"y": (dim.window,), "x": (dim.coordinate,)}
    return Letters({"y": over_window, "x": _sum_over_adaptive(dim)}, lambda given: index)


# Maxima -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Maximum:
    """Pooling that passes on one input of each window."""

    axes: Callable[[Operation], tuple[_PooledAxis, ...]]

    def _part(self, operation: Operation) -> Part:
        axes = self.axes(operation)
        return _part(operation, axes, [axis.exists for axis in axes])

    def _read(self, part: Part, captured: Captured, position: Position) -> tuple[Indices, int]:
        """Return the places that a window reads, and the number of its cells outside the input."""
        found = part.selected(captured.operation, "y", position)
        where = found.places["x"]
        if found.padding is None:
            return where, 0
        return where[~found.padding], int(found.padding.sum())

    def output(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        where, num_outside = self._read(self._part(captured.operation), captured, position)
        x = captured.operands["x"]
        note = _winner_note(x, where)
        if num_outside:
            note += f" Cells of the window outside the input, which never win: {num_outside}."
        name, actual = indexed("y", position), float(captured.output[position])
        key, groups = captured.operation.key, (product(gathered("x", x, where)),)
        return (Value(name, key, "max", groups, actual, captured.dtype, note),)

    def gradient(self, captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
        part = self._part(captured.operation)
        readers = part.selected(captured.operation, "x", position).places["y"]
        wins = [self._winner(part, captured, tuple(reader)) == position for reader in readers]
        won = readers[np.array(wins, dtype=bool)]
        terms = product(gathered(DL_DY, captured.dl_dy, won))
        note = f"Windows that read this input: {len(readers)}; those that it wins: {len(won)}."
        actual = captured.gradient_at(symbol, position)
        return (sum_value(captured, indexed("dL/dx", position), (terms,), actual, note),)

    def _winner(self, part: Part, captured: Captured, position: Position) -> Position:
        where, _ = self._read(part, captured, position)
        winner = _winning(captured.operands["x"][tuple(where.T)])
        return tuple(where[winner].tolist())

    def first(self, operation: Operation, symbol: str, position: Position) -> Position:
        return first_place((self._part(operation),), operation, symbol, position)

    def refuses(self, operation: Operation) -> str | None:
        """Refuse a window without a single input, whose maximum is minus infinity."""
        if "output_ratio" in operation.arguments or "fractional" in operation.name:
            return "its windows are drawn at random"
        if all(axis.inside.any(axis=1).all() for axis in self.axes(operation)):
            return None
        return "one of its windows lies wholly in the padding, so it has no maximum"


def _winning(values: Floats) -> int:
    """Return the first of the largest, as PyTorch chooses; the last NaN where there is one."""
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


def _maximum(axes: Callable[[Operation], tuple[_PooledAxis, ...]], formulas: Formulas) -> Explainer:
    kind = _Maximum(axes)
    return Explainer(formulas, kind.output, where_used(kind.gradient), kind.first, kind.refuses)


_ONE_WINNER = (
    "the first, row by row, where several are equal. Each window passes its gradient to that one "
    "input alone."
)
_READERS = "Only the outputs whose window holds this input count"


def _maximum_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    windows = _windows(operation)
    dims = windows.letters()
    image = _image(operation, len(dims))
    made, readers = notation.outputs(dims), notation.readers(dims)
    cells = ", ".join(dim.cell for dim in dims if dim.cell)
    maximum = rf"\max_{{{cells}}} " if cells else ""
    y = f"{at('y', *image, *made)} = {maximum}{at('x', *image, *notation.reads(dims))}"
    bounds = ", ".join(rf"$0 \le {dim.cell} \lt {dim.kernel_size}$" for dim in dims if dim.cell)
    outside = "Cells outside the input take no part." if _leaves_input(operation) else ""
    winner = cell = ""
    if cells:
        hats = ", ".join(rf"\hat{{{dim.cell}}}" for dim in dims if dim.cell)
        winner = rf"\left[ ({cells}) = {at(f'({hats})', *image, *readers)} \right]"
        cell = f"${at(f'({hats})', *image, *made)}$ is the cell of the window's maximum: "
        cell += f"{_ONE_WINNER} The bracket is 1 where this is so, else 0."
    over = "".join(dim.sum_over_readers for dim in dims)
    right = spaced(over, winner, gradient("y", *image, *readers))
    where = spaced(
        f"Over {bounds}." if bounds else "",
        windows.numbers,
        outside,
        _legend(image, dims, window_position=_cells(dims)),
    )
    where_x = spaced(cell, readers_sentence(dims, _READERS), _input_legend(dims))
    return (
        GeneralFormula("y", y, where),
        GeneralFormula("dL/dx", f"{_dl_dx(image, dims)} = {right}", where_x),
    )


def _adaptive_maximum_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    dims = _adaptive_dimensions(operation)
    image = _image(operation, len(dims))
    made, read = notation.outputs(dims), notation.coordinates(dims)
    chosen = ", ".join(read)
    windows = ", ".join(rf"${_start(dim)} \le {dim.coordinate} \lt {_end(dim)}$" for dim in dims)
    hats = ", ".join(rf"\hat{{{letter}}}" for letter in read)
    winner = rf"\left[ ({chosen}) = {at(f'({hats})', *image, *made)} \right]"
    over = "".join(map(_sum_over_adaptive, dims))
    right = spaced(over, winner, gradient("y", *image, *made))
    y = rf"{at('y', *image, *made)} = \max_{{{chosen}}} {at('x', *image, *read)}"
    where = f"Over the window: {windows}. {_legend(image, dims, input_position=read)}"
    place = f"${at(f'({hats})', *image, *made)}$ is where the window's maximum stands: "
    return (
        GeneralFormula("y", y, where),
        GeneralFormula("dL/dx", f"{_dl_dx(image, dims)} = {right}", f"{place}{_ONE_WINNER}"),
    )


# What their formulas share ------------------------------------------------------------------------


def _legend(image: tuple[str, ...], dims: Dimensions, **more: Sequence[str]) -> str:
    made = notation.outputs(dims)
    return notation.index_legend(image=image[:-1], channel=image[-1:], output_position=made, **more)


def _cells(dims: Dimensions) -> tuple[str, ...]:
    return tuple(dim.cell for dim in dims)


def _input_legend(dims: Dimensions) -> str:
    return notation.index_legend(input_position=notation.coordinates(dims))


def _image(operation: Operation, dims: int) -> tuple[str, ...]:
    """Return n and c; c alone of a single image."""
    leading = len(operation.output_shape) - dims
    if leading <= 2:
        return ("n", "c")[2 - leading :]
    return notation.leading(operation.output_shape, dims)


def _image_letters(image: tuple[str, ...]) -> tuple[Letters, ...]:
    return tuple(shared_letter(letter, "", "yx") for letter in image)


def _dl_dx(image: tuple[str, ...], dims: Dimensions) -> str:
    return gradient("x", *image, *notation.coordinates(dims))


def _leaves_input(operation: Operation) -> bool:
    """Tell whether some window reaches beyond the input: into padding, or over its end."""
    return any(not axis.inside.all() for axis in _sliding(operation))


def _adaptive_dimensions(operation: Operation) -> Dimensions:
    """Return them with the index 0 for a dimension of which one output is left."""
    axes = _adaptive(operation)
    ones = (1,) * len(axes)
    dims = notation.window_dimensions(ones, ones, (0,) * len(axes), ones)
    return tuple(
        replace(dim, window="0") if len(axis.coordinates) == 1 else dim
        for dim, axis in zip(dims, axes, strict=True)
    )


def _start(dim: Dimension) -> str:
    if dim.window == "0":
        return "0"
    return rf"\lfloor {dim.window} {size_name(dim, 'in')} / {size_name(dim, 'out')} \rfloor"


def _end(dim: Dimension) -> str:
    if dim.window == "0":
        return size_name(dim, "in")
    return rf"\lceil ({dim.window} + 1) {size_name(dim, 'in')} / {size_name(dim, 'out')} \rceil"


def _sum_over_adaptive(dim: Dimension) -> str:
    if dim.window == "0":
        return ""
    return rf"\sum_{{{dim.window} \mid {_start(dim)} \le {dim.coordinate} \lt {_end(dim)}}}"


MAX_POOL = _maximum(_sliding, _maximum_formulas)
AVG_POOL = _average(_sliding_average, _average_formulas)
ADAPTIVE_AVG_POOL = _average(_adaptive_average, _adaptive_average_formulas)
ADAPTIVE_MAX_POOL = _maximum(_adaptive, _adaptive_maximum_formulas)
