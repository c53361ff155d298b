"""What is known of each kind of layer. A new kind is one entry in KINDS.

    KINDS["my_op"] = Kind(forward=on_output(elementwise_flops), keeps=kept.its_input)

A kind without an entry is unknown: its costs are None, and every total with it a lower bound.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from layerscope.layers.geometry import spatial_dims
from layerscope.layers.spec import LayerSpec, Shape
from layerscope.theory import kept
from layerscope.theory.formulas import (
    Formula,
    Number,
    bias_sum_flops,
    conv_flops,
    conv_macs,
    conv_transpose_flops,
    conv_transpose_macs,
    cross_entropy_flops,
    cross_entropy_gradient_flops,
    elementwise_flops,
    linear_flops,
    linear_macs,
    max_pool_flops,
    norm_flops,
    softmax_flops,
    softmax_gradient_flops,
    two_per_element_flops,
)
from layerscope.theory.kept import KeptRule

Arguments = Mapping[str, int]
Function = Callable[..., Number]


@dataclass(frozen=True, slots=True)
class Cost:
    """A formula, and where a layer's numbers for it come from."""

    function: Function
    arguments: Callable[[LayerSpec], Arguments]


@dataclass(frozen=True)
class Kind:
    """The costs of a kind of layer; None where there is nothing to compute.

    Args:
        is_view: it returns its input's memory, seen otherwise.
        keeps: what autograd keeps; None where it is not known.
        gradient: what becomes of the output's gradient: a `new` tensor, the `same` one where the
            sizes are equal, a `view` of it, `slices` of it, or one value seen as many (`expand`).
        known: whether the FLOPs are; where not, None is unknown and not nothing.
    """

    macs: Cost | None = None
    forward: Cost | None = None
    input_gradient: Cost | None = None
    weight_gradient: Cost | None = None
    bias_gradient: Cost | None = None
    keeps: KeptRule | None = None
    is_view: bool = False
    gradient: Literal["new", "same", "view", "slices", "expand"] = "new"
    known: bool = True


def formulas(spec: LayerSpec) -> tuple[Formula, ...]:
    """Of one call: one for each quantity that there is something to compute for."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        return ()
    costs = {
        "macs": kind.macs,
        "forward_flops": kind.forward,
        "input_gradient_flops": kind.input_gradient,
        "weight_gradient_flops": kind.weight_gradient,
        "bias_gradient_flops": kind.bias_gradient if _has_bias(spec) else None,
    }
    return tuple(
        Formula(quantity, cost.function, cost.arguments(spec))
        for quantity, cost in costs.items()
        if cost is not None
    )


def macs(spec: LayerSpec) -> int | None:
    """Multiply-accumulates of one call, for the whole batch.

    0 for a kind that is known to have none; None for a kind that is not known, which may have some:
    attention, recurrent layers, a product of two activations.
    """
    kind = KINDS.get(spec.kind)
    if kind is None:
        return None
    return 0 if kind.macs is None else kind.macs.function(**kind.macs.arguments(spec))


def flops_are_known(spec: LayerSpec) -> bool:
    """Whether the formulas of this call are all there is to compute."""
    kind = KINDS.get(spec.kind)
    return kind is not None and kind.known


def _has_bias(spec: LayerSpec) -> bool:
    return bool(spec.geometry.get("bias"))


_DIMENSIONS: dict[int, tuple[str, ...]] = {
    1: ("C",),
    2: ("N", "C"),
    3: ("N", "C", "L"),
    4: ("N", "C", "H", "W"),
    5: ("N", "C", "D", "H", "W"),
}
_SPATIAL = ("D", "H", "W")


def _dimensions(shape: Shape, suffix: str = "") -> Arguments:
    """A shape's sizes by their usual names, the spatial ones with a suffix."""
    names = _DIMENSIONS.get(len(shape))
    if names is None:
        return {"elements": prod(shape)}
    return {
        name + suffix if name in (*_SPATIAL, "L") else name: size
        for name, size in zip(names, shape, strict=True)
    }


def on_output(function: Function) -> Cost:
    """A cost per output element."""
    return Cost(function, lambda spec: _dimensions(spec.output_shape, "_out"))


def on_input(function: Function) -> Cost:
    """A cost per element of the first input."""
    return Cost(function, lambda spec: _dimensions(_first_input(spec), "_in"))


def _first_input(spec: LayerSpec) -> Shape:
    return spec.input_shape if spec.inputs else spec.output_shape


def _spatial(spec: LayerSpec, sizes: Shape, suffix: str) -> Arguments:
    """Sizes and kernel sizes by name: H_out, k_h, W_out, k_w, ..."""
    kernel = spec.geometry["kernel_size"]
    if isinstance(kernel, int):
        kernel = (kernel,) * len(sizes)
    named: dict[str, int] = {}
    for name, size, k in zip(_SPATIAL[-len(sizes) :], sizes, kernel, strict=True):
        named |= {f"{name}_{suffix}": size, f"k_{name.lower()}": k}
    return named


def _batch(shape: Shape, dims: int) -> int:
    """1 for a single image without the batch dimension, which convolutions also take."""
    return shape[0] if len(shape) == dims + 2 else 1


def _conv(spec: LayerSpec) -> Arguments:
    geometry, dims = spec.geometry, spatial_dims(spec.kind)
    return {
        "N": _batch(spec.output_shape, dims),
        "C_out": geometry["out_channels"],
        "C_in_per_group": geometry["in_channels"] // geometry["groups"],
        **_spatial(spec, spec.output_shape[-dims:], "out"),
    }


def _conv_transpose(spec: LayerSpec) -> Arguments:
    geometry, dims = spec.geometry, spatial_dims(spec.kind)
    return {
        "N": _batch(spec.input_shape, dims),
        "C_in": geometry["in_channels"],
        "C_out_per_group": geometry["out_channels"] // geometry["groups"],
        **_spatial(spec, spec.input_shape[-dims:], "in"),
    }


def _linear(spec: LayerSpec) -> Arguments:
    return {
        "rows": prod(spec.input_shape[:-1]),
        "in_features": spec.geometry["in_features"],
        "out_features": spec.geometry["out_features"],
    }


def _conv_output(spec: LayerSpec) -> Arguments:
    shape, dims = spec.output_shape, spatial_dims(spec.kind)
    return _dimensions((_batch(shape, dims), *shape[-dims - 1 :]), "_out")


def _max_pool(spec: LayerSpec) -> Arguments:
    shape, kernel = spec.output_shape, spec.geometry["kernel_size"]
    dims = len(shape) - 2 if isinstance(kernel, int) else len(kernel)
    channels = shape[-dims - 1]
    return {
        "N": _batch(shape, dims),
        "C": channels,
        **_spatial(spec, shape[-dims:], "out"),
    }


def _scores(spec: LayerSpec) -> Arguments:
    """(N, C, ...), or (C,) of a single image."""
    shape = spec.input_shape
    num_classes = shape[min(1, len(shape) - 1)]
    return {"N": prod(shape) // num_classes, "C": num_classes}


def _products(macs: Function, flops: Function, arguments: Callable[[LayerSpec], Arguments]) -> Kind:
    """A layer that multiplies its input by a weight."""
    is_linear = macs is linear_macs
    return Kind(
        macs=Cost(macs, arguments),
        forward=Cost(flops, arguments),
        input_gradient=Cost(flops, arguments),
        weight_gradient=Cost(flops, arguments),
        bias_gradient=on_output(bias_sum_flops)
        if is_linear
        else Cost(bias_sum_flops, _conv_output),
        keeps=kept.linear_operands if is_linear else kept.conv_operands,
    )


def _elementwise(keeps: KeptRule | None) -> Kind:
    return Kind(
        forward=on_output(elementwise_flops),
        input_gradient=on_input(elementwise_flops),
        keeps=keeps,
    )


def _pool(forward: Cost, keeps: KeptRule | None) -> Kind:
    return Kind(forward=forward, input_gradient=on_input(elementwise_flops), keeps=keeps)


def _norm(keeps: KeptRule | None) -> Kind:
    return Kind(forward=on_output(norm_flops), input_gradient=on_input(norm_flops), keeps=keeps)


_VIEW = Kind(keeps=kept.nothing, is_view=True, gradient="view")
_PART = Kind(keeps=kept.nothing, is_view=True)
_COMPUTES_NOTHING = Kind(keeps=kept.nothing)  # moves data, or makes some

KINDS: dict[str, Kind] = {
    # Known to have no MACs; what else they compute is not. An entry further down comes before.
    **dict.fromkeys(
        (
            *("local_response_norm", "normalize", "rms_norm", "prelu", "rrelu", "hardshrink"),
            *("softshrink", "softsign", "threshold", "softmin", "glu", "lp_pool1d", "lp_pool2d"),
            *("alpha_dropout", "drop_block2d", "drop_block3d", "index_select", "gather"),
            *("masked_fill", "where", "cpu", "cuda", "interpolate", "log_sigmoid"),
            *("unfold", "fold", "embedding", "one_hot", "floor_divide", "remainder", "pow", "log"),
            *("sign", "sin", "cos", "round", "floor", "ceil", "eq", "ne", "lt", "le", "gt", "ge"),
            *("logical_and", "logical_or", "logical_not", "isnan", "isinf", "isfinite"),
            *("nan_to_num", "amax", "amin", "max", "min", "argmax", "argmin", "std", "var"),
            *("cumsum", "norm", "topk", "sort", "prod", "meshgrid", "fill", "zero", "copy"),
            *("bernoulli", "uniform", "normal", "setitem", "index", "nll_loss", "mse_loss"),
            *("l1_loss", "smooth_l1_loss"),
        ),
        Kind(known=False),
    ),
    **{f"conv{n}d": _products(conv_macs, conv_flops, _conv) for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": _products(conv_transpose_macs, conv_transpose_flops, _conv_transpose)
        for n in (1, 2, 3)
    },
    "linear": _products(linear_macs, linear_flops, _linear),
    "batch_norm": _norm(kept.batch_norm),
    "instance_norm": _norm(kept.instance_norm),
    "layer_norm": _norm(kept.layer_norm),
    "group_norm": _norm(kept.group_norm),
    "relu": _elementwise(kept.its_output),
    **dict.fromkeys(("sigmoid", "tanh"), _elementwise(kept.its_output)),
    **dict.fromkeys(("leaky_relu", "elu", "celu", "selu"), _elementwise(kept.input_or_its_result)),
    **dict.fromkeys(
        (
            *("relu6", "hardtanh", "gelu", "silu", "mish", "hardswish", "hardsigmoid"),
            *("softplus", "abs", "clamp", "square"),
        ),
        _elementwise(kept.its_input),
    ),
    **dict.fromkeys(("exp", "sqrt", "rsqrt", "reciprocal"), _elementwise(kept.its_output)),
    "neg": _elementwise(kept.nothing),
    "max_pool": _pool(Cost(max_pool_flops, _max_pool), kept.max_pool),
    "avg_pool": _pool(on_input(elementwise_flops), kept.its_input),
    "adaptive_avg_pool": _pool(on_input(elementwise_flops), kept.adaptive_avg_pool),
    "adaptive_max_pool": _pool(on_input(elementwise_flops), kept.max_pool),
    "mean": _pool(on_input(elementwise_flops), kept.nothing),
    "sum": Kind(forward=on_input(elementwise_flops), keeps=kept.nothing, gradient="expand"),
    "dropout": _elementwise(kept.dropout),
    "feature_dropout": _elementwise(kept.feature_dropout),
    "stochastic_depth": _elementwise(kept.stochastic_depth),
    **dict.fromkeys(
        ("add", "sub"),
        Kind(forward=on_output(elementwise_flops), keeps=kept.nothing, gradient="same"),
    ),
    "mul": Kind(
        forward=on_output(elementwise_flops),
        input_gradient=on_output(two_per_element_flops),
        keeps=kept.factors,
    ),
    "div": Kind(
        forward=on_output(elementwise_flops),
        input_gradient=on_output(two_per_element_flops),
        keeps=kept.dividend_and_divisor,
    ),
    "maximum": _elementwise(kept.both),
    "minimum": _elementwise(kept.both),
    "softmax": Kind(
        forward=on_output(softmax_flops),
        input_gradient=on_input(softmax_gradient_flops),
        keeps=kept.its_output,
    ),
    "log_softmax": Kind(
        forward=on_output(softmax_flops),
        input_gradient=on_input(softmax_gradient_flops),
        keeps=kept.its_output,
    ),
    "cross_entropy": Kind(
        forward=Cost(cross_entropy_flops, _scores),
        input_gradient=Cost(cross_entropy_gradient_flops, _scores),
        keeps=kept.cross_entropy,
    ),
    **dict.fromkeys(
        (
            *("identity", "flatten", "unflatten", "view", "view_as", "reshape", "reshape_as"),
            *("permute", "transpose", "swapaxes", "movedim", "squeeze", "unsqueeze", "expand"),
            *("expand_as", "detach", "contiguous", "to", "type", "type_as", "float", "t"),
            *("double", "half", "bfloat16"),
            *("T", "mT", "H", "mH", "real", "imag"),
        ),
        _VIEW,
    ),
    **dict.fromkeys(
        ("chunk", "split", "unbind", "tensor_split", "narrow", "select", "getitem"), _PART
    ),
    **dict.fromkeys(
        (
            *("clone", "repeat", "tile", "roll", "flip"),
            *("pad", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
        ),
        _COMPUTES_NOTHING,
    ),
    **dict.fromkeys(
        ("cat", "stack", "hstack", "vstack"), Kind(keeps=kept.nothing, gradient="slices")
    ),
    **dict.fromkeys(
        (
            *("empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "tensor"),
            *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
            *("new_empty", "new_zeros", "new_ones", "new_full"),
        ),
        _COMPUTES_NOTHING,
    ),
}
