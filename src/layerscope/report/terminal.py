"""What a person reads while and after a run. Nothing else in the project prints."""

import os
import sys
from collections.abc import Sequence
from io import StringIO

from rich.box import SIMPLE as SIMPLE_HEAD_AND_FOOT
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 100


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
        """One line, as it is."""
        self._console.print(Text(line))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        num_text_columns: int = 1,
        total: Sequence[str] | None = None,
        tight: bool = False,
    ) -> None:
        """The first columns are text, the others numbers, right-aligned; the total stands apart.

        `tight`: one space between columns, for tables that would not fit otherwise.
        """
        table = Table(
            title=Text(title),
            title_justify="left",
            box=SIMPLE_HEAD if total is None else SIMPLE_HEAD_AND_FOOT,
            pad_edge=False,
            padding=(0, 0) if tight else (0, 1),
            show_footer=total is not None,
        )
        for number, column in enumerate(columns):
            table.add_column(
                column,
                justify="left" if number < num_text_columns else "right",
                overflow="fold",
                no_wrap=tight and number >= num_text_columns,  # names give way, figures do not
                footer="" if total is None else Text(total[number]),
            )
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table)

    def panel(self, title: str, facts: Sequence[tuple[str, str]]) -> None:
        """Label and value, a line each."""
        width = max(len(label) for label, _ in facts)
        lines = Text("\n".join(f"{label:<{width}}  {value}" for label, value in facts))
        if self.is_rich:
            self._console.print(Panel(lines, title=title, title_align="left", expand=False))
        else:
            self._console.print(Text(title), lines, sep="\n")

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
        """Return everything so far, without spaces at the ends of lines."""
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


def complain(line: str) -> None:
    """One line on stderr, without what a terminal would take for a command."""
    sys.stderr.write("".join(c if c.isprintable() else "?" for c in line) + "\n")
