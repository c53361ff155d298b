"""The records of a dry run: tensors, storages, operations, functions and calls of layers.

Numbers in these records are indices into the tuples of `DryRun`: a storage's into `storages`, an
operation's into `operations`, and so on. Indices follow the order of execution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch

# torch has no public name for the class of an operation.
from torch._ops import OpOverload

Shape = tuple[int, ...]
Phase = Literal["forward", "loss", "backward", "optimizer"]
StorageOrigin = Literal["operation", "input", "parameter", "buffer", "gradient", "constant"]


class TensorLayout:
    """Shape, strides, dtype and device of a tensor. Equal layouts are one interned object."""

    __slots__ = ("device", "dtype", "shape", "strides")

    def __init__(
        self, shape: Shape, strides: Shape, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.device = device


class TensorRecord(NamedTuple):
    """A tensor that an operation took or returned, without its values.

    Args:
        storage: index of its storage, which tensors that share memory have in common.
        offset: elements before its first one in the storage.
    """

    layout: TensorLayout
    storage: int
    requires_grad: bool
    offset: int = 0

    @property
    def shape(self) -> Shape:
        """Sizes of the dimensions."""
        return self.layout.shape

    @property
    def strides(self) -> Shape:
        """Strides in elements; empty for a sparse tensor."""
        return self.layout.strides

    @property
    def dtype(self) -> torch.dtype:
        """Type of the elements."""
        return self.layout.dtype

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.layout.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements; its storage may hold more or, for an expanded one, fewer."""
        return math.prod(self.layout.shape) * self.layout.dtype.itemsize

    def is_same_memory(self, other: "TensorRecord") -> bool:
        """Tell whether both are the same elements of one storage, in the same order."""
        return (
            self.storage == other.storage
            and self.offset == other.offset
            and self.shape == other.shape
            and self.strides == other.strides
        )


@dataclass(slots=True)
class StorageRecord:
    """A piece of memory.

    Args:
        num_bytes: its size; 0 for a sparse tensor, which has no single storage.
        operation: the operation that allocated it; None unless `origin` is `operation`.
        freed: number of operations that had run when it was freed; None if it outlives the step.
        is_scratch: a compiled function allocated and freed it; it does not count as alive.
    """

    num_bytes: int
    origin: StorageOrigin
    operation: int | None = None
    freed: int | None = None
    is_scratch: bool = False


class OperationRecord(NamedTuple):
    """One ATen operation.

    Args:
        operation: torch's own object, `torch.ops.aten.add.Tensor`.
        args: positional arguments, with a TensorRecord in place of each tensor.
        results: what it returned, flat; None stands for an undefined tensor.
        layer: key of the layer that ran it; in the backward pass, of the layer whose autograd node
            ran. Between layers it is the module's path; None in the loss and the optimizer.
        call, function: the call and the function that ran it; in the backward pass, those that made
            the autograd node. None outside of them.
        node: sequence number of the running autograd node; None outside of the backward pass.
        sequence: autograd's counter of nodes when the operation ran.
        is_recorded: autograd records it: gradients are on and an input requires one.
        is_saving: autograd saves its tensors through the dry run's own hooks; False within a
            checkpoint.
        is_recomputed: runs in the backward pass to recompute a part of the forward pass.
        is_accumulation: adds two gradients of one tensor.
        is_custom: runs in the forward of a custom autograd.Function, unseen by autograd.
    """

    operation: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[TensorRecord | None, ...]
    phase: Phase
    layer: str | None
    call: int | None
    function: int | None
    node: int | None
    sequence: int
    is_recorded: bool
    is_saving: bool
    is_recomputed: bool
    is_accumulation: bool
    is_custom: bool = False

    @property
    def name(self) -> str:
        """The name with the overload, such as `aten::add.Tensor`."""
        return self.operation.name()

    @property
    def base_name(self) -> str:
        """The name without the overload, such as `aten::add`."""
        return self.operation._schema.name

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments by the names in torch's schema, including defaults."""
        bound: dict[str, Any] = {}
        for number, argument in enumerate(self.operation._schema.arguments):
            if number < len(self.args):
                bound[argument.name] = self.args[number]
            elif argument.name in self.kwargs:
                bound[argument.name] = self.kwargs[argument.name]
            else:
                bound[argument.name] = (
                    argument.default_value if argument.has_default_value() else None
                )
        return bound

    @property
    def inputs(self) -> tuple[TensorRecord, ...]:
        """All tensors among the arguments, in order."""
        return tuple(tensor_records((self.args, tuple(self.kwargs.values()))))

    @property
    def outputs(self) -> tuple[TensorRecord, ...]:
        """All tensors that it returned."""
        return tuple(result for result in self.results if result is not None)

    @property
    def overwritten(self) -> tuple[TensorRecord, ...]:
        """Tensors among the positional arguments that it writes into."""
        return tuple(
            tensor_records([self.args[n] for n in _written(self.operation) if n < len(self.args)])
        )


@cache
def _written(operation: OpOverload) -> tuple[int, ...]:
    """Return the positions of the arguments that an operation overwrites."""
    return tuple(
        number
        for number, argument in enumerate(operation._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """One call of a function of torch from Python.

    Args:
        name: its usual name: `conv2d`, or `add` for `x += y` and `torch.add`.
        args, kwargs: its arguments, with a TensorRecord in place of each tensor.
        operations: indices of the operations inside.
        is_autocast: autocast was on.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[TensorRecord, ...]
    call: int | None
    layer: str | None
    operations: range
    phase: Phase = "forward"
    is_autocast: bool = False


def tensor_records(value: Any) -> "list[TensorRecord]":
    """Return every TensorRecord in nested tuples, lists and mappings, in order."""
    found: list[TensorRecord] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[TensorRecord]) -> None:
    if type(value) is TensorRecord:
        found.append(value)
    elif type(value) in (tuple, list):
        for item in value:
            _collect(item, found)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found)


@dataclass(frozen=True)
class LayerCall:
    """One call of one layer, with its inputs and outputs.

    Args:
        number: its index, which operations and functions have as their `call`.
        type: the class of the module (`Conv2d`) or the name of the function (`add`).
        path: path of the module, or of the module whose code called the function.
        function_name: the function that is the whole call; None for a module.
        inputs: the tensors among its arguments, without parameters and buffers unless there are no
            others. Empty for a function that makes a tensor.
        arguments: all tensors among its arguments.
        outputs: the tensors that it returned.
        parameters: its parameters by name, including those of an earlier call.
        num_parameters: elements of its parameters; shared ones count in the first call only.
        parameter_bytes: bytes of these elements.
        num_buffer_elements, buffer_bytes: the same for buffers.
        operations: indices of the operations inside.
        in_place: it returned an input that it had overwritten.
        returns_input: it returned nothing but its inputs or views of them.
    """

    number: int
    key: str
    type: str
    path: str
    function_name: str | None
    inputs: tuple[TensorRecord, ...]
    arguments: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    parameters: Mapping[str, TensorRecord]
    num_parameters: int
    parameter_bytes: int
    num_buffer_elements: int
    buffer_bytes: int
    operations: range
    in_place: bool = False
    returns_input: bool = False
    training: bool = False

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of all inputs."""
        return tuple(tensor.shape for tensor in self.inputs)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Shapes of all outputs."""
        return tuple(tensor.shape for tensor in self.outputs)

    @property
    def input_shape(self) -> Shape:
        """Shape of the first input."""
        return self.inputs[0].shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the first output."""
        return self.outputs[0].shape

    @property
    def output_elements(self) -> int:
        """Number of elements in all outputs."""
        return sum(tensor.num_elements for tensor in self.outputs)
