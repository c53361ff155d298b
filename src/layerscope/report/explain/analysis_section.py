"""The network and its variants as one table, and what is to be said of each."""

from collections.abc import Iterator, Sequence

from layerscope.base.formatting import bytes_exact, bytes_short
from layerscope.report.document import (
    BLANK,
    Block,
    Heading,
    Paragraph,
    Table,
    columns_in,
    markup,
)
from layerscope.whatif import COLUMNS, Finding, VariantFigure
from layerscope.whatif.words import times


def analysis_section(findings: Sequence[Finding]) -> Iterator[Block]:
    """Yield the section; nothing without findings."""
    if findings:
        yield Heading(2, "Analysis")
        yield Paragraph(
            "Every figure is computed for this network: predicted by the formulas and a dry run "
            "and, where a variant was built and run on this machine, measured. The table has what "
            "is predicted of the network and of each variant, and how many times this network's "
            "it is."
        )
        yield from _variants(findings)
    for finding in findings:
        yield Heading(3, finding.title)
        yield Paragraph(markup(finding.text))
        if finding.figures:
            yield _figures(finding)


def _variants(findings: Sequence[Finding]) -> Iterator[Block]:
    """Compare the findings that have all the columns: the network, then its variants."""
    named = [(finding, {figure.name: figure for figure in finding.figures}) for finding in findings]
    rows = tuple(
        (finding.title, *(_compared(figures, column) for column in COLUMNS))
        for finding, figures in named
        if figures.keys() >= set(COLUMNS)
    )
    if not rows:
        return
    yield Table((*columns_in("text", ""), *columns_in("number", *COLUMNS)), rows)
    counts = [f for _, figures in named for f in figures.values() if f.unit not in ("×", "%")]
    measured = [figure for figure in counts if figure.measured is not None]
    differing = sum(figure.difference != 0 for figure in measured)
    yield Paragraph(
        f"{len(measured):,} figures of the Analysis were measured, "
        f"{f'{differing:,} of them' if differing else 'none of them'} otherwise than predicted."
    )


def _compared(figures: dict[str, VariantFigure], column: str) -> str:
    figure, ratio = figures[column], figures.get(f"{column}, against this network")
    if figure.unit == "B" and figure.predicted is not None:
        shown = bytes_short(int(figure.predicted))
    else:
        shown = _number(figure.predicted, figure.unit, "not known")
    if ratio is None or ratio.predicted is None:
        return shown
    return f"{shown}, {times(ratio.predicted, 1)}"


def _figures(finding: Finding) -> Table:
    rows = [
        (
            *(figure.name, figure.unit or BLANK),
            _number(figure.predicted, figure.unit, "not known"),
            _number(figure.measured, figure.unit, "not run"),
        )
        for figure in finding.figures
        if not figure.name.endswith(", against this network")  # it is in the table above
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
