"""The memory of a CUDA device in one step, from the requested bytes to what nvidia-smi shows.

The caching allocator rounds each request up to 512 B, leaves up to 1 MiB unused at the end of a
large block, and keeps freed blocks. cuBLAS and cuDNN keep workspaces. The CUDA context and its
kernels lie outside of the allocator.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from layerscope.base.errors import UserError
from layerscope.layers.tensors import storages_in
from layerscope.measure.step import Step, synchronize


@dataclass(frozen=True)
class CudaMemory:
    """Bytes of a device at the peak of one step, not the first.

    Args:
        resident_bytes: bytes of parameters, buffers and the call's tensors.
        requested_before_bytes: requested bytes that were not freed when the step began.
        requested_bytes, allocated_bytes, reserved_bytes: the allocator's peaks: as requested, as
            rounded blocks, and with the blocks that it keeps for later.
        used_bytes: bytes used on the whole device after the step, by all processes.
    """

    resident_bytes: int
    requested_before_bytes: int
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    used_bytes: int


def unknown_memory(device: torch.device) -> str | None:
    """Return why the memory of a step on this device cannot be measured; None where it can.

    Other allocators than torch's own report no allocation to the profiler, keep no history, and
    report 0 as the requested bytes.
    """
    if device.type != "cuda" or (name := torch.cuda.get_allocator_backend()) == "native":
        return None
    return (
        f"the CUDA allocator {name} does not say what is allocated: to measure memory, start "
        "without `backend` in PYTORCH_CUDA_ALLOC_CONF and PYTORCH_ALLOC_CONF"
    )


def cuda_memory(step: Step) -> CudaMemory:
    """Run the step twice and read the allocator after the second. The network is left as it was.

    The allocator's cache is emptied and its peaks are reset.

    Raises:
        UserError: the network does not run, or the allocator is not torch's own.
    """
    device = step.device
    if (reason := unknown_memory(device)) is not None:
        raise UserError(reason)
    with step.preserve_state():
        step.run()  # The first step makes the libraries' workspaces, which stay.
    with step.preserve_state():
        synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_stats(device)
        loss = step.run()
        synchronize(device)
        after = torch.cuda.memory_stats(device)
        free, total = torch.cuda.mem_get_info(device)
        del loss
    return CudaMemory(
        resident_bytes=_resident_bytes(step),
        requested_before_bytes=before["requested_bytes.all.current"],
        requested_bytes=after["requested_bytes.all.peak"],
        allocated_bytes=after["allocated_bytes.all.peak"],
        reserved_bytes=after["reserved_bytes.all.peak"],
        used_bytes=total - free,
    )


def _resident_bytes(step: Step) -> int:
    network = step.network
    there = [*network.parameters(), *network.buffers(), step.args, dict(step.kwargs)]
    return sum(storage.nbytes() for storage in storages_in(there).values())


@dataclass
class AllocatorTrace:
    """The sizes that were requested of the allocator, by address, in the order of time."""

    requested: Mapping[int, Sequence[int]] = field(default_factory=dict)


@contextmanager
def allocator_trace(device: torch.device) -> Iterator[AllocatorTrace]:
    """Record the caching allocator's history.

    The functions have a leading underscore but are documented, in torch's notes on CUDA memory.
    Public ones tell only totals.
    """
    trace = AllocatorTrace()
    torch.cuda.memory._record_memory_history("all", context=None, stacks="python")
    try:
        yield trace
        synchronize(device)
        index = torch.cuda.current_device() if device.index is None else device.index
        snapshot: Any = torch.cuda.memory._snapshot()
        trace.requested = requested_by_address(snapshot["device_traces"][index])
    finally:
        torch.cuda.memory._record_memory_history(None)


def requested_by_address(entries: Sequence[Mapping[str, Any]]) -> Mapping[int, Sequence[int]]:
    """Sort the entries of a device's trace in an allocator snapshot by address."""
    requested: defaultdict[int, list[int]] = defaultdict(list)
    for entry in entries:
        if entry["action"] == "alloc":
            requested[entry["addr"]].append(entry["size"])
    return requested


def requested_sizes(
    changes: Sequence[tuple[int, int]], requested: Mapping[int, Sequence[int]]
) -> list[int] | None:
    """Replace the size of each block by the size that was requested.

    Args:
        changes: address and size of a block, negative when it is freed, in the order of time.
        requested: sizes by address; the last ones are those of the changes.

    Returns:
        One size for each change, with its sign. A block from before keeps its own size when it is
        freed. None if the two lists do not match.
    """
    left = Counter(address for address, size in changes if size > 0)
    held: dict[int, int] = {}
    sizes: list[int] = []
    for address, size in changes:
        if size <= 0:
            sizes.append(-held.pop(address, -size))
            continue
        known = requested.get(address, ())
        if len(known) < left[address] or known[-left[address]] > size:
            return None
        held[address] = known[-left[address]]
        left[address] -= 1
        sizes.append(held[address])
    return sizes
