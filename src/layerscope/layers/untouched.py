"""Run a network, forward and backward, and leave it as it was."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched(network: nn.Module, *inputs: torch.Tensor) -> Iterator[None]:
    """Restore, whatever happens inside: attributes, hooks, buffers, modes, random generators and
    gradients.

    The forward inside works on copies of the buffers; the tensors themselves are never written, so
    that a graph recorded earlier keeps its right to them. Parameters and inputs have no gradient at
    the start, and the very tensors that were their gradients afterwards. The values of parameters
    are not copied: a forward that writes to its own parameters changes them.

    Args:
        inputs: tensors whose gradients are set aside and put back as the parameters' are.
    """
    modules = list(network.modules())
    before = [_contents(module) for module in modules]
    with ExitStack() as stack:
        stack.enter_context(_random_states(network))
        stack.enter_context(_no_gradients([*network.parameters(), *inputs]))
        try:
            _copy_buffers(modules)
            yield
        finally:
            for module, contents in zip(modules, before, strict=True):
                _restore(module, contents)


_Contents = tuple[dict[str, Any], dict[str, dict[Any, Any] | list[Any] | set[Any] | None]]


def _contents(module: nn.Module) -> _Contents:
    """The attributes, and what stands in those that are dicts (hooks, ...), lists or sets."""
    attributes = dict(vars(module))
    inner = {
        name: value.copy() if value else None  # most are empty
        for name, value in attributes.items()
        if isinstance(value, dict | list | set)
    }
    return attributes, inner


def _restore(module: nn.Module, contents: _Contents) -> None:
    attributes, inner = contents
    vars(module).clear()
    vars(module).update(attributes)
    for name, items in inner.items():
        value = attributes[name]
        if value:
            value.clear()
        if items is not None:
            value.extend(items) if isinstance(value, list) else value.update(items)


def _copy_buffers(modules: list[nn.Module]) -> None:
    copies: dict[int, torch.Tensor] = {}
    for module in modules:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copy = copies.setdefault(id(buffer), buffer.detach().clone())
                module._buffers[name] = copy


@contextmanager
def _no_gradients(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Set the gradients of leaves aside, and put them back with the flags that ask for them."""
    leaves = [(tensor, tensor.grad, tensor.requires_grad) for tensor in tensors if tensor.is_leaf]
    try:
        for leaf, _, _ in leaves:
            leaf.grad = None
        yield
    finally:
        for leaf, gradient, requires_grad in leaves:
            leaf.requires_grad_(requires_grad)
            leaf.grad = gradient


@contextmanager
def _random_states(network: nn.Module) -> Iterator[None]:
    devices = {parameter.device for parameter in network.parameters()}
    cuda = [device for device in devices if device.type == "cuda"]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(cuda):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
