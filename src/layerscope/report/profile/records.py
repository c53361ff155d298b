"""profile.json, profile.csv and audit.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from layerscope.audit import Audit
from layerscope.files import write_json
from layerscope.formatting import amount
from layerscope.reconcile.profile import LayerTiming, Peak, Profile
from layerscope.reconcile.rows import Row
from layerscope.report.profile.cells import Blank, Cell, Sum, Table
from layerscope.report.profile.tables import walkthrough_tables
from layerscope.report.tables import write_table
from layerscope.theory.table import LayerCost

FORMAT = 1
CSV_COLUMNS = (
    *("layer", "quantity", "instrument", "theory", "reasons", "predicted", "measured"),
    *("unexplained", "lower_bound"),
)


def save_profile_json(path: Path, profile: Profile) -> None:
    """The whole profile but the audit."""
    write_json(path, profile_record(profile))


def save_profile_csv(path: Path, profile: Profile) -> None:
    """A row per layer, quantity and instrument, then the totals."""
    write_table(path, CSV_COLUMNS, [_csv_row(row) for row in (*profile.rows, *profile.totals)])


def save_audit(path: Path, audit: Audit) -> None:
    """The walkthrough's figures and claims."""
    write_json(path, {"cells": plain(audit.cells), "findings": plain(audit.findings)})


def profile_record(profile: Profile) -> dict[str, Any]:
    """Plain data, no nan, no infinity."""
    return {
        "format": FORMAT,
        "settings": plain(profile.settings),
        "rows": [row_record(row) for row in profile.rows],
        "totals": [row_record(row) | {"lower_bound": row.lower_bound} for row in profile.totals],
        "peak": _peak(profile.peak),
        "time": _time(profile),
        "machine": plain(profile.machine),
        "costs": _costs(profile),
        "tables": [table_record(table) for table in walkthrough_tables(profile.costs)],
        "notes": list(profile.notes),
    }


def row_record(row: Row) -> dict[str, Any]:
    """As other programs read it."""
    return {
        "layer": row.layer,
        "quantity": row.quantity,
        "instrument": row.instrument,
        "theory": row.theory,
        "measured": row.measured,
        "reasons": [asdict(reason) for reason in row.reasons],
        "unexplained": row.unexplained,
    }


def table_record(table: Table) -> dict[str, Any]:
    """Rows as objects; null is unknown, a key that is left out has nothing to say there."""
    return {
        "key": table.key,
        "title": table.title,
        "columns": [asdict(column) for column in table.columns],
        "rows": [_cells(table, row) for row in table.rows],
        "total": None if table.total is None else _cells(table, table.total),
        "note": table.note,
    }


def plain(value: Any) -> Any:
    """Dataclasses as objects, tuples as lists; a number that is none (nan, infinite) as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _cells(table: Table, cells: Sequence[Cell]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for column, cell in zip(table.columns, cells, strict=True):
        if isinstance(cell, Blank):
            continue
        record[column.key] = plain(cell.value if isinstance(cell, Sum) else cell)
        if isinstance(cell, Sum) and cell.lower_bound:
            record.setdefault("lower_bound", []).append(column.key)
    return record


def _costs(profile: Profile) -> dict[str, Any]:
    costs = profile.costs
    return {
        "input_shape": list(costs.input_shape),
        "input_bytes": costs.input_bytes,
        "element_size": costs.element_size,
        "layers": [_cost(cost) for cost in costs.layers],
    }


def _cost(cost: LayerCost) -> dict[str, Any]:
    return plain(cost) | {"backward_flops": cost.backward_flops}


def _peak(peak: Peak) -> dict[str, Any]:
    record = plain(peak)
    record["largest_batch"] = peak.largest_batch and [
        {"memory_bytes": size, "batch_size": batch} for size, batch in peak.largest_batch.items()
    ]
    return record


def _time(profile: Profile) -> dict[str, Any] | None:
    if profile.times is None or profile.step is None:
        return None
    step = profile.step
    return {
        "step_seconds": plain(step.step_seconds),
        "profiled_step_seconds": plain(step.profiled_step_seconds),
        "repeats": step.repeats,
        "warmup": step.warmup,
        "layers": [_timing(timing) for timing in profile.times],
    }


def _timing(timing: LayerTiming) -> dict[str, Any]:
    record = plain(timing)
    record["forward_seconds"] = record.pop("forward")
    record["backward_seconds"] = record.pop("backward")
    return record


def _csv_row(row: Row) -> dict[str, object]:
    reasons = "; ".join(
        f"{reason.code} {amount(reason.amount, row.quantity)}: {reason.text}"
        for reason in row.reasons
    )
    return {
        "layer": row.layer,
        "quantity": row.quantity,
        "instrument": row.instrument,
        "theory": row.theory,
        "reasons": reasons,
        "predicted": row.predicted,
        "measured": row.measured,
        "unexplained": row.unexplained,
        "lower_bound": row.lower_bound,
    }
