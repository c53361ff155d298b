"""The hooks through which autograd saves tensors during a dry run."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

# torch has no public way to ask which hooks on saved tensors are active.
from torch._C import _autograd  # pyright: ignore[reportPrivateImportUsage]
from torch.autograd.graph import saved_tensors_hooks

_MAKE_SAVED = "_make_saved_tensor"  # It saves the inputs of checkpoints, in torch 2.15 and later.


class _Holder:
    """The object that autograd holds in place of a tensor; while it lives, the tensor is saved."""

    __slots__ = ("__weakref__", "layer", "saver", "tensor")

    def __init__(self, tensor: Tensor, layer: str | None, saver: str | None) -> None:
        self.tensor = tensor
        self.layer = layer
        self.saver = saver


class SavingHooks:
    """Records the tensors that autograd saves, and the code that saves them.

    Args:
        alias: returns a tensor that shares another's memory, without an operation.
        layer: returns the key of the running layer.
    """

    def __init__(self, alias: Callable[[Tensor], Tensor], layer: Callable[[], str | None]) -> None:
        self._alias = alias
        self._layer = layer
        self._pack_hook = self._pack
        self._holders: weakref.WeakSet[_Holder] = weakref.WeakSet()
        self._savers: list[str] = []  # running Python code that may save, innermost last

    def hooks(self) -> saved_tensors_hooks:
        """Return the hooks through which autograd saves, for the forward pass and the loss."""
        return saved_tensors_hooks(self._pack_hook, self._unpack)

    @property
    def are_used(self) -> bool:
        """Tell whether autograd now saves through these hooks, not through a checkpoint's."""
        hooks = _autograd._top_saved_tensors_default_hooks(True)
        return hooks is not None and hooks[0] is self._pack_hook

    @property
    def is_python_saving(self) -> bool:
        """Tell whether a custom autograd.Function or a checkpoint is saving."""
        return bool(self._savers)

    def _pack(self, tensor: Tensor) -> _Holder:
        with torch._C.DisableTorchFunction():
            saved = _Holder(
                self._alias(tensor), self._layer(), self._savers[-1] if self._savers else None
            )
        self._holders.add(saved)
        return saved

    def _unpack(self, saved: _Holder) -> Tensor:
        return saved.tensor

    def held(self) -> list[tuple[Tensor, str | None, str | None]]:
        """Return each tensor that autograd holds, the layer that saved it, and its Python saver."""
        return [(holder.tensor, holder.layer, holder.saver) for holder in self._holders]

    @contextmanager
    def python_savers(self) -> Iterator[None]:
        """Mark tensors that Python code saves: custom autograd.Functions and checkpoints.

        No mode of torch sees these, so that two functions of torch are replaced for the time.
        """
        original = vars(torch.autograd.Function)["apply"]
        make_saved = getattr(torch.utils.checkpoint, _MAKE_SAVED, None)

        def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
            with self._saving_by("custom_function"):
                return original.__get__(None, cls)(*args, **kwargs)

        def make_saved_tensor(*args: Any, **kwargs: Any) -> Any:
            assert make_saved is not None
            with self._saving_by("checkpoint"):
                return make_saved(*args, **kwargs)

        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
        if make_saved is not None:
            setattr(torch.utils.checkpoint, _MAKE_SAVED, make_saved_tensor)
        try:
            yield
        finally:
            torch.autograd.Function.apply = original
            if make_saved is not None:
                setattr(torch.utils.checkpoint, _MAKE_SAVED, make_saved)

    @contextmanager
    def _saving_by(self, saver: str) -> Iterator[None]:
        self._savers.append(saver)
        try:
            yield
        finally:
            self._savers.pop()
