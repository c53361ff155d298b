"""The walkthrough's own tables with the audit's corrections marked, for its own network."""

from dataclasses import dataclass

from layerscope.audit import Audit, Cell, Finding
from layerscope.explain.explanation import Explanation
from layerscope.report.document.escape import escaped
from layerscope.report.document.tables import pipes

TITLE = "The walkthrough's tables, corrected"


@dataclass(frozen=True)
class _PrintedTable:
    """Cells by row and column; both in the order in which they are printed."""

    section: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]


def corrections_section(explanation: Explanation) -> str:
    """Return nothing for another network, batch size or dtype than the walkthrough's."""
    audit = explanation.audit
    if audit is None:
        return ""
    parts = [
        f"## {TITLE}",
        "The walkthrough is the worked theory of this very network, end to end and by hand: three "
        "blocks, a batch of 32, float32. Layerscope started from it; every figure that it prints "
        "is recomputed here. A ~~wrong~~ one is struck through, as it is printed there, and the "
        "**right** one stands beside it. One that is off by no more than a unit of its last digit "
        "is rounding: the exact one follows in brackets. In these tables MB is 2^20 B, KB is "
        "2^10 B, and M is 10^6.",
        *(_table(table) for table in _printed_tables(audit)),
        *_sentences(audit),
    ]
    return "\n\n".join(parts)


def _printed_tables(audit: Audit) -> list[_PrintedTable]:
    sections: dict[str, dict[tuple[str, str], Cell]] = {}
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


def _table(table: _PrintedTable) -> str:
    columns = [("", False)]
    columns += [(escaped(column), "Shape" not in column) for column in table.columns]
    rows = [
        [escaped(row), *(_marked(table.cells.get((row, column))) for column in table.columns)]
        for row in table.rows
    ]
    wrong = sum(cell.verdict == "wrong" for cell in table.cells.values())
    count = (
        f"{len(table.cells):,} figures, {wrong:,} of them wrong."
        if wrong
        else (f"{len(table.cells):,} figures, none of them wrong.")
    )
    title = f"### Corrected: {escaped(table.section)}"
    return "\n\n".join([title, pipes(columns, rows), count])


def _marked(cell: Cell | None) -> str:
    if cell is None:
        return ""
    printed, right = escaped(cell.printed), escaped(cell.right)
    if cell.verdict == "wrong":
        return f"~~{printed}~~ **{right}**"
    return f"{printed} ({right})" if cell.verdict == "rounding" else printed


def _sentences(audit: Audit) -> list[str]:
    """What is wrong outside of the tables, and the claims."""
    off = [cell for cell in audit.cells if cell.place != "table" and cell.verdict == "wrong"]
    parts = []
    if off:
        rows = [[escaped(t) for t in (c.where, c.paraphrase, c.printed, c.right)] for c in off]
        titles = (("where", False), ("what", False), ("printed", True), ("right", True))
        parts += ["### Corrected: figures in the running text", pipes(titles, rows)]
    if audit.findings:
        parts += ["### Corrected: sentences", "\n".join(map(_judged, audit.findings))]
    return parts


def _judged(finding: Finding) -> str:
    claim, right, why = map(escaped, (finding.claim, finding.right, finding.why))
    return f"- {claim}<br>**Right:** {right}<br>**Why:** {why}"
