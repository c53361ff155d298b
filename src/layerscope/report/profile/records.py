"""profile.json and profile.csv."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from layerscope.base.files import write_json
from layerscope.base.formatting import amount
from layerscope.reconcile.profile import LayerTiming, Profile
from layerscope.reconcile.rows import Reason, Row
from layerscope.reconcile.settings import ProfileSettings
from layerscope.report.profile.cells import Blank, Cell, Sum, Table
from layerscope.report.profile.operations import layer_records
from layerscope.report.profile.tables import walkthrough_tables
from layerscope.report.tables import write_table
from layerscope.theory.table import LayerCost

FORMAT = 2
# Name and dtype in pandas: counts are exact integers, or nothing where they are not known.
ROW_COLUMNS = (
    *(("layer", "object"), ("type", "object"), ("quantity", "object"), ("instrument", "object")),
    *(("theory", "Int64"), ("theory_not_counted", "Int64"), ("reasons", "object")),
    *(("predicted", "Int64"), ("measured", "Float64"), ("unexplained", "Float64")),
    *(("counted", "bool"), ("lower_bound", "bool")),
)
CSV_COLUMNS = tuple(name for name, _ in ROW_COLUMNS)


def save_profile_json(path: Path, profile: Profile) -> None:
    """Write the whole profile but the audit."""
    write_json(path, profile_record(profile))


def save_profile_csv(path: Path, profile: Profile) -> None:
    """Write a row per layer, quantity and instrument, then the totals."""
    write_table(path, CSV_COLUMNS, [_flat(row) for row in (*profile.rows, *profile.totals)])


def table_columns(rows: Sequence[Row]) -> tuple[tuple[str, str, list[Any]], ...]:
    """Return name, dtype in pandas and values of each column of the rows."""
    records = [_flat(row) for row in rows]
    return tuple((name, dtype, [r[name] for r in records]) for name, dtype in ROW_COLUMNS)


def profile_record(profile: Profile) -> dict[str, Any]:
    """Return the profile as plain data: no nan, no infinity."""
    return {
        "format": FORMAT,
        "settings": settings_record(profile.settings),
        "comparisons": plain(profile.comparisons),
        "rows": [row_record(row) for row in profile.rows],
        "totals": [row_record(row) | {"lower_bound": row.lower_bound} for row in profile.totals],
        "peak": plain(profile.peak),
        "layers": layer_records(profile),
        "time": _time(profile),
        "machine": plain(profile.machine),
        "costs": _costs(profile),
        "tables": [table_record(table) for table in walkthrough_tables(profile.costs)],
        "notes": list(profile.notes),
    }


def settings_record(settings: ProfileSettings) -> dict[str, Any]:
    """Return the settings as other programs read them; the optimizer by its name."""
    return plain(settings) | {"optimizer": settings.optimizer_name}


def row_record(row: Row) -> dict[str, Any]:
    """Return a row as other programs read it."""
    return {
        "layer": row.layer,
        "type": row.type,
        "quantity": row.quantity,
        "instrument": row.instrument,
        "theory": row.theory,
        "theory_not_counted": row.theory_not_counted,
        "reasons": [_reason(reason) for reason in row.reasons],
        "predicted": row.predicted,
        "measured": row.measured,
        "unexplained": row.unexplained,
        "counted": row.counted,
    }


def _reason(reason: Reason) -> dict[str, Any]:
    """Leave out the source where it is the operations and settings, as nearly everywhere."""
    return {name: value for name, value in asdict(reason).items() if value is not None}


def table_record(table: Table) -> dict[str, Any]:
    """Return rows as objects; null is unknown, a key that is left out has nothing to say there."""
    return {
        "key": table.key,
        "title": table.title,
        "columns": [asdict(column) for column in table.columns],
        "rows": [_cells(table, row) for row in table.rows],
        "total": None if table.total is None else _cells(table, table.total),
        "note": table.note,
    }


def plain(value: Any) -> Any:
    """Return dataclasses as objects, tuples as lists, a number that is none (nan) as null."""
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


def _flat(row: Row) -> dict[str, object]:
    """Return a row without nesting: its reasons are one text."""
    reasons = "; ".join(
        f"{reason.code} {amount(reason.amount, row.quantity)}: {reason.text}"
        for reason in row.reasons
    )
    return row_record(row) | {"reasons": reasons, "lower_bound": row.lower_bound}
