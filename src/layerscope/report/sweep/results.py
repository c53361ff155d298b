"""A sweep as its report knows it: runs, groups over seeds, costs, and what is worth its cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from layerscope.report.document import Unit
from layerscope.report.sweep.runs import Status, SweptRun, printable, read_runs
from layerscope.report.sweep.seeds import SeedGroup, group_by_seed, shared_overrides


@dataclass(frozen=True)
class SweepCost:
    """Something that accuracy is held against.

    Args:
        key: its name in sweep.json, under `pareto`.
        title: with its unit where the figures do not carry one.
        value: of a run; None where it is not known exactly.
    """

    key: str
    title: str
    unit: Unit
    value: Callable[[SweptRun], float | None]


@dataclass(frozen=True)
class SweepResults:
    """All that is known of a sweep.

    Args:
        name: of its directory.
        groups: best mean validation accuracy first.
        fronts: for each cost's key the places of the groups on the Pareto front.
    """

    name: str
    runs: tuple[SweptRun, ...]
    groups: tuple[SeedGroup, ...]
    costs: tuple[SweepCost, ...]
    fronts: dict[str, frozenset[int]]

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The overrides that all runs have."""
        return shared_overrides(self.runs)

    def with_status(self, *statuses: Status) -> tuple[SweptRun, ...]:
        """Return the runs of these statuses, in order."""
        return tuple(run for run in self.runs if run.status in statuses)

    def is_on_front(self, cost: SweepCost, group: int) -> bool:
        """Tell whether no other group costs as little and is as accurate."""
        return group in self.fronts[cost.key]


def sweep_results(directory: Path, has_ended: bool) -> SweepResults:
    """Read a sweep's directory.

    Args:
        has_ended: no job runs any more, so that one without results has failed.

    Raises:
        UserError: this is no directory of a sweep.
    """
    runs = read_runs(directory, has_ended)
    groups = group_by_seed(runs)
    costs = (
        SweepCost("num_parameters", "parameters", "count", lambda run: run.num_parameters),
        SweepCost("macs", "FLOPs per image, forward (2 per MAC)", "flops", _flops),
        SweepCost("saved_bytes", "saved for backward", "bytes", lambda run: run.saved_bytes),
        _peak(runs),
        SweepCost("seconds", "training time", "seconds", lambda run: run.seconds),
    )
    fronts = {cost.key: _front(groups, cost) for cost in costs}
    # A name such as `..` or `.` says nothing.
    return SweepResults(printable(directory.resolve().name), runs, groups, costs, fronts)


def _flops(run: SweptRun) -> float | None:
    return None if run.macs is None or run.macs_lower_bound else 2 * run.macs


def _peak(runs: Sequence[SweptRun]) -> SweepCost:
    """Take one instrument for all runs: the two measure different steps."""
    training = SweepCost(
        "peak_bytes", "measured peak of a step", "bytes", lambda run: run.peak_bytes
    )
    profile = SweepCost(
        "profile_peak_bytes",
        "measured peak of a step, by the profile",
        "bytes",
        lambda run: run.profile_peak_bytes,
    )
    is_profiles = all(training.value(run) is None for run in runs) and any(
        profile.value(run) is not None for run in runs
    )
    return profile if is_profiles else training


def _front(groups: Sequence[SeedGroup], cost: SweepCost) -> frozenset[int]:
    points = list(_points(groups, cost))
    front = pareto_front([(value, accuracy) for _, value, accuracy in points])
    return frozenset(points[place][0] for place in front)


def _points(groups: Sequence[SeedGroup], cost: SweepCost) -> Iterator[tuple[int, float, float]]:
    for place, group in enumerate(groups):
        value, accuracy = group.mean(cost.value), group.val_acc.mean
        if value is not None and accuracy is not None:
            yield place, value, accuracy


def pareto_front(points: Sequence[tuple[float, float]]) -> frozenset[int]:
    """Return the places of the (cost, accuracy) pairs that no other pair beats.

    One beats another if it costs no more and is no less accurate, and differs in either.
    """
    front: set[tuple[float, float]] = set()
    best = float("-inf")
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if point[1] > best:
            best = point[1]
            front.add(point)
    return frozenset(place for place, point in enumerate(points) if point in front)
