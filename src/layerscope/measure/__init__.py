from layerscope.measure.activations import (
    ActivationRecord,
    ActivationRecorder,
    LayerActivations,
    record_activations,
)
from layerscope.measure.counted_step import activations_and_flops, step_activations
from layerscope.measure.cuda_memory import CudaMemory, cuda_memory, unknown_memory
from layerscope.measure.flop_counter import FlopCounts, FlopRecorder, flop_counts
from layerscope.measure.fvcore import FvcoreCounts, FvcoreFailed, fvcore_counts
from layerscope.measure.machine import MachineCeilings, machine_ceilings
from layerscope.measure.memory import (
    AllocatorBlock,
    MemoryPoint,
    MemoryRecord,
    memory_record,
    memory_timeline,
)
from layerscope.measure.profiled_step import ProfiledStep, profile_step
from layerscope.measure.profiler_flops import flops_of, profiler_flops
from layerscope.measure.step import Step, StepPhase
from layerscope.measure.timing import LayerTime, Spread, TimeRecord, layer_times
from layerscope.measure.torchinfo import (
    TorchinfoCounts,
    TorchinfoFailed,
    torchinfo_counts,
)

__all__ = [
    "ActivationRecord",
    "ActivationRecorder",
    "AllocatorBlock",
    "CudaMemory",
    "FlopCounts",
    "FlopRecorder",
    "FvcoreCounts",
    "FvcoreFailed",
    "LayerActivations",
    "LayerTime",
    "MachineCeilings",
    "MemoryPoint",
    "MemoryRecord",
    "ProfiledStep",
    "Spread",
    "Step",
    "StepPhase",
    "TimeRecord",
    "TorchinfoCounts",
    "TorchinfoFailed",
    "activations_and_flops",
    "cuda_memory",
    "flop_counts",
    "flops_of",
    "fvcore_counts",
    "layer_times",
    "machine_ceilings",
    "memory_record",
    "memory_timeline",
    "profile_step",
    "profiler_flops",
    "record_activations",
    "step_activations",
    "torchinfo_counts",
    "unknown_memory",
]
