"""What a person reads while and after a run. Nothing else in the project prints."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.box import SIMPLE as SIMPLE_HEAD_AND_FOOT
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text as RichText

from layerscope.base.formatting import WIDTH as PLAIN_WIDTH
from layerscope.base.formatting import longest_word, wrapped
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
            soft_wrap=True,  # Lines are broken here, where no number and no name is split.
        )

    @property
    def width(self) -> int:
        """Columns of a line."""
        return self._console.width

    def say(self, line: str) -> None:
        """Print a line as it is; on a terminal one that is too long is broken at spaces."""
        for part in line.split("\n"):
            is_long = self.is_rich and cell_len(part) > self.width
            self._console.print(RichText(wrapped(part, "  ", self.width) if is_long else part))

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
        """Show a table that is too wide as several, or row by row: nothing is cut or left out."""
        if table.title:
            self.say(wrapped(table.title, width=self.width))
        columns = _columns(table)
        parts = _parts(columns, self.width)
        for part in parts:
            self._console.print(_rich_table(part, self.width, table.total is not None))
        if not parts:
            self._rows(columns, table.total is not None)
        if table.note:
            self._paragraph(terminal_text(table.note))

    def _rows(self, columns: Sequence["_ShownColumn"], has_total: bool) -> None:
        """Show each title with its cell, a line each, those below the names of a row indented."""
        names = len(_names(columns))
        for place in range(len(columns[0].cells) + has_total):
            for number, column in enumerate(columns):
                cell = (*column.cells, column.total)[place]
                if cell:
                    self._paragraph(f"{'' if number < names else '  '}{column.title}: {cell}")
        self.say("")

    def panel(self, title: str, facts: Sequence[tuple[str, str]]) -> None:
        """Show label and value, a line each; a value that is too long stands below its label."""
        room = self.width - 4 if self.is_rich else None  # within the frame
        lines = _fact_lines(facts, room)
        if room is None or any(cell_len(line) > room for line in lines):  # a path, say
            self._console.print(RichText("\n".join([title, *lines])))
        else:
            text = RichText("\n".join(lines))
            self._console.print(Panel(text, title=title, title_align="left", expand=False))

    def progress(self) -> Progress:
        """A bar for the batches of an epoch; invisible where output is plain.

        A task has the field `figures`: texts beside the bar, the most important first.
        """
        console = self._console
        return Progress(
            _OneLine(console),
            console=console,
            transient=True,
            refresh_per_second=4,
            disable=not self.is_rich,
        )


def _fact_lines(facts: Sequence[tuple[str, str]], room: int | None) -> list[str]:
    """Return label and value side by side, or below each other where there is no room."""
    width = max(len(label) for label, _ in facts)
    lines = []
    for label, value in facts:
        line = f"{label:<{width}}  {value}"
        if room is None or cell_len(line) <= room:
            lines.append(line)
        else:
            lines += [label, *wrapped(f"  {value}", "  ", room).split("\n")]
    return lines


_LEAST_BAR, _MOST_BAR = 4, 40  # columns


class _OneLine(ProgressColumn):
    """An epoch, its bar and figures in one line, the least important figures left out first."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> RichTable:
        """Return what fits."""
        count = f"{int(task.completed)}/{int(task.total or 0)}"
        texts = [task.description, *filter(None, task.fields["figures"]), count]
        shown, room = one_line(texts, self._console.width)
        grid = RichTable.grid(padding=(0, 1))
        bar = [ProgressBar(task.total, task.completed, width=room)] if room else []
        cells = [RichText(shown[0]), *bar, *map(RichText, shown[1:])]
        for _ in cells:
            grid.add_column(no_wrap=True)
        grid.add_row(*cells)
        return grid


def one_line(texts: Sequence[str], width: int) -> tuple[list[str], int]:
    """Return the texts that fit into a line, and the columns of the bar between them.

    Args:
        texts: the most important first; all but the first are left out from the end.
    """
    shown = list(texts)
    while len(shown) > 1 and _columns_of(shown) + 1 + _LEAST_BAR > width:
        shown.pop()
    room = min(width - _columns_of(shown) - 1, _MOST_BAR)
    return shown, room if room >= _LEAST_BAR else 0


def _columns_of(texts: Sequence[str]) -> int:
    return sum(map(cell_len, texts)) + len(texts)  # the space behind each


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


@dataclass(frozen=True)
class _ShownColumn:
    """A column of a table, written out."""

    column: Column
    title: str
    cells: tuple[str, ...]
    total: str

    @property
    def width(self) -> int:
        """Columns of the terminal where no line is broken."""
        texts = (self.title, self.total, *self.cells)
        return max(cell_len(line) for text in texts for line in text.split("\n"))

    @property
    def least_width(self) -> int:
        """Columns of the terminal where texts, and titles of figures, are broken at spaces."""
        title = longest_word(self.title)
        if self.column.is_number:
            return max(title, *map(cell_len, (self.total, *self.cells)))
        return max(title, *map(longest_word, (self.total, *self.cells)))


def _columns(table: Table) -> list[_ShownColumn]:
    total = table.total or ("",) * len(table.columns)
    return [
        _ShownColumn(
            column,
            terminal_text(column.title),
            tuple(terminal_text(cell_text(row[place], column)) for row in table.rows),
            terminal_text(cell_text(total[place], column)),
        )
        for place, column in enumerate(table.columns)
    ]


def _names(columns: Sequence[_ShownColumn]) -> list[_ShownColumn]:
    """Return the columns that say what a row is about: one or two texts that it begins with."""
    second = columns[1:2] if len(columns) > 2 else ()
    return [
        columns[0],
        *(each for each in second if each.column.unit == "text" and not each.column.rank),
    ]


def _parts(columns: Sequence[_ShownColumn], width: int) -> list[list[_ShownColumn]]:
    """Divide a table into some that fit, each with the names; none where not even those fit.

    The first one has the columns of the lowest ranks.
    """
    names = _names(columns)
    shown = sorted(range(len(columns)), key=lambda place: columns[place].column.rank)

    def is_too_wide(least: bool) -> bool:
        each = [columns[place] for place in shown]
        return _table_width([c.least_width if least else c.width for c in each]) > width

    fewest = len(names) + 1
    while len(shown) > fewest and columns[shown[-1]].column.rank and is_too_wide(least=False):
        shown.pop()
    while is_too_wide(least=True):
        if len(shown) <= fewest:
            return []
        shown.pop()
    first = [column for place, column in enumerate(columns) if place in shown]
    rest = [column for place, column in enumerate(columns) if place not in shown]
    if not rest:
        return [first]
    others = _parts([*names, *rest], width)
    return [first, *others] if others else []


def _table_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(widths) + 1  # spaces between them, and at both ends


def _rich_table(columns: Sequence[_ShownColumn], width: int, has_total: bool) -> RichTable:
    table = RichTable(
        box=SIMPLE_HEAD_AND_FOOT if has_total else SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0),
        show_footer=has_total,
    )
    widths = _widths(columns, width)
    for each, columns_wide in zip(columns, widths, strict=True):
        table.add_column(
            RichText(_filled(each.title, columns_wide)),
            justify="right" if each.column.is_number else "left",
            width=columns_wide,
            footer=RichText(_filled(each.total, columns_wide)),
        )
    for row in zip(*(each.cells for each in columns), strict=True):
        filled = [_filled(cell, wide) for cell, wide in zip(row, widths, strict=True)]
        table.add_row(*map(RichText, filled))
    return table


def _widths(columns: Sequence[_ShownColumn], width: int) -> list[int]:
    """Let the widest columns whose texts can be broken give way until the table fits."""
    widths = [column.width for column in columns]
    least = [column.least_width for column in columns]
    while _table_width(widths) > width:
        spare = [place for place, wide in enumerate(widths) if wide > least[place]]
        if not spare:
            break
        widths[max(spare, key=lambda place: widths[place])] -= 1
    return widths


def _filled(text: str, width: int) -> str:
    lines = text.split("\n")
    return "\n".join(
        line if cell_len(line) <= width else wrapped(line, width=width) for line in lines
    )


def complain(line: str) -> None:
    """Print a line on stderr, without what a terminal would take for a command.

    On a terminal one that is too long is broken at spaces.
    """
    printable = "".join(c if c.isprintable() else "?" for c in line)
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        printable = wrapped(printable, "  ", Console(stderr=True).width)
    sys.stderr.write(printable + "\n")
