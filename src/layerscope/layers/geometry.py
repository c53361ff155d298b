"""The settings that decide a layer's cost, read off its module or the operation's arguments."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from layerscope.layers.tensors import tensors_in

_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_POOL = ("kernel_size", "stride", "padding", "ceil_mode")

# What to read off a module of the kind; an attribute that a class lacks is left out.
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **{f"conv{n}d": (*_CONV, "padding_mode") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (*_CONV, "output_padding") for n in (1, 2, 3)},
    "linear": ("in_features", "out_features"),
    "batch_norm": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "instance_norm": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "layer_norm": ("normalized_shape", "eps", "elementwise_affine"),
    "group_norm": ("num_groups", "num_channels", "eps", "affine"),
    "max_pool": (*_POOL, "dilation", "return_indices"),
    "avg_pool": (*_POOL, "count_include_pad", "divisor_override"),
    "adaptive_avg_pool": ("output_size",),
    "adaptive_max_pool": ("output_size", "return_indices"),
    "dropout": ("p",),
    "feature_dropout": ("p",),
    "stochastic_depth": ("p", "mode"),
    "gelu": ("approximate",),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "hardtanh": ("min_val", "max_val"),
    "softplus": ("beta", "threshold"),
    "flatten": ("start_dim", "end_dim"),
    "softmax": ("dim",),
    "log_softmax": ("dim",),
    "interpolate": ("mode",),
}

# The names of a function's positional arguments, where its kind has settings.
_SIGNATURES: dict[str, tuple[str, ...]] = {
    **{
        f"conv{n}d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        for n in (1, 2, 3)
    },
    **{
        f"conv_transpose{n}d": (
            *("input", "weight", "bias", "stride", "padding", "output_padding"),
            *("groups", "dilation"),
        )
        for n in (1, 2, 3)
    },
    "linear": ("input", "weight", "bias"),
    "batch_norm": (
        *("input", "running_mean", "running_var", "weight", "bias"),
        *("training", "momentum", "eps"),
    ),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool": ("input", "output_size"),
    "adaptive_max_pool": ("input", "output_size"),
    "dropout": ("input", "p", "training", "inplace"),
    "flatten": ("input", "start_dim", "end_dim"),
    "leaky_relu": ("input", "negative_slope"),
    "elu": ("input", "alpha"),
    "hardtanh": ("input", "min_val", "max_val"),
    "softplus": ("input", "beta", "threshold"),
    "gelu": ("input", "approximate"),
    "add": ("input", "other", "alpha"),
    "sub": ("input", "other", "alpha"),
    "softmax": ("input", "dim"),
    "log_softmax": ("input", "dim"),
    "mean": ("input", "dim", "keepdim"),
    "sum": ("input", "dim", "keepdim"),
    "cat": ("tensors", "dim"),
    "stack": ("tensors", "dim"),
    "chunk": ("input", "chunks", "dim"),
    "split": ("input", "split_size", "dim"),
    "permute": ("input", "dims"),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), ("input", "dim0", "dim1")),
    **dict.fromkeys(("movedim", "moveaxis"), ("input", "source", "destination")),
    "interpolate": ("input", "size", "scale_factor", "mode"),
}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "conv": {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    "conv_transpose": {
        "stride": 1,
        "padding": 0,
        "output_padding": 0,
        "dilation": 1,
        "groups": 1,
    },
    "flatten": {"start_dim": 0, "end_dim": -1},
    "cat": {"dim": 0},
}

_SIZES = ("kernel_size", "stride", "padding", "output_padding", "dilation")


def spatial_dims(kind: str) -> int:
    """Of a convolution of the kind: 2 for `conv2d`; 0 for every other kind."""
    return int(kind[-2]) if kind.startswith("conv") and kind.endswith("d") else 0


def module_geometry(kind: str, module: nn.Module) -> Mapping[str, Any]:
    """The settings of a module of this kind; the sizes of a convolution one number per dimension.

    `training` stands there where it changes what is computed. Padding is 'same' or 'valid' where
    the module says so.
    """
    names = _ATTRIBUTES.get(kind, ())
    geometry = {name: getattr(module, name) for name in names if hasattr(module, name)}
    if kind in {"conv1d", "conv2d", "conv3d", "linear"} or kind.startswith("conv_transpose"):
        geometry["bias"] = module.bias is not None
    if kind in {"batch_norm", "instance_norm", "dropout", "feature_dropout", "stochastic_depth"}:
        geometry["training"] = module.training
    return MappingProxyType(_expanded(kind, geometry))


def operation_geometry(
    kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The settings of a functional operation of this kind, under the names that modules use."""
    if kind == "permute" and len(args) > 1 and isinstance(args[1], int):
        args = (args[0], args[1:])  # x.permute(0, 2, 1)
    bound = {**dict(zip(_SIGNATURES.get(kind, ()), args, strict=False)), **kwargs}
    if kind not in _SIGNATURES:
        bound = {}
    geometry = {
        **_DEFAULTS.get(kind[:-2] if spatial_dims(kind) else kind, {}),
        **{name: value for name, value in bound.items() if _is_setting(value)},
    }
    weight = bound.get("weight")
    if isinstance(weight, torch.Tensor):
        geometry |= _weight_geometry(kind, weight, geometry)
        geometry["bias"] = bound.get("bias") is not None
    return MappingProxyType(_expanded(kind, geometry))


def operation_parameters(
    kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, torch.Tensor]]:
    """The tensors among the arguments, under the names that modules use."""
    names = _SIGNATURES.get(kind, ())
    positional = [
        (names[number] if number < len(names) else f"argument{number}", value)
        for number, value in enumerate(args)
    ]
    return [
        (name if number == 0 else f"{name}{number}", tensor)
        for name, value in [*positional, *kwargs.items()]
        for number, tensor in enumerate(tensors_in(value))
    ]


def _weight_geometry(
    kind: str, weight: torch.Tensor, geometry: Mapping[str, Any]
) -> dict[str, Any]:
    if kind == "linear":
        return {"in_features": weight.shape[-1], "out_features": weight.shape[0]}
    if not spatial_dims(kind):
        return {}
    groups = geometry["groups"]
    transposed = kind.startswith("conv_transpose")
    in_channels = weight.shape[0] if transposed else weight.shape[1] * groups
    out_channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": tuple(weight.shape[2:]),
    }


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(isinstance(item, int | float) for item in value)
    return isinstance(value, bool | int | float | str)


def _expanded(kind: str, geometry: Mapping[str, Any]) -> dict[str, Any]:
    """A convolution's `kernel_size=3` as (3, 3)."""
    dims = spatial_dims(kind)
    return {
        name: (value,) * dims if name in _SIZES and isinstance(value, int) and dims else value
        for name, value in geometry.items()
    }
