"""The tensors inside whatever a forward takes and returns."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclass instances, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


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
