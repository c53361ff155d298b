"""A comparison of the accounts as a row of a table, for every format and file."""

from collections.abc import Sequence
from typing import Any

from layerscope.base.formatting import amount, seconds_short, unit_of
from layerscope.reconcile.rows import Row
from layerscope.report.document import BLANK, Break, Cell, Column, Sum, Table, Text, joined

_COLUMNS = {
    column.key: column
    for column in (
        Column("layer", "layer"),
        Column("type", "type"),
        Column("quantity", "quantity"),
        Column("instrument", "instrument"),
        Column("theory", "theory", "count", rank=1),
        Column("theory_not_counted", "not counted", "count", rank=3),
        Column("reasons", "reasons"),
        Column("predicted", "predicted", "count", rank=2),
        Column("measured", "measured", "count"),
        Column("unexplained", "unexplained", "signed"),
    )
}
OF_TOTALS = tuple(name for name in _COLUMNS if name not in ("layer", "type"))


def comparison_table(
    rows: Sequence[Row],
    names: Sequence[str] = tuple(_COLUMNS),
    title: str = "",
    with_units: bool = True,
) -> Table:
    """Return rows of the accounts as a table; those that something is left over of are flagged.

    Args:
        names: of the columns.
        with_units: beside each quantity stands its unit.
    """
    cells = [row_cells(row, with_units) for row in rows]
    return Table(
        tuple(_COLUMNS[name] for name in names),
        tuple(tuple(each[name] for name in names) for each in cells),
        title=title,
        flagged=frozenset(number for number, row in enumerate(rows) if not holds(row)),
        cards=True,
    )


def row_cells(row: Row, with_unit: bool = True) -> dict[str, Cell]:
    """Return a row's cells by column: what is not counted as such, what is unknown as unknown."""
    compared = row.counted and not is_time(row)
    theory: Cell = row.theory or BLANK
    predicted: Cell = theory
    if compared:
        # At least 0 is no more than not knowing.
        is_known = row.theory is not None and (row.theory or not row.lower_bound)
        theory = Sum(row.theory or 0, row.lower_bound) if is_known else None
        predicted = row.predicted
    unit = "" if is_time(row) or not with_unit else unit_of(row.quantity)
    return {
        "layer": row.layer,
        "type": row.type or BLANK,
        "quantity": f"{row.quantity}, {unit}" if unit else row.quantity,
        "instrument": row.instrument,
        "theory": theory,
        "theory_not_counted": BLANK if row.theory_not_counted == 0 else row.theory_not_counted,
        "reasons": _reasons(row) if row.reasons else BLANK,
        "predicted": predicted,
        "measured": _measured(row),
        "unexplained": row.unexplained if compared and row.measured is not None else BLANK,
    }


def _reasons(row: Row) -> Text:
    lines = (f"{amount(each.amount, row.quantity)}: {each.text}" for each in row.reasons)
    return joined(lines, (Break(),))


def _measured(row: Row) -> Cell:
    if not row.counted:
        return "not compared" if row.theory else "not counted"
    if row.measured is None:
        return "not measured"
    return seconds_short(row.measured) if is_time(row) else int(row.measured)


def row_record(row: Row) -> dict[str, Any]:
    """Return a row as other programs read it."""
    return {
        "layer": row.layer,
        "type": row.type,
        "quantity": row.quantity,
        "instrument": row.instrument,
        "theory": row.theory,
        "theory_not_counted": row.theory_not_counted,
        # The source is left out where it is the operations and settings, as nearly everywhere.
        "reasons": [
            {name: value for name, value in vars(reason).items() if value is not None}
            for reason in row.reasons
        ],
        "predicted": row.predicted,
        "measured": row.measured,
        "unexplained": row.unexplained,
        "counted": row.counted,
    }


def flat_record(row: Row) -> dict[str, object]:
    """Return a row without nesting: its reasons are one text."""
    reasons = "; ".join(
        f"{reason.code} {amount(reason.amount, row.quantity)}: {reason.text}"
        for reason in row.reasons
    )
    return row_record(row) | {"reasons": reasons, "lower_bound": row.lower_bound}


def holds(row: Row) -> bool:
    """Tell whether nothing that could be compared is left over."""
    return not (row.is_exact and row.counted and row.unexplained)


def is_time(row: Row) -> bool:
    """Tell whether the row is of seconds, of which there is no theory."""
    return row.quantity.endswith("_seconds")
