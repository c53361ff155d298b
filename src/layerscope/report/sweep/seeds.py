"""Runs that differ in their seed only, taken together."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from layerscope.report.sweep.runs import SweptRun

# Names of a group that has no override of its own: the only one, and one among others.
ALL, NO_OVERRIDES = "all", "(no overrides)"


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation (divisor n - 1) of `num_values` values.

    Args:
        mean: None without a value.
        std: None with fewer than two values.
    """

    mean: float | None
    std: float | None
    num_values: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "MeanStd":
        """Take the values that are known."""
        known = [value for value in values if value is not None]
        return cls(
            statistics.fmean(known) if known else None,
            statistics.stdev(known) if len(known) > 1 else None,
            len(known),
        )


@dataclass(frozen=True)
class SeedGroup:
    """Runs whose overrides differ in `seed` only, in the order of their folders.

    Args:
        setting: their overrides without the seed.
        name: of these the ones that not all groups have; `ALL` or `NO_OVERRIDES` where there are
            none.
    """

    setting: tuple[str, ...]
    name: str
    runs: tuple[SweptRun, ...]

    @cached_property
    def finished(self) -> tuple[SweptRun, ...]:
        """The runs with results; figures of a group are of these."""
        return tuple(run for run in self.runs if run.status == "finished")

    @cached_property
    def val_acc(self) -> MeanStd:
        """Validation accuracy."""
        return MeanStd.of(run.val_acc for run in self.finished)

    @cached_property
    def test_acc(self) -> MeanStd:
        """Test accuracy."""
        return MeanStd.of(run.test_acc for run in self.finished)

    @cached_property
    def seconds(self) -> MeanStd:
        """Training time."""
        return MeanStd.of(run.seconds for run in self.finished)

    def name_of(self, run: SweptRun) -> str:
        """Return the group's name and the run's seed, where it was given one."""
        seed = [] if run.seed is None else [f"seed={run.seed}"]
        return " ".join([*([self.name] if self.name != ALL or not seed else []), *seed])

    def mean(self, value: Callable[[SweptRun], float | None]) -> float | None:
        """Return the mean of what it costs; None if it is unknown of any of the finished runs."""
        values = [value(run) for run in self.finished]
        known = [each for each in values if each is not None]
        if not known or len(known) < len(values):
            return None
        return known[0] if len(set(known)) == 1 else statistics.fmean(known)


def group_by_seed(runs: Sequence[SweptRun]) -> tuple[SeedGroup, ...]:
    """Return the groups, best mean validation accuracy first."""
    members: dict[frozenset[str], list[SweptRun]] = {}
    for run in runs:
        members.setdefault(frozenset(run.setting), []).append(run)
    shared = frozenset(shared_overrides(runs))
    without = ALL if len(members) == 1 else NO_OVERRIDES
    groups = []
    for group in members.values():
        setting = group[0].setting
        own = " ".join(each for each in setting if each not in shared)
        groups.append(SeedGroup(setting, own or without, tuple(group)))
    return tuple(sorted(groups, key=_best_first))


def shared_overrides(runs: Sequence[SweptRun]) -> tuple[str, ...]:
    """Return the overrides that all runs have; of one whose files are damaged none are known."""
    known = [run.overrides for run in runs if run.overrides]
    if not known:
        return ()
    sets = [frozenset(overrides) for overrides in known]
    return tuple(each for each in known[0] if all(each in other for other in sets))


def _best_first(group: SeedGroup) -> tuple[bool, float]:
    mean = group.val_acc.mean
    return (mean is None, -(mean or 0.0))
