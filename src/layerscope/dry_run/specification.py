"""The tensors that torch's autograd saves for the backward pass, per ATen operation.

scripts/generate_specification.py reads the table from the generator of autograd that each torch
release ships. The table holds for the CPU, GPUs and fake tensors alike. It leaves out:

* composite operations: they reach a dispatch mode as the operations that they consist of;
* out= variants, which refuse tensors that require a gradient;
* operations without an entry in torch's derivatives.yaml;
* operations whose autograd kernel is written by hand: copy_, detach, detach_, resize_, resize_as_,
  _fw_primal, _make_dual. None of them saves a tensor.
"""

import functools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True)
class SaveRule:
    """A rule: an operation that records a gradient saves this tensor, or list of tensors.

    Args:
        kind: "input" for an argument, "output" for a result.
        argument: the name of the argument in the operation's schema; None for a result.
        result: the index of the result; None for an argument.
        guard: saved only if one of these arguments requires a gradient. None: in any case.
        is_copy: a clone is saved, because the operation overwrites the argument.
    """

    kind: Literal["input", "output"]
    argument: str | None
    result: int | None
    guard: tuple[str, ...] | None
    is_copy: bool


@dataclass(frozen=True, slots=True)
class OperationSaves:
    """The tensors that an operation saves.

    Args:
        saves: the inputs by name, then the outputs. Autograd saves nothing at all unless one of the
            `differentiable` arguments requires a gradient. An in-place _foreach operation returns
            nothing: its saved result is the input `self` after the operation. It applies the guards
            to each element of its lists.
        differentiable: the arguments that have a gradient formula.
    """

    saves: tuple[SaveRule, ...]
    differentiable: tuple[str, ...]

    def given(self, requires_grad: Collection[str]) -> tuple[SaveRule, ...]:
        """Return the rules that apply if these arguments, and no others, require a gradient.

        Args:
            requires_grad: names of arguments; a list counts if one of its tensors does.
        """
        return tuple(
            saved
            for saved in self.saves
            if any(
                name in requires_grad
                for name in (self.differentiable if saved.guard is None else saved.guard)
            )
        )


def specification(version: str = torch.__version__) -> Mapping[str, OperationSaves] | None:
    """Return the saves of each operation of a torch version, by names such as "aten::add.Tensor".

    A name is what `OpOverload.name()` returns. The result is None for a version whose minor release
    is not in the table.
    """
    minor = re.match(r"\d+\.\d+(?!\d)", version)
    return None if minor is None else _table(minor[0])


@functools.cache
def _table(minor: str) -> Mapping[str, OperationSaves] | None:
    document = _document()
    operations: dict[str, Any] = document["operations"]
    if minor != document["base"]:
        if minor not in document["differences"]:
            return None
        operations = operations | document["differences"][minor]
    return MappingProxyType(
        {
            name: OperationSaves(
                saves=tuple(_saved(saved) for saved in row["saves"]),
                differentiable=tuple(row["differentiable"]),
            )
            for name, row in operations.items()
            if row is not None
        }
    )


def _saved(row: Mapping[str, Any]) -> SaveRule:
    guard = row.get("guard")
    return SaveRule(
        kind="output" if "result" in row else "input",
        argument=row.get("argument"),
        result=row.get("result"),
        guard=None if guard is None else tuple(guard),
        is_copy=row.get("is_copy", False),
    )


@functools.cache
def _document() -> dict[str, Any]:
    return json.loads(
        resources.files("layerscope.dry_run").joinpath("specification.json").read_text("utf-8")
    )
