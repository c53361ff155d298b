"""The units that the textbook counts: functions and operations of the forward pass.

A unit is a call of a function whose family owns the operations inside it, or a single operation. An
operation of the backward pass belongs to the unit whose autograd node runs it.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from layerscope.dry_run import DryRun, FunctionRecord, OperationRecord
from layerscope.dry_run.records import tensor_records
from layerscope.operations import (
    FREE,
    QUANTITIES,
    Costs,
    Family,
    Invocation,
    family_costs,
    family_of_function,
    family_of_operation,
    parameter_names,
    unlisted_costs,
)


@dataclass(frozen=True)
class CountedUnit:
    """A function or an operation that the textbook counts.

    Args:
        name: name of the function (`conv2d`) or of the operation (`aten::mul`).
        is_function: it owns the operations inside it; otherwise it is a single operation.
        call: index of the layer's call; None between layers.
        operations: indices of the forward operations inside it.
        backward: indices of the backward operations that its autograd nodes run.
    """

    name: str
    is_function: bool
    layer: str
    call: int | None
    family: Family | None
    invocation: Invocation
    costs: Costs
    operations: tuple[int, ...]
    backward: tuple[int, ...] = ()

    @property
    def is_view(self) -> bool:
        """True if the textbook stores no output for it."""
        return self.family is not None and self.family.is_view


def textbook_units(run: DryRun) -> tuple[CountedUnit, ...]:
    """Return the units of the forward pass, in order, then those of custom backward passes."""
    units = [*_forward_units(run)]
    backward: dict[int, list[int]] = {}
    loose: list[int] = []
    position_of = _Positions(run, units)
    for number, operation in enumerate(run.operations):
        if operation.phase != "backward" or operation.layer is None:
            continue
        if operation.is_recomputed:
            continue  # The textbook computes nothing twice.
        unit = position_of(operation)
        if unit is None:
            loose.append(number)
        else:
            backward.setdefault(unit, []).append(number)
    own = (
        replace(unit, backward=tuple(backward.get(number, ()))) for number, unit in enumerate(units)
    )
    return (*own, *_loose_units(run, loose))


def _forward_units(run: DryRun) -> Iterator[CountedUnit]:
    """Yield a unit for each function that owns its operations, and for each other operation."""
    by_start: dict[int, list[FunctionRecord]] = {}
    for function in run.functions:
        if function.layer is not None and family_of_function(function.name) is not None:
            by_start.setdefault(function.operations.start, []).append(function)
    number = 0
    while number <= len(run.operations):
        taken = number
        for function in by_start.get(number, ()):
            yield _function_unit(run, function)
            taken = max(taken, function.operations.stop)
        if taken > number:
            number = taken
            continue
        if number < len(run.operations):
            operation = run.operations[number]
            if operation.phase == "forward" and operation.layer is not None:
                yield _operation_unit(number, operation)
        number += 1


def _function_unit(run: DryRun, function: FunctionRecord) -> CountedUnit:
    family = family_of_function(function.name)
    assert family is not None
    names = parameter_names(function.name)
    bound = dict(zip(names, function.args, strict=False)) | dict(function.kwargs)
    inputs = tensor_records((function.args, function.kwargs))
    invocation = Invocation(
        function.name, bound, inputs, function.outputs, any(t.requires_grad for t in inputs)
    )
    return CountedUnit(
        function.name,
        True,
        function.layer or "",
        function.call,
        family,
        invocation,
        family_costs(family, invocation) if _computes(function) else FREE,
        tuple(n for n in function.operations if run.operations[n].phase == "forward"),
    )


def _computes(function: FunctionRecord) -> bool:
    """Tell whether a function costs something: making integers, counters and indices, does not."""
    return any(t.dtype.is_floating_point or t.dtype.is_complex for t in function.outputs)


def operation_invocation(operation: OperationRecord) -> Invocation:
    """Return an operation in the form that its family takes."""
    return Invocation(
        operation.base_name,
        operation.arguments,
        operation.inputs,
        operation.outputs,
        operation.is_recorded,
    )


def _operation_unit(number: int, operation: OperationRecord) -> CountedUnit:
    invocation = operation_invocation(operation)
    family = family_of_operation(operation.base_name)
    costs = (
        unlisted_costs(operation.operation, invocation)
        if family is None
        else family_costs(family, invocation)
    )
    layer, call = operation.layer or "", operation.call
    return CountedUnit(
        operation.base_name, False, layer, call, family, invocation, costs, (number,)
    )


def _loose_units(run: DryRun, numbers: list[int]) -> Iterator[CountedUnit]:
    """Yield the operations of custom autograd.Functions' backward passes as units."""
    for number in numbers:
        unit = _operation_unit(number, run.operations[number])
        counts = dict.fromkeys(QUANTITIES, 0) | {
            "input_gradient_flops": unit.costs.counts["forward_flops"]
        }
        yield replace(unit, family=None, costs=Costs(counts), operations=(), backward=(number,))


class _Positions:
    """Finds the unit whose autograd node runs an operation of the backward pass."""

    def __init__(self, run: DryRun, units: list[CountedUnit]) -> None:
        self._by_function: dict[int, int] = {}
        self._by_owner: dict[tuple[int | None, int | None], tuple[list[int], list[int]]] = {}
        for position, unit in enumerate(units):
            if not unit.operations:
                continue
            first = run.operations[unit.operations[0]]
            if unit.is_function:
                if first.function is not None:
                    self._by_function[first.function] = position
                continue
            sequences, positions = self._by_owner.setdefault((first.call, first.function), ([], []))
            sequences.append(first.sequence)
            positions.append(position)

    def __call__(self, operation: OperationRecord) -> int | None:
        if operation.function is not None and operation.function in self._by_function:
            return self._by_function[operation.function]
        if operation.call is None or operation.node is None:
            return None
        owned = self._by_owner.get((operation.call, operation.function))
        if owned is None:
            return None
        sequences, positions = owned
        # A node gets its number before its operation runs, so it is the first with a later count.
        place = min(bisect_right(sequences, operation.node), len(positions) - 1)
        return positions[place]
