"""The memory of one training step, by liveness: what is alive when, over forward and backward.

Above parameters, buffers and the network's input. A layer's output lives while the forward's own
code or autograd holds it; a gradient until the backward pass that reads it ends; a parameter's
gradient to the end of the step. The loss is the sum of all outputs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from layerscope.layers.spec import LayerSpec, NetworkSpec, TensorSpec
from layerscope.theory.kinds import KINDS
from layerscope.theory.saved import SavedMemory
from layerscope.theory.transients import (
    backward_transient_bytes,
    forward_transient_bytes,
)

Phase = Literal["forward", "loss", "backward"]
_BROADCASTING = frozenset({"mul", "div"})

# A mean's gradient is one value per image and channel, repeated in the plain order.
_CONTIGUOUS_GRADIENT = frozenset({"mean", "adaptive_avg_pool"})


@dataclass(frozen=True, slots=True)
class Moment:
    """One layer's part of one phase.

    Args:
        peak_bytes: the most that was alive while it ran, its transients included.
        live_bytes: the same without transients.
        bytes_after: what was alive when it had ended.
    """

    layer: str
    phase: Phase
    peak_bytes: int
    live_bytes: int
    bytes_after: int


@dataclass(frozen=True)
class StepMemory:
    """Of one step.

    Args:
        moments: in the order of execution.
        parts: of the peak: `outputs`, `kept`, `gradients`, `parameter_gradients`, `transients`.
        accumulated: elements that a call's backward adds out of place, where a gradient arrives at
            a tensor for the second time; calls are indices into `NetworkSpec.layers`.
        num_threads: that the transients are for.
    """

    moments: tuple[Moment, ...]
    parts: Mapping[str, int]
    accumulated: Mapping[int, int]
    num_threads: int

    @property
    def peak(self) -> Moment:
        """The first of the moments with the most bytes."""
        return max(self.moments, key=lambda moment: moment.peak_bytes)

    @property
    def live_peak_bytes(self) -> int:
        """The most at any time without transients."""
        return max(moment.live_bytes for moment in self.moments)


def step_memory(network: NetworkSpec, saved: SavedMemory, num_threads: int = 1) -> StepMemory:
    """Run one step on paper.

    Args:
        num_threads: of the CPU; transients grow with them.
    """
    simulation = _Simulation(network, saved, num_threads)
    simulation.forward()
    simulation.backward()
    return StepMemory(
        moments=tuple(simulation.moments),
        parts=simulation.parts,
        accumulated=simulation.accumulated,
        num_threads=num_threads,
    )


@dataclass(slots=True)
class _Gradient:
    """A gradient on its way to the call that made the value.

    Args:
        block: the memory that it lives in.
        is_view: of a larger gradient, or of a single value; a view keeps what it is a view of.
        channels_last: its memory format.
    """

    block: int
    is_view: bool
    channels_last: bool = False


class _Memory:
    """Blocks of memory by part, with the number of their holders."""

    def __init__(self) -> None:
        self.blocks: dict[int, list] = {}  # block: [bytes, part, holders]
        self.total = 0
        self._next = 0

    def allocate(self, num_bytes: int, part: str) -> int:
        self._next += 1
        self.blocks[self._next] = [num_bytes, part, 1]
        self.total += num_bytes
        return self._next

    def hold(self, block: int) -> None:
        self.blocks[block][2] += 1

    def release(self, block: int) -> None:
        entry = self.blocks[block]
        entry[2] -= 1
        if entry[2] == 0:
            self.total -= entry[0]
            del self.blocks[block]

    def num_holders(self, block: int) -> int:
        return self.blocks[block][2]

    def part(self, block: int) -> str:
        return self.blocks[block][1]

    def by_part(self) -> dict[str, int]:
        parts: dict[str, int] = {}
        for num_bytes, part, _ in self.blocks.values():
            parts[part] = parts.get(part, 0) + num_bytes
        return parts


class _Simulation:
    def __init__(self, network: NetworkSpec, saved: SavedMemory, num_threads: int) -> None:
        self.network = network
        self.saved = saved
        self.num_threads = num_threads
        self.moments: list[Moment] = []
        self.parts: dict[str, int] = {}
        self.accumulated: dict[int, int] = {}
        self._memory = _Memory()
        self._peak = 0
        self._call_peak = 0
        self._call_live = 0
        self._storages: dict[int, int] = {}  # storage to block
        self._own: dict[int, list[int]] = {}  # call to the blocks of its own kept memory
        self._gradients: dict[int, _Gradient] = {}  # value to gradient
        self._waiting = {storage: len(calls) for storage, calls in saved.storages.items()}
        self._held: dict[int, list[int]] = {}  # call to the storages that autograd holds for it
        for storage, calls in saved.storages.items():
            for call in calls:
                self._held.setdefault(call, []).append(storage)
        self._parameter_gradients: dict[int, _Gradient] = {}  # by the parameter's storage

    def forward(self) -> None:
        releases: dict[int, list[int]] = {}
        for number, storage in enumerate(self.network.storages):
            if storage.origin == "layer" and storage.released is not None:
                releases.setdefault(storage.released, []).append(number)
        for call, spec in enumerate(self.network.layers):
            self._release_storages(releases.get(call, ()))
            self._begin()
            self._allocate_outputs(call, spec)
            self._own[call] = [
                self._memory.allocate(item.num_bytes, "kept")
                for item in self.saved.own.get(call, ())
            ]
            self._note(forward_transient_bytes(spec, self.num_threads))
            self._end(spec.key, "forward")
        self._begin()
        self._memory.allocate(self._loss_size(), "gradients")
        for number in range(len(self.network.layers), max(releases, default=0) + 1):
            self._release_storages(releases.get(number, ()))
        self._release_storages(
            dict.fromkeys(
                tensor.storage
                for tensor in self.network.outputs
                if self.network.storages[tensor.storage].released is None
            )
        )
        self._end("loss", "loss")

    def _loss_size(self) -> int:
        """Bytes of the sum of the outputs; 0 where there is nothing to differentiate."""
        sizes = [tensor.dtype.itemsize for tensor in self.network.outputs if tensor.requires_grad]
        return max(sizes, default=0)

    def _allocate_outputs(self, call: int, spec: LayerSpec) -> None:
        for tensor in spec.outputs:
            storage = self.network.storages[tensor.storage]
            if storage.call == call and tensor.storage not in self._storages:
                part = "kept" if tensor.storage in self.saved.storages else "outputs"
                block = self._memory.allocate(storage.num_bytes, part)
                self._storages[tensor.storage] = block
                if tensor.storage in self.saved.storages:
                    self._memory.hold(block)

    def _release_storages(self, storages: Iterable[int]) -> None:
        for storage in storages:
            if storage in self._storages and self.network.storages[storage].origin == "layer":
                self._memory.release(self._storages[storage])

    def backward(self) -> None:
        recording = self.saved.recording
        if not recording:
            return
        start = self._memory.allocate(self._loss_size(), "gradients")
        for tensor in self.network.outputs:
            if tensor.requires_grad:
                self._memory.hold(start)
                self._arrive(None, tensor, _Gradient(start, is_view=True))
        # the loss's own gradient, at `start`, is held to the end
        for call in sorted(recording, reverse=True):
            self._backward_of(call, self.network.layers[call])

    def _backward_of(self, call: int, spec: LayerSpec) -> None:
        if _passes_through(spec):
            return
        arrived = [
            self._gradients.pop(tensor.value)
            for tensor in spec.outputs
            if tensor.value in self._gradients
        ]
        self._begin()
        made: list[tuple[TensorSpec, _Gradient]] = []
        if arrived:
            made = [
                (tensor, self._gradient_of(spec, tensor, number, arrived[0]))
                for number, tensor in enumerate(spec.inputs)
                if tensor.requires_grad
            ]
            self._make_parameter_gradients(call, spec)
            self._reduce_broadcast(spec)
            if spec.inputs:
                is_channels_last = arrived[0].channels_last
                self._note(backward_transient_bytes(spec, is_channels_last, self.num_threads))
        for gradient in arrived:
            self._memory.release(gradient.block)
        self._release_kept(call)
        for tensor, gradient in made:
            self._arrive(call, tensor, gradient)
        self._end(spec.key, "backward")

    def _gradient_of(
        self, spec: LayerSpec, tensor: TensorSpec, number: int, arrived: _Gradient
    ) -> _Gradient:
        """Of one input; a gradient passed on shares the memory of the one that arrived."""
        kind = KINDS.get(spec.kind)
        flow = "new" if kind is None else kind.gradient
        same_size = tensor.num_elements == spec.outputs[0].num_elements
        negated = spec.kind == "sub" and number == 1
        if flow == "new" or negated or (flow in ("same", "view") and not same_size):
            block = self._memory.allocate(tensor.num_bytes, "gradients")
            channels_last = tensor.is_channels_last and spec.kind not in _CONTIGUOUS_GRADIENT
            return _Gradient(block, False, channels_last)
        self._memory.hold(arrived.block)
        is_view = arrived.is_view or flow != "same"
        return _Gradient(arrived.block, is_view, arrived.channels_last)

    def _reduce_broadcast(self, spec: LayerSpec) -> None:
        """A broadcast operand's gradient is computed for every output, and summed afterwards."""
        if spec.kind not in _BROADCASTING:
            return
        out = spec.outputs[0]
        blocks = [
            self._memory.allocate(out.num_bytes, "gradients")
            for tensor in (*spec.inputs, *spec.parameters.values())
            if tensor.requires_grad and tensor.num_elements < out.num_elements
        ]
        self._note()
        for block in blocks:
            self._memory.release(block)

    def _make_parameter_gradients(self, call: int, spec: LayerSpec) -> None:
        """A linear layer's weight gets a transposed view of what the product made."""
        for name, parameter in spec.parameters.items():
            if parameter.requires_grad:
                block = self._memory.allocate(parameter.num_bytes, "parameter_gradients")
                gradient = _Gradient(block, is_view=spec.kind == "linear" and name == "weight")
                first = self._parameter_gradients.get(parameter.storage)
                if first is not None:
                    gradient = self._added(call, parameter, first, gradient)
                self._parameter_gradients[parameter.storage] = gradient

    def _release_kept(self, call: int) -> None:
        for block in self._own.get(call, ()):
            self._memory.release(block)
        for storage in self._held.get(call, ()):
            self._waiting[storage] -= 1
            if self._waiting[storage] == 0:
                self._memory.release(self._storages[storage])

    def _arrive(self, call: int | None, tensor: TensorSpec, gradient: _Gradient) -> None:
        first = self._gradients.get(tensor.value)
        if first is not None:
            gradient = self._added(call, tensor, first, gradient)
        self._gradients[tensor.value] = gradient

    def _added(
        self, call: int | None, tensor: TensorSpec, first: _Gradient, second: _Gradient
    ) -> _Gradient:
        """A second gradient is added into the first where nobody else sees that one's memory."""
        if not first.is_view and self._memory.num_holders(first.block) == 1:
            self._memory.release(second.block)
            return first
        part = self._memory.part(first.block)
        block = self._memory.allocate(tensor.num_bytes, part)
        self._note()
        if call is not None:
            self.accumulated[call] = self.accumulated.get(call, 0) + tensor.num_elements
        self._memory.release(first.block)
        self._memory.release(second.block)
        return _Gradient(block, is_view=False)

    def _begin(self) -> None:
        self._call_peak = self._call_live = self._memory.total

    def _note(self, transient: int = 0) -> None:
        reached = self._memory.total + transient
        self._call_peak = max(self._call_peak, reached)
        self._call_live = max(self._call_live, self._memory.total)
        if reached > self._peak:
            self._peak = reached
            self.parts = self._memory.by_part()
            if transient:
                self.parts["transients"] = transient

    def _end(self, layer: str, phase: Phase) -> None:
        self.moments.append(
            Moment(layer, phase, self._call_peak, self._call_live, self._memory.total)
        )


def _passes_through(spec: LayerSpec) -> bool:
    """It returned the very tensor that it got: autograd has no node for it."""
    values = {tensor.value for tensor in spec.inputs}
    return all(tensor.value in values for tensor in spec.outputs)
