"""CSV files: whole, or growing by a row an epoch."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from layerscope.base.files import named_in_errors, write_text

TableRow = Mapping[str, object]


class GrowingTable:
    """Fixed columns; a row is on the disk when `append` returns.

    The rows are kept as text, so that a checkpoint can carry them and a resumed run, in this
    directory or another, starts from exactly the rows that the checkpoint knew.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = tuple(columns)
        self.lines: list[str] = []

    def start(self, lines: Sequence[str]) -> None:
        """Write the file anew: the header and these lines."""
        self.lines = list(lines)
        write_text(self._path, "".join([_line(self._columns), *self.lines]))

    def take_over(self, columns: Sequence[str], lines: Sequence[str]) -> None:
        """Begin with another table's lines; a column that it does not have stays empty."""
        rows = parse_rows(columns, lines)
        self.lines = [_line([row.get(name, "") for name in self._columns]) for row in rows]

    def rows(self) -> list[dict[str, str]]:
        """The fields of all lines by column, as text."""
        return parse_rows(self._columns, self.lines)

    def append(self, row: TableRow) -> None:
        """Every column has a value; None is written as an empty field."""
        assert set(row) == set(self._columns), set(row) ^ set(self._columns)
        line = _line([_text(row[column]) for column in self._columns])
        with named_in_errors(self._path):
            self._append(line)
        self.lines.append(line)

    def _append(self, line: str) -> None:
        size = self._path.stat().st_size
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):  # half a row on a full disk is none
                os.truncate(self._path, size)
            raise


def parse_rows(columns: Sequence[str], lines: Sequence[str]) -> list[dict[str, str]]:
    """The fields of such lines by column, as text."""
    return [
        dict(zip(columns, fields, strict=True))
        for fields in csv.reader(io.StringIO("".join(lines)))
    ]


def write_table(path: Path, columns: Sequence[str], rows: Sequence[TableRow]) -> None:
    """A whole CSV file at once, atomically."""
    lines = [_line([_text(row[column]) for column in columns]) for row in rows]
    write_text(path, "".join([_line([_text(column) for column in columns]), *lines]))


def _line(fields: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _text(value: object) -> str:
    if isinstance(value, str):
        return _harmless(value)
    return "" if value is None else str(value)


def _harmless(text: str) -> str:
    """A spreadsheet takes a cell that begins like this for a formula, and runs it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
