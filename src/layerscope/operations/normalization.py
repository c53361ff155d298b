"""Batch, layer, group, instance, RMS and local response normalization."""

from math import prod
from typing import Any

from layerscope.operations.family import CountRule, Family, Invocation, Number, on_input, on_output


def norm_flops(**shape: Number) -> Number:
    """Return 5 FLOPs per element: mean, variance, normalization, scale and shift.

    The backward pass counts the same.
    """
    return 5 * prod(shape.values())


def _elements(call: Invocation) -> int:
    return prod(call.input_shape)


def _fvcore_batch_norm(call: Invocation) -> int:
    """Return 5 per element with the batch's statistics, 2 with running ones; less without scale."""
    has_scale = call.arguments.get("weight") is not None
    if call.arguments.get("training", False):
        return _elements(call) * (5 if has_scale else 4)
    # In eval mode fvcore takes the first argument, the weight, as the scale.
    return _elements(call) * (2 if has_scale else 1)


def _fvcore_norm(call: Invocation) -> int:
    return _elements(call) * (5 if call.arguments.get("weight") is not None else 4)


def _beyond(fvcore: CountRule | None) -> CountRule:
    """Return a function for fvcore's count minus the textbook's 5 per element."""

    def difference(call: Invocation) -> int:
        return 0 if fvcore is None else fvcore(call) - 5 * _elements(call)

    return difference


def _norm(
    name: str,
    parameters: tuple[str, ...],
    fvcore: CountRule | None = None,
    operations: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
) -> Family:
    return Family(
        name=name,
        functions=(name,),
        operations=operations,
        parameters=parameters,
        forward=on_output(norm_flops),
        input_gradient=on_input(norm_flops),
        fvcore=fvcore,
        fvcore_beyond=_beyond(fvcore),
        settings=settings,
    )


def updates_statistics(operation: Any) -> bool:
    """Tell whether a batch norm writes running statistics, which its schema does not declare."""
    if not operation.base_name.endswith(("native_batch_norm", "_batch_norm_with_update")):
        return False
    arguments = operation.arguments
    return bool(arguments.get("training", True)) and arguments.get("running_mean") is not None


_BATCH_NORM = (
    *("input", "running_mean", "running_var", "weight", "bias"),
    *("training", "momentum", "eps"),
)
_CHANNELS = ("num_features", "eps", "momentum", "affine", "track_running_stats")

FAMILIES = (
    _norm(
        "batch_norm",
        _BATCH_NORM,
        _fvcore_batch_norm,
        ("aten::native_batch_norm", "aten::_native_batch_norm_legit"),
        _CHANNELS,
    ),
    _norm(
        "instance_norm",
        (
            *("input", "running_mean", "running_var", "weight", "bias"),
            *("use_input_stats", "momentum", "eps"),
        ),
        _fvcore_norm,
        settings=_CHANNELS,
    ),
    _norm(
        "layer_norm",
        ("input", "normalized_shape", "weight", "bias", "eps"),
        _fvcore_norm,
        ("aten::native_layer_norm",),
        ("normalized_shape", "eps", "elementwise_affine"),
    ),
    _norm(
        "group_norm",
        ("input", "num_groups", "weight", "bias", "eps"),
        _fvcore_norm,
        ("aten::native_group_norm",),
        ("num_groups", "num_channels", "eps", "affine"),
    ),
    _norm(
        "rms_norm", ("input", "normalized_shape", "weight", "eps"), None, ("aten::_fused_rms_norm",)
    ),
    _norm("local_response_norm", ("input", "size", "alpha", "beta", "k")),
)
