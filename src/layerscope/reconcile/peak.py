"""The peak of one training step: predicted by liveness, and measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from layerscope.errors import UserError
from layerscope.measure import MemoryPoint, MemoryRecord, Step
from layerscope.reconcile.account import Account
from layerscope.reconcile.rows import Reason, Row
from layerscope.reconcile.settings import Settings, described
from layerscope.theory.capacity import OPTIMIZERS, training_memory
from layerscope.theory.saved import saved_memory
from layerscope.theory.step import Moment, StepMemory, step_memory

GIB = 2**30
# For each of these the largest batch that fits is told.
MEMORY_SIZES = tuple(size * GIB for size in (1, 4, 8, 16, 24, 40, 80))


@dataclass(frozen=True)
class Peak:
    """Bytes above parameters, buffers and the network's input, of one step without optimizer.

    Args:
        predicted_live_bytes: without what operations allocate and free within themselves.
        scratch_bytes_at_peak: measured; allocated inside an operation, neither its output nor kept.
        parts: what the predicted peak consists of.
        largest_batch: by bytes of memory, with the optimizer's state; None where the memory does
            not grow with the batch, the network runs otherwise at another batch size, or it is not
            known what a layer keeps.
    """

    predicted_bytes: int
    predicted_layer: str
    predicted_phase: str
    predicted_live_bytes: int
    parts: Mapping[str, int]
    predicted_timeline: tuple[Moment, ...]
    measured_bytes: int | None
    measured_layer: str | None
    measured_phase: str | None
    measured_live_bytes: int | None
    scratch_bytes_at_peak: int | None
    timeline: tuple[MemoryPoint, ...]
    largest_batch: Mapping[int, int] | None


def peak_of(
    step: Step,
    settings: Settings,
    theory: Account,
    paper: StepMemory,
    record: MemoryRecord | None,
) -> Peak:
    """Prediction and, where there is one, measurement."""
    moment = paper.peak
    return Peak(
        predicted_bytes=moment.peak_bytes,
        predicted_layer=moment.layer,
        predicted_phase=moment.phase,
        predicted_live_bytes=paper.live_peak_bytes,
        parts=paper.parts,
        predicted_timeline=paper.moments,
        measured_bytes=None if record is None else record.peak_bytes,
        measured_layer=None if record is None else record.peak_layer,
        measured_phase=None if record is None else record.peak_phase,
        measured_live_bytes=None if record is None else live_peak_bytes(record),
        scratch_bytes_at_peak=None if record is None else record.scratch_bytes_at_peak,
        timeline=() if record is None else record.points,
        largest_batch=_largest_batches(step, settings, theory, paper),
    )


def _largest_batches(
    step: Step, settings: Settings, theory: Account, paper: StepMemory
) -> Mapping[int, int] | None:
    if theory.saved.unknown or theory.network.num_unseen:
        return None  # it is not known what they keep
    network = theory.network
    doubled = (2 * settings.input_shape[0], *settings.input_shape[1:])
    try:
        larger = described(step, replace(settings, input_shape=doubled))
    except UserError:  # made for one batch size only
        return None
    if [spec.key for spec in larger.layers] != [spec.key for spec in network.layers]:
        return None  # what it computes depends on the batch size
    memory = training_memory(
        (network, paper),
        (larger, step_memory(larger, saved_memory(larger), paper.num_threads)),
        OPTIMIZERS[settings.optimizer],
    )
    if not memory.grows:
        return None
    return {size: memory.largest_batch(size) for size in MEMORY_SIZES}


def peak_row(peak: Peak) -> Row:
    """What is alive by theory, and what operations are known to allocate within themselves."""
    transients = peak.predicted_bytes - peak.predicted_live_bytes
    text = "copies and working memory that operations have for themselves while they run"
    reasons = (Reason("transients", transients, text),) if transients else ()
    return Row(
        layer="total",
        quantity="peak_bytes",
        instrument="memory",
        theory=peak.predicted_live_bytes,
        reasons=reasons,
        measured=peak.measured_bytes,
    )


def live_peak_bytes(record: MemoryRecord) -> int:
    """The most that was allocated at one time, scratch left out."""
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
