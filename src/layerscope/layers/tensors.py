"""The tensors inside whatever a forward takes and returns."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

# What stands most often beside tensors among the arguments of an operation; asked for first, since
# this runs for every operation of every step.
_PLAIN = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout})


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclass instances, in order."""
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


def storages_in(value: Any) -> dict[int, torch.UntypedStorage]:
    """The storages behind those tensors, each once, by the identity of the storage.

    A tensor without a storage (sparse, mkldnn) has none here.
    """
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors_in(value):
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
    return storages
