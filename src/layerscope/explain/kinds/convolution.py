"""Convolutions in one to three dimensions: stride, padding, dilation, groups."""

import numpy as np

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer
from layerscope.explain.factors import (
    DL_DY,
    bias_gradient,
    gathered,
    grid,
    has_bias,
    input_gradient_at,
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
from layerscope.explain.kinds.convolution_formulas import convolution_formulas
from layerscope.explain.kinds.convolution_settings import axes, settings
from layerscope.explain.values import Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall, spatial_dims


def split(position: Position, dims: int) -> tuple[Position, int, Position]:
    """The batch index (none of a single image), the channel, the spatial position."""
    return position[: -dims - 1], position[-dims - 1], position[-dims:]


def _output(captured: Captured, position: Position) -> tuple[Value, ...]:
    conv = settings(captured.spec)
    image, o, window = split(position, conv.dims)
    found = windows.cells_of(axes(captured.spec), window)
    channel, cell = grid(np.arange(conv.in_per_group), np.arange(len(found.cells))).T
    inside = found.inside[cell]
    first = conv.group_of_output(o) * conv.in_per_group
    products = product(
        gathered(
            "x",
            captured.inputs[0],
            places(*image, first + channel, found.coordinates[cell]),
            inside,
        ),
        gathered("w", captured.parameters["weight"], places(o, channel, found.cells[cell])),
        is_padding=None if inside.all() else ~inside,
    )
    groups = (products,)
    if has_bias(captured):
        groups += (product(single("b", captured.parameters["bias"], (o,))),)
    actual = float(captured.output[position])
    return (total(captured, indexed("y", position), groups, actual),)


def _input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    conv = settings(captured.spec)
    image, channel, coordinates = split(position, conv.dims)
    readers, cells = windows.readers_of(axes(captured.spec), coordinates)
    group = conv.group_of_input(channel)
    o, reader = grid(np.arange(conv.out_per_group), np.arange(len(readers))).T
    o = o + group * conv.out_per_group
    own_channel = channel - group * conv.in_per_group
    terms = product(
        gathered(DL_DY, output_gradient(captured), places(*image, o, readers[reader])),
        gathered("w", captured.parameters["weight"], places(o, own_channel, cells[reader])),
    )
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _weight_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    conv = settings(captured.spec)
    o, channel, *cell = position
    along = axes(captured.spec)
    batch = captured.spec.output_shape[: -conv.dims - 1]
    sizes = (*batch, *windows.spatial_sizes(captured.spec.output_shape, conv.dims))
    index = grid(*map(np.arange, sizes))
    image, window = index[:, : len(batch)], index[:, len(batch) :]
    read = [axis.coordinates[i, u] for axis, i, u in zip(along, window.T, cell, strict=True)]
    inside = np.all(
        [axis.inside[i, u] for axis, i, u in zip(along, window.T, cell, strict=True)], axis=0
    )
    channel += conv.group_of_output(o) * conv.in_per_group
    terms = product(
        gathered(DL_DY, output_gradient(captured), places(image, o, window)),
        gathered("x", captured.inputs[0], places(image, channel, *read), inside),
        is_padding=None if inside.all() else ~inside,
    )
    actual = parameter_gradient_at(captured, "weight", position)
    return (total(captured, weight_gradient_name(position), (terms,), actual),)


def every_bias_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    """Every output of the channel counts, of every image."""
    dims = spatial_dims(captured.spec.kind)
    shape = captured.spec.output_shape
    batch = shape[: -dims - 1]
    index = grid(*map(np.arange, (*batch, *windows.spatial_sizes(shape, dims))))
    where = places(index[:, : len(batch)], position[0], index[:, len(batch) :])
    return bias_gradient(captured, position, where)


def _first_input(spec: DescribedCall, position: Position) -> Position:
    conv = settings(spec)
    image, o, window = split(position, conv.dims)
    channel = conv.group_of_output(o) * conv.in_per_group
    return (*image, channel, *windows.first_inside(axes(spec), window))


def _first_weight(spec: DescribedCall, position: Position) -> Position:
    conv = settings(spec)
    return (position[-conv.dims - 1], 0, *(0,) * conv.dims)


def bias_of_output(spec: DescribedCall, position: Position) -> Position:
    """That of the output's channel."""
    return (position[-spatial_dims(spec.kind) - 1],)


CONVOLUTION = Explainer(
    formulas=convolution_formulas,
    output=_output,
    input_gradient=where_used("dL/dx", _input_gradient),
    first_input=_first_input,
    weight_gradient=where_used("dL/dw", _weight_gradient),
    bias_gradient=where_used("dL/db", every_bias_gradient),
    first_weight=_first_weight,
    bias=bias_of_output,
)
