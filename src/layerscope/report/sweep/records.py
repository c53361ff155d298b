"""sweep.json and sweep.csv: a record for each run, best validation accuracy first."""

from pathlib import Path
from typing import Any

from layerscope.base.files import write_json
from layerscope.config.overrides import key_of
from layerscope.report.sweep.results import SweepResults
from layerscope.report.sweep.runs import SweptRun
from layerscope.report.sweep.seeds import SeedGroup
from layerscope.report.tables import write_table

Record = dict[str, Any]


def save_sweep_json(path: Path, sweep: SweepResults) -> None:
    """Write the records."""
    write_json(path, sweep_records(sweep))


def save_sweep_csv(path: Path, sweep: SweepResults) -> None:
    """Write the same with a column for each key that was overridden, and lists as words."""
    records = sweep_records(sweep)
    facts = [name for name in records[0] if name not in ("job", "overrides", "setting")]
    rows = [
        {**_values(record["overrides"], facts), **record, "pareto": " ".join(record["pareto"])}
        for record in records
    ]
    keys = dict.fromkeys(key for record in records for key in _values(record["overrides"], facts))
    write_table(path, ["job", *keys, *facts], [dict.fromkeys(keys) | row for row in rows])


def sweep_records(sweep: SweepResults) -> list[Record]:
    """Return the records as plain data; unknown is None."""
    records = [
        _record(run, group, [cost.key for cost in sweep.costs if sweep.is_on_front(cost, place)])
        for place, group in enumerate(sweep.groups)
        for run in group.runs
    ]
    return sorted(records, key=_best_first)


def _record(run: SweptRun, group: SeedGroup, fronts: list[str]) -> Record:
    return {
        "job": run.job,
        "overrides": list(run.overrides),
        "num_parameters": run.num_parameters,
        "macs": run.macs,
        "saved_bytes": run.saved_bytes,
        "val/acc": run.val_acc,
        "test/acc": run.test_acc,
        "seconds": run.seconds,
        "status": run.status,
        "reason": run.reason,
        "folder": run.folder,
        "epochs": len(run.epochs),
        "batch_size": run.batch_size,
        "macs_lower_bound": run.macs_lower_bound,
        "peak_bytes": run.peak_bytes,
        "profile_peak_bytes": run.profile_peak_bytes,
        "setting": list(group.setting),
        "num_seeds": len(group.finished),
        **{
            f"{name}_{part}": getattr(spread, part)
            for name, spread in (
                ("val/acc", group.val_acc),
                ("test/acc", group.test_acc),
                ("seconds", group.seconds),
            )
            for part in ("mean", "std")
        },
        "pareto": fronts,
    }


def _best_first(record: Record) -> tuple[bool, float]:
    return (record["val/acc"] is None, -(record["val/acc"] or 0.0))


def _values(overrides: list[str], facts: list[str]) -> dict[str, str]:
    """Return what is overridden by key; a key that is called like a fact is told from it."""
    named: dict[str, str] = {}
    for override in overrides:
        key = key_of(override)
        taken = key in facts or key in ("job", "overrides", "setting")
        value = "~" if override.startswith("~") else override.partition("=")[2]
        named[f"{key} (override)" if taken else key] = value
    return named
