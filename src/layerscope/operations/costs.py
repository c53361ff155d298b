"""The textbook's cost of any operation: by its family, or by the rule for others."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

import torch

# torch has no public name for the class of an operation.
from torch._ops import OpOverload

from layerscope.operations.family import QUANTITIES, CostFormula, Family, Invocation
from layerscope.operations.views import MOVES


@dataclass(frozen=True)
class Costs:
    """FLOPs of one call by quantity: 0 if nothing is computed, None if it is not known."""

    counts: Mapping[str, int | None]
    formulas: tuple[CostFormula, ...] = ()


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

    An operation that torch tags pointwise, with floating-point output, costs 1 per output element.
    Its backward costs 1 per element of each input that needs a gradient. An operation that moves
    data costs nothing. The cost of others is unknown.
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
    """Tell whether torch tags an operation, or its out-of-place variant, pointwise."""
    base = operation._schema.name
    name = base.removeprefix("aten::").removesuffix("_")
    packet = getattr(torch.ops.aten, name, None)
    plain = getattr(packet, operation._overloadname, operation)
    return torch.Tag.pointwise in (*operation.tags, *plain.tags) or base in _POINTWISE


# Pointwise operations that torch does not tag.
_POINTWISE = frozenset(
    {"aten::_prelu_kernel", "aten::glu", "aten::native_dropout", "aten::log_sigmoid_forward"}
)


def _is_floating(tensor: object) -> bool:
    dtype: torch.dtype = tensor.dtype  # type: ignore[attr-defined]
    return dtype.is_floating_point or dtype.is_complex


def is_view(operation: OpOverload) -> bool:
    """Tell whether an operation returns a view of its input."""
    returns = operation._schema.returns
    return any(v.alias_info is not None and not v.alias_info.is_write for v in returns)
