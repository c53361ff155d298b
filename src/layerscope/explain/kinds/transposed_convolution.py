"""Transposed convolutions: each input adds the kernel, scaled, to a window of the output."""

from dataclasses import dataclass

import numpy as np

from layerscope.explain import notation
from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    gathered,
    grid,
    has_bias,
    input_gradient_at,
    number_at,
    output_gradient,
    parameter_gradient_at,
    places,
    product,
    single,
    total,
    weight_gradient_name,
    where_used,
)
from layerscope.explain.kinds import windows
from layerscope.explain.kinds.convolution import bias_of_output, every_bias_gradient, split
from layerscope.explain.kinds.convolution_settings import Settings, settings
from layerscope.explain.notation import at, batch_sum, gradient, joined, sized, summed
from layerscope.explain.values import Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall


def _axes(spec: DescribedCall) -> windows.Axes:
    """Which output each kernel cell of each input adds to: windows are those of the input."""
    conv = settings(spec)
    return tuple(
        map(
            windows.sliding_axis,
            windows.spatial_sizes(spec.output_shape, conv.dims),
            windows.spatial_sizes(spec.input_shape, conv.dims),
            *(conv.kernel_size, conv.stride, conv.padding, conv.dilation),
        )
    )


def _output(captured: Captured, position: Position) -> tuple[Value, ...]:
    conv = settings(captured.spec)
    image, o, coordinates = split(position, conv.dims)
    group = conv.group_of_output(o)
    givers, cells = windows.readers_of(_axes(captured.spec), coordinates)
    channel, giver = grid(np.arange(conv.in_per_group), np.arange(len(givers))).T
    channel = channel + group * conv.in_per_group
    own = o - group * conv.out_per_group
    products = product(
        gathered("x", captured.inputs[0], places(*image, channel, givers[giver])),
        gathered("w", captured.parameters["weight"], places(channel, own, cells[giver])),
    )
    groups = (products,)
    if has_bias(captured):
        groups += (product(single("b", captured.parameters["bias"], (o,))),)
    actual = number_at(captured.output, position)
    return (total(captured, indexed("y", position), groups, actual),)


def _input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    conv = settings(captured.spec)
    image, channel, window = split(position, conv.dims)
    found = windows.cells_of(_axes(captured.spec), window)
    cells, coordinates = found.cells[found.inside], found.coordinates[found.inside]
    own, cell = grid(np.arange(conv.out_per_group), np.arange(len(cells))).T
    o = own + conv.group_of_input(channel) * conv.out_per_group
    terms = product(
        gathered(DL_DY, output_gradient(captured), places(*image, o, coordinates[cell])),
        gathered("w", captured.parameters["weight"], places(channel, own, cells[cell])),
    )
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _weight_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    conv = settings(captured.spec)
    channel, own, *cell = position
    axes = _axes(captured.spec)
    shape = captured.spec.input_shape
    batch = shape[: -conv.dims - 1]
    index = grid(*map(np.arange, (*batch, *windows.spatial_sizes(shape, conv.dims))))
    columns = list(zip(axes, index[:, len(batch) :].T, cell, strict=True))
    inside = np.all([axis.inside[i, u] for axis, i, u in columns], axis=0)
    made = [axis.coordinates[i, u][inside] for axis, i, u in columns]
    image, window = index[inside, : len(batch)], index[inside, len(batch) :]
    o = own + conv.group_of_input(channel) * conv.out_per_group
    terms = product(
        gathered(DL_DY, output_gradient(captured), places(image, o, *made)),
        gathered("x", captured.inputs[0], places(image, channel, window)),
    )
    actual = parameter_gradient_at(captured, "weight", position)
    return (total(captured, weight_gradient_name(position), (terms,), actual),)


def _first_input(spec: DescribedCall, position: Position) -> Position:
    conv = settings(spec)
    image, o, coordinates = split(position, conv.dims)
    givers, _ = windows.readers_of(_axes(spec), coordinates)
    first = tuple(givers[0].tolist()) if len(givers) else (0,) * conv.dims
    return (*image, conv.group_of_output(o) * conv.in_per_group, *first)


def _first_weight(spec: DescribedCall, position: Position) -> Position:
    conv = settings(spec)
    _, o, _ = split(position, conv.dims)
    group = conv.group_of_output(o)
    own = o - group * conv.out_per_group
    return (group * conv.in_per_group, own, *(0,) * conv.dims)


def _formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    conv = settings(spec)
    dims = notation.dimensions(
        *(conv.kernel_size, conv.stride, conv.padding, conv.dilation), transposed=True
    )
    batch = notation.leading(spec.output_shape, conv.dims + 1)
    cells, window = notation.cells(dims), notation.outputs(dims)
    letters = _channels(conv)
    bias = " + b_o" if spec.geometry.get("bias") else ""
    over_windows = batch_sum(batch) + "".join(dim.sum_over_windows for dim in dims)
    dl_dy = gradient("y", *batch, letters.made, *notation.reads(dims))
    y = joined(
        letters.sum_over_inputs + "".join(dim.sum_over_readers for dim in dims),
        at("x", *batch, "c", *notation.readers(dims)),
        at("w", "c", letters.own, *cells) + bias,
    )
    dl_dx = joined(
        letters.sum_over_outputs + "".join(dim.sum_over_cells for dim in dims),
        dl_dy,
        at("w", "c", "o", *cells),
    )
    dl_dw = joined(over_windows, dl_dy, at("x", *batch, "c", *window))
    formulas = (
        GeneralFormula(
            "y",
            f"{at('y', *batch, 'o', *notation.coordinates(dims))} = {y}",
            joined(_numbers(conv), letters.group_of_output, _readers(dims), _legend(batch, dims)),
        ),
        GeneralFormula(
            "dL/dx",
            f"{gradient('x', *batch, 'c', *window)} = {dl_dx}",
            joined(letters.group_of_input, _CROPPED),
        ),
        GeneralFormula(
            "dL/dw",
            f"{gradient('w', 'c', 'o', *cells)} = {dl_dw}",
            joined(letters.group_of_input, _CROPPED),
        ),
    )
    return (*formulas, _bias_formula(dims, batch)) if bias else formulas


def _legend(batch: tuple[str, ...], dims: notation.Dimensions) -> str:
    return notation.legend(
        image=batch,
        output_channel="o",
        input_channel="c",
        output_position=notation.coordinates(dims),
        input_position=notation.outputs(dims),
        kernel_position=tuple(dim.cell for dim in dims),
    )


def _bias_formula(dims: notation.Dimensions, batch: tuple[str, ...]) -> GeneralFormula:
    sizes = (summed(dim.coordinate, notation.size_name(dim, "out")) for dim in dims)
    dl_dy = gradient("y", *batch, "o", *notation.coordinates(dims))
    over = batch_sum(batch) + "".join(sizes)
    return GeneralFormula("dL/db", f"{gradient('b', 'o')} = {over} {dl_dy}")


@dataclass(frozen=True)
class _Channels:
    """The channel indices of the formulas; without groups, none of a group.

    Args:
        own: of the weight, in terms of the output channel.
        made: the output channel, in terms of the weight's.
    """

    sum_over_inputs: str = summed("c", sized("C", "in"))
    sum_over_outputs: str = summed("o", sized("C", "out"))
    own: str = "o"
    made: str = "o"
    group_of_output: str = ""
    group_of_input: str = ""


def _channels(conv: Settings) -> _Channels:
    if conv.groups == 1:
        return _Channels()
    sizes = f"$G = {conv.groups}$ groups of $C_g = {conv.in_per_group}$ input channels and "
    sizes += f"$O_g = {conv.out_per_group}$ output channels"
    return _Channels(
        sum_over_inputs=r"\sum_{c = g C_g}^{(g+1) C_g - 1}",
        sum_over_outputs=summed("o", "O_g"),
        own="o - g O_g",
        made="g O_g + o",
        group_of_output=rf"{sizes}: $g = \left\lfloor o / O_g \right\rfloor$.",
        group_of_input=r"$g = \left\lfloor c / C_g \right\rfloor$ is the group of the channel.",
    )


_CROPPED = "Where an index lies outside the output, which the padding crops, there is no term."


def _numbers(conv: Settings) -> str:
    return notation.window_numbers(conv.kernel_size, conv.stride, conv.padding, conv.dilation)


def _readers(dims: notation.Dimensions) -> str:
    bounds = "; ".join(dim.reader_bounds for dim in dims if dim.reader_bounds)
    return f"Only inputs whose window holds this output count: {bounds}." if bounds else ""


TRANSPOSED_CONVOLUTION = Explainer(
    formulas=_formulas,
    output=_output,
    input_gradient=where_used("dL/dx", _input_gradient),
    first_input=_first_input,
    weight_gradient=where_used("dL/dw", _weight_gradient),
    bias_gradient=where_used("dL/db", every_bias_gradient),
    first_weight=_first_weight,
    bias=bias_of_output,
)
