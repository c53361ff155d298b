"""The one description of a network and its layers that every other room shares."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch

Shape = tuple[int, ...]
Origin = Literal["layer", "input", "parameter", "buffer", "constant", "unseen"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as it passes between layers: everything but its values.

    Args:
        storage: index into `NetworkSpec.storages`; tensors that share memory share it.
        value: a number of what stands in it: a tensor that is overwritten gets another one.
    """

    shape: Shape
    strides: tuple[int, ...]
    dtype: torch.dtype
    storage: int
    value: int
    requires_grad: bool

    @property
    def num_elements(self) -> int:
        """0 where a dimension is."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Of its elements; its storage may hold more."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_channels_last(self) -> bool:
        """Whether its strides are torch.channels_last's and not also those of a plain tensor."""
        if len(self.shape) != 4:
            return False
        _, channels, height, width = self.shape
        return channels > 1 and height * width > 1 and self.strides[1] == 1


@dataclass(slots=True)
class StorageSpec:
    """A piece of memory that one or more tensors see.

    Args:
        num_bytes: 0 where a tensor has no storage of its own kind (sparse).
        call: index into `NetworkSpec.layers` of the call that allocated it; None where `origin` is
            not `layer`.
        released: so many calls had ended when the forward's Python code let go of it; None where it
            outlives the forward.
    """

    num_bytes: int
    origin: Origin
    call: int | None = None
    released: int | None = None


@dataclass(frozen=True)
class LayerSpec:
    """One call of one layer: what went in, what came out, and the settings that decide its cost.

    Args:
        kind: `conv2d`, `batch_norm`, `add`, ...; of an unknown layer, its class or function name.
        inputs: the tensors that it was called with, in order; parameters and buffers left out,
            unless it got nothing else. Empty for an operation that makes a tensor.
        arguments: all tensors that it was called with, parameters and buffers included.
        outputs: the tensors that it returned.
        parameters: by name, whether or not an earlier call had them too.
        num_parameters: elements; shared ones stand with the first call that has them.
        parameter_bytes: of these.
        num_buffer_elements: like `num_parameters`; `buffer_bytes` are theirs.
        geometry: the settings of its kind: `kernel_size`, `stride`, `groups`, ...
        in_place: it returned an input that it had overwritten.
        is_view: it returned an input, or a view of one, as it was.
    """

    key: str
    kind: str
    inputs: tuple[TensorSpec, ...]
    arguments: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, TensorSpec] = field(default_factory=lambda: MappingProxyType({}))
    num_parameters: int = 0
    parameter_bytes: int = 0
    num_buffer_elements: int = 0
    buffer_bytes: int = 0
    geometry: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    in_place: bool = False
    is_view: bool = False

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Of all inputs."""
        return tuple(tensor.shape for tensor in self.inputs)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Of all outputs."""
        return tuple(tensor.shape for tensor in self.outputs)

    @property
    def input_shape(self) -> Shape:
        """Of the first input."""
        return self.inputs[0].shape

    @property
    def output_shape(self) -> Shape:
        """Of the first output."""
        return self.outputs[0].shape

    @property
    def output_elements(self) -> int:
        """Elements of everything the layer returns."""
        return sum(tensor.num_elements for tensor in self.outputs)

    @property
    def records_gradient(self) -> bool:
        """Whether autograd makes a node for it."""
        return any(tensor.requires_grad for tensor in self.outputs)


@dataclass(frozen=True)
class NetworkSpec:
    """One forward pass.

    Args:
        layers: one per call, in execution order.
        storages: all memory that the layers' tensors live in.
        inputs: what the network was called with.
        outputs: what it returned, in order.
        autocast: the dtype that torch.autocast lowers to; None where it is off.
        num_unseen: tensors that appeared without a layer having returned them: those of a custom
            autograd.Function, say. What made them is not known.
        unused_parameters: elements of the parameters that no layer of this forward used.
        unused_parameter_bytes: of these.
        unused_buffer_bytes: of the buffers that no layer used.
    """

    layers: tuple[LayerSpec, ...]
    storages: tuple[StorageSpec, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: torch.device
    autocast: torch.dtype | None = None
    num_unseen: int = 0
    unused_parameters: int = 0
    unused_parameter_bytes: int = 0
    unused_buffer_bytes: int = 0


def calls_that_matter(network: NetworkSpec) -> frozenset[int]:
    """Calls on which an output, or a running statistic, depends; the others' results are dropped.

    Calls are indices into `network.layers`.
    """
    wanted = {tensor.value for tensor in network.outputs}
    found: set[int] = set()
    for call in range(len(network.layers) - 1, -1, -1):
        spec = network.layers[call]
        updates = spec.kind == "batch_norm" and spec.geometry.get("training")
        if updates or any(tensor.value in wanted for tensor in spec.outputs):
            found.add(call)
            wanted.update(tensor.value for tensor in spec.arguments)
    return frozenset(found)


def calls_by_layer(specs: Iterable[LayerSpec]) -> dict[str, tuple[LayerSpec, ...]]:
    """The calls of each layer under its key, in the order of the layers' first calls."""
    layers: dict[str, list[LayerSpec]] = {}
    for spec in specs:
        layers.setdefault(spec.key, []).append(spec)
    return {key: tuple(calls) for key, calls in layers.items()}
