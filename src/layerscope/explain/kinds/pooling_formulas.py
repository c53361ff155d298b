"""The general formulas of pooling, without what a layer's settings make drop out."""

from collections.abc import Callable
from dataclasses import replace

from layerscope.explain import notation
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.kinds.pooling_settings import (
    Averaging,
    Settings,
    adaptive_average,
    adaptive_axes,
    settings,
    sliding_average,
    sliding_axes,
)
from layerscope.explain.notation import Dimension, Dimensions, at, gradient, joined, size_name
from layerscope.networks.layer_calls import DescribedCall

Formulas = Callable[[DescribedCall], tuple[GeneralFormula, ...]]

_ONE_WINNER = (
    "the first, row by row, where several are equal. Each window passes its gradient to that one "
    "input alone."
)


def max_pool(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """y and dL/dx."""
    pool = settings(spec)
    dims = _dimensions(pool)
    image = _image(spec, pool.dims)
    made, readers = notation.outputs(dims), notation.readers(dims)
    cells = ", ".join(dim.cell for dim in dims if dim.cell)
    maximum = rf"\max_{{{cells}}} " if cells else ""
    y = f"{at('y', *image, *made)} = {maximum}{at('x', *image, *notation.reads(dims))}"
    bounds = _cell_bounds(dims)
    outside = "Cells outside the input take no part." if _leaves_input(spec) else ""
    winner = cell = ""
    if cells:
        hats = ", ".join(rf"\hat{{{dim.cell}}}" for dim in dims if dim.cell)
        winner = rf"\left[ ({cells}) = {at(f'({hats})', *image, *readers)} \right]"
        cell = f"${at(f'({hats})', *image, *made)}$ is the cell of the window's maximum: "
        cell += f"{_ONE_WINNER} The bracket is 1 where this is so, else 0."
    over = "".join(dim.sum_over_readers for dim in dims)
    dl_dx = f"{_dl_dx(image, dims)} = {joined(over, winner, gradient('y', *image, *readers))}"
    return (
        GeneralFormula("y", y, joined(bounds, _numbers(pool), outside, _legend(image, dims))),
        GeneralFormula("dL/dx", dl_dx, joined(cell, _readers(dims), _input_legend(dims))),
    )


def avg_pool(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """y and dL/dx."""
    pool, average = settings(spec), sliding_average(spec)
    dims = _dimensions(pool)
    image = _image(spec, pool.dims)
    made, readers = notation.outputs(dims), notation.readers(dims)
    sums = "".join(dim.sum_over_cells for dim in dims)
    x = at("x", *image, *notation.reads(dims))
    y = f"{at('y', *image, *made)} = {joined(average.factor(made), sums, x)}"
    over = "".join(dim.sum_over_readers for dim in dims)
    dl_dy = gradient("y", *image, *readers)
    dl_dx = f"{_dl_dx(image, dims)} = {joined(over, average.factor(readers), dl_dy)}"
    zeros = "Where an index lies outside the input, $x$ is 0." if _leaves_input(spec) else ""
    legend = _legend(image, dims)
    where = joined(_numbers(pool), zeros, _divisor(pool, average, made), legend)
    return (
        GeneralFormula("y", y, where),
        GeneralFormula("dL/dx", dl_dx, joined(_readers(dims), _input_legend(dims))),
    )


def adaptive_avg_pool(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """y and dL/dx."""
    average, dims = adaptive_average(spec), _adaptive_dimensions(spec)
    image = _image(spec, len(dims))
    made = notation.outputs(dims)
    sums = "".join(rf"\sum_{{{dim.coordinate}={_start(dim)}}}^{{{_end(dim)}-1}}" for dim in dims)
    x = at("x", *image, *notation.coordinates(dims))
    over = "".join(map(_sum_over_adaptive, dims))
    dl_dy = gradient("y", *image, *made)
    y = f"{at('y', *image, *made)} = {joined(average.factor(made), sums, x)}"
    dl_dx = f"{_dl_dx(image, dims)} = {joined(over, average.factor(made), dl_dy)}"
    where = _adaptive_legend(image, dims)
    if not average.divisor_symbol:
        where = f"${at('m', *made)}$ is the number of inputs that the window reads. {where}"
    return (
        GeneralFormula("y", y, where),
        GeneralFormula("dL/dx", dl_dx, "Only the outputs whose window holds this input count."),
    )


def adaptive_max_pool(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """y and dL/dx."""
    dims = _adaptive_dimensions(spec)
    image = _image(spec, len(dims))
    made, read = notation.outputs(dims), notation.coordinates(dims)
    chosen = ", ".join(read)
    windows = ", ".join(rf"${_start(dim)} \le {dim.coordinate} \lt {_end(dim)}$" for dim in dims)
    hats = ", ".join(rf"\hat{{{letter}}}" for letter in read)
    winner = rf"\left[ ({chosen}) = {at(f'({hats})', *image, *made)} \right]"
    over = "".join(map(_sum_over_adaptive, dims))
    return (
        GeneralFormula(
            "y",
            rf"{at('y', *image, *made)} = \max_{{{chosen}}} {at('x', *image, *read)}",
            f"Over the window: {windows}. {_adaptive_legend(image, dims)}",
        ),
        GeneralFormula(
            "dL/dx",
            f"{_dl_dx(image, dims)} = {joined(over, winner, gradient('y', *image, *made))}",
            f"${at(f'({hats})', *image, *made)}$ is where the window's maximum stands: "
            f"{_ONE_WINNER}",
        ),
    )


def _legend(image: tuple[str, ...], dims: Dimensions) -> str:
    return notation.legend(
        image=image[:-1],
        channel=image[-1:],
        output_position=notation.outputs(dims),
        window_position=tuple(dim.cell for dim in dims),
    )


def _adaptive_legend(image: tuple[str, ...], dims: Dimensions) -> str:
    return notation.legend(
        image=image[:-1],
        channel=image[-1:],
        output_position=notation.outputs(dims),
        input_position=notation.coordinates(dims),
    )


def _input_legend(dims: Dimensions) -> str:
    return notation.legend(input_position=notation.coordinates(dims))


def _image(spec: DescribedCall, dims: int) -> tuple[str, ...]:
    """n and c; c alone of a single image."""
    leading = len(spec.output_shape) - dims
    return ("n", "c")[2 - leading :] if leading <= 2 else notation.leading(spec.output_shape, dims)


def _dimensions(pool: Settings) -> Dimensions:
    return notation.dimensions(pool.kernel_size, pool.stride, pool.padding, pool.dilation)


def _dl_dx(image: tuple[str, ...], dims: Dimensions) -> str:
    return gradient("x", *image, *notation.coordinates(dims))


def _cell_bounds(dims: Dimensions) -> str:
    bounds = [rf"$0 \le {dim.cell} \lt {dim.kernel_size}$" for dim in dims if dim.cell]
    return f"Over {', '.join(bounds)}." if bounds else ""


def _numbers(pool: Settings) -> str:
    return notation.window_numbers(pool.kernel_size, pool.stride, pool.padding, pool.dilation)


def _leaves_input(spec: DescribedCall) -> bool:
    """Whether some window reaches beyond the input: into padding, or over its end."""
    return any(not axis.inside.all() for axis in sliding_axes(spec))


def _readers(dims: Dimensions) -> str:
    bounds = "; ".join(dim.reader_bounds for dim in dims if dim.reader_bounds)
    return f"Only the outputs whose window holds this input count: {bounds}." if bounds else ""


def _divisor(pool: Settings, average: Averaging, made: tuple[str, ...]) -> str:
    if pool.divisor is not None:
        return f"The divisor is set: $D = {pool.divisor}$."
    if average.divisor_symbol:
        return ""
    counted = "inside the input or its padding" if pool.counts_padding else "inside the input"
    return f"${at('m', *made)}$ is the number of the window's cells {counted}."


def _adaptive_dimensions(spec: DescribedCall) -> Dimensions:
    """With the index 0 for a dimension of which one output is left."""
    axes = adaptive_axes(spec)
    ones = (1,) * len(axes)
    dims = notation.dimensions(ones, ones, (0,) * len(axes), ones)
    return tuple(
        replace(dim, window="0") if len(axis.coordinates) == 1 else dim
        for dim, axis in zip(dims, axes, strict=True)
    )


def _start(dim: Dimension) -> str:
    if dim.window == "0":
        return "0"
    ratio = f"{dim.window} {size_name(dim, 'in')} / {size_name(dim, 'out')}"
    return rf"\lfloor {ratio} \rfloor"


def _end(dim: Dimension) -> str:
    if dim.window == "0":
        return size_name(dim, "in")
    ratio = f"({dim.window} + 1) {size_name(dim, 'in')} / {size_name(dim, 'out')}"
    return rf"\lceil {ratio} \rceil"


def _sum_over_adaptive(dim: Dimension) -> str:
    if dim.window == "0":
        return ""
    return rf"\sum_{{{dim.window} \mid {_start(dim)} \le {dim.coordinate} \lt {_end(dim)}}}"
