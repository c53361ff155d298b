"""Data that a checkpoint can hold and be opened with again: tensors, numbers, text, containers."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None), Tensor, nn.Parameter)
_CONTAINERS = (dict, OrderedDict, list, tuple, set)
_MAX_LEVELS = 40  # below the checkpoint's own limit of 50


def not_plain(value: Any, levels: int = _MAX_LEVELS) -> str:
    """Return the name of the first type in it that a checkpoint cannot hold; '' for plain data.

    A checkpoint is opened with weights_only=True, and so holds no objects of other classes.
    """
    if type(value) in _PLAIN:
        return ""
    if type(value) not in _CONTAINERS:
        return type(value).__name__
    if levels == 0:
        return f"{type(value).__name__} more than {_MAX_LEVELS} levels deep"
    members = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return next(filter(None, (not_plain(member, levels - 1) for member in members)), "")
