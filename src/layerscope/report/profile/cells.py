"""A table of values, not yet text: what the files and the pages of a profile have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layerscope.base.formatting import (
    UNKNOWN,
    at_least,
    bytes_exact,
    count_exact,
    shapes_tuple,
    share,
)
from layerscope.dry_run import Shape

Unit = Literal["text", "shapes", "count", "bytes", "flops", "share"]


@dataclass(frozen=True)
class Column:
    """What stands below it, under one name in files and another on paper."""

    key: str
    title: str
    unit: Unit

    @property
    def is_number(self) -> bool:
        """Right-aligned, and sorted by value."""
        return self.unit not in ("text", "shapes")


@dataclass(frozen=True)
class Sum:
    """A sum of what is known; with `lower_bound`, something is not."""

    value: int
    lower_bound: bool = False


@dataclass(frozen=True)
class Blank:
    """Nothing belongs here, which is not the same as unknown."""


Cell = str | int | float | tuple[Shape, ...] | Sum | Blank | None


@dataclass(frozen=True)
class Table:
    """Rows as long as `columns`; None is unknown.

    Args:
        total: of the column; its first cell says what it includes.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] | None = None
    note: str = ""


BLANK = Blank()


def cell_text(cell: Cell, unit: Unit) -> str:
    """Exact, with the unit."""
    if isinstance(cell, Blank):
        return "–"
    if isinstance(cell, Sum):
        return at_least(cell_text(cell.value, unit), cell.lower_bound)
    if isinstance(cell, tuple):
        return shapes_tuple(cell) or "–"
    if cell is None or isinstance(cell, str):
        return UNKNOWN if cell is None else cell
    if unit == "share":
        return share(cell)
    return bytes_exact(int(cell)) if unit == "bytes" else count_exact(int(cell))


def row_texts(table: Table, row: Sequence[Cell]) -> list[str]:
    """A row, or the total, of this table."""
    columns = zip(row, table.columns, strict=True)
    return [cell_text(cell, column.unit) for cell, column in columns]
