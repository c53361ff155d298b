"""Facts about torch's functions and ATen operations, with one file for each family."""

from collections.abc import Mapping
from typing import Any

from torch.utils.flop_counter import flop_registry

from layerscope.operations import (
    convolution,
    losses,
    normalization,
    pointwise,
    pooling,
    products,
    profiler,
    recurrent,
    reductions,
    resampling,
    softmax,
    transforms,
    views,
)
from layerscope.operations.costs import (
    FREE,
    UNKNOWN,
    Costs,
    family_costs,
    is_view,
    unlisted_costs,
)
from layerscope.operations.family import QUANTITIES, CostFormula, CountRule, Family, Invocation
from layerscope.operations.normalization import updates_statistics
from layerscope.operations.products import TRACED_APART
from layerscope.operations.shapes import Window, window_of
from layerscope.operations.words import SavedRole, saved_role

__all__ = [
    "FREE",
    "QUANTITIES",
    "TRACED_APART",
    "UNKNOWN",
    "CostFormula",
    "Costs",
    "Family",
    "Invocation",
    "SavedRole",
    "Window",
    "bound_arguments",
    "counted_by_dispatcher",
    "dispatcher_count",
    "drops_results",
    "family_costs",
    "family_of_function",
    "family_of_operation",
    "is_view",
    "owns_its_operations",
    "parameter_names",
    "profiler",
    "saved_role",
    "unlisted_costs",
    "updates_statistics",
    "window_of",
]

_FAMILIES = (
    *convolution.FAMILIES,
    *products.FAMILIES,
    *normalization.FAMILIES,
    *pooling.FAMILIES,
    *pointwise.FAMILIES,
    *softmax.FAMILIES,
    *losses.FAMILIES,
    *recurrent.FAMILIES,
    *transforms.FAMILIES,
    *reductions.FAMILIES,
    *resampling.FAMILIES,
    *views.FAMILIES,
)
_BY_FUNCTION = {name: family for family in _FAMILIES for name in family.functions}
_BY_OPERATION = {name: family for family in _FAMILIES for name in family.operations if name}
# torch's formulas depend on its version: 2.11 has none for attention's kernel on a CPU.
_REGISTERED = frozenset(str(packet).replace(".", "::", 1) for packet in flop_registry)
_DISPATCHER: dict[str, CountRule] = {
    name: count
    for name, count in {**convolution.DISPATCHER, **products.DISPATCHER}.items()
    if name in _REGISTERED
}

# Other names of arguments: those of swapaxes, of numpy, of a tensor's own methods.
_SYNONYMS = {"axis0": "dim0", "axis1": "dim1", "axis": "dim", "self": "input"}


def family_of_function(name: str) -> Family | None:
    """Return the family of a function by its name; None if it has none."""
    return _BY_FUNCTION.get(name)


def family_of_operation(base_name: str) -> Family | None:
    """Return the family of an ATen operation (`aten::mm`, also in place); None if it has none."""
    return _BY_OPERATION.get(base_name) or _BY_OPERATION.get(base_name.removesuffix("_"))


def owns_its_operations(name: str) -> bool:
    """Tell whether a function owns the cost of the operations inside it."""
    return name in _BY_FUNCTION


def drops_results(name: str | None) -> bool:
    """Tell whether a function's compiled code frees what it does not return."""
    return name in _BY_FUNCTION and _BY_FUNCTION[name].drops_results


def parameter_names(name: str) -> tuple[str, ...]:
    """Return the names of a function's positional arguments that its family knows."""
    family = _BY_FUNCTION.get(name)
    return () if family is None else family.parameters


def bound_arguments(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's arguments by name, as far as its family names them."""
    names = parameter_names(name) or ("input",)
    if name == "permute" and len(args) > 1 and isinstance(args[1], int):
        args = (args[0], args[1:])  # x.permute(0, 2, 1)
    bound = {**dict(zip(names, args, strict=False)), **kwargs}
    return {_SYNONYMS.get(argument, argument): value for argument, value in bound.items()}


def counted_by_dispatcher(base_name: str) -> bool:
    """Tell whether the dispatcher's FLOP counter has a formula for an operation (`aten::mm`)."""
    return base_name in _DISPATCHER


def dispatcher_count(call: Invocation) -> int:
    """Return the count of an operation by the dispatcher's FLOP counter."""
    return _DISPATCHER[call.name](call)
