"""profile.md: the answer, theory beside the instruments, every table of the walkthrough."""

from collections.abc import Iterable, Sequence

from layerscope.audit import Audit
from layerscope.base.formatting import amount, number, rate, seconds_short, share
from layerscope.measure.timing import Spread
from layerscope.reconcile.profile import Profile
from layerscope.reconcile.rows import Row
from layerscope.report.audit import audit_line
from layerscope.report.document.escape import escaped
from layerscope.report.document.tables import pipes, titled_table
from layerscope.report.profile.conventions import CONVENTIONS
from layerscope.report.profile.findings import (
    Leader,
    bound_by,
    leaders,
    machine_line,
    peak_lines,
    reason_groups,
    slowest_line,
    unexplained_line,
    unexplained_rows,
    verdict,
)
from layerscope.report.profile.formulas import general_latex, substituted_latex
from layerscope.report.profile.lines import (
    LayerLine,
    fitting_depth,
    folded,
    layer_lines,
    tree_depth,
)
from layerscope.report.profile.row_text import RowText, row_text
from layerscope.report.profile.summary import MAX_LINES, layer_figures, settings_line
from layerscope.report.profile.tables import walkthrough_tables


def profile_markdown(profile: Profile, audit: Audit | None = None) -> str:
    """Return the document: the answer, the layers, theory beside the instruments, the rest."""
    sections = [
        f"# Profile of {escaped(profile.settings.network)}",
        escaped(settings_line(profile.settings)) + ".",
        *(f"> {escaped(note)}" for note in profile.notes),
        "## In short",
        *_answer(profile),
        "## Layers",
        *_layers(profile),
        "## Theory beside the instruments",
        "theory + reasons = predicted; measured - predicted = unexplained.",
        _rows(profile.totals, with_layer=False) or "No instrument ran.",
        "### Why they differ",
        _reasons(profile),
        "### Layer by layer",
        _differences(profile.rows),
        *_time(profile),
        "## Theory",
        *(titled_table(table) for table in walkthrough_tables(profile.costs)),
        "### Formulas",
        _formulas(profile),
        "## Conventions",
        _list(CONVENTIONS),
        *_audit(audit),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _answer(profile: Profile) -> Iterable[str]:
    yield f"**{escaped(verdict(profile))}**"
    yield _list(map(unexplained_line, unexplained_rows(profile)))
    yield _list(f"{name}: {text}" for name, text in peak_lines(profile))
    most = [
        [escaped(cell) for cell in (each.title if place == 0 else "", *_cells(leader))]
        for each in leaders(profile)
        for place, leader in enumerate(each.layers)
    ]
    yield pipes([("most", False), ("layer", False), ("amount", True), ("share", True)], most)


def _cells(leader: Leader) -> tuple[str, ...]:
    return leader.layer, leader.amount, leader.share


_LAYER_COLUMNS = (
    *(("layer", False), ("type", False), ("output of one sample", False), ("parameters", True)),
    *(("output bytes", True), ("saved bytes", True), ("forward FLOPs", True)),
    *(("backward FLOPs", True), ("time", True)),
)


def _layers(profile: Profile) -> Iterable[str]:
    """Write the table of all layers; above it, where they are many, the same folded."""
    depth, deepest = fitting_depth(profile, MAX_LINES), tree_depth(profile)
    for each in dict.fromkeys((depth, deepest)):
        lines = layer_lines(profile, each)
        if deepest > depth:
            yield f"### At depth {each} of {deepest}"
        shown = [*lines, folded("total", lines)] if lines else []
        yield pipes(_LAYER_COLUMNS, [_layer(line) for line in shown])


def _layer(line: LayerLine) -> list[str]:
    cells = [" ".join(cell.split()) for cell in layer_figures(line)]
    return [escaped(cell) for cell in (line.name, *cells)]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _formulas(profile: Profile) -> str:
    """Write each formula of each type once, with the numbers of the first layer that uses it."""
    seen: set[tuple[str, str, str]] = set()
    rows = []
    for cost in profile.costs.layers:
        for formula in profile.costs.formulas.get(cost.layer, ()):
            general = general_latex(formula)
            key = (cost.type, formula.quantity, general)
            if key in seen:
                continue
            seen.add(key)
            example = f"{escaped(cost.layer)}: ${substituted_latex(formula)}$"
            rows.append((escaped(cost.type), formula.quantity, f"${general}$", example))
    columns = [(title, False) for title in ("type", "quantity", "formula", "for example")]
    return pipes(columns, rows) if rows else "No layer has one."


_ROW_COLUMNS = (
    *(("layer", False), ("type", False), ("quantity", False), ("instrument", False)),
    *(("theory", True), ("not counted", True), ("reasons", False), ("predicted", True)),
    *(("measured", True), ("unexplained", True)),
)


def _rows(rows: Sequence[Row], with_layer: bool = True) -> str:
    first = 0 if with_layer else 2
    return pipes(_ROW_COLUMNS[first:], [_row(row_text(r))[first:] for r in rows]) if rows else ""


def _row(row: RowText) -> list[str]:
    reasons = [f"{amount}: {escaped(text)}" for amount, text in row.reasons]
    return [
        *(escaped(row.layer), escaped(row.type), row.quantity_in_unit, row.instrument, row.theory),
        *(row.not_counted, "<br>".join(reasons) or "–", row.predicted, row.measured),
        row.unexplained if row.holds else f"**{row.unexplained}**",
    ]


def _differences(rows: Sequence[Row]) -> str:
    """Write rows with a reason or without an explanation; count those that agree as they are."""
    exact = [row for row in rows if row.is_exact and row.counted]
    shown = [row for row in exact if row.reasons or row.unexplained or row.theory is None]
    line = f"{len(exact) - len(shown):,} further comparisons agree with the textbook as they are."
    return "\n\n".join(part for part in (_rows(shown), line) if part)


def _reasons(profile: Profile) -> str:
    """Write each reason once: what it adds up to, in how many layers."""
    columns = [
        *(("quantity", False), ("instruments", False), ("reason", False), ("layers", True)),
        *(("amount", True), ("share of the network's", True), ("why", False)),
    ]
    rows = [
        [
            *(group.quantity, ", ".join(group.instruments), group.code),
            *(f"{len(group.layers):,}", amount(group.amount, group.quantity), share(group.share)),
            escaped(group.text),
        ]
        for group in reason_groups(profile)
    ]
    return pipes(columns, rows) if rows else "No layer differs from the textbook."


def _time(profile: Profile) -> Iterable[str]:
    if not profile.times:
        return
    yield "## Time and roofline"
    yield escaped(slowest_line(profile) or "")
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
                bound_by(timing) or "–",
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
