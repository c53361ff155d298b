"""profile.md: every table of the walkthrough for this network, and what the instruments say."""

from collections.abc import Iterable, Sequence

from layerscope.audit import Audit
from layerscope.formatting import (
    amount,
    at_least,
    count_exact,
    figure,
    number,
    rate,
    seconds_short,
    share,
    signed,
    unit_of,
)
from layerscope.measure.timing import Spread
from layerscope.reconcile.profile import Profile
from layerscope.reconcile.rows import Row
from layerscope.report.document.escape import escaped
from layerscope.report.document.tables import pipes, titled_table
from layerscope.report.profile.audit import audit_line
from layerscope.report.profile.conventions import CONVENTIONS
from layerscope.report.profile.findings import (
    bottleneck,
    bound_by,
    exact_rows,
    gap_sentence,
    gaps,
    is_accounted_for,
    machine_line,
    peak_lines,
    verdict,
)
from layerscope.report.profile.formulas import general_latex, substituted_latex
from layerscope.report.profile.summary import NUM_GAPS, settings_line
from layerscope.report.profile.tables import walkthrough_tables


def profile_markdown(profile: Profile, audit: Audit | None = None) -> str:
    """The whole document."""
    sections = [
        f"# Profile of {escaped(profile.settings.network)}",
        escaped(settings_line(profile.settings)) + ".",
        *(f"> {escaped(note)}" for note in profile.notes),
        "## In short",
        _list([verdict(profile), bottleneck(profile), *peak_lines(profile)]),
        "Largest gaps between an instrument and the textbook:",
        _numbered([gap_sentence(gap) for gap in gaps(profile, NUM_GAPS)]) or "None.",
        "## Conventions",
        _list(CONVENTIONS),
        "## Theory",
        *(titled_table(table) for table in walkthrough_tables(profile.costs)),
        "### Formulas",
        _formulas(profile),
        "## Theory beside the instruments",
        _totals(profile.totals),
        "### Where they differ, and why",
        _differences(profile.rows),
        *_time(profile),
        *_audit(audit),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _numbered(lines: Iterable[str]) -> str:
    return "\n".join(f"{place}. {escaped(line)}" for place, line in enumerate(lines, 1))


def _formulas(profile: Profile) -> str:
    """Each formula of each kind once, with the numbers of the first layer that uses it."""
    seen: set[tuple[str, str, str]] = set()
    rows = []
    for cost in profile.costs.layers:
        for formula in profile.costs.formulas.get(cost.layer, ()):
            general = general_latex(formula)
            key = (cost.kind, formula.quantity, general)
            if key in seen:
                continue
            seen.add(key)
            example = f"{escaped(cost.layer)}: ${substituted_latex(formula)}$"
            rows.append((escaped(cost.kind), formula.quantity, f"${general}$", example))
    columns = [(title, False) for title in ("kind", "quantity", "formula", "for example")]
    return pipes(columns, rows) if rows else "No layer has one."


_ROW_COLUMNS = (
    *(("layer", False), ("quantity", False), ("instrument", False), ("theory", True)),
    *(("reasons", False), ("measured", True), ("unexplained", True)),
)


def _totals(totals: Sequence[Row]) -> str:
    if not totals:
        return "No instrument ran."
    return pipes(_ROW_COLUMNS[1:], [_row(row)[1:] for row in totals])


def _differences(rows: Sequence[Row]) -> str:
    """Of the layers; rows in which theory and measurement agree without a reason are counted."""
    exact = list(exact_rows(rows))
    shown = [row for row in exact if row.reasons or row.unexplained or row.theory is None]
    agreed = len(exact) - len(shown)
    line = f"{agreed:,} further comparisons agree with the textbook as they are."
    return "\n\n".join([pipes(_ROW_COLUMNS, [_row(row) for row in shown]), line]) if shown else line


def _row(row: Row) -> list[str]:
    unit = unit_of(row.quantity)
    reasons = [
        f"{amount(reason.amount, row.quantity)}: {escaped(reason.text)}" for reason in row.reasons
    ]
    unexplained = signed(row.unexplained)
    return [
        *(escaped(row.layer), f"{row.quantity}{f', {unit}' if unit else ''}", row.instrument),
        at_least(count_exact(row.theory), row.lower_bound and row.theory is not None),
        "<br>".join(reasons) or "–",
        figure(row.measured, row.quantity),
        unexplained if is_accounted_for(row) else f"**{unexplained}**",
    ]


def _time(profile: Profile) -> Iterable[str]:
    if not profile.times:
        return
    yield "## Time and roofline"
    machine = machine_line(profile)
    if machine is not None:
        yield escaped(machine)
    columns = [
        *(("layer", False), ("forward, median (least–most)", True)),
        *(("backward, median (least–most)", True), ("forward rate", True), ("moved", True)),
        *(("FLOP/B", True), ("bound by", False), ("of the roofline", True)),
    ]
    yield pipes(
        columns,
        [
            (
                escaped(timing.layer),
                _spread(timing.forward),
                "–" if timing.backward is None else _spread(timing.backward),
                rate(timing.flops_per_second, "FLOP"),
                rate(timing.bytes_per_second, "B"),
                number(timing.intensity),
                bound_by(profile, timing) or "–",
                share(timing.roofline_fraction),
            )
            for timing in profile.times
        ],
    )
    if profile.step is not None:
        yield (
            f"The whole step: {_spread(profile.step.step_seconds)}; under the profiler, which the "
            f"layers' times are from: {_spread(profile.step.profiled_step_seconds)}; "
            f"{profile.step.repeats} of each."
        )


def _spread(spread: Spread) -> str:
    least, most = seconds_short(spread.minimum), seconds_short(spread.maximum)
    return f"{seconds_short(spread.median)} ({least}–{most})"


def _audit(audit: Audit | None) -> Iterable[str]:
    if audit is None:
        return
    yield "## The walkthrough, audited"
    yield escaped(audit_line(audit))
    off = [cell for cell in audit.cells if cell.verdict != "agrees"]
    if off:
        yield pipes(
            [
                *(("where", False), ("what", False), ("printed", True), ("right", True)),
                ("verdict", False),
            ],
            [
                [escaped(t) for t in (c.where, c.paraphrase, c.printed, c.right, c.verdict)]
                for c in off
            ],
        )
    if audit.findings:
        yield "### Findings"
        yield pipes(
            [("claim", False), ("right", False), ("why", False)],
            [[escaped(t) for t in (f.claim, f.right, f.why)] for f in audit.findings],
        )
