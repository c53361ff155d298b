"""Results of the common operations straight from their shapes, without asking the dispatcher.

Describing a network takes most of its time in torch's own machinery for tensors without memory.
For plain contiguous tensors, and where the arguments are in order, the formulas of shapes.py say
the same. Everything else goes the long way: other memory formats, autocast, wrong arguments.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.utils._mode_utils import no_dispatch

from layerscope.layers.shapes import ceil_pool_output_size, conv_output_size

# Of the arguments: the shape of the result, or the argument that it returns itself, or None where
# the dispatcher has to decide.
_Rule = Callable[..., "tuple[int, ...] | Tensor | None"]


class Shortcuts:
    """Runs an operation on tensors without memory.

    Args:
        note_written: called with a tensor that an operation overwrote.
    """

    def __init__(self, fake: FakeTensorMode, note_written: Callable[[Tensor], None]) -> None:
        self._fake = fake
        self._note_written = note_written

    def __call__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What `function(*args, **kwargs)` would return."""
        rule = _RULES.get(function)
        if rule is None or not args or not isinstance(args[0], FakeTensor | list | tuple):
            return function(*args, **kwargs)
        first = args[0] if isinstance(args[0], Tensor) else next(iter(args[0]), None)
        if not isinstance(first, FakeTensor) or _autocasts(first.device):
            return function(*args, **kwargs)
        result = rule(*args, **kwargs)
        if isinstance(result, Tensor):
            if function is not F.dropout:  # which returns its input as it was
                self._note_written(result)
            return result
        if result is None:
            return function(*args, **kwargs)
        return self.tensor(result, first.dtype, first.device)

    def tensor(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        strides: Sequence[int] | None = None,
    ) -> Tensor:
        """A new one, contiguous if no strides are given."""
        with no_dispatch():
            if strides is None:
                meta = torch.empty(shape, dtype=dtype, device="meta")
            else:
                meta = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
            return FakeTensor(self._fake, meta, device)


def _autocasts(device: torch.device) -> bool:
    """The meta device does not, and refuses the question."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def _is_plain(tensor: Any, dims: int | None = None) -> bool:
    """Floating-point, and its strides those of a new contiguous tensor, to the last one."""
    if not isinstance(tensor, FakeTensor) or not tensor.dtype.is_floating_point:
        return False
    if dims is not None and tensor.dim() != dims:
        return False
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != expected:
            return False
        expected *= max(size, 1)
    return True


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, tuple | list) and len(value) == 2:
        return (value[0], value[1])
    return None


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[int, ...] | None:
    settings = [_pair(value) for value in (stride, padding, dilation)]
    if None in settings or not _is_plain(input, 4) or not _is_plain(weight, 4):
        return None
    if input.dtype != weight.dtype or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    if input.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    return _windows(input.shape, weight.shape[0], tuple(weight.shape[2:]), *settings)  # type: ignore[arg-type]


def _windows(
    shape: Sequence[int],
    channels: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    size_of: Callable[..., int] = conv_output_size,
) -> tuple[int, ...] | None:
    if min(kernel_size) < 1 or min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        return None
    sizes = tuple(
        size_of(shape[2 + d], kernel_size[d], stride[d], padding[d], dilation[d]) for d in (0, 1)
    )
    return (shape[0], channels, *sizes) if min(sizes) > 0 else None


def _max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[int, ...] | None:
    if return_indices:
        return None
    return _pool(input, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[int, ...] | None:
    return _pool(input, kernel_size, stride, padding, 1, ceil_mode)


def _pool(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[int, ...] | None:
    kernel = _pair(kernel_size)
    settings = [_pair(value) for value in (stride or kernel_size, padding, dilation)]
    if kernel is None or None in settings or not _is_plain(input, 4):
        return None
    if any(2 * pad > size for pad, size in zip(settings[1] or (), kernel, strict=True)):
        return None
    size_of = ceil_pool_output_size if ceil_mode else conv_output_size
    return _windows(input.shape, input.shape[1], kernel, *settings, size_of=size_of)  # type: ignore[arg-type]


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> tuple[int, ...] | None:
    sizes = _pair(output_size)
    if sizes is None or None in sizes or not _is_plain(input, 4):
        return None
    return (*input.shape[:2], *sizes)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[int, ...] | None:
    if not _is_plain(input) or input.dim() < 2:
        return None
    channels = input.shape[1]
    given = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    if any(t.shape != (channels,) for t in given) or (running_mean is None and not training):
        return None
    return tuple(input.shape) if input.numel() > channels else None


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[int, ...] | None:
    fits = tuple(input.shape[-len(normalized_shape) :]) == tuple(normalized_shape)
    return tuple(input.shape) if fits and _is_plain(input) else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[int, ...] | None:
    if not _is_plain(input) or input.dim() < 1 or not _is_plain(weight, 2):
        return None
    fits = input.shape[-1] == weight.shape[1] and input.dtype == weight.dtype
    return (*input.shape[:-1], weight.shape[0]) if fits else None


def _activation(
    input: Tensor, *_: Any, inplace: bool = False, **__: Any
) -> tuple[int, ...] | Tensor | None:
    if not _is_plain(input):
        return None
    return input if inplace else tuple(input.shape)


def _activation_or_in_place(input: Tensor, inplace: bool = False) -> Any:
    return _activation(input, inplace=inplace)


def _hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Any:
    return _activation(input, inplace=inplace)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if not training and 0 <= p <= 1:
        return input
    return tuple(input.shape) if not inplace and 0 < p < 1 and _is_plain(input) else None


def _elementwise(input: Tensor, other: Any, **options: Any) -> tuple[int, ...] | None:
    if options or not (_is_plain(input) and _is_plain(other)):
        return None
    same = input.shape == other.shape and input.dtype == other.dtype
    return tuple(input.shape) if same else None


def _in_place(input: Tensor, other: Any, **options: Any) -> Tensor | None:
    if options:
        return None
    if isinstance(other, int) and not isinstance(other, bool):  # a counter of batches
        return input
    return input if _elementwise(input, other) is not None else None


def _cat(tensors: Sequence[Tensor], dim: int = 0, **options: Any) -> tuple[int, ...] | None:
    first = tensors[0]
    if options or not all(_is_plain(tensor) for tensor in tensors):
        return None
    dim = dim % first.dim()
    rest = {(t.dtype, *t.shape[:dim], None, *t.shape[dim + 1 :]) for t in tensors}
    if len(rest) > 1:
        return None
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return tuple(shape)


_RULES: dict[Callable[..., Any], _Rule] = {
    torch.conv2d: _conv2d,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.linear: _linear,
    F.relu: _activation_or_in_place,
    F.silu: _activation_or_in_place,
    F.hardswish: _activation_or_in_place,
    F.hardsigmoid: _activation_or_in_place,
    F.relu6: _activation_or_in_place,
    F.hardtanh: _hardtanh,
    F.gelu: _activation,
    torch.sigmoid: _activation,
    torch.tanh: _activation,
    torch.relu: _activation,
    F.dropout: _dropout,
    torch.add: _elementwise,
    torch.mul: _elementwise,
    torch.Tensor.add: _elementwise,
    torch.Tensor.mul: _elementwise,
    torch.Tensor.add_: _in_place,
    torch.cat: _cat,
}
