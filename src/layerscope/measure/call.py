"""A call of a network in words."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from layerscope.layers.tensors import tensors_in

_MOST_CHARACTERS = 160


def described(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the tensors of a call in one short line: `(float32(2, 3), lengths=[int64(5)])`.

    What holds no tensor is written as its class, or left out where it is None.
    """
    parts = [
        *(_description(value) for value in args),
        *(f"{name}={_description(value)}" for name, value in kwargs.items() if value is not None),
    ]
    line = f"({', '.join(parts)})"
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 2] + "…)"


def _description(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = ", ".join(map(str, value.shape))
        return f"{str(value.dtype).removeprefix('torch.')}({shape})"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if next(tensors_in(value), None) is None:
        return type(value).__name__
    if isinstance(value, tuple):
        return f"({', '.join(map(_description, value))})"
    if isinstance(value, list):
        return f"[{', '.join(map(_description, value))}]"
    named = ", ".join(f"{name}: {_description(item)}" for name, item in _items(value))
    return f"{{{named}}}"


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    else:
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)
