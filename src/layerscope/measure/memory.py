"""The allocator's timeline of one training step, and what was alive at its peak.

The events are torch.profiler's: on a CPU every allocation that goes through torch's allocator,
oneDNN's reorders among them; on CUDA everything that the caching allocator hands out, at the size
that was asked for (its blocks are larger: see cuda_memory). Counting starts at 0 with parameters,
buffers and the input in place and without gradients; what is released of that (garbage of earlier
work, collected now) does not count. The gradients of the parameters (and of the input, where it
requires one) are the step's, the network's outputs are dropped once the loss has been computed, and
there is no optimizer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

from layerscope.measure.profiled_step import MemoryEvent, ProfiledStep, profile_step
from layerscope.measure.step import Phase, Step


@dataclass(frozen=True)
class MemoryPoint:
    """After one event of the allocator.

    Args:
        seconds: since the first event.
        allocated_bytes: above what was there at the start.
        layer: running, or the last that ran in this phase; None in the loss, and in its backward.
    """

    seconds: float
    allocated_bytes: int
    layer: str | None
    phase: Phase


@dataclass(frozen=True)
class Block:
    """Memory from its allocation to its release; layer, phase and operation as of each.

    Args:
        operation: the outermost operation that was running (`aten::conv2d`); None for what the
            autograd engine or Python itself does between two operations, such as releases.
        allocated_at: the position of the allocation in the record's points.
        freed_at: likewise; None, as are the other `freed_` fields, for what outlives the step.
        is_scratch: allocated and freed within the same run of one operation, so neither its output
            nor kept.
    """

    num_bytes: int
    layer: str | None
    phase: Phase
    operation: str | None
    allocated_at: int
    freed_layer: str | None = None
    freed_phase: Phase | None = None
    freed_operation: str | None = None
    freed_at: int | None = None
    is_scratch: bool = False


@dataclass(frozen=True)
class MemoryRecord:
    """What the allocator did in one step.

    Args:
        peak_bytes: the highest of the points.
        peak_layer, peak_phase: those of the first point that reaches it; None where nothing is
            allocated at all.
        scratch_bytes_at_peak: of the blocks alive at that point, those that are scratch.
        scratch: of every layer that ran, the most scratch it had at one time, forward or backward.
        blocks: in the order of their allocations.
        has_block_sizes: see `ProfiledStep`.
    """

    points: tuple[MemoryPoint, ...]
    peak_bytes: int
    peak_layer: str | None
    peak_phase: Phase | None
    scratch_bytes_at_peak: int
    scratch: Mapping[str, int]
    blocks: tuple[Block, ...]
    has_block_sizes: bool = False

    def blocks_at_peak(self) -> tuple[Block, ...]:
        """The blocks that were alive at the peak, in the order of their allocations."""
        return _alive(self.blocks, _peak_position(self.points))


def memory_timeline(step: Step) -> MemoryRecord:
    """Run the step once and follow the allocator. The network is left as it was.

    Raises:
        UserError: the network does not run, or a profiler is running already.
    """
    return memory_record(profile_step(step, with_flops=False))


def memory_record(profiled: ProfiledStep) -> MemoryRecord:
    """The timeline of a step that was profiled with its memory."""
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
    """Without the releases of what was there before."""
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


def _blocks(events: Sequence[MemoryEvent]) -> tuple[Block, ...]:
    """Every allocation with its release, matched by address."""
    held: dict[int, int] = {}  # the position of the allocation by address
    freed: dict[int, int] = {}  # the position of the release by that of the allocation
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


def _block(events: Sequence[MemoryEvent], start: int, end: int | None) -> Block:
    begin = events[start]
    if end is None:
        return Block(
            begin.allocated_bytes, begin.layer, begin.phase, begin.operation, allocated_at=start
        )
    release = events[end]
    number = begin.operation_number
    return Block(
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
    """Of the first point that reaches the peak."""
    return max(range(len(points)), key=lambda number: points[number].allocated_bytes, default=0)


def _alive(blocks: Sequence[Block], position: int) -> tuple[Block, ...]:
    return tuple(
        block
        for block in blocks
        if block.allocated_at <= position and (block.freed_at is None or block.freed_at > position)
    )


def _most_scratch(layers: Mapping[str, None], blocks: Sequence[Block]) -> dict[str, int]:
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
