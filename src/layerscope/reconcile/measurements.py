"""Every instrument, run on one step."""

from collections.abc import Iterable
from dataclasses import dataclass

from layerscope.base.errors import UserError
from layerscope.base.optional import is_installed
from layerscope.measure import (
    ActivationRecord,
    CudaMemory,
    FlopCounts,
    FvcoreCounts,
    FvcoreFailed,
    MachineCeilings,
    MemoryRecord,
    Step,
    TimeRecord,
    TorchinfoCounts,
    TorchinfoFailed,
    activations_and_flops,
    cuda_memory,
    flop_counts,
    flops_of,
    fvcore_counts,
    layer_times,
    machine_ceilings,
    memory_record,
    profile_step,
    step_activations,
    torchinfo_counts,
    unknown_memory,
)
from layerscope.reconcile.settings import ProfileSettings

_ALL_INSTRUMENTS = (
    "outputs",
    "saved",
    "fvcore",
    "torchinfo",
    "flop_counter",
    "profiler",
    "memory",
    "time",
    "machine",
)
# Those that can run here: torchinfo is no dependency.
INSTRUMENTS = tuple(name for name in _ALL_INSTRUMENTS if name != "torchinfo" or is_installed(name))
# Instruments whose figures do not depend on the clock.
EXACT_INSTRUMENTS = frozenset(INSTRUMENTS) - {"time", "machine"}


def check_instruments(names: Iterable[str]) -> frozenset[str]:
    """Return the names as a set.

    Raises:
        UserError: an instrument is none, or is not installed.
    """
    chosen = frozenset(names)
    for name in sorted(chosen.difference(INSTRUMENTS)):
        if name in _ALL_INSTRUMENTS:
            raise UserError(f"instruments: {name} is not installed: pip install {name}")
        raise UserError(f"instruments: {name} is none of {', '.join(INSTRUMENTS)}")
    return chosen


@dataclass(frozen=True)
class Measurements:
    """The instruments' results; None for one that was switched off or could not measure.

    Args:
        instruments: names of the requested instruments.
        notes: why an instrument could not measure.
    """

    instruments: frozenset[str] = frozenset()
    activations: ActivationRecord | None = None
    fvcore: FvcoreCounts | None = None
    torchinfo: TorchinfoCounts | None = None
    flop_counter: FlopCounts | None = None
    profiler: FlopCounts | None = None
    memory: MemoryRecord | None = None
    cuda_memory: CudaMemory | None = None
    times: TimeRecord | None = None
    machine: MachineCeilings | None = None
    notes: tuple[str, ...] = ()


def measure(step: Step, settings: ProfileSettings, instruments: frozenset[str]) -> Measurements:
    """Run the named instruments, several in one step if possible. The network is left as it was.

    Raises:
        UserError: the network does not run.
    """
    fvcore, notes = _fvcore(step) if "fvcore" in instruments else (None, ())
    torchinfo, more_notes = _torchinfo(step) if "torchinfo" in instruments else (None, ())
    activations, flop_counter = _counted(step, instruments)
    reason = unknown_memory(step.device) if "memory" in instruments else None
    notes += () if reason is None else (reason,)
    with_memory, with_flops = "memory" in instruments and reason is None, "profiler" in instruments
    profiled, on_cuda = None, step.device.type == "cuda"
    if with_flops or with_memory:
        profiled = profile_step(step, with_flops=with_flops, with_memory=with_memory)
    return Measurements(
        instruments=instruments,
        activations=activations,
        fvcore=fvcore,
        torchinfo=torchinfo,
        flop_counter=flop_counter,
        profiler=flops_of(profiled) if profiled and with_flops else None,
        memory=memory_record(profiled) if profiled and with_memory else None,
        cuda_memory=cuda_memory(step) if on_cuda and with_memory else None,
        times=layer_times(step) if "time" in instruments else None,
        machine=_machine(settings) if "machine" in instruments else None,
        notes=(*notes, *more_notes),
    )


def _counted(
    step: Step, instruments: frozenset[str]
) -> tuple[ActivationRecord | None, FlopCounts | None]:
    wants_activations = bool(instruments & {"outputs", "saved"})
    if wants_activations and "flop_counter" in instruments:
        return activations_and_flops(step)
    return (
        step_activations(step) if wants_activations else None,
        flop_counts(step) if "flop_counter" in instruments else None,
    )


def _fvcore(step: Step) -> tuple[FvcoreCounts | None, tuple[str, ...]]:
    try:
        return fvcore_counts(step), ()
    except FvcoreFailed as error:
        return None, (str(error),)


def _torchinfo(step: Step) -> tuple[TorchinfoCounts | None, tuple[str, ...]]:
    try:
        return torchinfo_counts(step), ()
    except TorchinfoFailed as error:
        return None, (str(error),)


def _machine(settings: ProfileSettings) -> MachineCeilings:
    return machine_ceilings(settings.device, settings.arithmetic_dtype)
