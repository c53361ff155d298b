"""Layers made to take what arrives at them, on the meta device, where nothing is computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from layerscope.dry_run import Shape
from layerscope.errors import UserError
from layerscope.whatif.words import code


def is_convolution(module: Any) -> TypeGuard[Any]:
    """Tell whether it is a convolution of any number of dimensions, and no transposed one."""
    return isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)


def fitted(variant: nn.Module, input_shape: Shape, change: str = "so changed") -> nn.Module:
    """The variant itself, its layers made to take what arrives at them. It must be on meta.

    Args:
        change: what was done to the network, for the complaint.

    Raises:
        UserError: it does not run all the same.
    """
    dtypes = [p.dtype for p in variant.parameters() if p.is_floating_point()]
    image = torch.empty(input_shape, dtype=next(iter(dtypes), None), device="meta")
    with _fitting(variant), _Path(variant) as path, torch.no_grad():
        try:
            variant(image)
        except Exception as error:  # the user's own forward runs here
            raise UserError(f"{change}, {path.complaint}") from error
    return variant


class _Path:
    """Which modules have begun and not ended."""

    def __init__(self, network: nn.Module) -> None:
        self._names = {module: name for name, module in network.named_modules()}
        self._running: list[tuple[nn.Module, Shape]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "_Path":
        for module in self._names:
            self._handles.append(module.register_forward_pre_hook(self._begin))
            self._handles.append(module.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        self._running.append((module, tuple(tensors[0].shape) if tensors else ()))

    def _end(self, *_: object) -> None:
        self._running.pop()

    @property
    def complaint(self) -> str:
        """Who could not take what arrived, in a sentence of our own."""
        module, shape = self._running[-1]
        name = code(self._names[module]) if self._names[module] else "the network"
        if next(module.children(), None) is None:
            return f"{name} would be given an input of shape {shape}, and cannot take it"
        return f"the shapes in the forward of {name} do not fit together"


@contextmanager
def _fitting(variant: nn.Module) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    fits: dict[type, Callable[[Any, torch.Size], None]] = {
        _ConvNd: _fit_convolution,
        nn.Linear: _fit_linear,
        _NormBase: _fit_norm,
        nn.GroupNorm: _fit_group_norm,
    }
    for module in variant.modules():
        for kind, fit in fits.items():
            if isinstance(module, kind) and not isinstance(module, _ConvTransposeNd):
                handles.append(module.register_forward_pre_hook(_hook(fit)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(fit: Callable[[Any, torch.Size], None]) -> Callable[[nn.Module, Any], None]:
    def pre_hook(module: nn.Module, args: Any) -> None:
        fit(module, args[0].shape)

    return pre_hook


def _fit_convolution(conv: Any, shape: torch.Size) -> None:
    channels = shape[-len(conv.kernel_size) - 1]
    if channels == conv.in_channels:
        return
    if _is_depthwise(conv):
        conv.out_channels = conv.out_channels // conv.groups * channels
        conv.groups = channels
    conv.in_channels = channels
    _remake_convolution(conv)


def _is_depthwise(conv: Any) -> bool:
    return conv.groups > 1 and conv.groups == conv.in_channels


def _remake_convolution(conv: Any) -> None:
    _remake(
        conv,
        weight=(conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size),
        bias=(conv.out_channels,),
    )


def _fit_linear(linear: Any, shape: torch.Size) -> None:
    if shape[-1] != linear.in_features:
        linear.in_features = shape[-1]
        _remake(linear, weight=(linear.out_features, shape[-1]))


def _fit_norm(norm: Any, shape: torch.Size) -> None:
    if len(shape) > 1 and shape[1] != norm.num_features:
        norm.num_features = shape[1]
        names = ("weight", "bias", "running_mean", "running_var")
        _remake(norm, **dict.fromkeys(names, (shape[1],)))


def _fit_group_norm(norm: Any, shape: torch.Size) -> None:
    if len(shape) > 1 and shape[1] != norm.num_channels and shape[1] % norm.num_groups == 0:
        norm.num_channels = shape[1]
        _remake(norm, weight=(shape[1],), bias=(shape[1],))


def scale_outputs(module: Any, factor: int, divisor: int) -> None:
    """Scale the outputs of a convolution or linear layer, to one channel at least.

    A depthwise convolution follows its input.
    """
    if is_convolution(module) and not _is_depthwise(module):
        module.out_channels = max(1, module.out_channels * factor // divisor)
        _remake_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features = max(1, module.out_features * factor // divisor)
        sizes = (module.out_features, module.in_features)
        _remake(module, weight=sizes, bias=sizes[:1])


def _remake(module: nn.Module, **shapes: Shape) -> None:
    """Parameters and buffers that are there, in another shape."""
    for name, shape in shapes.items():
        tensor = getattr(module, name, None)
        if tensor is not None and tensor.shape != shape:
            fresh = tensor.new_empty(shape)
            if isinstance(tensor, nn.Parameter):
                fresh = nn.Parameter(fresh, tensor.requires_grad)
            setattr(module, name, fresh)
