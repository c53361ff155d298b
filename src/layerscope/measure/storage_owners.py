"""The layer whose call allocated a storage."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

# torch documents TorchDispatchMode, but has no public name for it.
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope.layers.calls import Call, CallTracker
from layerscope.layers.tensors import storages_in


@dataclass(frozen=True)
class _FirstSeen:
    """The layer call in which a storage was first seen; `key` is None if it was there before.

    The weak reference keeps the storage's identity from being used again, but not its memory.
    """

    reference: StorageWeakRef
    key: str | None
    call: Call | None


class StorageOwners(TorchDispatchMode):
    """Sees every operation that reaches the dispatcher, including copies by autocast and autograd.

    A storage that first appears in an operation's result belongs to the running layer. One that
    first appears among its arguments was there before: a parameter, a buffer, the input, a
    constant.
    """

    def __init__(self, tracker: CallTracker) -> None:
        super().__init__()
        self._tracker = tracker
        self._parameters = {id(parameter) for parameter in tracker.network.parameters()}
        self._first_seen: dict[int, _FirstSeen] = {}
        self._paused = False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation, and note its storages."""
        output = func(*args, **(kwargs or {}))
        if not self._paused:
            # The argument of lift_fresh is a new tensor that torch.tensor has just made.
            if func is not torch.ops.aten.lift_fresh.default:
                self.leave_out((args, kwargs))
            self._note(output, self._tracker.current_key, self._tracker.current)
        return output

    def leave_out(self, tensors: Any) -> None:
        """Assign these storages to no layer, unless they were seen before."""
        self._note(tensors, None, None)

    def _note(self, tensors: Any, key: str | None, call: Call | None) -> None:
        for identity, storage in storages_in(tensors).items():
            if identity not in self._first_seen:
                self._first_seen[identity] = _FirstSeen(StorageWeakRef(storage), key, call)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore the operations inside, which are the instrument's own."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def allocated_by(self, identity: int, call: Call) -> bool:
        """Tell whether this call allocated the storage, not an earlier call of the same layer."""
        first_seen = self._first_seen.get(identity)
        return first_seen is not None and first_seen.call is call

    def owner_of(self, identity: int, saved_by: str | None) -> str | None:
        """Return the key of the layer that allocated the storage; None if no layer did.

        Args:
            saved_by: the layer that ran when autograd saved it. A storage that no operation took or
                returned was made inside that layer, below the dispatcher.
        """
        first_seen = self._first_seen.get(identity)
        return saved_by if first_seen is None else first_seen.key

    def adopt_autocast_copy(self, tensor: torch.Tensor, key: str | None) -> None:
        """Give a parameter's low-precision copy to the layer that uses it.

        Autocast keeps these copies until its context ends. An earlier forward, outside of the
        recording, may have made this one.
        """
        copy = tensor._base if tensor._is_view() else tensor  # A linear layer saves the transpose.
        if key is None or copy is None or type(copy.grad_fn).__name__ != "ToCopyBackward0":
            return
        source = copy.grad_fn.next_functions[0][0] if copy.grad_fn else None
        if id(getattr(source, "variable", None)) in self._parameters:
            for identity, storage in storages_in(tensor).items():
                first_seen = self._first_seen.get(identity)
                if first_seen is None or first_seen.key is None:
                    self._first_seen[identity] = _FirstSeen(StorageWeakRef(storage), key, None)

    def forget(self) -> None:
        """Drop the identities of all storages."""
        self._first_seen.clear()
