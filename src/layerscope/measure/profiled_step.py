"""One step under torch.profiler, every operation and every allocation with its layer and phase.

In the forward pass a range around every layer tells which operations are the layer's. In the
backward pass the number of the running autograd node leads to the layer that created it. The sum of
two gradients belongs to the node that delivers the later one. An accumulator of a parameter belongs
to the node that ran before it. Recomputation in a checkpoint belongs to its backward pass.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

# torch.profiler has no public access to the tree of events or to single allocations. The public
# record_function takes several times as long as _RecordFunctionFast.
from torch._C._autograd import (
    DeviceType,
    _KinetoEvent,
    _profiler_enabled,
    _ProfilerResult,
)
from torch._C._profiler import (
    RecordScope,
    _ExtraFields_Allocation,
    _ExtraFields_TorchOp,
    _ProfilerEvent,
    _RecordFunctionFast,
)
from torch.autograd.profiler import profile

from layerscope.base.errors import UserError
from layerscope.layers.calls import Call, CallTracker
from layerscope.measure.cuda_memory import (
    AllocatorTrace,
    allocator_trace,
    requested_sizes,
    unknown_memory,
)
from layerscope.measure.node_layers import NodeLayers
from layerscope.measure.quiet_convolutions import NODE, OPERATION, QuietConvolutions
from layerscope.measure.step import Step, StepPhase, synchronize

LayerAndPhase = tuple[str | None, StepPhase]

_RANGE = "layerscope:"  # In a range's name it precedes the phase or the number of the call.
# torch writes these to stderr for a convolution whose padding is a name, and when memory from
# before the profile is freed.
_NOT_FOR_USERS = ("Failed to compute flops for op", "Memory block of unknown size was allocated")
_WAIT = f"{_RANGE}wait"  # waiting for the device after the backward pass
_STDERR = 2  # the file descriptor
_NODE = "autograd::engine::evaluate_function: "
_PHASES: Mapping[str, StepPhase] = {
    f"{_RANGE}{phase}": phase for phase in ("forward", "loss", "backward")
}


class MemoryEvent(NamedTuple):
    """An allocation or a release of memory.

    Args:
        allocated_bytes: the requested size; negative for a release.
        layer: the layer that runs, or the last one that ran in this phase; None in the loss.
        operation: the name of the outermost operation that is running.
        operation_number: a number that differs for every run of an operation.
    """

    nanoseconds: int
    allocated_bytes: int
    address: int
    layer: str | None
    phase: StepPhase
    operation: str | None
    operation_number: int | None


@dataclass
class ProfiledStep:
    """The profiler's record of a step.

    Args:
        layers: every layer that ran, in execution order.
        flops: the counts of `with_flops`.
        operation_nanoseconds: time of the outermost operations, which is the self time of all.
        device_nanoseconds: time of kernels and copies on the device; empty on a CPU.
        memory_events: events of the allocator of the step's device, in the order of time.
        has_block_sizes: the events have sizes of blocks, which a CUDA allocator rounds up, because
            its history does not tell the requested sizes.
        step_nanoseconds: time from the start of the forward pass to the end of the last kernel,
            including the profiler's own work.
    """

    layers: Mapping[str, None] = field(default_factory=dict)
    flops: Counter[LayerAndPhase] = field(default_factory=Counter)
    operation_nanoseconds: Counter[LayerAndPhase] = field(default_factory=Counter)
    device_nanoseconds: Counter[LayerAndPhase] = field(default_factory=Counter)
    memory_events: list[MemoryEvent] = field(default_factory=list)
    has_block_sizes: bool = False
    step_nanoseconds: int = 0


def profile_step(step: Step, *, with_flops: bool = True, with_memory: bool = True) -> ProfiledStep:
    """Run the step once under the profiler. The network is left as it was.

    Raises:
        UserError: the network does not run, a profiler is running already, or the memory is asked
            for and the device's allocator is not torch's own.
    """
    if _profiler_enabled():
        raise UserError("torch.profiler is running already: only one can at a time")
    if with_memory and (reason := unknown_memory(step.device)) is not None:
        raise UserError(reason)
    device = step.device.type
    on_cuda = device == "cuda"
    is_traced = on_cuda and with_memory
    # Only times need what happens inside a convolution.
    quiet = QuietConvolutions() if device == "cpu" and (with_flops or with_memory) else None
    ranges = _Ranges(quiet)
    tracker = ranges.tracker = CallTracker(step.network, ranges)
    profiler = profile(
        use_kineto=True,
        use_device="cuda" if on_cuda else None,
        with_flops=with_flops,
        profile_memory=with_memory,
    )
    if on_cuda:  # The first step makes the libraries' workspaces, which stay.
        with step.preserve_state():
            step.run()
            synchronize(step.device)
    with _without_lines(*_NOT_FOR_USERS):
        with step.preserve_state(), tracker:
            with quiet_start():
                profiler.__enter__()
            try:
                with allocator_trace(step.device) if is_traced else nullcontext() as trace:
                    # The loss is held to the end, since its release belongs to no phase.
                    loss = step.run(_phase_range)
                    with _RecordFunctionFast(_WAIT):
                        synchronize(step.device)
            finally:
                profiler.__exit__(None, None, None)
            del loss
        assert profiler.kineto_results is not None
        profiled = _Reading(ranges, step.device, profiler.kineto_results, with_flops).result
        return profiled if trace is None else _with_requested_sizes(profiled, trace)


def _with_requested_sizes(profiled: ProfiledStep, trace: AllocatorTrace) -> ProfiledStep:
    events = profiled.memory_events
    sizes = requested_sizes([(e.address, e.allocated_bytes) for e in events], trace.requested)
    if sizes is None:
        return replace(profiled, has_block_sizes=True)
    changed = [e._replace(allocated_bytes=size) for e, size in zip(events, sizes, strict=True)]
    return replace(profiled, memory_events=changed)


class _Ranges(NodeLayers):
    """Opens a range of the profiler around every layer."""

    def __init__(self, quiet: QuietConvolutions | None) -> None:
        super().__init__()
        self.calls: list[str] = []  # key of every call, by the number in its range's name
        self.paths_after: list[str | None] = []  # path of the module that runs after each call
        self._open: list[_RecordFunctionFast] = []
        self.quiet = quiet

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().layer_began(call, args, kwargs)
        self._open.append(_RecordFunctionFast(f"{_RANGE}{len(self.calls)}"))
        self.calls.append(call.key)
        self.paths_after.append(None)
        self._open[-1].__enter__()
        if self.quiet is not None:
            self.quiet.layer_began(call)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self.quiet is not None:
            self.quiet.layer_ended(call)
        self._open.pop().__exit__(None, None, None)
        self.paths_after[-1] = self.tracker.current_key
        super().layer_ended(call, args, kwargs, output)


def _phase_range(phase: StepPhase) -> AbstractContextManager[object]:
    return _RecordFunctionFast(f"{_RANGE}{phase}")  # pyright: ignore[reportReturnType]


@contextmanager
def quiet_start() -> Iterator[None]:
    """Keep the profiler's library from logging to stderr; it reads the variable when it starts."""
    name = "KINETO_LOG_LEVEL"
    is_set = name in os.environ
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if not is_set:
            del os.environ[name]


@contextmanager
def _without_lines(*texts: str) -> Iterator[None]:
    """Leave out lines of stderr that contain one of the texts; write the others at the end.

    torch's C++ warnings go to the file descriptor, past Python's warnings and `sys.stderr`.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as written:
        terminal = os.dup(_STDERR)
        os.dup2(written.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if not any(text.encode() in line for text in texts):
                    os.write(_STDERR, line)


class _EventContext(NamedTuple):
    """The layer, phase and operation that enclose an event in the profiler's tree."""

    layer: str | None = None
    phase: StepPhase = "forward"
    is_owned: bool = False  # It is inside a layer's range or an autograd node.
    operation: str | None = None
    operation_number: int | None = None


class _Reading:
    """Walks the tree of the profiler's events once, in the order of time."""

    def __init__(
        self, ranges: _Ranges, device: torch.device, results: _ProfilerResult, with_flops: bool
    ) -> None:
        self.result = ProfiledStep(layers=ranges.keys)
        self._ranges = ranges
        self._device = device
        self._unrecorded = ranges.quiet.nodes if ranges.quiet is not None else ()
        self._last: dict[StepPhase, str | None] = {}
        self._between: str | None = type(ranges.tracker.network).__name__
        # The tree has neither FLOPs nor device times; the operation's number leads to them.
        self._flops: dict[int, int] = {}
        self._device_nanoseconds: Counter[int] = Counter()
        if with_flops or device.type != "cpu":
            self._read_flat(results.events(), with_flops)
        self._counted = self._flops.keys() | self._device_nanoseconds.keys()
        roots = results.experimental_event_tree()
        main_thread = next(event.start_tid for event in roots if event.name in _PHASES)
        for event in roots:  # On CUDA the backward pass has a thread of its own.
            is_main = event.start_tid == main_thread
            self._read([event], _EventContext(phase="forward" if is_main else "backward"))
        self.result.memory_events.sort(key=lambda event: event.nanoseconds)

    def _read_flat(self, events: Sequence[_KinetoEvent], with_flops: bool) -> None:
        if with_flops:
            for event in events:
                if flops := event.flops():
                    self._flops[event.correlation_id()] = flops
        if self._device.type == "cpu":
            return
        for event in events:
            if event.device_type() != DeviceType.CPU and not event.is_user_annotation():
                self._device_nanoseconds[event.linked_correlation_id()] += event.duration_ns()

    def _read(self, events: Sequence[_ProfilerEvent], context: _EventContext) -> None:
        """Read events and those inside each. There are thousands, and each attribute takes time."""
        counted = self._counted
        for event in events:
            fields = event.extra_fields
            if isinstance(fields, _ExtraFields_Allocation):
                self._note_memory(event.start_time_ns, fields, context)
                continue
            children = event.children
            inside = context
            if isinstance(fields, _ExtraFields_TorchOp):
                if children or context.operation is None:  # Most events have neither.
                    inside = self._entered(event, fields, context)
                if counted and (number := event.correlation_id) in counted:
                    self._note_work(number, (inside.layer, inside.phase))
            if children:
                self._read(children, inside)

    def _note_work(self, operation_number: int, owner: LayerAndPhase) -> None:
        if operation_number in self._flops:
            self.result.flops[owner] += self._flops[operation_number]
        if operation_number in self._device_nanoseconds:
            self.result.device_nanoseconds[owner] += self._device_nanoseconds[operation_number]

    def _entered(
        self, event: _ProfilerEvent, fields: _ExtraFields_TorchOp, context: _EventContext
    ) -> _EventContext:
        name = event.name
        if name.startswith(_RANGE):
            return self._entered_range(event, context)
        if name.startswith(_NODE):
            return self._entered_node(fields, context)
        is_operation = fields.scope == RecordScope.FUNCTION
        if name == NODE and fields.sequence_number in self._unrecorded:
            is_operation, name = True, OPERATION
        if context.operation is not None or not is_operation:
            return context
        layer = context.layer if context.is_owned else self._unowned(context.phase)
        self.result.operation_nanoseconds[layer, context.phase] += event.duration_time_ns
        return _EventContext(layer, context.phase, context.is_owned, name, event.correlation_id)

    def _entered_range(self, event: _ProfilerEvent, context: _EventContext) -> _EventContext:
        name = event.name
        if name == _WAIT:
            self.result.step_nanoseconds += event.duration_time_ns
            return _EventContext(phase="backward")
        if name in _PHASES:
            self.result.step_nanoseconds += event.duration_time_ns
            return _EventContext(phase=_PHASES[name])
        if context.operation is not None:  # An autograd.Function's forward may call layers.
            owner = (context.layer, context.phase)
            self.result.operation_nanoseconds[owner] -= event.duration_time_ns
        call = int(name.removeprefix(_RANGE))
        self._between = self._ranges.paths_after[call]
        layer = self._last["forward"] = self._ranges.calls[call]
        return _EventContext(layer, "forward", is_owned=True)

    def _entered_node(self, fields: _ExtraFields_TorchOp, context: _EventContext) -> _EventContext:
        if context.phase == "backward" and context.is_owned:
            return context  # A checkpoint runs a backward pass inside the backward pass.
        if fields.sequence_number >= 0:  # A gradient accumulator has no number.
            self._last["backward"] = self._ranges.layer_of(fields.sequence_number)
        return _EventContext(self._last.get("backward"), "backward", is_owned=True)

    def _unowned(self, phase: StepPhase) -> str | None:
        """Return the layer of an operation outside of all layers and nodes."""
        return self._between if phase == "forward" else self._last.get(phase)

    def _note_memory(
        self, nanoseconds: int, fields: _ExtraFields_Allocation, context: _EventContext
    ) -> None:
        device = self._device
        if device.type != "cpu" and fields.device.type != device.type:
            return
        if device.index is not None and fields.device.index != device.index:
            return
        outside = not context.is_owned and context.operation is None
        self.result.memory_events.append(
            MemoryEvent(
                nanoseconds,
                fields.alloc_size,
                fields.ptr,
                self._last.get(context.phase) if outside else context.layer,
                context.phase,
                context.operation,
                context.operation_number,
            )
        )
