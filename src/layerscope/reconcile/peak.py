"""The peak of one training step: from the dry run, and measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from layerscope.base.errors import UserError
from layerscope.dry_run import DryRun, Moment
from layerscope.measure import CudaMemory, MemoryPoint, MemoryRecord, Step
from layerscope.reconcile.account import Account
from layerscope.reconcile.measurements import Measurements
from layerscope.reconcile.rows import Row
from layerscope.reconcile.settings import ProfileSettings, dry_run_of
from layerscope.theory.capacity import training_memory

GIB = 2**30
# The report shows the largest batch for each of these.
MEMORY_SIZES = tuple(size * GIB for size in (1, 4, 8, 16, 24, 40, 80))


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch whose live memory fits into a given memory for the whole step.

    Args:
        scratch_bytes: the most scratch of an operation at the profiled batch, which is not part of
            the prediction. None if it was not measured.
    """

    memory_bytes: int
    batch_size: int
    scratch_bytes: int | None


@dataclass(frozen=True)
class MemoryStage:
    """One stage between the live peak and what nvidia-smi shows of a GPU.

    Args:
        num_bytes: measured bytes that this stage adds. All stages sum to the used memory of the
            whole device.
    """

    name: str
    num_bytes: int
    text: str


@dataclass(frozen=True)
class Peak:
    """Peak bytes in forward, loss and backward, without parameters, buffers and input.

    Args:
        predicted_live_bytes: peak of the dry run; None if it could not run the backward pass.
        parts: the bytes alive at that peak, as `outputs`, `saved`, `gradients` and
            `parameter_gradients`.
        optimizer_bytes: most bytes alive in a step of the optimizer: gradients and temporaries,
            without its state of `state_bytes`.
        scratch_bytes_at_peak: measured bytes inside an operation, neither output nor saved.
        device_stages: measured memory of a CUDA device at the peak; None on other devices.
        largest_batch: None if memory does not grow with the batch, if the network runs differently
            at another batch size, or if the backward pass could not run.
    """

    predicted_live_bytes: int | None
    predicted_layer: str | None
    predicted_phase: str | None
    parts: Mapping[str, int]
    predicted_timeline: tuple[Moment, ...]
    state_bytes: int
    optimizer_bytes: int
    measured_bytes: int | None
    measured_layer: str | None
    measured_phase: str | None
    measured_live_bytes: int | None
    scratch_bytes_at_peak: int | None
    timeline: tuple[MemoryPoint, ...]
    device_stages: tuple[MemoryStage, ...] | None
    largest_batch: tuple[LargestBatch, ...] | None


def peak_of(
    step: Step, settings: ProfileSettings, account: Account, measured: Measurements
) -> Peak:
    """Return the predicted peak, with the measured one if there is a measurement."""
    record = measured.memory
    run = account.run
    at = _peak_position(run) if run.has_backward else None
    operation = None if at is None else run.operations[at]
    after_step = run.live_after[run.second_optimizer_step :]
    return Peak(
        predicted_live_bytes=run.live_peak_bytes if run.has_backward else None,
        predicted_layer=None if operation is None else operation.layer or operation.phase,
        predicted_phase=None if operation is None else operation.phase,
        parts={} if at is None else _parts(account, at),
        predicted_timeline=run.timeline if run.has_backward else (),
        state_bytes=run.state_bytes,
        optimizer_bytes=max(after_step, default=run.state_bytes) - run.state_bytes,
        measured_bytes=None if record is None else record.peak_bytes,
        measured_layer=None if record is None else record.peak_layer,
        measured_phase=None if record is None else record.peak_phase,
        measured_live_bytes=None if record is None else live_peak_bytes(record),
        scratch_bytes_at_peak=None if record is None else record.scratch_bytes_at_peak,
        timeline=() if record is None else record.points,
        device_stages=None if record is None else device_stages(record, measured.cuda_memory),
        largest_batch=_largest_batches(step, settings, run, record),
    )


def device_stages(
    record: MemoryRecord, memory: CudaMemory | None
) -> tuple[MemoryStage, ...] | None:
    """Split the used memory of the whole device into stages, from the live bytes upward."""
    if memory is None:
        return None
    live = live_peak_bytes(record)
    before = memory.requested_before_bytes
    return (
        MemoryStage("live", live, "alive at the step's peak, scratch left out"),
        MemoryStage(
            "scratch",
            memory.requested_bytes - before - live,
            "inside operations when most was asked for: cuDNN's working memory",
        ),
        MemoryStage("resident", memory.resident_bytes, "parameters, buffers, input"),
        MemoryStage(
            "workspaces",
            before - memory.resident_bytes,
            "held from before: cuBLAS's workspaces, and other tensors of this process",
        ),
        MemoryStage(
            "rounding",
            memory.allocated_bytes - memory.requested_bytes,
            "blocks are multiples of 512 B, and up to 1 MiB of a large one stays unused",
        ),
        MemoryStage(
            "cached",
            memory.reserved_bytes - memory.allocated_bytes,
            "kept by torch's allocator for later",
        ),
        MemoryStage(
            "context",
            memory.used_bytes - memory.reserved_bytes,
            "the CUDA context, its kernels, and other processes on the device",
        ),
    )


def _peak_position(run: DryRun) -> int | None:
    live = run.live_after[: run.optimizer_began]
    return max(range(len(live)), key=live.__getitem__, default=None)  # type: ignore[arg-type]


def _parts(account: Account, position: int) -> Mapping[str, int]:
    """Split the bytes alive after an operation by their purpose."""
    run = account.run
    saved = {record.storage for record in run.saved}
    parts: dict[str, int] = {}
    for number, storage in enumerate(run.storages):
        made = storage.operation
        if made is None or made > position or storage.is_scratch:
            continue
        if storage.freed is not None and storage.freed <= position:
            continue
        if number in run.parameter_gradients:
            part = "parameter_gradients"
        elif run.operations[made].phase != "forward":
            part = "gradients"
        else:
            part = "saved" if number in saved else "outputs"
        parts[part] = parts.get(part, 0) + storage.num_bytes
    return parts


def _largest_batches(
    step: Step, settings: ProfileSettings, run: DryRun, record: MemoryRecord | None
) -> tuple[LargestBatch, ...] | None:
    if not run.has_backward or run.is_real or not run.inputs or not run.inputs[0].shape:
        return None
    try:
        larger = dry_run_of(step, settings, batch_factor=2)
    except UserError:  # The network runs with one batch size only.
        return None
    if [op.name for op in larger.operations] != [op.name for op in run.operations]:
        return None  # The operations depend on the batch size.
    if larger.inputs[0].shape[0] <= run.inputs[0].shape[0]:
        return None  # The input has no batch.
    memory = training_memory(run, larger)
    if not memory.grows:
        return None
    scratch = None if record is None else record.peak_bytes - live_peak_bytes(record)
    batches = ((size, memory.largest_batch(size)) for size in MEMORY_SIZES)
    return tuple(LargestBatch(size, batch, scratch) for size, batch in batches if batch is not None)


def peak_row(peak: Peak, settings: ProfileSettings) -> tuple[Row, ...]:
    """Compare the live peak, in float32 on a CPU: elsewhere the allocator rounds."""
    if peak.measured_live_bytes is None or peak.predicted_live_bytes is None:
        return ()
    compared = settings.dtype == "float32" and settings.device == "cpu"
    return (
        Row(
            layer="total",
            type="",
            quantity="live_peak_bytes",
            instrument="memory",
            theory=peak.predicted_live_bytes,
            reasons=(),
            measured=peak.measured_live_bytes if compared else None,
            counted=compared,
        ),
    )


def live_peak_bytes(record: MemoryRecord) -> int:
    """Return the most bytes allocated at one time, without scratch."""
    changes: list[tuple[int, int]] = []
    for block in record.blocks:
        if not block.is_scratch:
            changes.append((block.allocated_at, block.num_bytes))
            if block.freed_at is not None:
                changes.append((block.freed_at, -block.num_bytes))
    alive = most = 0
    for _, change in sorted(changes):
        alive += change
        most = max(most, alive)
    return most
