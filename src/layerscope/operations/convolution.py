"""Convolutions and transposed convolutions in one, two and three dimensions."""

from collections.abc import Mapping
from math import prod
from typing import Any

from layerscope.operations.family import (
    Cost,
    Family,
    Invocation,
    Number,
    Shape,
    SizesByName,
    batch_size,
    dimensions,
    spatial_sizes,
)


def conv_macs(
    N: Number,
    C_out: Number,
    C_in_per_group: Number,
    W_out: Number,
    k_w: Number,
    H_out: Number = 1,
    k_h: Number = 1,
    D_out: Number = 1,
    k_d: Number = 1,
) -> Number:
    """Return the MACs of a convolution: one per weight of the kernel for each output element.

    Stride, padding and dilation matter only through the output size. Kernel positions on padding
    count too.

    Args:
        C_in_per_group: C_in / groups; 1 for a depthwise convolution.
    """
    return N * D_out * H_out * W_out * C_out * C_in_per_group * k_d * k_h * k_w


def conv_flops(**geometry: Number) -> Number:
    """Return the FLOPs of forward, input gradient or weight gradient: 2 per MAC each."""
    return 2 * conv_macs(**geometry)


def conv_transpose_macs(
    N: Number,
    C_in: Number,
    C_out_per_group: Number,
    W_in: Number,
    k_w: Number,
    H_in: Number = 1,
    k_h: Number = 1,
    D_in: Number = 1,
    k_d: Number = 1,
) -> Number:
    """Return the MACs of a transposed convolution: one per weight for each input element.

    Output positions that the padding cuts off count too.
    """
    return N * D_in * H_in * W_in * C_in * C_out_per_group * k_d * k_h * k_w


def conv_transpose_flops(**geometry: Number) -> Number:
    """Return the FLOPs of forward, input gradient or weight gradient: 2 per MAC each."""
    return 2 * conv_transpose_macs(**geometry)


def bias_sum_flops(**output: Number) -> Number:
    """Return the FLOPs of a bias's gradient: the sum of the output's over all but the channels."""
    return prod(output.values())


def _conv_sizes(call: Invocation) -> SizesByName:
    weight = call.arguments["weight"].shape
    dims = len(weight) - 2
    return {
        "N": batch_size(call.output_shape, dims),
        "C_out": weight[0],
        "C_in_per_group": weight[1],
        **spatial_sizes(call.output_shape[-dims:], weight[2:], "out"),
    }


def _conv_transpose_sizes(call: Invocation) -> SizesByName:
    weight = call.arguments["weight"].shape
    dims = len(weight) - 2
    return {
        "N": batch_size(call.input_shape, dims),
        "C_in": weight[0],
        "C_out_per_group": weight[1],
        **spatial_sizes(call.input_shape[-dims:], weight[2:], "in"),
    }


def _output_sizes(call: Invocation) -> SizesByName:
    dims = len(call.arguments["weight"].shape) - 2
    shape = call.output_shape
    return dimensions((batch_size(shape, dims), *shape[-dims - 1 :]), "_out")


def _is_padded_by_name(call: Invocation) -> bool:
    return isinstance(call.arguments.get("padding"), str)


def _fvcore(call: Invocation) -> int | None:
    """Return 1 per MAC; None if the padding is a name, which fvcore does not know."""
    return None if _is_padded_by_name(call) else conv_macs(**_conv_sizes(call))


def _fvcore_transpose(call: Invocation) -> int:
    return conv_transpose_macs(**_conv_transpose_sizes(call))


def _profiler(call: Invocation) -> int | None:
    """Return 2 per MAC in two dimensions; None without a batch or if the padding is a name."""
    if _is_padded_by_name(call) or len(call.input_shape) != 4:
        return None
    return conv_flops(**_conv_sizes(call))


_SETTINGS = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "padding_mode",
)
_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def _of_weight(shape: Shape, groups: int) -> Mapping[str, Any]:
    channels = {"in_channels": shape[1] * groups, "out_channels": shape[0]}
    return {**channels, "kernel_size": tuple(shape[2:])}


def _of_transposed_weight(shape: Shape, groups: int) -> Mapping[str, Any]:
    channels = {"in_channels": shape[0], "out_channels": shape[1] * groups}
    return {**channels, "kernel_size": tuple(shape[2:])}


def _family(dims: int) -> Family:
    name, cost = f"conv{dims}d", Cost(conv_flops, _conv_sizes)
    return Family(
        name=name,
        functions=(name,),
        parameters=("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
        macs=Cost(conv_macs, _conv_sizes),
        forward=cost,
        input_gradient=cost,
        weight_gradient=cost,
        bias_gradient=Cost(bias_sum_flops, _output_sizes),
        matrices=("input", "weight"),
        by_cudnn=True,
        fvcore=_fvcore,
        profiler=_profiler if dims == 2 else None,
        settings=_SETTINGS,
        defaults=_DEFAULTS,
        weight_settings=_of_weight,
        convolved_dims=dims,
    )


def _transposed(dims: int) -> Family:
    name, cost = f"conv_transpose{dims}d", Cost(conv_transpose_flops, _conv_transpose_sizes)
    return Family(
        name=name,
        functions=(name,),
        parameters=(
            *("input", "weight", "bias", "stride", "padding", "output_padding"),
            *("groups", "dilation"),
        ),
        macs=Cost(conv_transpose_macs, _conv_transpose_sizes),
        forward=cost,
        input_gradient=cost,
        weight_gradient=cost,
        bias_gradient=Cost(bias_sum_flops, _output_sizes),
        matrices=("input", "weight"),
        by_cudnn=True,
        fvcore=_fvcore_transpose,
        settings=(*_SETTINGS, "output_padding"),
        defaults={**_DEFAULTS, "output_padding": 0},
        weight_settings=_of_transposed_weight,
        convolved_dims=dims,
    )


FAMILIES = (
    *(_family(dims) for dims in (1, 2, 3)),
    *(_transposed(dims) for dims in (1, 2, 3)),
)


# Counts of the dispatcher's FLOP counter ---------------------------------------------------------


def _shape(value: object) -> tuple[int, ...]:
    return value.shape  # type: ignore[attr-defined]


def convolution_flops(call: Invocation) -> int:
    """Return 2 per MAC of `aten::convolution`; of a transposed one per input position."""
    image, weight = _shape(call.arguments["input"]), _shape(call.arguments["weight"])
    transposed = call.arguments["transposed"]
    sizes = image[2:] if transposed else call.output_shape[2:]
    return 2 * image[0] * prod(weight) * prod(sizes)


def convolution_backward_flops(call: Invocation) -> int:
    """Return the counts of the gradients that the output mask asks for.

    A grouped weight gradient counts as if there were one group, transposed or not.
    """
    arguments = call.arguments
    return _input_gradient_flops(call) * arguments["output_mask"][0] + (
        _weight_gradient_flops(call) * arguments["output_mask"][1]
    )


def _input_gradient_flops(call: Invocation) -> int:
    gradient = _shape(call.arguments["grad_output"])
    image, weight = _shape(call.arguments["input"]), _shape(call.arguments["weight"])
    sizes = image[2:] if call.arguments["transposed"] else gradient[2:]
    return 2 * gradient[0] * prod(weight) * prod(sizes)


def _weight_gradient_flops(call: Invocation) -> int:
    return _input_gradient_flops(call) * (call.arguments["groups"] or 1)


DISPATCHER = {
    "aten::convolution": convolution_flops,
    "aten::_convolution": convolution_flops,
    "aten::convolution_backward": convolution_backward_flops,
}
