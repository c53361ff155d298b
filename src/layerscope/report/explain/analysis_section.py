"""What follows from the formulas, each figure predicted and, where it was run, measured."""

from collections.abc import Sequence

from layerscope.formatting import bytes_exact
from layerscope.report.document.escape import escaped
from layerscope.report.document.tables import pipes
from layerscope.whatif.findings import Finding


def analysis_section(findings: Sequence[Finding]) -> str:
    """Empty without findings."""
    if not findings:
        return ""
    intro = (
        "Every figure is computed for this network: predicted by the formulas and, where a variant "
        "was built and run on this machine, measured."
    )
    return "\n\n".join(["## Analysis", intro, *(_finding(finding) for finding in findings)])


def _finding(finding: Finding) -> str:
    columns = [("figure", False), ("unit", False), ("predicted", True), ("measured", True)]
    rows = [
        [
            escaped(figure.name),
            escaped(figure.unit) or "–",
            _number(figure.predicted, figure.unit, "not known"),
            _number(figure.measured, figure.unit, "not run"),
        ]
        for figure in finding.figures
    ]
    parts = [f"### {escaped(finding.title)}", finding.text, pipes(columns, rows) if rows else ""]
    return "\n\n".join(part for part in parts if part)


def _number(value: float | None, unit: str, missing: str) -> str:
    if value is None:
        return missing
    if unit == "B":
        return bytes_exact(int(value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2g}" if 0 < abs(value) < 0.095 else f"{value:,.2f}"
