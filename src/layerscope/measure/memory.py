"""The allocator's timeline of one training step, and the memory alive at its peak.

The events are torch.profiler's. On a CPU they are all allocations through torch's allocator,
including oneDNN's reorders. On CUDA they are all allocations by the caching allocator, at the
requested size (its blocks are larger: see cuda_memory).

Counting starts at 0 with parameters, buffers and the input in place and without gradients. Memory
from before that is released during the step does not count. The gradients of the parameters (and of
an input that requires one) belong to the step. The network's outputs are dropped once the loss has
been computed. There is no optimizer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

from layerscope.measure.profiled_step import MemoryEvent, ProfiledStep, profile_step
from layerscope.measure.step import Step, StepPhase


@dataclass(frozen=True)
class MemoryPoint:
    """The state after one event of the allocator.

    Args:
        seconds: time since the first event.
        allocated_bytes: bytes allocated since the start and not freed.
        layer: the layer that runs, or the last one that ran in this phase. None in the loss and in
            its backward.
    """

    seconds: float
    allocated_bytes: int
    layer: str | None
    phase: StepPhase


@dataclass(frozen=True)
class AllocatorBlock:
    """A block of memory, with layer, phase and operation of its allocation and of its release.

    Args:
        operation: the outermost operation that was running (`aten::conv2d`). None between two
            operations, where the autograd engine or Python releases memory.
        allocated_at: the position of the allocation in the record's points.
        freed_at: the position of the release. All `freed_` fields are None for memory that outlives
            the step.
        is_scratch: the same run of one operation allocated and freed it, so that it is neither an
            output nor saved.
    """

    num_bytes: int
    layer: str | None
    phase: StepPhase
    operation: str | None
    allocated_at: int
    freed_layer: str | None = None
    freed_phase: StepPhase | None = None
    freed_operation: str | None = None
    freed_at: int | None = None
    is_scratch: bool = False


@dataclass(frozen=True)
class MemoryRecord:
    """The allocator's events in one step.

    Args:
        peak_bytes: the most bytes at any point.
        peak_layer, peak_phase: layer and phase of the first point with the peak; None if nothing is
            allocated at all.
        scratch_bytes_at_peak: bytes of the scratch blocks alive at that point.
        scratch: for every layer that ran, its most scratch at one time, forward or backward.
        blocks: all blocks in the order of their allocations.
        has_block_sizes: see `ProfiledStep`.
    """

    points: tuple[MemoryPoint, ...]
    peak_bytes: int
    peak_layer: str | None
    peak_phase: StepPhase | None
    scratch_bytes_at_peak: int
    scratch: Mapping[str, int]
    blocks: tuple[AllocatorBlock, ...]
    has_block_sizes: bool = False

    def blocks_at_peak(self) -> tuple[AllocatorBlock, ...]:
        """Return the blocks that were alive at the peak, in the order of their allocations."""
        return _alive(self.blocks, _peak_position(self.points))


def memory_timeline(step: Step) -> MemoryRecord:
    """Run the step once and follow the allocator. The network is left as it was.

    Raises:
        UserError: the network does not run, or a profiler is running already.
    """
    return memory_record(profile_step(step, with_flops=False))


def memory_record(profiled: ProfiledStep) -> MemoryRecord:
    """Return the timeline of a step that was profiled with memory."""
    events = _of_the_step(profiled.memory_events)
    points = _points(events)
    blocks = _blocks(events)
    position = _peak_position(points)
    peak = points[position] if points else None
    return MemoryRecord(
        points=points,
        peak_bytes=max(0, peak.allocated_bytes) if peak else 0,
        peak_layer=peak.layer if peak else None,
        peak_phase=peak.phase if peak else None,
        scratch_bytes_at_peak=sum(
            block.num_bytes for block in _alive(blocks, position) if block.is_scratch
        ),
        scratch=MappingProxyType(_most_scratch(profiled.layers, blocks)),
        blocks=blocks,
        has_block_sizes=profiled.has_block_sizes,
    )


def _of_the_step(events: Sequence[MemoryEvent]) -> list[MemoryEvent]:
    """Leave out the releases of memory from before the step."""
    held: set[int] = set()
    own: list[MemoryEvent] = []
    for event in events:
        if event.allocated_bytes > 0:
            held.add(event.address)
        elif event.address in held:
            held.remove(event.address)
        else:
            continue
        own.append(event)
    return own


def _points(events: Sequence[MemoryEvent]) -> tuple[MemoryPoint, ...]:
    start = events[0].nanoseconds if events else 0
    totals = accumulate(event.allocated_bytes for event in events)
    return tuple(
        MemoryPoint((event.nanoseconds - start) * 1e-9, total, event.layer, event.phase)
        for event, total in zip(events, totals, strict=True)
    )


def _blocks(events: Sequence[MemoryEvent]) -> tuple[AllocatorBlock, ...]:
    """Match every allocation with its release, by address."""
    held: dict[int, int] = {}  # address → position of the allocation
    freed: dict[int, int] = {}  # position of the allocation → position of the release
    for position, event in enumerate(events):
        if event.allocated_bytes > 0:
            held[event.address] = position
        else:
            freed[held.pop(event.address)] = position
    return tuple(
        _block(events, position, freed.get(position))
        for position, event in enumerate(events)
        if event.allocated_bytes > 0
    )


def _block(events: Sequence[MemoryEvent], start: int, end: int | None) -> AllocatorBlock:
    begin = events[start]
    if end is None:
        return AllocatorBlock(
            begin.allocated_bytes, begin.layer, begin.phase, begin.operation, allocated_at=start
        )
    release = events[end]
    number = begin.operation_number
    return AllocatorBlock(
        num_bytes=begin.allocated_bytes,
        layer=begin.layer,
        phase=begin.phase,
        operation=begin.operation,
        allocated_at=start,
        freed_layer=release.layer,
        freed_phase=release.phase,
        freed_operation=release.operation,
        freed_at=end,
        is_scratch=number is not None and number == release.operation_number,
    )


def _peak_position(points: Sequence[MemoryPoint]) -> int:
    """Return the position of the first point with the peak."""
    return max(range(len(points)), key=lambda number: points[number].allocated_bytes, default=0)


def _alive(blocks: Sequence[AllocatorBlock], position: int) -> tuple[AllocatorBlock, ...]:
    return tuple(
        block
        for block in blocks
        if block.allocated_at <= position and (block.freed_at is None or block.freed_at > position)
    )


def _most_scratch(layers: Mapping[str, None], blocks: Sequence[AllocatorBlock]) -> dict[str, int]:
    changes: list[tuple[int, str, int]] = []
    for block in blocks:
        if block.is_scratch and block.layer is not None and block.freed_at is not None:
            changes.append((block.allocated_at, block.layer, block.num_bytes))
            changes.append((block.freed_at, block.layer, -block.num_bytes))
    now: Counter[str] = Counter()
    most = dict.fromkeys(layers, 0)
    for _, layer, num_bytes in sorted(changes):
        now[layer] += num_bytes
        most[layer] = max(most.get(layer, 0), now[layer])
    return most
