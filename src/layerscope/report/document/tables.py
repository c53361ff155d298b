"""Tables in Markdown."""

from collections.abc import Iterable, Sequence

from layerscope.report.document.escape import escaped
from layerscope.report.profile.cells import Table, row_texts


def pipes(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """A table; the columns are titles and whether they are numbers. Cells are markup already."""
    titles = [title for title, _ in columns]
    rules = ["---:" if is_number else ":---" for _, is_number in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows))


def table_markdown(table: Table) -> str:
    """The total in bold, the note below."""
    columns = [(escaped(column.title), column.is_number) for column in table.columns]
    rows = [[escaped(text) for text in row_texts(table, row)] for row in table.rows]
    if table.total is not None:
        rows.append([f"**{escaped(text)}**" for text in row_texts(table, table.total)])
    parts = [pipes(columns, rows), escaped(table.note)]
    return "\n\n".join(part for part in parts if part)


def titled_table(table: Table, level: int = 3) -> str:
    """Under a heading of its own."""
    return f"{'#' * level} {escaped(table.title)}\n\n{table_markdown(table)}"
