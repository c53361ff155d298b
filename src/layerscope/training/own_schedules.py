"""Schedules of the user's own: torch's classes, and functions of the step.

Both are pure functions of the step here. A class is run anew from the beginning over a stand-in for
the optimizer, so that a resumed run needs no state of it, and has the same rates to the bit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from layerscope.base.errors import RunFailed, UserError
from layerscope.base.targets import (
    Targets,
    call_target,
    check_call,
    import_target,
    own_code,
    typed_target,
)
from layerscope.config.schema import CustomSchedulerConfig

_KEY = "scheduler._target_"
ParamGroups = Sequence[Mapping[str, Any]]  # an optimizer's, without their parameters


class OwnSchedule(Protocol):
    """What each group of the optimizer gets at an update."""

    def at(self, update: int) -> list[dict[str, Any]]:
        """Return the new values of each group, the learning rate among them."""
        ...


def own_schedule(
    config: CustomSchedulerConfig,
    targets: Targets,
    optimizer: torch.optim.Optimizer,
    updates_per_epoch: int,
    num_epochs: int,
) -> OwnSchedule:
    """Return the schedule of a run.

    Args:
        optimizer: as it is built, with its full learning rates; it is not changed.

    Raises:
        UserError: the user typed no class, or it cannot be used here.
    """
    target = typed_target(targets, _KEY, config.target)
    found = import_target(_KEY, target)
    if not (isinstance(found, type) and issubclass(found, LRScheduler)):
        by_epoch = config.interval == "epoch"
        divisor = updates_per_epoch if by_epoch else 1
        total = num_epochs if by_epoch else updates_per_epoch * num_epochs
        return _OfAFunction(config, target, found, _without_parameters(optimizer), divisor, total)
    if issubclass(found, ReduceLROnPlateau):
        raise UserError(
            f"{_KEY}={target} follows a measured value, and a schedule is a function of the step "
            "here: choose another, or callbacks.early_stopping"
        )
    divisor = 1 if config.interval == "step" else updates_per_epoch
    return _OfAClass(config, target, found, optimizer, divisor)


def check_schedule(schedule: OwnSchedule, num_updates: int) -> None:
    """Go through the whole run, before anything is made.

    Raises:
        UserError: it fails, or gives a learning rate that is none.
    """
    try:
        for update in range(num_updates):
            schedule.at(update)
    except RunFailed as error:
        raise UserError(str(error)) from error


class _OfAFunction:
    def __init__(
        self,
        config: CustomSchedulerConfig,
        target: str,
        function: Callable[..., Any],
        groups: ParamGroups,
        divisor: int,
        total: int,
    ) -> None:
        self._target, self._function, self._keys = target, function, config.arguments
        self._full_rates = [group["lr"] for group in groups]
        self._divisor, self._total = divisor, total
        check_call(target, function, "scheduler", 0, total, **self._keys)

    def at(self, update: int) -> list[dict[str, Any]]:
        """Return each group's learning rate: its full one times the function's value."""
        index = min(update // self._divisor, self._total - 1)
        with own_code(self._target, f"step {index}"):
            factor = float(self._function(index, self._total, **self._keys))
        _refuse_no_rate(self._target, factor, index)
        return [{"lr": rate * factor} for rate in self._full_rates]


class _StandInOptimizer(torch.optim.Optimizer):
    """The groups of an optimizer, for a scheduler to write into; a step does nothing."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do nothing: the scheduler only has to have seen a step."""


class _OfAClass:
    def __init__(
        self,
        config: CustomSchedulerConfig,
        target: str,
        scheduler: Callable[..., Any],
        optimizer: torch.optim.Optimizer,
        divisor: int,
    ) -> None:
        self._target, self._class, self._keys = target, scheduler, config.arguments
        self._defaults = dict(optimizer.defaults)
        self._full = _without_parameters(optimizer)
        self._divisor = divisor
        self._restart()

    def at(self, update: int) -> list[dict[str, Any]]:
        """Return what the scheduler has changed in each group: the rate, of some the momentum."""
        index = update // self._divisor
        if index < self._index:
            self._restart()
        while self._index < index:
            with own_code(self._target, f"step {self._index + 1}"):
                self._groups.step()
                self._scheduler.step()
            self._index += 1
            self._note_changes()
        groups = self._groups.param_groups
        for group in groups:
            _refuse_no_rate(self._target, float(group["lr"]), index)
        changed = zip(groups, self._changed, strict=True)
        return [{key: group[key] for key in sorted(keys)} for group, keys in changed]

    def _restart(self) -> None:
        groups = [{**g, "params": [torch.nn.Parameter(torch.zeros(()))]} for g in self._full]
        self._groups = _StandInOptimizer(groups, dict(self._defaults))
        self._scheduler = call_target(
            self._target, self._class, "scheduler", self._groups, **self._keys
        )
        self._index = 0
        self._changed: list[set[str]] = [{"lr"} for _ in self._full]  # keys, so far
        self._note_changes()

    def _note_changes(self) -> None:
        for keys, group, full in zip(
            self._changed, self._groups.param_groups, self._full, strict=True
        ):
            keys |= {key for key in full if group[key] != full[key]}


def _without_parameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def _refuse_no_rate(target: str, rate: float, index: int) -> None:
    if not math.isfinite(rate) or rate < 0:
        raise RunFailed(f"{target} gives {rate} in step {index}, which is no learning rate")
