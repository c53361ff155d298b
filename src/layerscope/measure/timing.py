"""torch.profiler's time per layer, forward and backward, with its spread over several steps.

On a CPU a layer's time is the self time of all its operations. Time between operations (Python, the
autograd engine, the release of memory) is part of the step's time only. On CUDA a layer's time is
that of its kernels and copies on the device.

The profiler takes a few microseconds for every operation, including nested ones. Part of that falls
into the times of the outer operations, so that small layers look slower than they are. A view,
which itself takes a few microseconds, looks several times slower. `step_seconds` is measured
without the profiler and `profiled_step_seconds` with it, in turn. On a ResNet-50 with one image
they differ by about 5 %.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from types import MappingProxyType

import torch

from layerscope.measure.profiled_step import LayerAndPhase, ProfiledStep, profile_step
from layerscope.measure.step import Step, StepPhase, synchronize


@dataclass(frozen=True)
class Spread:
    """Median and range over several repeats, in seconds or in the unit of the field's name."""

    median: float
    minimum: float
    maximum: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer, all its calls summed.

    Args:
        backward: None if the layer has no backward.
    """

    forward: Spread
    backward: Spread | None


@dataclass(frozen=True)
class TimeRecord:
    """Seconds of every layer that ran, in execution order, and of whole steps.

    Args:
        step_seconds: time of forward, loss and backward, without the profiler.
        profiled_step_seconds: time of the same under the profiler, including its work.
    """

    layers: Mapping[str, LayerTime]
    step_seconds: Spread
    profiled_step_seconds: Spread
    repeats: int
    warmup: int


def layer_times(step: Step, repeats: int = 10, warmup: int = 2) -> TimeRecord:
    """Time steps with and without the profiler in turn. The network is left as it was.

    Args:
        repeats: measured steps of each kind; at least 1.
        warmup: steps of each kind before them.

    Raises:
        UserError: the network does not run, or a profiler is running already.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    bare: list[float] = []
    profiled: list[ProfiledStep] = []
    for number in range(warmup + repeats):
        seconds = step_seconds(step)
        run = profile_step(step, with_flops=False, with_memory=False)
        if number >= warmup:
            bare.append(seconds)
            profiled.append(run)
    return TimeRecord(
        layers=MappingProxyType(_layer_times(profiled, step.device)),
        step_seconds=Spread.of(bare),
        profiled_step_seconds=Spread.of([run.step_nanoseconds * 1e-9 for run in profiled]),
        repeats=repeats,
        warmup=warmup,
    )


def step_seconds(step: Step) -> float:
    """Return the wall time of one step to the end of its last kernel, in seconds.

    The network is left as it was.

    Raises:
        UserError: the network does not run.
    """
    with step.preserve_state():
        synchronize(step.device)
        begin = perf_counter()
        step.run()
        synchronize(step.device)
        return perf_counter() - begin


def _layer_times(runs: Sequence[ProfiledStep], device: torch.device) -> dict[str, LayerTime]:
    nanoseconds = [
        run.device_nanoseconds if device.type == "cuda" else run.operation_nanoseconds
        for run in runs
    ]
    return {
        layer: LayerTime(
            forward=_spread(nanoseconds, layer, "forward"),
            backward=_spread(nanoseconds, layer, "backward")
            if any((layer, "backward") in run.operation_nanoseconds for run in runs)
            else None,
        )
        for layer in runs[0].layers
    }


def _spread(nanoseconds: Sequence[Counter[LayerAndPhase]], layer: str, phase: StepPhase) -> Spread:
    return Spread.of([counter[layer, phase] * 1e-9 for counter in nanoseconds])
