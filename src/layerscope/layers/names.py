"""What an operation and a layer's kind are called, whoever looks: run time or a traced graph."""

from collections.abc import Callable

from torch import nn

_ARITHMETIC = ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "matmul")

_SYNONYMS = {
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "floordiv": "floor_divide",
    "multiply": "mul",
    "subtract": "sub",
    "mod": "remainder",
    "concat": "cat",
    "concatenate": "cat",
}

# x += y is operator.iadd in a traced graph and Tensor.__iadd__ at run time; 1 - x is __rsub__.
_PREFIXED = {f"{prefix}{name}": name for prefix in "ir" for name in _ARITHMETIC}


def operation_name(function: Callable[..., object] | str) -> str:
    """One name for every spelling of an operation.

    `x += y`, `x.add_(y)`, `operator.add`, `Tensor.__radd__`, "iadd" and `aten.add.Tensor` are all
    `add`. A property (`x.T`) is named by the property.
    """
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    name = (name or type(function).__name__).split(".")[0].strip("_")
    name = _PREFIXED.get(name, name)
    return _SYNONYMS.get(name, name)


_MODULE_KINDS: dict[type[nn.Module], str] = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.Linear: "linear",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.SyncBatchNorm: "batch_norm",
    nn.LayerNorm: "layer_norm",
    nn.GroupNorm: "group_norm",
    nn.InstanceNorm1d: "instance_norm",
    nn.InstanceNorm2d: "instance_norm",
    nn.InstanceNorm3d: "instance_norm",
    nn.LocalResponseNorm: "local_response_norm",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Sigmoid: "sigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardtanh: "hardtanh",
    nn.Softplus: "softplus",
    nn.Tanh: "tanh",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
    nn.MaxPool1d: "max_pool",
    nn.MaxPool2d: "max_pool",
    nn.MaxPool3d: "max_pool",
    nn.AvgPool1d: "avg_pool",
    nn.AvgPool2d: "avg_pool",
    nn.AvgPool3d: "avg_pool",
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool",
    nn.AdaptiveAvgPool3d: "adaptive_avg_pool",
    nn.AdaptiveMaxPool1d: "adaptive_max_pool",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool",
    nn.AdaptiveMaxPool3d: "adaptive_max_pool",
    nn.Dropout: "dropout",
    nn.Dropout1d: "feature_dropout",
    nn.Dropout2d: "feature_dropout",
    nn.Dropout3d: "feature_dropout",
    nn.Identity: "identity",
    nn.Flatten: "flatten",
    nn.Unflatten: "unflatten",
    nn.Upsample: "interpolate",
    nn.PixelShuffle: "pixel_shuffle",
    nn.PixelUnshuffle: "pixel_unshuffle",
    nn.ChannelShuffle: "channel_shuffle",
    nn.ZeroPad2d: "pad",
    nn.ReflectionPad2d: "pad",
    nn.ReplicationPad2d: "pad",
    nn.ConstantPad2d: "pad",
    nn.Embedding: "embedding",
}

_OPERATION_KINDS = {
    "relu": "relu",
    **{f"max_pool{n}d": "max_pool" for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": "max_pool" for n in (1, 2, 3)},
    **{f"avg_pool{n}d": "avg_pool" for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": "adaptive_avg_pool" for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": "adaptive_max_pool" for n in (1, 2, 3)},
    **{f"dropout{n}d": "feature_dropout" for n in (1, 2, 3)},
    "upsample": "interpolate",
}


def module_kind(module: nn.Module) -> str:
    """The kind of a leaf module; the name of its class where it has no entry above."""
    for cls in type(module).__mro__:  # a parametrised Conv2d is a subclass of Conv2d
        if cls in _MODULE_KINDS:
            return _MODULE_KINDS[cls]
    return type(module).__name__


def operation_kind(name: str) -> str:
    """The kind of a functional operation, given its `operation_name`."""
    return _OPERATION_KINDS.get(name, name)
