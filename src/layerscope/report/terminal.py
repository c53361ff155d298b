"""What a person reads while and after a run. Nothing else in the project prints."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.box import SIMPLE as SIMPLE_HEAD_AND_FOOT
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text as RichText

from layerscope.base.formatting import WIDTH as PLAIN_WIDTH
from layerscope.base.formatting import wrapped
from layerscope.report.document import (
    Beside,
    Block,
    Break,
    Bullets,
    Code,
    Column,
    Contents,
    Facts,
    Figure,
    Folded,
    Formula,
    Heading,
    Link,
    Math,
    Paragraph,
    Space,
    Span,
    Strong,
    Struck,
    Table,
    Text,
    cell_text,
    spans_of,
)
from layerscope.report.latex import plain_formula


class Screen:
    """Rich output on a terminal, plain lines where stdout is none or NO_COLOR is set."""

    def __init__(self, silent: bool = False) -> None:
        self.is_rich = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._silent = silent  # the ranks of a distributed run that are not the first

    @property
    def _console(self) -> Console:
        """Made anew each time: a console holds a lock, and a screen travels to other processes."""
        return Console(
            width=None if self.is_rich else PLAIN_WIDTH,
            force_terminal=None if self.is_rich else False,
            color_system="auto" if self.is_rich else None,
            highlight=False,
            quiet=self._silent,
            soft_wrap=not self.is_rich,
        )

    @property
    def width(self) -> int:
        """Columns of a line."""
        return self._console.width

    def say(self, line: str) -> None:
        """Print one line, as it is."""
        self._console.print(RichText(line))

    def show(self, *blocks: Block) -> None:
        """Show what a report says, no line wider than the screen as far as words can be broken."""
        for block in blocks:
            match block:
                case Heading(_, text):
                    self.say(wrapped(terminal_text(text), width=self.width))
                case Paragraph(text, role):
                    self._paragraph(("Note: " if role == "note" else "") + terminal_text(text))
                case Bullets(items):
                    for item in items:
                        self._paragraph(f"  {terminal_text(item)}")
                case Facts(pairs):
                    for name, text in pairs:
                        self._paragraph(f"{name.capitalize()}: {terminal_text(text)}.")
                case Formula(latex):
                    self._paragraph(f"    {plain_formula(latex)}")
                case Table():
                    self._table(block)
                case Beside(inside):
                    self.show(*inside)
                case Folded(title, inside):
                    self.show(Heading(2, title), *inside)
                case Figure(alt):
                    self._paragraph(alt)
                case Space():
                    self.say("")
                case Contents():
                    pass

    def _paragraph(self, text: str) -> None:
        for line in text.split("\n"):
            self.say(wrapped(line, "  ", self.width))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        num_text_columns: int = 1,
        total: Sequence[str] | None = None,
    ) -> None:
        """Show rows of text; all but the first columns are numbers, and the total stands apart."""
        typed = [
            Column("", name, "text" if place < num_text_columns else "number")
            for place, name in enumerate(columns)
        ]
        self.show(
            Table(
                tuple(typed),
                tuple(tuple(row) for row in rows),
                None if total is None else tuple(total),
                title,
            )
        )

    def _table(self, table: Table) -> None:
        """Show short figures where it is too wide, and fewer columns where these are too."""
        if table.title:
            self.say(wrapped(table.title, width=self.width))
        columns = _columns(table, None)
        if len(_fitting(columns, self.width)) < len(columns):
            columns = _fitting(_columns(table, True), self.width)
        self._console.print(_rich_table(columns, table.total is not None))
        if table.note:
            self._paragraph(terminal_text(table.note))

    def panel(self, title: str, facts: Sequence[tuple[str, str]]) -> None:
        """Show label and value, a line each."""
        width = max(len(label) for label, _ in facts)
        lines = RichText("\n".join(f"{label:<{width}}  {value}" for label, value in facts))
        if self.is_rich:
            self._console.print(Panel(lines, title=title, title_align="left", expand=False))
        else:
            self._console.print(RichText(title), lines, sep="\n")

    def progress(self) -> Progress:
        """A bar for the batches of an epoch; invisible where output is plain."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            disable=not self.is_rich,
        )


class TextScreen(Screen):
    """Keeps what is shown as plain text instead of printing it."""

    def __init__(self, width: int = PLAIN_WIDTH) -> None:
        super().__init__()
        self.is_rich = False
        self._file = StringIO()
        self._width = width

    @property
    def text(self) -> str:
        """Return what was shown so far, without spaces at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._file.getvalue().split("\n")).rstrip("\n")

    @property
    def _console(self) -> Console:
        return Console(
            width=self._width,
            file=self._file,
            force_terminal=False,
            force_jupyter=False,
            color_system=None,
            highlight=False,
            soft_wrap=True,
        )


def terminal_text(text: Text) -> str:
    """Return a text without colour or weight; a formula in plain letters."""
    return "".join(_plain(span) for span in spans_of(text))


def _plain(span: Span) -> str:
    match span:
        case str():
            return span
        case Math(latex):
            return plain_formula(latex)
        case Break():
            return "\n"
        case Strong(text) | Code(text) | Link(text):
            return terminal_text(text)
        case Struck(text):
            return f"~{terminal_text(text)}~"


_LEAST_NAME = 8  # columns of a terminal


@dataclass(frozen=True)
class _ShownColumn:
    """A column of a table, written out."""

    column: Column
    title: str
    cells: tuple[str, ...]
    total: str

    @property
    def width(self) -> int:
        texts = (self.title, self.total, *self.cells)
        return max(len(line) for text in texts for line in text.split("\n"))


def _columns(table: Table, brief: bool | None) -> list[_ShownColumn]:
    """Write out the cells, with short figures where `brief` is true."""
    total = table.total or ("",) * len(table.columns)
    return [
        _ShownColumn(
            column,
            terminal_text(column.title),
            tuple(terminal_text(cell_text(row[place], column, brief)) for row in table.rows),
            terminal_text(cell_text(total[place], column, brief)),
        )
        for place, column in enumerate(table.columns)
    ]


def _fitting(columns: Sequence[_ShownColumn], width: int) -> list[_ShownColumn]:
    """Leave out columns of the highest ranks until the others fit."""
    shown = list(columns)
    while sum(column.width + 1 for column in shown) + 1 > width:
        last = max(shown, key=lambda each: each.column.rank)
        if last.column.rank == 0:
            break
        shown.remove(last)
    return shown


def _rich_table(columns: Sequence[_ShownColumn], has_total: bool) -> RichTable:
    table = RichTable(
        box=SIMPLE_HEAD_AND_FOOT if has_total else SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0),
        show_footer=has_total,
    )
    for each in columns:
        is_number = each.column.is_number
        table.add_column(
            RichText(each.title),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,  # names give way, figures do not
            min_width=None if is_number else min(each.width, _LEAST_NAME),
            footer=RichText(each.total),
        )
    for row in zip(*(each.cells for each in columns), strict=True):
        table.add_row(*map(RichText, row))
    return table


def complain(line: str) -> None:
    """Print a line on stderr, without what a terminal would take for a command."""
    sys.stderr.write("".join(c if c.isprintable() else "?" for c in line) + "\n")
