"""Recording over real tensors, for a network whose code depends on values."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# torch has no public name for the class of an operation.
from torch._ops import OpOverload

# torch documents TorchDispatchMode, but has no public name for it.
from torch.utils._python_dispatch import TorchDispatchMode

# Called after each operation with the operation, its arguments and its result.
Observer = Callable[[OpOverload, Sequence[Any], Mapping[str, Any], Any], None]
# Called before each operation; true if its first argument is to be overwritten and returned.
InPlaceRule = Callable[[OpOverload, Sequence[Any]], bool]


class ObservedRealMode(TorchDispatchMode):
    """Runs every operation for real and tells the observer."""

    def __init__(self, observer: Observer, in_place: InPlaceRule) -> None:
        super().__init__()
        self._observer = observer
        self._in_place = in_place

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and tell the observer."""
        kwargs = kwargs or {}
        observed = func
        if self._in_place(func, args):
            observed = in_place_variant(func)
            if not is_mask(args[0]):
                func = observed
        result = func(*args, **kwargs)
        self._observer(observed, args, kwargs, result)
        return result


@cache
def in_place_variant(func: OpOverload) -> OpOverload:
    """Return `aten.add_.Tensor` for `aten.add.Tensor`."""
    packet = getattr(torch.ops.aten, func._schema.name.removeprefix("aten::") + "_")
    return getattr(packet, func._overloadname)


def is_mask(tensor: Tensor) -> bool:
    """Tell whether the tensor is a mask, so that a product with it cannot be in place.

    Under a mode the gradient of max() is such a product; the bare step writes into zeros at the
    mask.
    """
    return tensor.dtype is torch.bool


def real_alias(tensor: Tensor) -> Tensor:
    """Return a tensor that shares another's memory, without an operation that a mode sees."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return tensor.detach()
    with torch._C._DisableTorchDispatch():
        return tensor.detach()
