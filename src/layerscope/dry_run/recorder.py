"""Records a step while it runs: layers, functions, operations, storages and saved tensors.

The recorder works alike for fake and real tensors. A mode (fake.py, real.py) tells it of every
operation that reaches the dispatcher.
"""

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from types import FunctionType, MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# torch has no public way to read the counter of autograd nodes.
from torch._C import _autograd  # pyright: ignore[reportPrivateImportUsage]

# torch has no public name for the class of an operation.
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

from layerscope.dry_run.fake import layout_of
from layerscope.dry_run.in_place import InPlaceRules, Memory
from layerscope.dry_run.opened import opened
from layerscope.dry_run.records import (
    FunctionRecord,
    LayerCall,
    OperationRecord,
    Phase,
    StorageOrigin,
    StorageRecord,
    TensorRecord,
    tensor_records,
)
from layerscope.dry_run.saving import SavingHooks
from layerscope.dry_run.specification import specification
from layerscope.layers.calls import Call, CallObserver, CallTracker, function_name, is_operation
from layerscope.layers.tensors import tensors_in
from layerscope.operations import drops_results, owns_its_operations, parameter_names

aten = torch.ops.aten

_NO_NODE_NUMBER = 2**63  # Gradient accumulators have no number of their own.


class Owner(NamedTuple):
    """The owner of an operation or an autograd node.

    Args:
        layer: key of the layer, or of the module that ran between two layers; None in the loss.
        call: index of the call; None between layers.
        function: index of the function; None between functions.
    """

    layer: str | None
    call: int | None = None
    function: int | None = None


class SavedRecord(NamedTuple):
    """A storage that autograd held when the forward pass ended.

    Args:
        layer: the layer that ran when it was saved.
        saver: `custom_function` or `checkpoint` if Python code saved it; None if an operation did.
    """

    storage: int
    layer: str | None
    saver: str | None


class _FunctionMode(TorchFunctionMode):
    """Passes each function that Python code calls to a callback, which runs it."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._run(func, args, kwargs or {})


class Recorder(CallObserver):
    """Records one step of a network.

    Args:
        originals: for each parameter and buffer during the step, by identity: true for a parameter.
        alias: returns a tensor that shares another's memory, without an operation.
    """

    def __init__(
        self,
        network: nn.Module,
        originals: Mapping[int, bool],
        alias: Callable[[Tensor], Tensor],
    ) -> None:
        self.operations: list[OperationRecord] = []
        self.functions: list[FunctionRecord] = []
        self.calls: list[LayerCall] = []
        self.storages: list[StorageRecord] = []
        self.inputs: tuple[TensorRecord, ...] = ()
        self.saved: tuple[SavedRecord, ...] = ()
        self.phase: Phase = "forward"
        self._phase_around: Phase = "forward"
        self.live_bytes = 0
        self.live_after: list[int] = []  # live bytes after each operation
        self.second_optimizer_step = 0
        self._has_ended = False
        self.device_type = "cpu"
        self.tracker = CallTracker(network, self, execute=self._run_function)
        self._originals = originals
        self._live: dict[int, int] = {}  # address of a storage → its index
        self._references: dict[int, weakref.ref[Any]] = {}
        self._counted: set[int] = set()
        self._starts: list[int] = []
        self._owners: list[Owner] = []
        self._owner = Owner(None)
        self._num_calls = 0
        self._num_functions = 0
        self._loss_mode: _FunctionMode | None = None
        self.function_name: str | None = None
        self._function_args: tuple[Any, ...] = ()
        self._opening: list[Callable[..., Any]] = []
        # The running calls, innermost last.
        self._began: list[tuple[int, list[tuple[TensorRecord, bool]], int]] = []
        self.in_place = InPlaceRules(self._memory, lambda: self.function_name)
        self._node: tuple[int, int] | None = None  # its number; number of operations before it
        self._numbers: dict[int, int] = {}  # node's number → bytes of the numbers that it saved
        self._graph_task: int | None = None
        self._backward_owner = Owner(None)
        self.saving = SavingHooks(alias, lambda: self._owner.layer)

    # What the network's code does ---------------------------------------------------------------

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the input, which belongs to no layer."""
        self.inputs += tuple(self._record(t, "input") for t in tensors_in((args, kwargs)))
        self._phase_around, self.phase = self.phase, "forward"  # A loss may call the network again.
        self._set_owner(Owner(type(self.tracker.network).__name__))

    def forward_ended(self) -> None:
        """Start to assign operations to the loss."""
        self.phase = self._phase_around
        self._set_owner(Owner(None))

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start to assign operations to this call."""
        given = [
            (self._record(tensor, "constant"), id(tensor) in self._originals)
            for tensor in tensors_in((args, kwargs))
        ]
        self._began.append((len(self.operations), given, self._num_calls))
        self._set_owner(Owner(call.key, self._num_calls))
        self._num_calls += 1

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Record the call; one that returned no tensor has no outputs."""
        start, given, number = self._began.pop()
        outputs = [self._record(tensor, "constant") for tensor in tensors_in(output)]
        operations = range(start, len(self.operations))
        if call.is_wrapped:
            self._write_function(call.operation or "", args, kwargs, outputs, operations)
        self.calls.append(self._layer_call(number, call, args, kwargs, given, outputs, operations))
        self._set_owner(Owner(self.tracker.current_key))

    def _layer_call(
        self,
        number: int,
        call: Call,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[tuple[TensorRecord, bool]],
        outputs: list[TensorRecord],
        operations: range,
    ) -> LayerCall:
        parameters, buffers = self._state(call, args, kwargs)
        inputs = tuple(tensor for tensor, is_state in given if not is_state)
        arguments = tuple(tensor for tensor, _ in given)
        new = [t for t in [*parameters.values(), *buffers] if id(t) not in self._counted]
        if outputs:  # `p.numel()` is no layer: a later call is the first with `p`.
            self._counted.update(map(id, new))
        new_parameters = [t for t in new if self._originals.get(id(t))]
        new_buffers = [t for t in new if not self._originals.get(id(t))]
        given_storages = {tensor.storage for tensor in arguments}
        is_shared = bool(outputs) and all(t.storage in given_storages for t in outputs)
        written = self._written(operations) if is_shared else set()
        in_place = is_shared and any(tensor.storage in written for tensor in outputs)
        return LayerCall(
            number=number,
            key=call.key,
            type=call.type,
            path=call.path,
            function_name=call.operation,
            inputs=inputs or arguments,
            arguments=arguments,
            outputs=tuple(outputs),
            parameters=MappingProxyType(
                {name: self._record(t, "parameter") for name, t in parameters.items()}
            ),
            num_parameters=sum(t.numel() for t in new_parameters),
            parameter_bytes=sum(t.nbytes for t in new_parameters),
            num_buffer_elements=sum(t.numel() for t in new_buffers),
            buffer_bytes=sum(t.nbytes for t in new_buffers),
            operations=operations,
            in_place=in_place,
            returns_input=is_shared and not in_place,
            training=call.module.training,
        )

    def _state(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return parameters by name, and buffers: those of a module, or a function's arguments."""
        named: Iterator[tuple[str, Tensor]] | list[tuple[str, Tensor]]
        if call.operation is None or call.is_wrapped:
            named = _module_state(call.module)
        else:
            named = named_arguments(call.operation, args, kwargs)
        parameters: dict[str, Tensor] = {}
        buffers: list[Tensor] = []
        for name, tensor in named:
            is_parameter = self._originals.get(id(tensor))
            if is_parameter:
                parameters[name] = tensor
            elif is_parameter is not None:
                buffers.append(tensor)
        return parameters, buffers

    def _written(self, operations: range) -> set[int]:
        return {
            tensor.storage
            for number in operations
            for tensor in self.operations[number].overwritten
        }

    def _run_function(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a function of torch that Python code calls; record it unless another one owns it."""
        if not is_operation(function):
            return function(*args, **kwargs)
        if self.function_name is not None or self._is_wrapped_call():
            return self._run_kernels(function, args, kwargs)
        name = function_name(function)
        if not owns_its_operations(name):
            inside = self._to_open(function)
            if inside is not None:
                with self._opening_of(function):
                    return inside(*args, **kwargs)
        before, start = self._owner, len(self.operations)
        self._set_owner(before._replace(function=self._num_functions))
        frozen = self._frozen(args), self._frozen_mapping(kwargs)
        is_autocast = torch.is_autocast_enabled(self.device_type)
        self._num_functions += 1
        self.functions.append(_PENDING)
        number = len(self.functions) - 1
        self.function_name, self._function_args = name, args
        outputs: list[TensorRecord] = []
        try:
            result = self._run_kernels(function, args, kwargs)
            with torch._C.DisableTorchFunction():
                outputs = [self._record(tensor, "constant") for tensor in tensors_in(result)]
        finally:
            self.function_name, self._function_args = None, ()
            self.functions[number] = FunctionRecord(
                name,
                *frozen,
                tuple(outputs),
                before.call,
                before.layer,
                range(start, len(self.operations)),
                self.phase,
                is_autocast,
            )
            self._set_owner(before)
        return result

    def _run_kernels(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a function; memory that a compiled one allocates and frees again is scratch."""
        inside = self._to_open(function)
        if inside is not None:
            with self._opening_of(function):
                return inside(*args, **kwargs)
        start, first_storage = len(self.operations), len(self.storages)
        result = function(*args, **kwargs)
        # Python code sees all results of a single operation before it drops some.
        if len(self.operations) > start + 1 or drops_results(self.function_name):
            for storage in self.storages[first_storage:]:
                if storage.freed is not None and storage.operation is not None:
                    storage.is_scratch = True
                    for number in range(storage.operation, storage.freed):
                        self.live_after[number] -= storage.num_bytes
        return result

    def _to_open(self, function: Callable[..., Any]) -> FunctionType | None:
        """Return the function in a form that shows its calls; None for a call within itself."""
        return None if function in self._opening else opened(function)

    @contextmanager
    def _opening_of(self, function: Callable[..., Any]) -> Iterator[None]:
        self._opening.append(function)
        try:
            with self._functions_seen():
                yield
        finally:
            self._opening.pop()

    def is_training_lstm(self) -> bool:
        """Tell whether the LSTM function that runs was told that it trains."""
        args = self._function_args
        return len(args) > 6 and args[6] is True

    def _functions_seen(self) -> AbstractContextManager[object]:
        """Make the functions visible that the running function calls from Python."""
        return self.tracker.functions_seen() if self._loss_mode is None else self._loss_mode

    @contextmanager
    def loss_functions(self) -> Iterator[None]:
        """See the functions that the loss calls."""
        self._loss_mode = _FunctionMode(self._run_kernels)
        try:
            with self._loss_mode:
                yield
        finally:
            self._loss_mode = None

    def _is_wrapped_call(self) -> bool:
        call = self.tracker.current
        return call is not None and call.is_wrapped

    def _write_function(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[TensorRecord],
        operations: range,
    ) -> None:
        """Record a function whose wrapping module is a layer."""
        function = self._num_functions
        self._num_functions += 1
        owner = self._owner
        self.functions.append(
            FunctionRecord(
                name,
                self._frozen(args),
                self._frozen_mapping(kwargs),
                tuple(outputs),
                owner.call,
                owner.layer,
                operations,
                self.phase,
            )
        )
        for number in operations:
            self.operations[number] = self.operations[number]._replace(function=function)
        for number in range(len(self._owners) - 1, -1, -1):
            if self._owners[number].call != owner.call:
                break
            self._owners[number] = self._owners[number]._replace(function=function)

    def _set_owner(self, owner: Owner) -> None:
        self._owner = owner
        self._starts.append(_autograd._get_sequence_nr())
        self._owners.append(owner)

    # What the dispatcher does -------------------------------------------------------------------

    def note(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Record an operation that has run."""
        number = len(self.operations)
        # The argument of lift_fresh is a new tensor that torch.tensor has just made.
        is_new_constant = func is aten.lift_fresh.default
        frozen = () if is_new_constant else self._frozen(args)
        frozen_kwargs = self._frozen_mapping(kwargs) if kwargs else _NO_KWARGS
        results = self._results(result)
        node = _current_node()
        grad_enabled = torch.is_grad_enabled()
        if node is None:
            owner, phase, node_number = self._owner, self.phase, None
        else:
            owner, phase, node_number = self._owner_of(node), "backward", node
        is_recorded = grad_enabled and any(
            t.requires_grad for t in tensor_records((frozen, tuple(frozen_kwargs.values())))
        )
        self.operations.append(
            OperationRecord(
                func,
                frozen,
                frozen_kwargs,
                results,
                phase,
                owner.layer,
                owner.call,
                owner.function,
                node_number,
                _autograd._get_sequence_nr(),
                is_recorded,
                self.saving.are_used,
                node is not None and grad_enabled,
                node is not None and self.in_place.is_accumulation(func, args),
                node is None and self.saving.is_python_saving,
            )
        )
        for tensor in results:
            if tensor is not None:
                storage = self.storages[tensor.storage]
                if storage.origin == "operation" and storage.operation is None:
                    storage.operation = number
        number_bytes = self._number_bytes(self.operations[-1])
        self.live_after.append(self.live_bytes + number_bytes)

    def _number_bytes(self, operation: OperationRecord) -> int:
        """Return the bytes of Python numbers that the operation takes in place of tensors.

        torch makes a tensor of each, outside of the dispatcher, which lives while the operation
        runs. If autograd saves it, it lives until the operation's node has run.
        """
        if operation.phase not in ("forward", "loss"):
            return 0
        numbers = _number_arguments(operation.operation)
        given = {
            name: _NUMBER_BYTES[type(value)]
            for name, value in zip(numbers, operation.args, strict=False)
            if name is not None and type(value) in _NUMBER_BYTES
        }
        if not given:
            return 0
        saved = self._saved_numbers(operation, given) if operation.is_recorded else 0
        if saved:
            self._numbers[operation.sequence - 1] = saved
            self.live_bytes += saved
        return sum(given.values()) - saved

    def _saved_numbers(self, operation: OperationRecord, given: Mapping[str, int]) -> int:
        table = specification()
        rule = None if table is None else table.get(operation.name)
        if rule is None or not operation.is_saving:
            return 0
        needing = {
            argument.name
            for argument, value in zip(
                operation.operation._schema.arguments, operation.args, strict=False
            )
            if any(tensor.requires_grad for tensor in tensor_records((value,)))
        }
        return sum(given.get(saved.argument or "", 0) for saved in rule.given(needing))

    def _node_began(self, number: int) -> None:
        """Free the numbers that the previous node had saved: it has run."""
        if self._node is not None:
            self.live_bytes -= self._numbers.pop(self._node[0], 0)
        self._node = (number, len(self.operations))

    def _memory(self, tensor: Tensor) -> Memory:
        """Return the origin of a tensor's memory."""
        node = _current_node()
        if self._node is None or self._node[0] != node:
            self._node_began(-1 if node is None else node)
        assert self._node is not None
        made = self.storages[self._record(tensor, "constant").storage].operation
        if made is None:
            return Memory(None, False)
        return Memory(self.operations[made].base_name, made >= self._node[1])

    def _owner_of(self, number: int) -> Owner:
        """Return the owner of the autograd node that runs.

        A checkpoint runs a backward pass inside the backward pass; its new nodes belong to its
        layer. A gradient accumulator belongs to the node that ran before it.
        """
        if self._node is None or self._node[0] != number:
            self._node_began(number)
        graph_task = torch._C._current_graph_task_id()
        if self._graph_task is None:
            self._graph_task = graph_task
        if graph_task == self._graph_task and number < _NO_NODE_NUMBER:
            position = bisect_right(self._starts, number) - 1
            self._backward_owner = self._owners[position] if position >= 0 else Owner(None)
        return self._backward_owner

    def _results(self, result: Any) -> tuple[TensorRecord | None, ...]:
        if isinstance(result, Tensor):
            return (self._record(result, "operation"),)
        if not isinstance(result, tuple | list):
            return ()
        return tuple(
            self._record(value, "operation") if isinstance(value, Tensor) else None
            for value in result
        )

    def _frozen(self, values: Any) -> Any:
        frozen: list[Any] = []
        for value in values:
            if isinstance(value, Tensor):
                frozen.append(self._record(value, "constant"))
            elif type(value) in (list, tuple):
                frozen.append(self._frozen(value))
            else:
                frozen.append(value)
        return tuple(frozen)

    def _frozen_mapping(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(zip(values, self._frozen(values.values()), strict=True))

    def know(self, tensor: Tensor, origin: StorageOrigin) -> TensorRecord:
        """Note a tensor from before the step."""
        return self._record(tensor, origin)

    def know_new(self, tensor: Tensor) -> None:
        """Note a tensor made outside of the dispatcher, as a result of the last operation."""
        with torch._C.DisableTorchFunction():  # The recorder's own calls are no operations.
            storage = self.storages[self._record(tensor, "operation").storage]
        storage.operation = max(len(self.operations) - 1, 0)

    @property
    def used(self) -> frozenset[int]:
        """Identities of the parameters and buffers that a layer had."""
        return frozenset(self._counted)

    def _record(self, tensor: Tensor, origin: StorageOrigin) -> TensorRecord:
        offset = int(tensor.storage_offset()) if tensor.layout is torch.strided else 0
        storage = self._storage(tensor, origin)
        return TensorRecord(layout_of(tensor), storage, tensor.requires_grad, offset)

    def _storage(self, tensor: Tensor, origin: StorageOrigin) -> int:
        if tensor.layout is not torch.strided:
            self.storages.append(StorageRecord(0, origin))
            return len(self.storages) - 1
        storage = tensor.untyped_storage()
        address = storage._cdata
        index = self._live.get(address)
        if index is not None:
            return index
        index = len(self.storages)
        num_bytes = storage.nbytes()
        self.storages.append(StorageRecord(num_bytes, origin))
        self._live[address] = index
        if origin == "operation":
            self.live_bytes += num_bytes
        self._references[index] = weakref.ref(storage, lambda _: self._freed(address, index))
        return index

    def _freed(self, address: int, index: int) -> None:
        storage = self.storages[index]
        if not self._has_ended:
            storage.freed = len(self.operations)
        if storage.origin == "operation":
            self.live_bytes -= storage.num_bytes
        if self._live.get(address) == index:
            del self._live[address]
        self._references.pop(index, None)

    def read_saved(self) -> None:
        """Record what autograd holds, at the end of forward pass and loss."""
        self.saved = tuple(
            SavedRecord(self._storage(tensor, "constant"), layer, saver)
            for tensor, layer, saver in self.saving.held()
        )

    def end(self) -> None:
        """Stop watching for freed memory: what is left has outlived the step."""
        self._has_ended = True

    @property
    def holds_memory(self) -> bool:
        """Tell whether memory that the step allocated is still alive."""
        return any(self.storages[n].origin == "operation" for n in self._references)

    def forget(self) -> None:
        """Drop every reference to the network's tensors."""
        self._references.clear()
        self._live.clear()


_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})
_PENDING = FunctionRecord("", (), _NO_KWARGS, (), None, None, range(0))


def _current_node() -> int | None:
    node = torch._C._current_autograd_node()
    return None if node is None else node._sequence_nr()


# Bytes of a Python number as a tensor: double, int64, bool, complex double.
_NUMBER_BYTES: Mapping[type, int] = {float: 8, int: 8, bool: 1, complex: 16}


@cache
def _number_arguments(operation: OpOverload) -> tuple[str | None, ...]:
    """Return the name of each argument that the schema declares a tensor; None for others."""
    return tuple(
        argument.name if str(argument.type) == "Tensor" else None
        for argument in operation._schema.arguments
    )


def _module_state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if not module._modules:  # A fast path for most layers: named_parameters() is slow.
        for group in (module._parameters, module._buffers):
            yield from ((name, tensor) for name, tensor in group.items() if tensor is not None)
        return
    yield from module.named_parameters()
    yield from module.named_buffers()


def named_arguments(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Tensor]]:
    """Return the tensors among a function's arguments, under the names of its parameters."""
    names = parameter_names(name)
    positional = [
        (names[number] if number < len(names) else f"argument{number}", value)
        for number, value in enumerate(args)
    ]
    return [
        (argument if number == 0 else f"{argument}{number}", tensor)
        for argument, value in [*positional, *kwargs.items()]
        for number, tensor in enumerate(tensors_in(value))
    ]
