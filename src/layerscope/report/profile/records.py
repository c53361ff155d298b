"""profile.json and profile.csv."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch

from layerscope.base.files import write_json
from layerscope.compare import FORMAT, SavedProfile, saved_profile
from layerscope.reconcile.account import Account
from layerscope.reconcile.profile import LayerTiming, Profile
from layerscope.reconcile.rows import Row
from layerscope.reconcile.settings import ProfileSettings
from layerscope.report.document import Blank, Cell, Column, Sum, Table, plain
from layerscope.report.profile.rows import flat_record, row_record
from layerscope.report.profile.tables import walkthrough_tables
from layerscope.report.tables import write_table
from layerscope.theory import CountedUnit, LayerCost

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
    write_table(path, CSV_COLUMNS, [flat_record(row) for row in (*profile.rows, *profile.totals)])


def table_columns(rows: Sequence[Row]) -> tuple[tuple[str, str, list[Any]], ...]:
    """Return name, dtype in pandas and values of each column of the rows."""
    records = [flat_record(row) for row in rows]
    return tuple((name, dtype, [r[name] for r in records]) for name, dtype in ROW_COLUMNS)


def profile_record(profile: Profile) -> dict[str, Any]:
    """Return the profile as plain data: no nan, no infinity."""
    return {
        "format": FORMAT,
        "settings": settings_record(profile.settings),
        "torch_version": str(torch.__version__),
        "comparisons": json_value(profile.comparisons),
        "rows": [row_record(row) for row in profile.rows],
        "totals": [row_record(row) | {"lower_bound": row.lower_bound} for row in profile.totals],
        "peak": json_value(profile.peak),
        "layers": layer_records(profile),
        "time": _time(profile),
        "machine": json_value(profile.machine),
        "costs": _costs(profile),
        "other_tools": json_value(profile.other_tools),
        "tables": [table_record(table) for table in walkthrough_tables(profile.costs)],
        "notes": list(profile.notes),
    }


def comparable(profile: Profile, source: str) -> SavedProfile:
    """Return a profile in the form in which profiles are compared.

    Args:
        source: names it in messages.
    """
    return saved_profile(profile_record(profile), source)


def settings_record(settings: ProfileSettings) -> dict[str, Any]:
    """Return the settings as other programs read them; the optimizer by its name."""
    return json_value(settings) | {"optimizer": settings.optimizer_name}


def table_record(table: Table) -> dict[str, Any]:
    """Return rows as objects; null is unknown, a key that is left out has nothing to say there."""
    return {
        "key": table.key,
        "title": table.title,
        "columns": [_column(column) for column in table.columns],
        "rows": [_cells(table, row) for row in table.rows],
        "total": None if table.total is None else _cells(table, table.total),
        "note": table.note,
    }


def _column(column: Column) -> dict[str, str]:
    return {"key": column.key, "title": plain(column.title), "unit": column.unit}


def json_value(value: Any) -> Any:
    """Return dataclasses as objects, tuples as lists, a number that is none (nan) as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: json_value(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
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
        record[column.key] = json_value(cell.value if isinstance(cell, Sum) else cell)
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
    return json_value(cost) | {"backward_flops": cost.backward_flops}


def _time(profile: Profile) -> dict[str, Any] | None:
    if profile.times is None or profile.step is None:
        return None
    step = profile.step
    return {
        "step_seconds": json_value(step.step_seconds),
        "profiled_step_seconds": json_value(step.profiled_step_seconds),
        "repeats": step.repeats,
        "warmup": step.warmup,
        "layers": [_timing(timing) for timing in profile.times],
    }


def _timing(timing: LayerTiming) -> dict[str, Any]:
    record = json_value(timing)
    record["forward_seconds"] = record.pop("forward")
    record["backward_seconds"] = record.pop("backward")
    return record


# Operations -----------------------------------------------------------------------------------

_NO_COSTS = {"macs": 0, "forward_flops": 0}


def layer_records(profile: Profile) -> list[dict[str, Any]]:
    """Return every layer with its operations and the textbook's costs, in execution order.

    What runs between layers stands under the path of the module that runs it, without a type.
    """
    operations = operations_by_layer(profile.account)
    costs = {cost.layer: cost for cost in profile.costs.layers}
    return [
        {
            "layer": layer,
            "type": type_,
            "path": costs[layer].path if layer in costs else layer,
            "operations": operations.get(layer, []),
            **_layer_costs(costs.get(layer)),
        }
        for layer, type_ in profile.account.types.items()
    ]


def operations_by_layer(account: Account) -> Mapping[str, list[dict[str, Any]]]:
    """Return the forward operations of each layer, in order.

    A function that owns the cost of its operations (`conv2d`, `batch_norm`) lends it to the first
    of them, so that the operations of a layer add up to the layer. Where such a function runs no
    operation at all, it stands there itself, by its name.
    """
    saved = _saved_by_operation(account)
    found: dict[str, list[dict[str, Any]]] = {}
    for unit in account.units:
        if not unit.backward or unit.operations:
            found.setdefault(unit.layer, []).extend(_of_unit(account, unit, saved))
    return found


def _of_unit(
    account: Account, unit: CountedUnit, saved: Mapping[int, int]
) -> Iterator[dict[str, Any]]:
    costs: Mapping[str, int | None] = unit.costs.counts
    if not unit.operations:
        yield _operation(unit.name, costs, 0)
    for number in unit.operations:
        operation = account.run.operations[number]
        yield _operation(operation.base_name, costs, saved.get(number, 0))
        costs = _NO_COSTS


def _operation(name: str, costs: Mapping[str, int | None], saved_bytes: int) -> dict[str, Any]:
    return {
        "name": name,
        "phase": "forward",
        "macs": costs["macs"],
        "flops": costs["forward_flops"],
        "saved_bytes": saved_bytes,
    }


def _saved_by_operation(account: Account) -> Mapping[int, int]:
    """Return the bytes that each operation allocated and autograd saved, each storage once."""
    found: dict[int, int] = {}
    for number in {record.storage for record in account.run.saved}:
        storage = account.run.storages[number]
        if storage.operation is not None:
            found[storage.operation] = found.get(storage.operation, 0) + storage.num_bytes
    return found


def _layer_costs(cost: LayerCost | None) -> dict[str, Any]:
    """Return the textbook's costs; null where it knows no layer of this name."""
    names = (
        *("num_calls", "num_parameters", "parameter_bytes", "buffer_bytes", "output_elements"),
        *("output_bytes", "macs", "forward_flops", "backward_flops", "bias_gradient_flops"),
    )
    return {name: None if cost is None else getattr(cost, name) for name in names}
