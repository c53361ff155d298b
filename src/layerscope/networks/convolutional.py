"""Fully connected layers as equivalent convolutions; conv_matrix.py goes the other way."""

from collections.abc import Iterable
from copy import deepcopy
from itertools import groupby
from math import prod
from typing import NoReturn

from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.dry_run import Shape
from layerscope.layers.calls import require_module
from layerscope.networks.common import image_shape
from layerscope.networks.derivation import is_linear
from layerscope.networks.layer_calls import DescribedCall, network_calls
from layerscope.operations.views import IN_ORDER
from layerscope.operations.words import pooled_value

# What is built in place of a layer. Its kind decides, since a function may stand for the module.
_ADAPTIVE = {"adaptive_avg_pool": nn.AvgPool2d, "adaptive_max_pool": nn.MaxPool2d}
_WINDOWED = {"max_pool": nn.MaxPool2d, "avg_pool": nn.AvgPool2d, "conv2d": nn.Conv2d}
_SOFTMAX = {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax}
_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def to_convolutional(model: nn.Module, input_shape: Shape) -> nn.Sequential:
    """Return the network without fully connected layers, so that it takes larger images too.

    A fully connected layer on a map of C×H×W becomes a convolution with kernel H×W and one channel
    per output. A fully connected layer on a vector becomes a 1×1 convolution. Flattening is left
    out. Adaptive pooling becomes a pooling with the window that it has at `input_shape`; global
    pooling gets stride 1. Weights are copied. Layers keep their keys and modes.

    An image of `input_shape` gives the model's own outputs, as (N, classes, 1, 1). A larger image
    gives a grid of outputs. Without padding, each equals the model's output for its crop of the
    image. With padding they differ: the convolution sees the image where the crop has zeros.

    Args:
        model: layers in a row, with 2-d maps; it stays as it is. On the meta device the result has
            shapes only.
        input_shape: (C, H, W) that the fully connected layers were made for, or with N.

    Raises:
        UserError: the model does not run on this shape, or has a layer that cannot be converted.
    """
    require_module(model)
    specs = network_calls(model, (2, *image_shape(input_shape))).layers
    converter = _Converter(model)
    for before, spec in zip((None, *specs), specs, strict=False):
        _check_in_a_row(before, spec)
        converter.add(spec)
    return _nested(converter.layers, model.training)


class _Converter:
    """Converts the layers in order, and remembers which map was flattened."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[tuple[tuple[str, ...], nn.Module]] = []
        self._modules = dict(model.named_modules())
        self._flat: Shape | None = None  # shape (C, H, W) of the map that was flattened
        self._converted: dict[tuple[int, Shape | None], nn.Module] = {}

    def add(self, spec: DescribedCall) -> None:
        """Add the next layer, converted if it has to be."""
        if spec.kind in IN_ORDER:
            self._flatten(spec)
            return
        module = self._modules.get(spec.key)
        memory = (id(module), self._flat)
        if module is not None and memory in self._converted:
            layer = self._converted[memory]  # A layer that is called twice stays one layer.
        else:
            layer = self._layer(spec, module)
            self._converted[memory] = layer
        if module is not None:
            layer.training = module.training
        self.layers.append((tuple(spec.key.split(".")) if spec.key else ("layer",), layer))
        if is_linear(spec):
            self._flat = (spec.output_shape[1], 1, 1)

    def _flatten(self, spec: DescribedCall) -> None:
        before, after = spec.input_shape, spec.output_shape
        if before == after:
            return
        if len(before) != 4 or after != (before[0], prod(before[1:])):
            _refuse(spec, f"it turns {before} into {after}, not into one vector per image")
        self._flat = before[1:]

    def _layer(self, spec: DescribedCall, module: nn.Module | None) -> nn.Module:
        if spec.kind in _SOFTMAX:
            return self._softmax(spec)
        if self._flat is None and len(spec.input_shape) != 4:
            _refuse(spec, f"it takes {spec.input_shape}, not maps (N, C, H, W)")
        if spec.kind in _ADAPTIVE and self._flat is None:
            return _fixed_pooling(spec)
        if module is None:
            return _of_function(spec)
        if is_linear(spec):
            return self._convolution(spec, module)
        if spec.kind == "batch_norm":
            return self._norm(spec, module)
        is_same = spec.returns_input or (spec.family is not None and spec.family.is_elementwise)
        if not is_same and (spec.kind not in _WINDOWED or self._flat is not None):
            _refuse(spec, "it does not work on maps of any size")
        return deepcopy(module)

    def _convolution(self, spec: DescribedCall, module: nn.Module) -> nn.Conv2d:
        if self._flat is None:
            _refuse(spec, "it works on the last dimension of a map: flatten before it")
        if not isinstance(module, nn.Linear):
            _refuse(spec, f"{type(module).__name__} is no nn.Linear")
        channels, height, width = self._flat
        layer = nn.Conv2d(
            channels, module.out_features, (height, width), bias=module.bias is not None,
            device="meta", dtype=module.weight.dtype,
        )  # fmt: skip
        layer.weight = _moved(module.weight, layer.weight.shape)
        if module.bias is not None:
            layer.bias = _moved(module.bias, module.bias.shape)
        return layer

    def _norm(self, spec: DescribedCall, module: nn.Module) -> nn.Module:
        if self._flat is None:
            return deepcopy(module)
        if not isinstance(module, nn.BatchNorm1d) or self._flat[1:] != (1, 1):
            _refuse(spec, "it normalizes each position of the map alone: put it before the flatten")
        layer = nn.BatchNorm2d(
            module.num_features, module.eps, module.momentum, module.affine,
            module.track_running_stats, device="meta",
        )  # fmt: skip
        own = deepcopy(module)
        layer._parameters, layer._buffers = own._parameters, own._buffers
        return layer

    def _softmax(self, spec: DescribedCall) -> nn.Module:
        if spec.geometry.get("dim") not in (1, 1 - len(spec.input_shape)):
            _refuse(spec, "it is not over the channels")
        return _SOFTMAX[spec.kind](1)


def _refuse(spec: DescribedCall, reason: str) -> NoReturn:
    raise UserError(f"{spec.key} ({spec.type}) cannot be made convolutional: {reason}")


def _check_in_a_row(before: DescribedCall | None, spec: DescribedCall) -> None:
    """Refuse a layer that does not take exactly what the layer before returned."""
    if len(spec.inputs) != 1 or len(spec.outputs) != 1:
        _refuse(
            spec, f"it takes {len(spec.inputs)} tensors and gives {len(spec.outputs)}, not one each"
        )
    if before is not None and not spec.inputs[0].is_same_memory(before.outputs[0]):
        _refuse(spec, f"it does not take what {before.key} gives: only layers in a row are")


def _moved(parameter: Tensor, shape: Shape) -> nn.Parameter:
    moved = parameter.detach().clone().reshape(shape)
    return nn.Parameter(moved, requires_grad=parameter.requires_grad)


def _fixed_pooling(spec: DescribedCall) -> nn.Module:
    """Return adaptive pooling as a pooling with the window that it has on this map.

    Pooling to a single value gets stride 1.
    """
    before, after = spec.input_shape[2:], spec.output_shape[2:]
    if any(size % left for size, left in zip(before, after, strict=True)):
        _refuse(spec, f"its windows from {before} to {after} are not all of one size")
    window = [size // left for size, left in zip(before, after, strict=True)]
    stride = [1 if left == 1 else size for size, left in zip(window, after, strict=True)]
    height, width = window
    return _ADAPTIVE[spec.kind]((height, width), (stride[0], stride[1]))


def _of_function(spec: DescribedCall) -> nn.Module:
    geometry = spec.geometry
    if spec.kind in _ACTIVATIONS:
        return _ACTIVATIONS[spec.kind]()
    if pooled_value(spec.kind) is not None and "kernel_size" in geometry:
        known = ("kernel_size", "stride", "padding", "ceil_mode")
        settings = {name: geometry[name] for name in known if name in geometry}
        return _WINDOWED[spec.kind](**settings)
    _refuse(spec, "it is a function, not a module")


def _nested(layers: Iterable[tuple[tuple[str, ...], nn.Module]], training: bool) -> nn.Sequential:
    """Return the layers under their keys; a name that is taken gets a number."""
    network = nn.Sequential()
    network.training = training
    for name, members in groupby(layers, key=lambda layer: layer[0][0]):
        for inner, group in groupby(members, key=lambda layer: len(layer[0]) > 1):
            found = [(path[1:], layer) for path, layer in group]
            for layer in [_nested(found, training)] if inner else [layer for _, layer in found]:
                network.add_module(_unused(name, network), layer)
    return network


def _unused(name: str, network: nn.Module) -> str:
    number, found = 1, name
    while found in network._modules:
        found, number = f"{name}_{number}", number + 1
    return found


def total_stride(convolutional: nn.Module) -> tuple[int, int]:
    """Return the distance between neighbouring outputs of a converted network, in pixels."""
    strides = [
        _pair(layer.stride or layer.kernel_size)
        for _, layer in convolutional.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]
    return prod(height for height, _ in strides), prod(width for _, width in strides)


def crops(images: Tensor, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Cut images (N, C, H', W') into crops (N·rows·columns, C, H, W), image by image, by rows."""
    found = images.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1])
    num, channels, rows, columns = found.shape[:4]
    return found.permute(0, 2, 3, 1, 4, 5).reshape(num * rows * columns, channels, *size)


def _pair(setting: int | tuple[int, ...]) -> tuple[int, int]:
    return (setting, setting) if isinstance(setting, int) else (setting[0], setting[-1])
