"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from layerscope.report.document import Document, Table
from layerscope.report.markdown import to_markdown


def pipes(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """A table; the columns are titles and whether they are numbers. Cells are markup already."""
    titles = [title for title, _ in columns]
    rules = ["---:" if is_number else ":---" for _, is_number in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows))


def table_markdown(table: Table) -> str:
    """The total in bold, the note below."""
    return to_markdown(Document("", (replace(table, title=""),))).rstrip("\n")
