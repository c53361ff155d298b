"""The reasons why autograd saves a storage, from torch's own specification.

The dry run's hooks show which storages autograd holds when the forward pass ends. The specification
from which torch's autograd is generated tells which arguments and results each operation saves. The
two are independent of each other, so that a difference shows an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from layerscope.dry_run.records import OperationRecord, TensorRecord, tensor_records
from layerscope.dry_run.specification import OperationSaves, SaveRule, specification
from layerscope.dry_run.step import DryRun


@dataclass(frozen=True, slots=True)
class Reader:
    """An operation whose backward pass reads a storage.

    Args:
        argument: the name of the saved argument; None if a result is saved.
        is_copy: it is saved as a copy, since the operation overwrites it.
    """

    operation: int
    argument: str | None
    is_copy: bool = False


@dataclass(frozen=True)
class SavedStorages:
    """The storages that are saved by the specification.

    Args:
        readers: for each storage, the operations that save it.
        by_python: storages that Python code saves: a `custom_function` or a `checkpoint`. Only the
            dry run's hooks show these.
    """

    readers: Mapping[int, tuple[Reader, ...]]
    by_python: Mapping[int, str]

    @property
    def storages(self) -> frozenset[int]:
        """All saved storages."""
        return frozenset(self.readers) | frozenset(self.by_python)


def saved_storages(run: DryRun) -> SavedStorages | None:
    """Apply the specification to each operation; None for a torch version that is not in it."""
    table = specification()
    if table is None:
        return None
    readers: dict[int, list[Reader]] = {}
    for number in operations_that_lead_to_loss(run):
        operation = run.operations[number]
        rule = table.get(operation.name)
        if rule is None or not operation.is_saving:
            continue
        for saved in _rows(rule, operation):
            for storage in _storages(run, number, saved):
                is_copy = saved.is_copy
                reader = Reader(number, saved.argument, is_copy)
                readers.setdefault(storage, []).append(reader)
    by_python = {
        record.storage: record.saver
        for record in run.saved
        if record.saver is not None and record.storage not in readers
    }
    return SavedStorages(
        {storage: tuple(operations) for storage, operations in readers.items()}, by_python
    )


def operations_that_lead_to_loss(run: DryRun) -> list[int]:
    """Return the operations of the forward pass and the loss whose backward pass will run.

    Autograd records them, and the loss depends on a result of theirs. The path may lead through
    custom autograd.Functions, whose own operations are not returned.
    """
    if run.loss is None or not run.has_loss:
        return []
    table = specification() or {}
    wanted = {run.loss.storage}
    found: list[int] = []
    for number in range(len(run.operations) - 1, -1, -1):
        operation = run.operations[number]
        if operation.phase not in ("forward", "loss"):
            continue
        if not operation.is_recorded and not operation.is_custom:
            continue
        rule = table.get(operation.name)
        if rule is not None and not rule.differentiable:
            continue  # It has no gradient, as argmax and comparisons.
        if any(tensor.storage in wanted for tensor in _made(operation)):
            if operation.is_recorded:
                found.append(number)
            is_custom = operation.is_custom
            wanted.update(t.storage for t in operation.inputs if t.requires_grad or is_custom)
    return found[::-1]


def _made(operation: OperationRecord) -> tuple[TensorRecord, ...]:
    """Return the operation's outputs; the tensors that it overwrote if it returns nothing."""
    return operation.outputs or operation.inputs[:1]


def _rows(rule: OperationSaves, operation: OperationRecord) -> tuple[SaveRule, ...]:
    needing = {
        name
        for name, value in operation.arguments.items()
        if any(tensor.requires_grad for tensor in tensor_records((value,)))
    }
    return rule.given(needing)


def _storages(run: DryRun, number: int, saved: SaveRule) -> set[int]:
    operation = run.operations[number]
    if saved.kind == "output":
        returns = operation.operation._schema.returns
        if len(returns) == 1:
            tensors = list(operation.outputs)
        else:
            result = operation.results[saved.result or 0]
            tensors = [] if result is None else [result]
        return {tensor.storage for tensor in tensors}
    tensors = tensor_records((operation.arguments[saved.argument or "self"],))
    if not saved.is_copy:
        return {tensor.storage for tensor in tensors}
    return {_copy_before(run, number, tensor) for tensor in tensors}


def _copy_before(run: DryRun, number: int, tensor: TensorRecord) -> int:
    """Return the storage of autograd's clone of a tensor that the operation overwrites."""
    for earlier in range(number - 1, -1, -1):
        operation = run.operations[earlier]
        if operation.base_name == "aten::clone" and operation.inputs[0].storage == tensor.storage:
            return operation.outputs[0].storage
    return tensor.storage
