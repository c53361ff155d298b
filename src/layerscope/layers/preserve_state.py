"""Run a network, forward and backward, and leave it as it was."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def preserve_state(
    network: nn.Module,
    *inputs: torch.Tensor,
    arguments: tuple[Any, ...] = (),
    copy_buffers: bool = True,
) -> Iterator[None]:
    """Restore the network's state when the block ends, also after an exception.

    Attributes, hooks, buffers, modes, random generators and gradients are restored.

    The forward inside works on copies of the buffers. The buffers themselves are never written, so
    that an earlier graph which saved them stays valid. Parameters and inputs start without a
    gradient, and get their own gradient tensors back at the end. Hooks on their gradients do not
    run: an optimizer that steps in such a hook would train the network. The values of parameters
    are not copied: a forward that writes to its own parameters changes them.

    Args:
        inputs: tensors whose gradients are restored as those of the parameters are.
        arguments: objects that the network is called with, such as a cache. Their attributes and
            items are restored too.
        copy_buffers: false if the block replaces all buffers itself.
    """
    modules = list(network.modules())
    contents, before = _noted(modules, arguments)
    with ExitStack() as stack:
        leaves = [*network.parameters(), *inputs]
        stack.enter_context(_random_states(leaves))
        stack.enter_context(_no_gradients(leaves))
        stack.enter_context(_no_gradient_hooks(leaves))
        try:
            if copy_buffers:
                _copy_buffers(modules)
            yield
        finally:
            for module, attributes in zip(modules, before, strict=True):
                vars(module).clear()
                vars(module).update(attributes)
            contents.restore()


class _AttributeCopies:
    """A module's attributes, and the containers and plain objects below them.

    Submodules are left out: each has contents of its own.
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}

    def note(self, value: Any) -> None:
        """Copy the items of a container or an object, and of those within it."""
        if type(value) in _SIMPLE or id(value) in self._copies:
            return
        if isinstance(value, dict | list | set):
            copy = value.copy() if value else None
            inside: Any = value.values() if isinstance(value, dict) else value
        elif _is_plain_object(value):
            copy = dict(vars(value))
            inside = copy.values()
        else:
            return
        self._copies[id(value)] = (value, copy)
        if copy is not None:
            for item in inside:
                self.note(item)

    def restore(self) -> None:
        """Put everything back."""
        for value, copy in self._copies.values():
            container = value if isinstance(value, dict | list | set) else vars(value)
            if container:
                container.clear()
            if copy is not None:
                container.extend(copy) if isinstance(container, list) else container.update(copy)


# The most frequent types of attributes; they are checked first.
_SIMPLE = frozenset({type(None), bool, int, float, str, tuple, torch.Tensor, nn.Parameter})


def _is_plain_object(value: Any) -> bool:
    """Tell whether it is an instance of a user's own class, with attributes of its own."""
    if isinstance(value, type | nn.Module | torch.Tensor) or callable(value):
        return False
    return hasattr(value, "__dict__") and not type(value).__module__.startswith(_NOT_OPENED)


_NOT_OPENED = ("torch.", "builtins", "types", "logging", "threading", "enum", "weakref", "numpy")


def _noted(
    modules: list[nn.Module], values: tuple[Any, ...]
) -> tuple[_AttributeCopies, list[dict]]:
    contents = _AttributeCopies()
    attributes = [dict(vars(module)) for module in modules]
    for own in attributes:
        for value in own.values():
            contents.note(value)
    for value in values:
        contents.note(value)
    return contents, attributes


def _copy_buffers(modules: list[nn.Module]) -> None:
    copies: dict[int, torch.Tensor] = {}
    for module in modules:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copy = copies.setdefault(id(buffer), buffer.detach().clone())
                module._buffers[name] = copy


@contextmanager
def _no_gradients(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Set the gradients of leaves aside; restore them and `requires_grad` at the end."""
    leaves = [(tensor, tensor.grad, tensor.requires_grad) for tensor in tensors if tensor.is_leaf]
    try:
        for leaf, _, _ in leaves:
            leaf.grad = None
        yield
    finally:
        for leaf, gradient, requires_grad in leaves:
            leaf.requires_grad_(requires_grad)
            leaf.grad = gradient


def num_hooked_parameters(network: nn.Module) -> int:
    """Count the parameters whose gradient hooks do not run under `preserve_state`."""
    return sum(any(_gradient_hooks(parameter)) for parameter in network.parameters())


def _gradient_hooks(leaf: torch.Tensor) -> list[dict[int, Any]]:
    """Return the dictionaries of hooks that register_hook and its like have filled."""
    # torch has no public way to list the hooks of a tensor.
    kinds = (leaf._backward_hooks, leaf._post_accumulate_grad_hooks)
    return [hooks for hooks in kinds if hooks is not None]


@contextmanager
def _no_gradient_hooks(leaves: list[torch.Tensor]) -> Iterator[None]:
    """Set the hooks on leaves' gradients aside.

    The dictionaries are emptied and refilled in place, since torch holds on to them.
    """
    hooks = [each for leaf in leaves for each in _gradient_hooks(leaf)]
    before = [dict(each) for each in hooks]
    try:
        for each in hooks:
            each.clear()
        yield
    finally:
        for each, had in zip(hooks, before, strict=True):
            each.clear()
            each.update(had)


@contextmanager
def _random_states(tensors: list[torch.Tensor]) -> Iterator[None]:
    devices = {tensor.device for tensor in tensors}
    cuda = [device for device in devices if device.type == "cuda"]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(cuda):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
