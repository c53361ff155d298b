"""Learning-rate schedules: a share of the full rate as a pure function of the step.

A schedule has no state, so a resumed run needs none, and the rates of many steps can be computed
ahead.
"""

import math
from collections.abc import Callable
from typing import Any

from layerscope.config.schema import ConstantConfig, StepsConfig, WarmupConfig


def _constant(config: ConstantConfig, progress: float) -> float:
    return 1.0


def _linear(config: WarmupConfig, progress: float) -> float:
    if progress < config.warmup:
        return progress / config.warmup
    left = (1 - progress) / (1 - config.warmup)
    return config.final + (1 - config.final) * left


def _cosine(config: WarmupConfig, progress: float) -> float:
    if progress < config.warmup:
        return progress / config.warmup
    done = (progress - config.warmup) / (1 - config.warmup)
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2


def _milestones(config: StepsConfig, progress: float) -> float:
    return config.factor ** sum(progress >= milestone for milestone in config.milestones)


SCHEDULES: dict[str, Callable[[Any, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "milestones": _milestones,
}


def rate_at(
    config: ConstantConfig | WarmupConfig | StepsConfig, step: int, num_steps: int
) -> float:
    """Return the share of the full learning rate at `step`, from 0 to num_steps - 1.

    A step stands for the middle of its slice of the run, so that neither the first nor the last
    step has a rate of 0. A run that resumes with fewer batches per epoch can be past its end: the
    rate then stays that of the end.
    """
    return SCHEDULES[config.name](config, min((step + 0.5) / num_steps, 1.0))
