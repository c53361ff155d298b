"""The tensors inside whatever a forward takes and returns."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import reduce
from typing import Any

import torch

# The most frequent types of arguments beside tensors. They are checked first, since this code runs
# for every operation of every step.
_PLAIN = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout})


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested tuples, lists, mappings and dataclass instances, in order."""
    found: list[torch.Tensor] = []
    _collect(value, found)
    return iter(found)


def _collect(value: Any, found: list[torch.Tensor]) -> None:
    if type(value) in _PLAIN:
        return
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _collect(getattr(value, field.name), found)


def map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return the value with every tensor replaced, nested as `tensors_in` finds them.

    A tensor that occurs twice is replaced by one result. Containers that hold tensors are copied;
    everything else is passed through as it is.
    """
    results: dict[int, torch.Tensor] = {}

    def replaced(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            if id(item) not in results:
                results[id(item)] = function(item)
            return results[id(item)]
        return _rebuilt(item, replaced) if next(tensors_in(item), None) is not None else item

    try:
        return replaced(value)
    finally:
        # `replaced` refers to itself, and would keep the tensors alive until the next collection.
        results.clear()


def _rebuilt(value: Any, replaced: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        items = [replaced(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return {key: replaced(item) for key, item in value.items()}
    clone = _shallow_copy(value)
    if isinstance(value, list):
        clone[:] = [replaced(item) for item in value]
    if isinstance(value, Mapping):
        for key, item in value.items():
            clone[key] = replaced(item)
    if dataclasses.is_dataclass(value):  # A mapping can be one too.
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                # A frozen dataclass refuses a plain assignment.
                object.__setattr__(clone, field.name, replaced(getattr(value, field.name)))
    return clone


def _shallow_copy(value: Any) -> Any:
    """Return a copy of the same class, with its items and its attributes."""
    if isinstance(value, dict) and dataclasses.is_dataclass(value):
        # Such a dict (transformers.ModelOutput) has a constructor that needs the fields.
        clone = type(value).__new__(type(value))
        vars(clone).update(vars(value))
        return clone
    return copy.copy(value)


def sum_of_outputs(outputs: Any) -> torch.Tensor | None:
    """Return the default loss: the sum of all floating-point tensors that require a gradient.

    None if there is no such tensor.
    """
    tensors = [t for t in tensors_in(outputs) if t.is_floating_point() and t.requires_grad]
    return reduce(torch.add, [tensor.sum() for tensor in tensors]) if tensors else None


def storages_in(value: Any) -> dict[int, torch.UntypedStorage]:
    """Return the storages of all tensors in the value, each once, by the storage's identity.

    Tensors without a storage (sparse, mkldnn) are left out.
    """
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors_in(value):
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
    return storages
