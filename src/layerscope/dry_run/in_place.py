"""Operations that the bare step runs in place, and any dispatch mode runs out of place.

The autograd engine adds a second gradient into the first if nothing else holds the first. Some
kernels and derivative formulas write into tensors that they have just made. Under a dispatch mode
all of them take the out-of-place variant, which needs more memory.

The names below are facts about torch's engine and kernels. What an operation computes does not tell
whether its kernel overwrites, so that they do not stand in operations/.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

# torch has no public name for the class of an operation.
from torch._ops import OpOverload

# torch documents TorchDispatchMode, but has no public name for it.
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_COMPUTES_IN_PLACE = frozenset(
    {
        *("BinaryCrossEntropyWithLogitsBackward0", "BinaryCrossEntropyBackward0"),
        *("MaxBackward1", "MinBackward1", "MedianBackward0", "NanmedianBackward0"),
        *("ProdBackward0", "ProdBackward1", "CumprodBackward0"),
    }
)

# Operations that the derivative formulas of max(dim), topk, gather, ... run on new zeros.
_WRITES_INTO_ZEROS = frozenset(
    {
        aten.scatter.src,
        aten.scatter.value,
        aten.scatter_add.default,
        aten.index_put.default,
        aten.index_add.default,
        aten.index_copy.default,
        aten.masked_fill.Scalar,
        aten.masked_fill.Tensor,
        aten.masked_scatter.default,
    }
)


# Operations that make what they write into; maximum and minimum write into a `where`.
_ZEROS = frozenset({"aten::zeros", "aten::zeros_like", "aten::new_zeros", "aten::where"})


class Memory(NamedTuple):
    """The origin of a tensor's memory.

    Args:
        made_by: base name of the operation that allocated it; None if no operation did.
        is_of_this_node: the running autograd node allocated it.
    """

    made_by: str | None
    is_of_this_node: bool


class InPlaceRules:
    """Tells which operations the bare step would run in place.

    Args:
        memory: returns the origin of a tensor's memory.
        function_name: returns the name of the running function of torch; None outside of one.
    """

    def __init__(
        self, memory: Callable[[Tensor], Memory], function_name: Callable[[], str | None]
    ) -> None:
        counts_of_exclusive()  # It runs a backward pass, so it has to come before the step.
        self._memory = memory
        self._function_name = function_name

    def overwrites(self, func: OpOverload, args: Sequence[Any]) -> bool:
        """Tell whether the bare step would run this operation of the backward pass in place.

        The engine adds a second gradient into the first if nothing else holds the first. Some
        derivative formulas write into zeros that they have just made. Neither does so under a
        dispatch mode.
        """
        if self._function_name() is not None and func is aten.add.Tensor:
            return self._adds_in_place(args)
        if func is aten.add.Tensor:
            return (
                self.is_accumulation(func, args) and _is_exclusive(args[0]) and _is_dense(args[0])
            )
        if torch._C._current_autograd_node() is None or torch.is_grad_enabled():
            return False
        if func in _WRITES_INTO_ZEROS:
            memory = self._memory(args[0])
            return memory.is_of_this_node and memory.made_by in _ZEROS
        return func in (aten.mul.Tensor, aten.sub.Tensor) and self._computes_in_place(args)

    def _adds_in_place(self, args: Sequence[Any]) -> bool:
        """Tell whether a function of torch adds a bias or a mask to a tensor that it has made."""
        if self._function_name() in ("linear", "scaled_dot_product_attention"):
            return True
        second = args[1]
        is_bias = isinstance(second, Tensor) and second.dim() == 1
        return self._function_name() in _RECURRENT and is_bias

    def _computes_in_place(self, args: Sequence[Any]) -> bool:
        """Tell whether a derivative formula overwrites a tensor that it has made."""
        node = torch._C._current_autograd_node()
        if node is None or node.name() not in _COMPUTES_IN_PLACE:
            return False
        return isinstance(args[0], Tensor) and self._memory(args[0]).is_of_this_node

    def is_accumulation(self, func: OpOverload, args: Sequence[Any]) -> bool:
        """Tell whether the engine, between two nodes, adds two gradients of one tensor."""
        if func is not aten.add.Tensor or torch.is_grad_enabled():
            return False
        node = torch._C._current_autograd_node()
        if node is None or not all(isinstance(value, Tensor) for value in args[:2]):
            return False
        first, second = args[:2]
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        if not self._memory(first).is_of_this_node:
            return True
        edges = [edge for edge in node.next_functions if edge[0] is not None]
        return len(set(edges)) < len(edges)  # Both gradients of x * x come from one node.


def _is_exclusive(tensor: Tensor) -> bool:
    """Tell whether only the engine holds this gradient and its memory."""
    tensors, storages = counts_of_exclusive()
    return _counts(tensor)[0] <= tensors and _counts(tensor)[1] <= storages


def _counts(tensor: Tensor) -> tuple[int, int]:
    """Return the numbers of references to a tensor and to its storage."""
    storage = tensor.untyped_storage()
    return tensor._use_count(), torch._C._storage_Use_Count(storage._cdata)  # type: ignore[attr-defined]


@cache
def counts_of_exclusive() -> tuple[int, int]:
    """Return the reference counts that a mode sees of a gradient held by the engine alone.

    The call itself adds some references to the engine's one. A small backward pass shows how many:
    it adds two gradients of one tensor, of which nothing else holds the first.
    """
    seen: list[tuple[int, int]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is aten.add.Tensor and torch._C._current_autograd_node() is not None:
                seen.append(_counts(args[0]))
            return func(*args, **(kwargs or {}))

    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.zeros(2, requires_grad=True)
        middle = leaf * 1
        loss = (middle * 2).sum() + (middle * 3).sum()
        del middle
        with Watch():
            loss.backward()
    return seen[0]


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether its elements fill a stretch of memory without gaps or overlaps."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
