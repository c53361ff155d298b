"""What a sweep's report says: the whole document, and what of it a terminal shows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from layerscope.base.formatting import UNKNOWN, bytes_short, count_short, percent, seconds_short
from layerscope.report.document import (
    BLANK,
    Beside,
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Facts,
    Figure,
    Folded,
    Heading,
    Paragraph,
    Shown,
    Sum,
    Table,
    Text,
    columns_in,
    markup,
)
from layerscope.report.sweep.charts import MAX_CURVE_POINTS, MAX_CURVES, MAX_RUNS, folder_link
from layerscope.report.sweep.results import SweepCost, SweepResults
from layerscope.report.sweep.runs import SweptRun
from layerscope.report.sweep.seeds import MeanStd, SeedGroup

CONVENTIONS = (
    "A setting is a run's overrides without its seed. Figures of a setting are of its finished "
    "runs: the mean over seeds.",
    "±: the sample standard deviation over seeds (divisor n - 1). With one seed it is unknown.",
    "Pareto front: the settings that no other one beats. One beats another if it costs no more "
    "and its mean validation accuracy is no lower, and either differs. Settings whose cost is "
    "unknown, or known only as a lower bound, take no part.",
    "Accuracy: right answers by images, of the best epoch by validation accuracy. The test "
    "accuracy of the setting that validation chose is an honest one; the best test accuracy of a "
    "table is not.",
    "FLOPs: 2 per multiply-accumulate (MAC) of convolutions, linear layers and matrix products, "
    "forward, of one image. Norms and activations are not among them.",
    "saved: what autograd holds for the backward pass when the forward pass ends, of one batch of "
    "one process. Measured peak: the most bytes in use in one step, above what was there when it "
    "began. A training run knows it where the device reports it, which a CPU does not; "
    "`profile=true` measures it on a CPU "
    "too, without the optimizer's step.",
    "time: seconds spent on training batches. Compare it between runs of one machine only.",
    "Unknown is not 0.",
)
MAX_ROWS = 1_000  # of a table on the page; sweep.csv has all
MAX_LINES = 20  # of the terminal's table
_MAX_FAILURES = 5  # on the terminal


# The whole document ---------------------------------------------------------------------------


def sweep_document(
    sweep: SweepResults, against: Sequence[Figure], curves: Sequence[Figure]
) -> Document:
    """Return the answer, settings, accuracy against cost, curves, what failed, all runs.

    Args:
        against: drawings of accuracy against the costs; of those unknown there is none.
        curves: drawings of learning curves.
    """
    title = f"Sweep {sweep.name}"
    return Document(
        title,
        (
            Heading(1, title),
            Paragraph(f"{counted(sweep)}.", "quiet"),
            *_shared(sweep),
            Heading(2, "In short"),
            *_verdict(sweep),
            Facts(tuple(_key_figures(sweep)), tiles=True),
            Heading(2, "Settings"),
            _settings_table(sweep),
            *_against(sweep, against),
            *_learning(sweep, curves),
            *_left(sweep, "Failed", "reason", sweep.with_status("failed")),
            *_left(sweep, "Not finished", "state", sweep.with_status("unfinished", "not begun")),
            Heading(2, "All runs"),
            Folded("Every run, with what not all have", (_runs_table(sweep),)),
            Heading(2, "Conventions"),
            Bullets(tuple(map(markup, CONVENTIONS))),
        ),
    )


def counted(sweep: SweepResults) -> str:
    """Say how many runs there are, and how many of each status."""
    statuses = ("finished", "failed", "unfinished", "not begun")
    counts = {status: len(sweep.with_status(status)) for status in statuses}
    parts = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    num_runs, num_groups = len(sweep.runs), len(sweep.groups)
    return (
        f"{num_runs:,} run{'s' * (num_runs != 1)} of {num_groups:,} "
        f"setting{'s' * (num_groups != 1)}: {parts}"
    )


def _shared(sweep: SweepResults) -> Iterator[Block]:
    if sweep.shared:
        yield Paragraph(f"The same in all: {', '.join(sweep.shared)}.", "quiet")


def _verdict(sweep: SweepResults) -> Iterator[Block]:
    best = sweep.groups[0]
    if best.val_acc.mean is None:
        yield Paragraph("No run has finished.", "bad")
        return
    num_seeds = best.val_acc.num_values
    seeds = f"mean of {num_seeds} seeds" if num_seeds > 1 else "one seed"
    yield Paragraph(
        f"Best validation accuracy: {best.name}, {_plus_minus(best.val_acc)} ({seeds}); "
        f"test {_plus_minus(best.test_acc)}.",
        "good",
    )
    failed = len(sweep.with_status("failed"))
    if failed:
        yield Paragraph(f"{failed:,} of {len(sweep.runs):,} runs failed: see below.", "bad")


def _plus_minus(spread: MeanStd) -> str:
    deviation = UNKNOWN if spread.std is None else percent(spread.std)
    return f"{percent(spread.mean)} ± {deviation}"


def _key_figures(sweep: SweepResults) -> Iterator[tuple[str, Text]]:
    yield "runs finished", f"{len(sweep.with_status('finished')):,} of {len(sweep.runs):,}"
    yield "settings", f"{len(sweep.groups):,}"
    for cost in sweep.costs:
        values = [value for group in sweep.groups if (value := group.mean(cost.value)) is not None]
        yield cost.title, _range(cost, values)


def _range(cost: SweepCost, values: Sequence[float]) -> str:
    if not values:
        return UNKNOWN
    low, high = (_short(cost, value) for value in (min(values), max(values)))
    return low if low == high else f"{low} – {high}"


def _short(cost: SweepCost, value: float) -> str:
    match cost.unit:
        case "bytes":
            return bytes_short(int(value))
        case "seconds":
            return seconds_short(value)
        case _:
            return count_short(value)


# Settings -------------------------------------------------------------------------------------

_FIGURES = (
    Column("num_parameters", "parameters", "count", brief=True),
    Column("macs", "MACs/image", "count", brief=True),
    Column("saved_bytes", "saved", "bytes", brief=True),
)


def _settings_table(sweep: SweepResults) -> Table:
    columns = (
        Column("setting", "setting"),
        Column("num_seeds", "seeds", "count"),
        *columns_in("percent", "val acc", "±", "test acc", "± "),
        *_FIGURES,
        Column("", "peak", "bytes", brief=True),
        *columns_in("seconds", "time", "±  "),
        *columns_in("text", "on the front of"),
    )
    shown = sweep.groups[:MAX_ROWS]
    return Table(
        columns,
        tuple(_setting_row(sweep, place, group) for place, group in enumerate(shown)),
        key="settings",
        details=tuple((_runs_of(group),) for group in shown),
        note=_rest(len(sweep.groups)),
    )


def _rest(number: int) -> str:
    return f"{number - MAX_ROWS:,} more: see sweep.csv." if number > MAX_ROWS else ""


def _setting_row(sweep: SweepResults, place: int, group: SeedGroup) -> tuple[Cell, ...]:
    fronts = [_NAMES[cost.key] for cost in sweep.costs if sweep.is_on_front(cost, place)]
    peak = next(cost for cost in sweep.costs if cost.key in ("peak_bytes", "profile_peak_bytes"))
    return (
        group.name,
        len(group.finished),
        *(group.val_acc.mean, group.val_acc.std, group.test_acc.mean, group.test_acc.std),
        group.mean(lambda run: run.num_parameters),
        _macs(group.finished),
        group.mean(lambda run: run.saved_bytes),
        group.mean(peak.value),
        *(group.seconds.mean, group.seconds.std),
        ", ".join(fronts) or BLANK,
    )


_NAMES = {
    "num_parameters": "parameters",
    "macs": "FLOPs",
    "saved_bytes": "saved",
    "peak_bytes": "peak",
    "profile_peak_bytes": "peak",
    "seconds": "time",
}


def _macs(runs: Sequence[SweptRun]) -> Cell:
    known = {run.macs for run in runs}
    if len(known) != 1 or None in known:
        return None
    (macs,) = known
    assert macs is not None
    return Sum(macs, any(run.macs_lower_bound for run in runs))


# Runs -----------------------------------------------------------------------------------------


def _runs_of(group: SeedGroup) -> Table:
    columns = (
        *columns_in("text", "run", "seed", "status"),
        *columns_in("percent", "val acc", "test acc"),
        *columns_in("count", "epochs"),
        *columns_in("seconds", "time"),
    )
    rows = tuple(
        (
            *(
                _run_link(run),
                BLANK if run.seed is None else run.seed,
                run.status,
                run.val_acc,
                run.test_acc,
            ),
            *(len(run.epochs), run.seconds),
        )
        for run in group.runs
    )
    return Table(columns, rows)


def _runs_table(sweep: SweepResults) -> Table:
    columns = (
        *columns_in("text", "run", "overrides", "status"),
        *columns_in("percent", "val acc", "test acc"),
        *_FIGURES,
        *columns_in("seconds", "time"),
    )
    rows = tuple(
        (
            *(_run_link(run), _own(sweep, run), run.status),
            *(run.val_acc, run.test_acc, run.num_parameters, _macs((run,)), run.saved_bytes),
            run.seconds,
        )
        for run in sweep.runs[:MAX_ROWS]
    )
    return Table(columns, rows, note=_rest(len(sweep.runs)))


def _own(sweep: SweepResults, run: SweptRun) -> Text:
    """Return the overrides that not all runs have."""
    own = [each for each in run.overrides if each not in sweep.shared]
    return " ".join(own or run.overrides)


def _run_link(run: SweptRun) -> Cell:
    return BLANK if run.path is None else (folder_link(run),)


def _left(sweep: SweepResults, title: str, why: str, runs: Sequence[SweptRun]) -> Iterator[Block]:
    """Yield the runs without results, and why."""
    if not runs:
        return
    yield Heading(2, title)
    columns = columns_in("text", "run", "overrides", why)
    rows = tuple(
        (_run_link(run), _own(sweep, run), run.reason or run.status) for run in runs[:MAX_ROWS]
    )
    yield Table(columns, rows, note=_rest(len(runs)), cards=True)


# Drawings -------------------------------------------------------------------------------------


def _against(sweep: SweepResults, figures: Sequence[Figure]) -> Iterator[Block]:
    yield Heading(2, "Accuracy against cost")
    if figures:
        yield Beside(tuple(figures))
        yield Paragraph(
            "Small: a run; large: the mean of a setting, with one standard deviation up and down. "
            "Joined in the second colour: the Pareto front. A click on a run opens its folder.",
            "quiet",
        )
    if len(sweep.with_status("finished")) > MAX_RUNS:
        most = f"{MAX_RUNS:,} runs are drawn: those on the front, then the most accurate settings."
        yield Paragraph(most, "quiet")
    for cost in sweep.costs:
        unknown = sum(group.mean(cost.value) is None for group in sweep.groups if group.finished)
        if unknown:
            settings = f"{unknown:,} setting{'s' * (unknown > 1)}"
            yield Paragraph(f"{cost.title}: unknown for {settings}, not drawn.", "quiet")


def _learning(sweep: SweepResults, figures: Sequence[Figure]) -> Iterator[Block]:
    lengths = [len(run.epochs) for run in sweep.runs if run.epochs]
    if not figures or not lengths:
        return
    yield Heading(2, "Learning curves")
    yield Beside(tuple(figures))
    if len(lengths) > MAX_CURVES:
        yield Paragraph(f"{MAX_CURVES:,} runs are drawn, those of the best settings.", "quiet")
    if max(lengths) > MAX_CURVE_POINTS:
        yield Paragraph(f"At most {MAX_CURVE_POINTS:,} epochs of each run are drawn.", "quiet")


# On a terminal --------------------------------------------------------------------------------


def sweep_summary(sweep: SweepResults) -> tuple[Block, ...]:
    """Return the best settings, and what failed: what a person reads when a sweep ends."""
    finished = [group for group in sweep.groups if group.finished]
    shown = finished[:MAX_LINES]
    has_seeds = any(len(group.finished) > 1 for group in shown)
    columns = (
        Column("", "setting"),
        *([Column("", "seeds", "count")] if has_seeds else []),
        Column("", "parameters", "count", rank=3),
        Column("", "MACs/image", "count", rank=2),
        Column("", "saved", "bytes", brief=True, rank=1),
        Column("", "val acc", "percent"),
        *([Column("", "±", "percent")] if has_seeds else []),
        Column("", "test acc", "percent"),
        Column("", "seconds", "number", rank=4),
    )
    rows = tuple(
        (
            group.name if has_seeds else group.name_of(group.finished[0]),
            *([len(group.finished)] if has_seeds else []),
            *(group.mean(lambda run: run.num_parameters), _macs(group.finished)),
            *(group.mean(lambda run: run.saved_bytes), group.val_acc.mean),
            *([group.val_acc.std] if has_seeds else []),
            *(group.test_acc.mean, _tenths(group.seconds.mean)),
        )
        for group in shown
    )
    title = "sweep, best validation accuracy first"
    more = f"{len(finished) - len(shown):,} more settings: see sweep.html"
    failed = sweep.with_status("failed")
    others = sweep.with_status("unfinished", "not begun")
    lines = [
        *([more] if len(finished) > len(shown) else []),
        *(f"failed: job {run.folder}, {run.reason}" for run in failed[:_MAX_FAILURES]),
        *([f"{len(failed) - _MAX_FAILURES:,} more failed"] if len(failed) > _MAX_FAILURES else []),
        *([f"not finished: {len(others):,} of {len(sweep.runs):,} jobs"] if others else []),
    ]
    table = Table(columns, rows, title=title)
    if has_seeds:
        table = replace(table, note="means over seeds; ± is the sample standard deviation")
    return (table if rows else Paragraph("no run has finished"), *map(Paragraph, lines))


def _tenths(seconds: float | None) -> Cell:
    return None if seconds is None else Shown(f"{seconds:.1f}", seconds)
