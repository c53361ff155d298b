"""Run a network and leave it as it was."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Restore, whatever happens inside: attributes, hooks, buffers, modes and random generators.

    The forward inside works on copies of the buffers; the tensors themselves are never written, so
    that a graph recorded earlier keeps its right to them. Parameters and their gradients are not
    copied: run no backward inside.
    """
    modules = list(network.modules())
    before = [_contents(module) for module in modules]
    with ExitStack() as stack:
        stack.enter_context(_random_states(network))
        try:
            _copy_buffers(modules)
            yield
        finally:
            for module, contents in zip(modules, before, strict=True):
                _restore(module, contents)


_Contents = tuple[dict[str, Any], dict[str, dict[Any, Any]]]


def _contents(module: nn.Module) -> _Contents:
    """The attributes, and what stands in those that are dicts (hooks, parameters, buffers)."""
    attributes = dict(vars(module))
    inner = {name: dict(value) for name, value in attributes.items() if isinstance(value, dict)}
    return attributes, inner


def _restore(module: nn.Module, contents: _Contents) -> None:
    attributes, inner = contents
    vars(module).clear()
    vars(module).update(attributes)
    for name, items in inner.items():
        value = attributes[name]
        value.clear()
        value.update(items)


def _copy_buffers(modules: list[nn.Module]) -> None:
    copies: dict[int, torch.Tensor] = {}
    for module in modules:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copy = copies.setdefault(id(buffer), buffer.detach().clone())
                module._buffers[name] = copy


@contextmanager
def _random_states(network: nn.Module) -> Iterator[None]:
    devices = {parameter.device for parameter in network.parameters()}
    cuda = [device for device in devices if device.type == "cuda"]
    python_state = random.getstate()
    with torch.random.fork_rng(cuda):
        try:
            yield
        finally:
            random.setstate(python_state)
