"""Tensors without memory: torch's FakeTensorMode, made faster, corrected and observed.

A fake tensor has shape, strides, dtype and device, and no memory. Three things are added:

- Results are remembered. An operation's result depends only on the metadata of its arguments, so
  that the second one is built without asking torch.
- In-place variants. Under any dispatch mode the autograd engine and some derivative formulas take
  out-of-place variants. Here an operation runs in place if it does so without a mode.
- Statistics of norms have the dtype that the real kernels give them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

# torch has no public name for the class of an operation.
from torch._ops import OpOverload

# The rule for strides of elementwise operations has no public name.
from torch._prims_common import compute_elementwise_output_strides

# torch has no public name for tensors without memory that keep their device.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from layerscope.dry_run import recurrent
from layerscope.dry_run.real import InPlaceRule, Observer, in_place_variant, is_mask, real_alias
from layerscope.dry_run.records import Shape, TensorLayout

aten = torch.ops.aten

_DEVICE = torch.ops.prim.device.default
_NO_KWARGS: dict[str, Any] = {}
_LAYOUT = "_layerscope_layout"
_MOST_REMEMBERED = 20_000


class _RememberedTensor(NamedTuple):
    """One remembered tensor of a result.

    Args:
        argument: position, among the tensors of the arguments, of the one whose memory it shares;
            None if it has memory of its own.
        is_argument: it is that argument itself.
        offset: elements before its first one in the storage.
    """

    layout: TensorLayout | None
    argument: int | None = None
    is_argument: bool = False
    offset: int = 0


_layouts: dict[tuple[Any, ...], TensorLayout] = {}
_remembered: dict[tuple[Any, ...], tuple[type | None, tuple[_RememberedTensor, ...]]] = {}


def layout_of(tensor: Tensor) -> TensorLayout:
    """Return the interned layout, cached on a fake tensor, since it is needed very often."""
    layout = tensor.__dict__.get(_LAYOUT)
    if layout is None:
        layout = _interned(tensor)
        if isinstance(tensor, FakeTensor):
            setattr(tensor, _LAYOUT, layout)
    return layout


def _interned(tensor: Tensor) -> TensorLayout:
    strides = tensor.stride() if tensor.layout is torch.strided else ()
    key = (tuple(tensor.shape), strides, tensor.dtype, tensor.device)
    layout = _layouts.get(key)
    if layout is None:
        if len(_layouts) > _MOST_REMEMBERED:
            _layouts.clear()
            _remembered.clear()
        layout = _layouts[key] = TensorLayout(*key)
    return layout


class ObservedFakeMode(FakeTensorMode):
    """FakeTensorMode for a dry run.

    Args:
        observer: called for every operation that reaches the dispatcher, but not for those that
            torch's own rules for fake tensors call in turn.
        in_place: decides which operations overwrite their first argument.
    """

    def __init__(self, observer: Observer, in_place: InPlaceRule) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._observer = observer
        self._in_place = in_place
        self._depth = 0
        self._strangers: dict[int, tuple[Tensor, FakeTensor]] = {}
        self.foreign_leaves: list[tuple[Tensor, Tensor | None]] = []
        self._attributes: dict[torch.device, tuple[torch.device, dict[str, Any]]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation on metadata and tell the observer."""
        if func is _DEVICE:  # These are two thirds of all dispatches.
            fake = args[0]
            return torch.device("meta") if fake.fake_mode.in_kernel_invocation else fake.fake_device
        kwargs = kwargs or _NO_KWARGS
        if self._depth:
            return super().__torch_dispatch__(func, types, args, kwargs)
        if func not in self.lift_fns:  # The argument of those is what torch.tensor has just made.
            args = self._adopted(args)
            kwargs = dict(zip(kwargs, self._adopted(tuple(kwargs.values())), strict=True))
        if self._in_place(func, args):
            if is_mask(args[0]):
                result = self._result(func, types, args, kwargs)
            else:
                result = args[0] if torch._C._current_autograd_node() else self.alias(args[0])
            self._observer(in_place_variant(func), args, kwargs, result)
            return result
        result = self._result(func, types, args, kwargs)
        if result is not NotImplemented:
            self._observer(func, args, kwargs, result)
        return result

    def _adopted(self, values: Sequence[Any]) -> Sequence[Any]:
        """Replace each real tensor in the step, such as a constant, by one fake tensor.

        All views of it then share its memory. The gradients of leaves that are not the network's
        own, such as those of a second network in the loss, are noted for their restoration.
        """
        if not any(map(_is_stranger, values)):
            return values
        return tuple(
            self._adopted(value)
            if isinstance(value, list | tuple)
            else self._stranger(value)
            if _is_stranger(value)
            else value
            for value in values
        )

    def _stranger(self, tensor: Tensor) -> FakeTensor:
        known = self._strangers.get(id(tensor))
        if known is None:
            self._depth += 1
            try:
                known = (tensor, self.from_tensor(tensor))
            finally:
                self._depth -= 1
            self._strangers[id(tensor)] = known
            if tensor.is_leaf and tensor.requires_grad:
                self.foreign_leaves.append((tensor, tensor.grad))
                tensor.grad = None
        return known[1]

    @property
    def strangers(self) -> list[Tensor]:
        """The real tensors of the step that are not the network's own."""
        return [tensor for tensor, _ in self._strangers.values()]

    def restore_foreign_gradients(self) -> None:
        """Restore the gradients of leaves that are not the network's own."""
        for leaf, gradient in self.foreign_leaves:
            leaf.grad = gradient

    def _result(
        self, func: OpOverload, types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        tensors: list[FakeTensor] = []
        key = _key(func, args, kwargs, tensors) if _is_remembered(func) else None
        if key is not None:
            known = _remembered.get(key)
            if known is not None:
                return self._rebuilt(known, tensors)
        self._depth += 1
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._depth -= 1
        if torch.Tag.inplace_view in func.tags:
            for tensor in args:
                if isinstance(tensor, FakeTensor):
                    vars(tensor).pop(_LAYOUT, None)
        if isinstance(result, tuple | list | FakeTensor):
            result = self._mended(func, args, result)
            if key is not None:
                _remember(key, tensors, result)
        return result

    def new_tensor(self, layout: TensorLayout) -> FakeTensor:
        """Return a fake tensor with a new storage."""
        meta = torch.empty_strided(layout.shape, layout.strides, dtype=layout.dtype, device="meta")
        return self._wrapped(meta, layout)

    def stand_in(self, tensor: Tensor, device: torch.device | None = None) -> FakeTensor:
        """Return a fake tensor with the sizes, strides and dtype of a real one."""
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return self.from_tensor(tensor)
        layout = _interned(tensor)
        key = (layout.shape, layout.strides, layout.dtype, device or layout.device)
        return self.new_tensor(_layouts.setdefault(key, TensorLayout(*key)))

    def alias(self, tensor: Tensor) -> Tensor:
        """Return a tensor that shares another's memory, without running an operation."""
        layout = layout_of(tensor)
        if not isinstance(tensor, FakeTensor) or (not layout.strides and layout.shape):
            return real_alias(tensor)
        with torch._C._DisableTorchDispatch():  # Autograd's hooks run outside of the mode.
            return self._view(tensor, layout, int(tensor.storage_offset()))

    def _view(self, tensor: Tensor, layout: TensorLayout, offset: int) -> FakeTensor:
        meta = torch.empty((0,), dtype=layout.dtype, device="meta")
        storage = tensor.untyped_storage()
        meta.set_(storage, offset, layout.shape, layout.strides)  # type: ignore[call-overload]
        return self._wrapped(meta, layout)

    def _rebuilt(
        self, known: tuple[type | None, tuple[_RememberedTensor, ...]], tensors: list[FakeTensor]
    ) -> Any:
        kind, results = known
        rebuilt = [self._rebuilt_one(result, tensors) for result in results]
        if kind is None:
            return rebuilt[0]
        return rebuilt if kind is list else tuple(rebuilt)

    def _rebuilt_one(
        self, result: _RememberedTensor, tensors: list[FakeTensor]
    ) -> FakeTensor | None:
        layout, argument, is_argument, offset = result
        if layout is None:
            return None
        if argument is None:
            return self.new_tensor(layout)
        if is_argument:
            return tensors[argument]
        return self._view(tensors[argument], layout, offset)

    def _wrapped(self, meta: Tensor, layout: TensorLayout) -> FakeTensor:
        """Return FakeTensor(self, meta, device) without deriving its attributes again."""
        known = self._attributes.get(layout.device)
        if known is None:
            prototype = FakeTensor(self, meta, layout.device)
            known = self._attributes[layout.device] = (prototype.fake_device, dict(vars(prototype)))
        device, attributes = known
        fake = Tensor._make_subclass(  # type: ignore[call-arg]
            FakeTensor,
            meta,
            False,
            dispatch_device=True,
            device_for_backend_keys=device,
        )
        torch._C._set_throw_on_mutable_data_ptr(fake)
        for name, value in attributes.items():
            object.__setattr__(fake, name, value)
        object.__setattr__(fake, _LAYOUT, layout)
        return fake

    def _with_strides(self, result: Any, strides: Shape) -> Any:
        """Give these strides to the result, or to all results with as many dimensions."""
        if isinstance(result, tuple | list):
            return tuple(self._with_strides(tensor, strides) for tensor in result)
        if not isinstance(result, FakeTensor) or result.dim() != len(strides):
            return result
        layout = layout_of(result)
        if layout.strides == strides:
            return result
        key = (layout.shape, strides, layout.dtype, layout.device)
        return self.new_tensor(_layouts.setdefault(key, TensorLayout(*key)))

    def _with_workspace(self, args: Sequence[Any], result: Any) -> Any:
        """Give a fused LSTM layer a workspace of oneDNN's size."""
        settings = tuple(value if not isinstance(value, list) else () for value in args[7:])
        shapes = tuple(tuple(tensor.shape) for tensor in args[:7])
        size, dtype = recurrent.workspace_elements(shapes, args[0].dtype, settings)
        key = ((size,), (1,), dtype, args[0].fake_device)
        workspace = self.new_tensor(_layouts.setdefault(key, TensorLayout(*key)))
        return (*result[:3], workspace)

    def _roomy(self, tensor: Tensor, num_elements: int) -> FakeTensor:
        """Return the tensor in a storage of at least this many elements."""
        layout = layout_of(tensor)
        room = max(num_elements, tensor.numel())
        meta = torch.empty((room,), dtype=layout.dtype, device="meta")
        meta = meta.as_strided(layout.shape, layout.strides)
        return self._wrapped(meta, layout)

    def _mended(self, func: OpOverload, args: Sequence[Any], result: Any) -> Any:
        """Give some results the strides, dtype and storage that real kernels give them."""
        roomy = _STORAGES.get(func)
        if roomy is not None and isinstance(result, FakeTensor) and roomy(args):
            return self._roomy(result, math.prod(args[0].shape))
        strides = _STRIDES.get(func)
        if strides is not None and args[0].fake_device.type == "cpu":
            result = self._with_strides(result, strides(args))
        if func is aten.native_group_norm_backward.default and args[1].fake_device.type == "cpu":
            return (self._cast(result[0], args[1].dtype), *result[1:])
        if func is recurrent.LAYER:
            return self._with_workspace(args, result)
        if func in _BAGS and result[1].numel():  # The kernel allocates room for one more offset.
            return (result[0], self._roomy(result[1], result[1].numel() + 1), *result[2:])
        if func is recurrent.LAYER_BACKWARD:  # Each bias has a gradient of its own.
            return (*result[:4], self.new_tensor(layout_of(result[4])), *result[5:])
        rule = _STATISTICS.get(func)
        if rule is None:
            return result
        dtype = rule(args)
        mended = list(result)
        for number in (1, 2):
            mended[number] = self._cast(result[number], dtype)
        return tuple(mended)

    def _cast(self, tensor: Tensor | None, dtype: torch.dtype) -> Any:
        """Return a result with another dtype; None stands for an undefined tensor."""
        if tensor is None or tensor.dtype == dtype:
            return tensor
        layout = layout_of(tensor)
        key = (layout.shape, layout.strides, dtype, layout.device)
        return self.new_tensor(_layouts.setdefault(key, TensorLayout(*key)))


def _is_stranger(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not isinstance(value, FakeTensor)
    return type(value) in (list, tuple) and any(map(_is_stranger, value))


def _reduces(position: int) -> Callable[[Sequence[Any]], bool]:
    """Return a test whether a loss is one number, by the `reduction` argument at this position."""
    return lambda args: len(args) <= position or args[position] != 0


# Kernels whose result keeps a storage with as many elements as their first argument.
_STORAGES: dict[OpOverload, Callable[[Sequence[Any]], bool]] = {
    aten.mse_loss.default: _reduces(2),
    aten.smooth_l1_loss.default: _reduces(2),
    aten.soft_margin_loss.default: _reduces(2),
    aten.binary_cross_entropy.default: _reduces(3),
    aten.col2im.default: lambda args: True,
}


StrideRule = Callable[[Sequence[Any]], Shape]


def _plain_strides(shape: Shape, dims: Sequence[int] | None = None) -> Shape:
    """Return the strides of a new tensor; the last of these dimensions has stride 1."""
    strides, step = [1] * len(shape), 1
    for dim in reversed(range(len(shape)) if dims is None else dims):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def _plain(argument: int) -> StrideRule:
    """Return the rule for contiguous results in the shape of an argument."""
    return lambda args: _plain_strides(layout_of(args[argument]).shape)


def _channels_last_like(argument: int) -> StrideRule:
    """Return the rule for results that are channels-last if the argument is, else contiguous."""

    def strides(args: Sequence[Any]) -> Shape:
        layout = layout_of(args[argument])
        if len(layout.shape) in (4, 5):
            channels_last = _plain_strides(layout.shape, (0, *range(2, len(layout.shape)), 1))
            plain = _plain_strides(layout.shape)
            if _same(layout, channels_last) and not _same(layout, plain):
                return channels_last
        return _plain_strides(layout.shape)

    return strides


def _same(layout: TensorLayout, strides: Shape) -> bool:
    """Compare strides, except of dimensions with size 1."""
    pairs = zip(layout.shape, layout.strides, strides, strict=False)
    return all(size == 1 or stride == wanted for size, stride, wanted in pairs)


def _elementwise(*arguments: int) -> StrideRule:
    """Return the rule that elementwise operations follow for their operands' strides."""
    return lambda args: compute_elementwise_output_strides(*(args[n] for n in arguments))


# Kernels whose results have other strides than in torch's rules for fake tensors. They were found
# by comparing both for all orders of the arguments' dimensions, on a CPU (test_dry_run_strides.py).
_STRIDES: dict[OpOverload, StrideRule] = {
    aten.native_layer_norm_backward.default: _plain(0),
    aten._log_softmax_backward_data.default: _plain(0),
    aten.glu_backward.default: _plain(1),
    aten.log_sigmoid_forward.default: _plain(0),
    aten.native_batch_norm.default: _channels_last_like(0),
    aten._native_batch_norm_legit.default: _channels_last_like(0),
    aten._native_batch_norm_legit.no_stats: _channels_last_like(0),
    aten.native_batch_norm_backward.default: _channels_last_like(1),
    aten.roll.default: _channels_last_like(0),
    aten.channel_shuffle.default: _channels_last_like(0),
    aten.native_channel_shuffle.default: _channels_last_like(0),
    aten.reflection_pad2d_backward.default: _channels_last_like(1),
    aten.replication_pad2d_backward.default: _channels_last_like(1),
    aten.hardswish_backward.default: _elementwise(0, 1),
    aten.hardsigmoid_backward.default: _elementwise(0, 1),
    aten.hardtanh_backward.default: _elementwise(0, 1),
    aten.softplus_backward.default: _elementwise(0, 1),
    aten.elu_backward.default: _elementwise(0, 5),
}

_BAGS = frozenset({aten._embedding_bag.default, aten._embedding_bag_forward_only.default})


def _batch_norm_statistics(args: Sequence[Any]) -> torch.dtype:
    """Return float32 on CUDA; on a CPU the dtype of the parameters or running statistics."""
    image, *state = args[:5]
    if image.fake_device.type != "cpu":
        return torch.float32 if image.dtype.itemsize < 4 else image.dtype
    return next((tensor.dtype for tensor in state if tensor is not None), image.dtype)


def _row_statistics(weight: int) -> Callable[[Sequence[Any]], torch.dtype]:
    """Return the rule of layer and group norm: float32 on CUDA, the weight's dtype on a CPU."""

    def dtype(args: Sequence[Any]) -> torch.dtype:
        image, parameter = args[0], args[weight]
        if image.fake_device.type != "cpu":
            return torch.float32 if image.dtype.itemsize < 4 else image.dtype
        return image.dtype if parameter is None else parameter.dtype

    return dtype


_STATISTICS: dict[OpOverload, Callable[[Sequence[Any]], torch.dtype]] = {
    aten.native_batch_norm.default: _batch_norm_statistics,
    aten._native_batch_norm_legit.default: _batch_norm_statistics,
    aten._native_batch_norm_legit.no_stats: lambda args: _batch_norm_statistics(args[:3]),
    aten._batch_norm_with_update.default: _batch_norm_statistics,
    aten.native_layer_norm.default: _row_statistics(2),
    aten.native_group_norm.default: _row_statistics(1),
}


@cache
def _is_remembered(func: OpOverload) -> bool:
    """Tell whether the metadata of the arguments decides the metadata of the result."""
    if not isinstance(func, OpOverload) or func.namespace not in ("aten", "torchvision"):
        return False
    unpredictable = {
        torch.Tag.data_dependent_output,
        torch.Tag.dynamic_output_shape,
        torch.Tag.inplace_view,
    }
    returns = func._schema.returns
    only_tensors = all(str(value.type) in ("Tensor", "Tensor[]") for value in returns)
    return bool(returns) and only_tensors and not unpredictable.intersection(func.tags)


@cache
def _has_views(func: OpOverload) -> bool:
    return any(value.alias_info is not None for value in func._schema.returns)


def _key(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: list[FakeTensor]
) -> tuple[Any, ...] | None:
    """Return a key of everything that decides the result.

    None if a tensor's values may decide it, or if a tensor is not plain.
    """
    parts: list[Any] = [func]
    if not _append(parts, args, tensors):
        return None
    for name, value in kwargs.items():
        parts.append(name)
        if not _append(parts, (value,), tensors):
            return None
    if _has_views(func):
        parts += [tensor.storage_offset() for tensor in tensors]
    return tuple(parts)


def _append(parts: list[Any], values: Sequence[Any], tensors: list[FakeTensor]) -> bool:
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            if value.constant is not None:
                return False
            layout = layout_of(value)
            if (not layout.strides and layout.shape) or layout.dtype.is_complex:
                return False
            parts.append(layout)
            tensors.append(value)
        elif kind in (list, tuple):
            parts.append(len(value))
            if not _append(parts, value, tensors):
                return False
        elif isinstance(value, Tensor):
            return False
        else:
            parts.append(kind)  # 1, 1.0 and True are equal but mean different things.
            parts.append(value)
    return True


def _remember(key: tuple[Any, ...], tensors: list[FakeTensor], result: Any) -> None:
    results = result if isinstance(result, tuple | list) else (result,)
    by_storage: dict[int, int] = {}
    for number, tensor in enumerate(tensors):
        by_storage.setdefault(tensor.untyped_storage()._cdata, number)
    known: list[_RememberedTensor] = []
    new: set[int] = set()
    for tensor in results:
        if tensor is None:
            known.append(_RememberedTensor(None))
            continue
        if type(tensor) is not FakeTensor or tensor.constant is not None:
            return
        layout = layout_of(tensor)
        if not layout.strides and layout.shape:
            return
        same = [number for number, given in enumerate(tensors) if given is tensor]
        storage = tensor.untyped_storage()
        if same:
            known.append(_RememberedTensor(layout, same[0], is_argument=True))
        elif storage._cdata in by_storage:
            offset = tensor.storage_offset()
            known.append(_RememberedTensor(layout, by_storage[storage._cdata], offset=int(offset)))
        elif storage._cdata in new or tensor.storage_offset() or not _fills(tensor):
            return  # The results share memory, or show a part of it.
        else:
            new.add(storage._cdata)
            known.append(_RememberedTensor(layout))
    kind = (
        None
        if not isinstance(result, tuple | list)
        else (list if isinstance(result, list) else tuple)
    )
    _remembered[key] = (kind, tuple(known))


def _fills(tensor: Tensor) -> bool:
    """Tell whether the storage has the size that a new tensor of this layout would get."""
    if tensor.numel() == 0:
        return tensor.untyped_storage().nbytes() == 0
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor.untyped_storage().nbytes() == (last + 1) * tensor.dtype.itemsize
