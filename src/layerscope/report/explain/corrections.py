"""The walkthrough's own tables with the audit's corrections marked, for its own network."""

from collections.abc import Iterator
from dataclasses import dataclass

from layerscope.audit import Audit, JudgedClaim, JudgedFigure
from layerscope.explain.explanation import Explanation
from layerscope.report.document import (
    Block,
    Break,
    Bullets,
    Column,
    Heading,
    Paragraph,
    Strong,
    Struck,
    Table,
    Text,
    columns_in,
    markup,
)

TITLE = "The walkthrough's tables, corrected"


@dataclass(frozen=True)
class _PrintedTable:
    """Cells by row and column; both in the order in which they are printed."""

    section: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], JudgedFigure]


def corrections_section(explanation: Explanation) -> Iterator[Block]:
    """Yield nothing for another network, batch size or dtype than the walkthrough's."""
    audit = explanation.audit
    if audit is None:
        return
    yield Heading(2, TITLE)
    yield Paragraph(
        markup(
            "The walkthrough is the worked theory of this very network, end to end and by hand: "
            "three blocks, a batch of 32, float32. Layerscope started from it; every figure that "
            "it prints is recomputed here. A ~~wrong~~ one is struck through, as it is printed "
            "there, and the **right** one stands beside it. One that is off by no more than a unit "
            "of its last digit is rounding: the exact one follows in brackets. In these tables MB "
            "is 2^20 B, KB is 2^10 B, and M is 10^6."
        )
    )
    for table in _printed_tables(audit):
        yield Heading(3, f"Corrected: {table.section}")
        yield _table(table)
        wrong = sum(cell.verdict == "wrong" for cell in table.cells.values())
        how_many = f"{wrong:,} of them wrong" if wrong else "none of them wrong"
        yield Paragraph(f"{len(table.cells):,} figures, {how_many}.")
    yield from _sentences(audit)


def _printed_tables(audit: Audit) -> list[_PrintedTable]:
    sections: dict[str, dict[tuple[str, str], JudgedFigure]] = {}
    for cell in audit.cells:
        if cell.place == "table":
            section, row, column = cell.where.split(" / ")
            sections.setdefault(section, {})[row, column] = cell
    return [
        _PrintedTable(
            section,
            tuple(dict.fromkeys(row for row, _ in cells)),
            tuple(dict.fromkeys(column for _, column in cells)),
            cells,
        )
        for section, cells in sections.items()
    ]


def _table(table: _PrintedTable) -> Table:
    titles = [Column("", c, "text" if "Shape" in c else "number") for c in table.columns]
    rows = [
        (row, *(_marked(table.cells.get((row, column))) for column in table.columns))
        for row in table.rows
    ]
    return Table((Column("", ""), *titles), tuple(rows))


def _marked(cell: JudgedFigure | None) -> Text:
    if cell is None:
        return ""
    if cell.verdict == "wrong":
        return (Struck(cell.printed), " ", Strong(cell.right))
    return f"{cell.printed} ({cell.right})" if cell.verdict == "rounding" else cell.printed


def _sentences(audit: Audit) -> Iterator[Block]:
    """Yield what is wrong outside of the tables, and the claims."""
    off = [cell for cell in audit.cells if cell.place != "table" and cell.verdict == "wrong"]
    if off:
        yield Heading(3, "Corrected: figures in the running text")
        columns = (*columns_in("text", "where", "what"), *columns_in("number", "printed", "right"))
        yield Table(columns, tuple((c.where, c.paraphrase, c.printed, c.right) for c in off))
    if audit.findings:
        yield Heading(3, "Corrected: sentences")
        yield Bullets(tuple(map(_judged, audit.findings)))


def _judged(finding: JudgedClaim) -> Text:
    right, why = f" {finding.right}", f" {finding.why}"
    return (finding.claim, Break(), Strong("Right:"), right, Break(), Strong("Why:"), why)
