"""The textbook's cost of any operation: its family's, or the rule for what has no family."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch._ops import OpOverload

from layerscope.operations.family import QUANTITIES, Family, Formula, Invocation
from layerscope.operations.views import MOVES


@dataclass(frozen=True)
class Costs:
    """FLOPs of one call, by quantity: 0 where nothing is computed, None where it is not known."""

    counts: Mapping[str, int | None]
    formulas: tuple[Formula, ...] = ()


UNKNOWN = Costs(dict.fromkeys(QUANTITIES))
FREE = Costs(dict.fromkeys(QUANTITIES, 0))


def family_costs(family: Family, call: Invocation) -> Costs:
    """Return the costs of a call by its family's formulas."""
    formulas = family.formulas(call)
    counts: dict[str, int | None] = dict.fromkeys(QUANTITIES, 0)
    for formula in formulas:
        counts[formula.quantity] = formula.value
    return Costs(counts, formulas)


def unlisted_costs(operation: OpOverload, call: Invocation) -> Costs:
    """Return the costs of an operation without a family.

    1 per output element where torch calls it pointwise and the output is floating-point, and 1 per
    element of each input that needs a gradient backward; nothing where it moves data. What is
    neither is unknown.
    """
    base = operation._schema.name
    is_moved = base.removesuffix("_") in MOVES or torch.Tag.inplace_view in operation.tags
    if is_moved or is_view(operation):
        return FREE
    outputs = [tensor for tensor in call.outputs if _is_floating(tensor)]
    if not outputs:
        return FREE
    if not _is_pointwise(operation):
        return UNKNOWN
    backward = 0
    if call.needs_gradient:
        backward = sum(prod(t.shape) for t in call.inputs if t.requires_grad)
    counts: dict[str, int | None] = dict.fromkeys(QUANTITIES, 0)
    counts["forward_flops"] = sum(prod(tensor.shape) for tensor in outputs)
    counts["input_gradient_flops"] = backward
    return Costs(counts)


@cache
def _is_pointwise(operation: OpOverload) -> bool:
    """Tell whether torch calls an operation, or the one that it is in place of, pointwise."""
    base = operation._schema.name
    name = base.removeprefix("aten::").removesuffix("_")
    packet = getattr(torch.ops.aten, name, None)
    plain = getattr(packet, operation._overloadname, operation)
    return torch.Tag.pointwise in (*operation.tags, *plain.tags) or base in _POINTWISE


# Pointwise, though torch does not say so.
_POINTWISE = frozenset(
    {"aten::_prelu_kernel", "aten::glu", "aten::native_dropout", "aten::log_sigmoid_forward"}
)


def _is_floating(tensor: object) -> bool:
    dtype: torch.dtype = tensor.dtype  # type: ignore[attr-defined]
    return dtype.is_floating_point or dtype.is_complex


def is_view(operation: OpOverload) -> bool:
    """Tell whether an operation returns its input's memory, seen otherwise."""
    returns = operation._schema.returns
    return any(v.alias_info is not None and not v.alias_info.is_write for v in returns)
