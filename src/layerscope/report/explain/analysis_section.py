"""What follows from the formulas, each figure predicted and, where it was run, measured."""

from collections.abc import Iterator, Sequence

from layerscope.base.formatting import bytes_exact
from layerscope.explain.analysis.findings import Finding
from layerscope.report.document import (
    BLANK,
    Block,
    Heading,
    Paragraph,
    Table,
    columns_in,
    markup,
)


def analysis_section(findings: Sequence[Finding]) -> Iterator[Block]:
    """Yield the section; nothing without findings."""
    if findings:
        yield Heading(2, "Analysis")
        yield Paragraph(
            "Every figure is computed for this network: predicted by the formulas and, where a "
            "variant was built and run on this machine, measured."
        )
    for finding in findings:
        yield Heading(3, finding.title)
        yield Paragraph(markup(finding.text))
        if finding.figures:
            yield _figures(finding)


def _figures(finding: Finding) -> Table:
    rows = [
        (
            *(figure.name, figure.unit or BLANK),
            _number(figure.predicted, figure.unit, "not known"),
            _number(figure.measured, figure.unit, "not run"),
        )
        for figure in finding.figures
    ]
    columns = (
        *columns_in("text", "figure", "unit"),
        *columns_in("number", "predicted", "measured"),
    )
    return Table(columns, tuple(rows))


def _number(value: float | None, unit: str, missing: str) -> str:
    if value is None:
        return missing
    if unit == "B":
        return bytes_exact(int(value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2g}" if 0 < abs(value) < 0.095 else f"{value:,.2f}"
