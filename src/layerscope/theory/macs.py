"""Multiply-accumulates of convolutions and linear layers; nothing else has any.

One MAC is one multiplication and the addition of its product; a bias is not counted. The formulas
are plain products, so that sympy symbols give the formula and integers the count.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from layerscope.layers.geometry import spatial_dims
from layerscope.layers.spec import LayerSpec

# An int, or a sympy expression.
Number = Any


def conv_macs(
    N: Number,
    C_out: Number,
    output_size: Sequence[Number],
    C_in_per_group: Number,
    kernel_size: Sequence[Number],
) -> Number:
    """Each output element is a sum over one kernel's weights.

    Stride, padding and dilation act through the output size alone; positions of the kernel that
    lie on padding count.

    Args:
        C_in_per_group: C_in / groups; 1 for a depthwise convolution.
    """
    return N * C_out * prod(output_size) * C_in_per_group * prod(kernel_size)


def conv_transpose_macs(
    N: Number,
    C_in: Number,
    input_size: Sequence[Number],
    C_out_per_group: Number,
    kernel_size: Sequence[Number],
) -> Number:
    """Each input element is spread over one kernel's weights; what the padding cuts off counts."""
    return N * C_in * prod(input_size) * C_out_per_group * prod(kernel_size)


def linear_macs(rows: Number, in_features: Number, out_features: Number) -> Number:
    """Each of the `rows` (N, or N times every further dimension) meets each weight once."""
    return rows * in_features * out_features


def _conv(spec: LayerSpec) -> int:
    geometry, dims = spec.geometry, spatial_dims(spec.kind)
    return conv_macs(
        N=_batch(spec.output_shape, dims),
        C_out=geometry["out_channels"],
        output_size=spec.output_shape[-dims:],
        C_in_per_group=geometry["in_channels"] // geometry["groups"],
        kernel_size=geometry["kernel_size"],
    )


def _conv_transpose(spec: LayerSpec) -> int:
    geometry, dims = spec.geometry, spatial_dims(spec.kind)
    return conv_transpose_macs(
        N=_batch(spec.input_shape, dims),
        C_in=geometry["in_channels"],
        input_size=spec.input_shape[-dims:],
        C_out_per_group=geometry["out_channels"] // geometry["groups"],
        kernel_size=geometry["kernel_size"],
    )


def _linear(spec: LayerSpec) -> int:
    geometry = spec.geometry
    rows = prod(spec.input_shape[:-1])
    return linear_macs(rows, geometry["in_features"], geometry["out_features"])


def _batch(shape: tuple[int, ...], dims: int) -> int:
    """1 for a single image without the batch dimension, which convolutions also take."""
    return shape[0] if len(shape) == dims + 2 else 1


# A kind with MACs is one entry here.
_MACS: dict[str, Callable[[LayerSpec], int]] = {
    **{f"conv{n}d": _conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _conv_transpose for n in (1, 2, 3)},
    "linear": _linear,
}

# Known to multiply nothing by a matrix: normalisation, activations, pooling, moving data around,
# elementwise arithmetic. A kind that stands nowhere in this file is unknown.
_WITHOUT_MACS = """
batch_norm instance_norm layer_norm group_norm local_response_norm normalize rms_norm
relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid hardswish hardsigmoid
hardtanh hardshrink softshrink softplus softsign tanh threshold logsigmoid softmin glu clamp
softmax log_softmax
max_pool avg_pool adaptive_avg_pool adaptive_max_pool lp_pool1d lp_pool2d
dropout feature_dropout alpha_dropout stochastic_depth drop_block2d drop_block3d
identity flatten unflatten view view_as reshape reshape_as permute transpose swapaxes movedim
squeeze unsqueeze expand expand_as repeat tile cat stack hstack vstack chunk split unbind
tensor_split narrow select getitem setitem index_select gather masked_fill where roll flip
contiguous clone detach to type type_as float double half bfloat16 cpu cuda T mT H mH real imag
t pad interpolate pixel_shuffle pixel_unshuffle channel_shuffle unfold fold embedding one_hot
add sub mul div floor_divide remainder pow neg abs exp log sqrt rsqrt square reciprocal sign sin
cos round floor ceil maximum minimum eq ne lt le gt ge logical_and logical_or logical_not
isnan isinf isfinite nan_to_num
mean sum amax amin max min argmax argmin std var cumsum norm topk sort prod
empty zeros ones full rand randn arange linspace empty_like zeros_like ones_like full_like
rand_like randn_like new_empty new_zeros new_ones new_full tensor meshgrid fill zero copy
bernoulli uniform normal
cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss
"""


def macs(spec: LayerSpec) -> int | None:
    """Multiply-accumulates of one call, for the whole batch.

    0 for a kind that is known to have none; None for a kind that is not known, which may have some:
    attention, recurrent layers, a product of two activations.
    """
    count = _MACS.get(spec.kind)
    if count is not None:
        return count(spec)
    return 0 if spec.kind in _WITHOUT_MACS.split() else None
