"""A network's dry run and textbook, ready to be compared with instruments."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from layerscope.dry_run import DryRun, LayerCall, OperationRecord, SavedStorages, saved_storages
from layerscope.dry_run.saved import operations_that_lead_to_loss
from layerscope.operations import is_view, updates_statistics
from layerscope.theory import CostTable, CountedUnit, LayerCost, cost_table, textbook_units

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Account:
    """Everything that is known of a network before a measurement.

    Args:
        units: the units that the textbook counts, in order.
        saved: storages that autograd saves by torch's specification; None for a torch version that
            is not in it.
    """

    run: DryRun
    units: tuple[CountedUnit, ...]
    costs: CostTable
    saved: SavedStorages | None

    @property
    def element_size(self) -> int:
        """Bytes of an element in theory."""
        return self.costs.element_size

    @cached_property
    def layers(self) -> Mapping[str, LayerCost]:
        """The costs of each layer by its key."""
        return {cost.layer: cost for cost in self.costs.layers}

    @cached_property
    def types(self) -> Mapping[str, str]:
        """The type of every layer and of every module that runs operations between layers."""
        types = {cost.layer: cost.type for cost in self.costs.layers}
        for unit in self.units:
            types.setdefault(unit.layer, "")
        return types

    @cached_property
    def calls(self) -> Mapping[str, tuple[LayerCall, ...]]:
        """The calls of each layer."""
        return _grouped((call.key, call) for call in self.run.layers)

    @cached_property
    def units_by_layer(self) -> Mapping[str, tuple[CountedUnit, ...]]:
        """The units of each layer."""
        return _grouped((unit.layer, unit) for unit in self.units)

    @cached_property
    def units_by_call(self) -> Mapping[int | None, tuple[CountedUnit, ...]]:
        """The units of each call."""
        return _grouped((unit.call, unit) for unit in self.units)

    @cached_property
    def saved_by_layer(self) -> Mapping[str, tuple[int, ...]]:
        """Saved storages by the layer that allocated them."""
        if self.saved is None:
            return {}
        pairs = ((self.run.allocating_layer(s), s) for s in sorted(self.saved.storages))
        return _grouped((layer, storage) for layer, storage in pairs if layer is not None)

    @cached_property
    def recorded_readers(self) -> Mapping[int, tuple[int, ...]]:
        """Operations, except views, that read each storage and whose backward pass will run."""
        run = self.run
        return _grouped(
            (tensor.storage, number)
            for number in operations_that_lead_to_loss(run)
            if not is_view(run.operations[number].operation)
            for tensor in run.operations[number].inputs
        )

    @cached_property
    def extra_operations(self) -> Mapping[str, tuple[OperationRecord, ...]]:
        """Operations of the backward pass that belong to no unit of the layer.

        They add gradients, or compute a part of the forward pass again.
        """
        return _grouped(
            (operation.layer, operation)
            for operation in self.run.operations
            if operation.layer is not None
            and (operation.is_accumulation or operation.is_recomputed)
        )

    @cached_property
    def interrupted_operations(self) -> Mapping[str, tuple[OperationRecord, ...]]:
        """Operations that a checkpoint started to recompute and did not finish, by layer.

        A checkpoint stops at the last tensor that it needs. If that tensor is an argument of an
        operation, the operation has been called but its kernel does not run: the profiler sees it,
        and no mode does. The forward pass tells which operation it is.
        """
        run = self.run
        regions = _runs(run.operations, lambda op: op.phase == "forward" and not op.is_saving)
        found: list[tuple[str, OperationRecord]] = []
        for again in _runs(run.operations, lambda op: op.is_recomputed):
            names = [operation.name for operation in again]
            for region in regions:
                begin = [operation.name for operation in region[: len(again)]]
                if begin == names and len(region) > len(again) and again[0].layer is not None:
                    found.append((again[0].layer, region[len(again)]))
                    break
        return _grouped(found)

    def is_needed(self, unit: CountedUnit) -> bool:
        """Tell whether an output, or a tensor that outlives the step, depends on the unit."""
        made = {tensor.storage for tensor in unit.invocation.outputs}  # type: ignore[attr-defined]
        return any(
            updates_statistics(operation)
            or any(t.storage in made for t in (*operation.outputs, *operation.overwritten))
            for number in self.needed_operations.intersection(unit.operations)
            for operation in (self.run.operations[number],)
        )

    @cached_property
    def last_output(self) -> int:
        """The forward operation that made or last wrote an output; -1 if there is none.

        What runs behind it in the forward pass is another call of the network, by the loss.
        """
        wanted = {tensor.storage for tensor in self.run.outputs}
        made = {self.run.storages[number].operation for number in wanted}
        numbers = (
            number
            for number, operation in enumerate(self.run.operations)
            if operation.phase == "forward"
            if number in made or any(t.storage in wanted for t in operation.overwritten)
        )
        return max(numbers, default=-1)

    @cached_property
    def needed_operations(self) -> frozenset[int]:
        """Forward operations on which an output, or a tensor that outlives the step, depends."""
        run = self.run
        wanted = {tensor.storage for tensor in run.outputs}
        wanted |= {n for n, storage in enumerate(run.storages) if storage.origin == "buffer"}
        found: set[int] = set()
        for number in range(len(run.operations) - 1, -1, -1):
            operation = run.operations[number]
            if operation.phase != "forward":
                continue
            results = (*operation.outputs, *operation.overwritten)
            if any(t.storage in wanted for t in results) or updates_statistics(operation):
                found.add(number)
                wanted.update(tensor.storage for tensor in operation.inputs)
        return frozenset(found)


def account(run: DryRun, element_size: int) -> Account:
    """Work out the textbook of a dry run, and the storages that autograd saves in it."""
    units = textbook_units(run)
    return Account(run, units, cost_table(run, units, element_size), saved_storages(run))


def _runs(
    operations: Iterable[OperationRecord], belongs: Callable[[OperationRecord], bool]
) -> list[list[OperationRecord]]:
    """Return the runs of consecutive operations that belong; views may lie between them."""
    runs: list[list[OperationRecord]] = []
    is_open = False
    for operation in operations:
        if belongs(operation):
            if not is_open:
                runs.append([])
            runs[-1].append(operation)
            is_open = True
        elif not is_view(operation.operation):
            is_open = False
    return runs


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, tuple[V, ...]]:
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in groups.items()}
