"""What a profile says: the whole document, and what of it a terminal shows."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from layerscope.audit import Audit
from layerscope.base.formatting import (
    amount,
    bytes_exact,
    seconds_short,
    shape_text,
    shapes_tuple,
    share,
    unit_of,
)
from layerscope.measure.timing import Spread
from layerscope.operations import CostFormula
from layerscope.reconcile.other_tools import ToolFigure
from layerscope.reconcile.profile import LayerTiming, Profile, ProfileSettings
from layerscope.reconcile.rows import Row
from layerscope.report.audit import audit_line
from layerscope.report.document import (
    BLANK,
    Beside,
    Block,
    Break,
    Bullets,
    Cell,
    Column,
    Document,
    Facts,
    Figure,
    Folded,
    Formula,
    Heading,
    Math,
    Paragraph,
    Shown,
    Space,
    Table,
    Text,
    cell_text,
    columns_in,
    joined,
)
from layerscope.report.latex import general_latex, substituted_latex
from layerscope.report.profile.charts import layer_bars, memory_chart, roofline
from layerscope.report.profile.findings import (
    bound_by,
    key_figures,
    leaders,
    machine_line,
    peak_lines,
    reason_groups,
    slowest_line,
    unexplained_line,
    unexplained_rows,
    verdict,
)
from layerscope.report.profile.lines import (
    LayerLine,
    fitting_depth,
    folded,
    layer_lines,
    tree_depth,
)
from layerscope.report.profile.rows import OF_TOTALS, comparison_table
from layerscope.report.profile.tables import walkthrough_tables
from layerscope.theory.table import LayerCost

CONVENTIONS = (
    "FLOPs count a multiplication and an addition as one each; a MAC is both. MACs are those of "
    "convolutions, linear layers and products of two activations (matmul, attention).",
    "Forward, as in the textbook: products 2 per MAC, without the bias; norms 5 per element; an "
    "activation 1 per element; max pooling one per position of its window; average pooling 1 per "
    "input. Other pointwise operations 1 per output element; moving data costs nothing.",
    "Backward: products 2 per MAC for the gradient of each factor; norms 5 per element; "
    "activations and pooling 1 per element of the input. Sums that give a bias its gradient stand "
    "apart.",
    "Everything is of the whole batch. Bytes are exact; KiB, MiB and GiB are 2^10, 2^20, 2^30 B.",
    "Theory is the textbook's figure whatever the settings: every output is stored, every layer "
    "computes its input's gradient. Reasons, read off the operations of a dry run, lead from there "
    "to what this step must do: theory + reasons = predicted. What is measured beyond that is "
    "unexplained.",
    "An instrument has formulas for some operations only. What it has none for is not counted: it "
    "stands apart, and is no comparison. Neither is 0 against 0.",
    "output bytes: memory that a layer newly occupies. saved_bytes: what autograd holds for the "
    "backward pass when the forward pass ends, each piece once, with the layer that made it.",
    "Live peak: the most bytes in use at one time in forward, loss and backward, above parameters, "
    "buffers and input. What operations take and give back inside (scratch) is measured apart.",
    "Unknown is not 0: a total that lacks a summand is marked >=.",
)
MAX_LINES = 40  # of the layer table on a terminal: what a person reads
MAX_REASONS = 8
MAX_REASON_TEXT = 160  # characters; the saved files have all
MAX_UNEXPLAINED = 10
NAME_WIDTH, TYPE_WIDTH = 24, 14  # of a terminal's columns
_MODES = {True: "train mode", False: "eval mode", None: "each module in its own mode"}
_OF_LIBRARY = "result.show(depth={})"


# The whole document ---------------------------------------------------------------------------


def profile_document(profile: Profile, audit: Audit | None = None) -> Document:
    """Return the answer, the layers, theory beside the instruments, time, theory, conventions."""
    title = f"Profile of {profile.settings.network}"
    return Document(
        title,
        (
            Heading(1, title),
            Paragraph(f"{settings_line(profile.settings)}.", "quiet"),
            *_notes(profile),
            Heading(2, "In short"),
            *_answer(profile),
            Facts(key_figures(profile), tiles=True),
            *_sentences(slowest_line(profile)),
            Heading(2, "Layers"),
            *_layers(profile),
            Heading(2, "Theory beside the instruments"),
            *_comparisons(profile),
            *_other_tools(profile),
            *_drawings(profile),
            *_time(profile),
            Heading(2, "Theory"),
            *(
                Folded(table.title, (replace(table, title=""),), level=3)
                for table in walkthrough_tables(profile.costs)
            ),
            Folded("Formulas", (_formulas(profile),), level=3),
            *([] if audit is None else _audit(audit)),
            Heading(2, "Conventions"),
            Bullets(CONVENTIONS),
        ),
    )


def notebook_blocks(profile: Profile) -> tuple[Block, ...]:
    """Return the answer with the settings above it: what a notebook shows."""
    settings = profile.settings
    name = f"Profile of {settings.network}: {settings_line(settings)}."
    return (Paragraph(name), *_notes(profile), *_answer(profile))


def settings_line(settings: ProfileSettings) -> str:
    """Return what was profiled, and how."""
    facts = [
        f"{settings.network}, input {input_text(settings.input_shape)}",
        settings.dtype,
        settings.device,
        "channels_last" if settings.channels_last else "contiguous",
        _MODES[settings.train],
    ]
    if settings.freeze:
        facts.append(f"frozen: {', '.join(settings.freeze)}")
    if settings.input_requires_grad:
        facts.append("the input requires a gradient")
    return ", ".join(facts)


def input_text(described: object) -> str:
    """Return a shape, or the arguments of a call, as they are nested: `2x3, mask=2x3 bool`."""
    if isinstance(described, dict) and set(described) <= {"args", "kwargs"}:
        named = [f"{name}={_value_text(v)}" for name, v in described.get("kwargs", {}).items()]
        return ", ".join([*map(_value_text, described.get("args", ())), *named])
    if isinstance(described, tuple | list):
        return shape_text(described)
    return str(described)


def _value_text(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_value_text(v)}' for name, v in value.items())}}}"
    if isinstance(value, list):
        if value and isinstance(value[-1], str) and all(type(n) is int for n in value[:-1]):
            return f"{shape_text(value[:-1]) or 'scalar'} {value[-1]}"
        return f"[{', '.join(map(_value_text, value))}]"
    return str(value)


def _sentences(*sentences: str | None) -> list[Block]:
    return [Paragraph(sentence) for sentence in sentences if sentence]


# The answer -----------------------------------------------------------------------------------


def _notes(profile: Profile) -> list[Block]:
    return [Paragraph(f"{note}.", "note") for note in profile.notes]


def _answer(profile: Profile) -> Iterator[Block]:
    yield from _verdict(profile)
    yield Beside(tuple(replace(each, title=f"Most {each.title}") for each in leaders(profile)))


def _verdict(profile: Profile) -> Iterator[Block]:
    open_rows = unexplained_rows(profile)
    yield Paragraph(verdict(profile), "bad" if open_rows else "good")
    if open_rows:
        shown = [unexplained_line(row) for row in open_rows[:MAX_UNEXPLAINED]]
        hidden = len(open_rows) - len(shown)
        yield Bullets((*shown, *([f"and {hidden:,} more"] if hidden else [])))
    yield Facts(peak_lines(profile))


# Layers ---------------------------------------------------------------------------------------


def _layer_columns(profile: Profile) -> tuple[Column, ...]:
    columns = (
        Column("layer", "layer"),
        Column("type", "type", rank=4),
        Column("output", "output", rank=7),
        Column("parameters", "params", "count", True, rank=6),
        Column("output_bytes", "output B", "bytes", True, rank=5),
        Column("saved_bytes", "saved B", "bytes", True),
        Column("forward_flops", "fwd FLOP", "flops", True, rank=2),
        Column("backward_flops", "bwd FLOP", "flops", True, rank=3),
    )
    return (*columns, Column("time", "time", "seconds", rank=1)) if profile.times else columns


def _line_cells(line: LayerLine, profile: Profile) -> tuple[Cell, ...]:
    cells: tuple[Cell, ...] = (
        *(line.name, _type(line), _outputs(line), line.num_parameters),
        *(line.output_bytes, line.saved_bytes, line.forward_flops, line.backward_flops),
    )
    return (*cells, line.seconds) if profile.times else cells


def _type(line: LayerLine) -> str:
    if len(line.layers) > 1:
        return f"{len(line.layers):,} layers"
    return line.type + (f" ×{line.num_calls}" if line.num_calls > 1 else "")


def _outputs(line: LayerLine) -> Cell:
    if not line.output_shapes:
        return BLANK
    shapes = [shape_text(shape[1:]) or "1" for shape in dict.fromkeys(line.output_shapes)]
    more = f", +{len(shapes) - 1}" if len(shapes) > 1 else ""
    return Shown(shapes[0] + more, line.output_elements, f"{line.output_elements:,} elements")


def _layers(profile: Profile) -> Iterator[Block]:
    """Yield the table of all layers, what stands behind each, and the table at each depth."""
    times = {timing.layer: timing for timing in profile.times or ()}
    costs = {cost.layer: cost for cost in profile.costs.layers}
    rows: dict[str, list[Row]] = {}
    for row in profile.rows:
        rows.setdefault(row.layer, []).append(row)
    yield Paragraph("Of the whole batch; output: the shape of one sample.", "quiet")
    lines = layer_lines(profile)
    total = _line_cells(folded("total", lines), profile)
    columns = _layer_columns(profile)
    if profile.times:
        columns += (
            Column("rate", "fwd FLOP/s", "flops", True),
            Column("roofline_fraction", "of roofline", "share"),
        )
    columns += (Column("reasons", "reasons", "count"),)
    yield Table(
        columns,
        tuple(_cells(line, profile, times, rows.get(line.name, ())) for line in lines),
        ("total", *total[1:], *[BLANK] * (3 if profile.times else 1)),
        key="layer",
        details=tuple(
            tuple(_details(profile, costs.get(line.name), times, rows.get(line.name, ())))
            for line in lines
        ),
    )
    deepest = tree_depth(profile)
    for depth in range(1, deepest):
        at_depth = layer_lines(profile, depth)
        yield Folded(
            f"Folded at depth {depth} of {deepest}: {len(at_depth):,} lines",
            (
                Table(
                    _layer_columns(profile), tuple(_line_cells(each, profile) for each in at_depth)
                ),
            ),
        )


def _cells(
    line: LayerLine,
    profile: Profile,
    times: Mapping[str, LayerTiming],
    rows: Sequence[Row],
) -> tuple[Cell, ...]:
    timing = times.get(line.name)
    cells = _line_cells(line, profile)
    if profile.times:
        cells += (timing.flops_per_second, timing.roofline_fraction) if timing else (None, None)
    return (*cells, len({reason.code for row in rows for reason in row.reasons}))


def _details(
    profile: Profile,
    cost: LayerCost | None,
    times: Mapping[str, LayerTiming],
    rows: Sequence[Row],
) -> Iterator[Block]:
    if cost is not None:
        yield Facts(tuple(_facts(cost, times.get(cost.layer))))
        formulas = profile.costs.formulas.get(cost.layer, ())
        for same in _alike(formulas):
            yield Paragraph(" = ".join(formula.quantity for formula in same), "quiet")
            yield Formula(general_latex(same[0]))
            yield Formula(substituted_latex(same[0]))
        if not formulas:
            none = "No formula: it computes nothing, or what it computes has no closed form."
            yield Paragraph(none, "quiet")
    if rows:
        yield comparison_table(rows, OF_TOTALS)


def _facts(cost: LayerCost, timing: LayerTiming | None) -> Iterator[tuple[str, str]]:
    yield "input", shapes_tuple(cost.input_shapes) or "–"
    yield "output", shapes_tuple(cost.output_shapes) or "–"
    if cost.num_calls > 1:
        yield "calls, summed in every figure", str(cost.num_calls)
    if cost.num_parameters:
        yield "parameters", bytes_exact(cost.parameter_bytes)
    if cost.buffer_bytes:
        yield "buffers", bytes_exact(cost.buffer_bytes)
    if timing is not None:
        for name, spread in (("forward", timing.forward), ("backward", timing.backward)):
            if spread is not None:
                yield f"time, {name}", spread_text(spread)


def _alike(formulas: Sequence[CostFormula]) -> Iterable[list[CostFormula]]:
    """Return the first call's formulas; one that stands for several quantities is there once."""
    groups: dict[object, list[CostFormula]] = {}
    for formula in formulas:
        key = (formula.function, tuple(formula.arguments.items()))
        groups.setdefault(key, []).append(formula)
    return groups.values()


# Theory beside the instruments ----------------------------------------------------------------


def _comparisons(profile: Profile) -> Iterator[Block]:
    yield Paragraph("theory + reasons = predicted; measured - predicted = unexplained.", "quiet")
    if profile.totals:
        yield comparison_table(profile.totals, OF_TOTALS)
    else:
        yield Paragraph("No instrument ran.")
    yield Heading(3, "Why they differ")
    yield from _reasons(profile)
    yield Folded("Layer by layer", tuple(_differences(profile.rows)), level=3)


def _differences(rows: Sequence[Row]) -> Iterator[Block]:
    """Yield rows with a reason or without an explanation; count those that agree as they are."""
    exact = [row for row in rows if row.is_exact and row.counted]
    shown = [row for row in exact if row.reasons or row.unexplained or row.theory is None]
    if shown:
        yield comparison_table(shown)
    agree = len(exact) - len(shown)
    yield Paragraph(f"{agree:,} further comparisons agree with the textbook as they are.", "quiet")


def _reasons(profile: Profile) -> Iterator[Block]:
    """Yield each reason once: what it adds up to, in how many layers."""
    groups = reason_groups(profile)
    if not groups:
        yield Paragraph("No layer differs from the textbook.")
        return
    columns = (
        *columns_in("text", "quantity", "instruments", "reason"),
        *columns_in("count", "layers"),
        *columns_in("number", "amount"),
        *columns_in("share", "share of the network's"),
        *columns_in("text", "why"),
    )
    rows = [
        (
            *(group.quantity, ", ".join(group.instruments), group.code, len(group.layers)),
            *(amount(group.amount, group.quantity), group.share, group.text),
        )
        for group in groups
    ]
    yield Table(columns, tuple(rows))


def _other_tools(profile: Profile) -> Iterator[Block]:
    """Yield each figure that another tool prints, and how it follows from ours."""
    if not profile.other_tools:
        return
    yield Heading(2, "What other tools say")
    yield Paragraph("Of the same batch: ours + reasons = what the tool says.", "quiet")
    columns = (*_TOOL_COLUMNS, *columns_in("text", "reasons", "how it counts"))
    rows = tuple(
        (*_tool_cells(each), _tool_reasons(each), each.text) for each in profile.other_tools
    )
    yield Table(columns, rows, cards=True)


_TOOL_COLUMNS = (
    *columns_in("text", "tool", "figure"),
    *columns_in("count", "it says"),
    *columns_in("text", "our quantity"),
    *columns_in("count", "ours"),
)


def _tool_cells(figure: ToolFigure) -> tuple[Cell, ...]:
    unit = unit_of(figure.quantity)
    quantity = f"{figure.quantity}, {unit}" if unit else figure.quantity
    tool = f"{figure.tool} {figure.version}".strip()
    return tool, figure.name, figure.value, quantity, figure.ours


def _tool_reasons(figure: ToolFigure) -> Text:
    lines = (f"{amount(each.amount, figure.quantity)}: {each.text}" for each in figure.reasons)
    return joined(lines, (Break(),)) or "none: they agree"


def _shown_tools(profile: Profile) -> Iterator[Block]:
    """Yield the figures alone; the saved files have the reasons."""
    if profile.other_tools:
        rows = tuple(map(_tool_cells, profile.other_tools))
        title = "what other tools say of the same batch (why: in the saved files)"
        yield Table(_TOOL_COLUMNS, rows, title=title)


def _drawings(profile: Profile) -> Iterator[Block]:
    timeline = memory_chart(profile.peak)
    if timeline is not None:
        yield Heading(2, "Memory over a step")
        yield Figure("Memory over a training step", timeline)
        yield Paragraph(
            "Bytes above parameters, buffers and input, along the layers in execution order. In "
            "the optimizer's step, which only the dry run takes, its state is among them.",
            "quiet",
        )
    yield Heading(2, "Cost per layer")
    yield Figure("Cost per layer", layer_bars(profile))


def _time(profile: Profile) -> Iterator[Block]:
    if not profile.times:
        return
    yield Heading(2, "Time and roofline")
    yield from _sentences(machine_line(profile))
    drawing = roofline(profile)
    if drawing is not None:
        yield Figure("Roofline", drawing)
        yield Paragraph(
            "Of the forward pass: inputs and parameters read once, outputs written once. Layers "
            "without arithmetic are not drawn; of the slowest, those are named for whose names "
            "there is room.",
            "quiet",
        )
    columns = (
        *columns_in("text", "layer"),
        *columns_in("number", "forward, median (least–most)", "backward, median (least–most)"),
        *columns_in("flop_rate", "forward rate"),
        *columns_in("byte_rate", "moved"),
        *columns_in("number", "FLOP/B"),
        *columns_in("text", "bound by"),
        *columns_in("share", "of the roofline"),
    )
    rows = [
        (
            *(each.layer, spread_text(each.forward)),
            *(
                BLANK if each.backward is None else spread_text(each.backward),
                each.flops_per_second,
            ),
            *(each.bytes_per_second, each.intensity, bound_by(each) or BLANK),
            each.roofline_fraction,
        )
        for each in profile.times
    ]
    yield Folded("Layer by layer, forward and backward", (Table(columns, tuple(rows)),), level=3)
    if profile.step is not None:
        yield Paragraph(
            f"The whole step: {spread_text(profile.step.step_seconds)}; under the profiler, which "
            f"the layers' times are from: {spread_text(profile.step.profiled_step_seconds)}; "
            f"{profile.step.repeats} of each.",
            "quiet",
        )


def spread_text(spread: Spread) -> str:
    """Return seconds as `1.23 ms (1.20 ms–1.31 ms)`: the median, the least and the most."""
    least, most = seconds_short(spread.minimum), seconds_short(spread.maximum)
    return f"{seconds_short(spread.median)} ({least}–{most})"


def _formulas(profile: Profile) -> Block:
    """Return each formula of each type once, with the numbers of the first layer that uses it."""
    rows: dict[tuple[str, str, str], tuple[Cell, ...]] = {}
    for cost in profile.costs.layers:
        for formula in profile.costs.formulas.get(cost.layer, ()):
            general = general_latex(formula)
            key = (cost.type, formula.quantity, general)
            if key not in rows:
                example: Text = (f"{cost.layer}: ", Math(substituted_latex(formula)))
                rows[key] = (cost.type, formula.quantity, (Math(general),), example)
    if not rows:
        return Paragraph("No layer has one.")
    return Table(
        columns_in("text", "type", "quantity", "formula", "for example"), tuple(rows.values())
    )


# The walkthrough ------------------------------------------------------------------------------


def _audit(audit: Audit) -> Iterator[Block]:
    yield Heading(2, "The walkthrough, audited")
    yield Paragraph(audit_line(audit))
    if audit.findings:
        yield Heading(3, "Findings")
        rows = [(finding.claim, finding.right, finding.why) for finding in audit.findings]
        columns = columns_in("text", "claim", "right", "why")
        yield Table(columns, tuple(rows), cards=True)
    columns = (*columns_in("text", "where", "what"), *columns_in("number", "printed", "right"))
    for name, words in (("wrong", "Wrong"), ("rounding", "Rounding"), ("agrees", "Agreeing")):
        cells = [cell for cell in audit.cells if cell.verdict == name]
        if cells:
            rows = tuple((c.where, c.paraphrase, c.printed, c.right) for c in cells)
            title = f"{words} figures: {len(cells):,}"
            inside = (Table(columns, rows),)
            yield Folded(title, inside, 0, name == "wrong", page_only=name == "agrees")


# On a terminal --------------------------------------------------------------------------------


def profile_summary(
    profile: Profile,
    audit: Audit | None = None,
    depth: int | None = None,
    command: str = _OF_LIBRARY,
) -> tuple[Block, ...]:
    """Return settings, verdict, peak and the most expensive layers; then layers, totals, reasons.

    Args:
        depth: of the layer table in the module tree; None: the largest that is not too long.
        command: what shows another depth, with `{}` in its place.
    """
    last = (
        slowest_line(profile),
        machine_line(profile),
        None if audit is None else audit_line(audit),
        verdict(profile),
    )
    return (
        Paragraph(settings_line(profile.settings)),
        *_notes(profile),
        Space(),
        *_verdict(profile),
        Space(),
        _all_leaders(profile),
        *_layers_at(profile, depth, command),
        *_totals(profile),
        *_greatest_reasons(profile),
        *_shown_tools(profile),
        *_sentences(*last),
    )


def _all_leaders(profile: Profile) -> Table:
    rows = [
        (
            *(found.title if place == 0 else "", fold_name(str(name))),
            *(
                cell_text(cell, column)
                for cell, column in zip(cells, found.columns[1:], strict=True)
            ),
        )
        for found in leaders(profile)
        for place, (name, *cells) in enumerate(found.rows)
    ]
    columns = (*columns_in("text", "most", "layer"), *columns_in("number", "amount", "share"))
    return Table(columns, tuple(rows), title="the most expensive layers")


def _layers_at(profile: Profile, depth: int | None, command: str) -> Iterator[Block]:
    deepest = tree_depth(profile)
    chosen = fitting_depth(profile, MAX_LINES) if depth is None else min(depth, deepest)
    lines = layer_lines(profile, chosen)
    num_layers = sum(len(line.layers) for line in lines)
    shown = shortened_lines(lines) if depth is None else lines
    total = _line_cells(folded("total", lines), profile)
    yield Table(
        _layer_columns(profile),
        tuple(_named_rows(shown, profile)),
        ("total", "", "", *total[3:]),
        title=_layers_title(profile, chosen, deepest),
    )
    if len(shown) < num_layers:
        yield Paragraph(
            f"{len(shown):,} lines for {num_layers:,} layers; all of them: "
            f"{command.format(deepest)}, or the saved profile.md and profile.html."
        )
        yield Space()


def shortened_lines(lines: Sequence[LayerLine], most: int = MAX_LINES) -> tuple[LayerLine, ...]:
    """Return the first lines, and the sum of the others in one."""
    if len(lines) <= most:
        return tuple(lines)
    rest = lines[most - 1 :]
    return (*lines[: most - 1], folded(f"({len(rest):,} more)", rest))


def _layers_title(profile: Profile, depth: int, deepest: int) -> str:
    at = f", folded at depth {depth} of {deepest}" if depth < deepest else ""
    measured = any(row.instrument == "saved" for row in profile.rows)
    saved = "saved B measured" if measured else "saved B of the dry run"
    times = ", time (forward + backward) measured" if profile.times else ""
    return f"layers{at}: whole batch (output: of one sample); FLOPs of the textbook, {saved}{times}"


def _named_rows(lines: Sequence[LayerLine], profile: Profile) -> Iterator[tuple[Cell, ...]]:
    """Yield the rows; where names are long, their owner stands once, above its lines."""
    for owner, run in groupby(lines, key=lambda line: line.name.rpartition(".")[0]):
        members = list(run)
        is_short = not owner or all(len(line.name) <= NAME_WIDTH for line in members)
        rows = [_line_cells(line, profile) for line in members]
        if not is_short:
            yield (fold_name(owner + "."), *[""] * (len(rows[0]) - 1))
        for line, (_, _, *cells) in zip(members, rows, strict=True):
            name = line.name if is_short else "  " + line.name[len(owner) + 1 :]
            yield fold_name(name), fold_name(_type(line), TYPE_WIDTH, "_"), *cells


def fold_name(name: str, width: int = NAME_WIDTH, at: str = ".") -> Text:
    """Break a name that is too long for its column behind an `at`."""
    lines = [""]
    for part in name.replace(at, at + "\0").split("\0"):
        if lines[-1].strip() and len(lines[-1]) + len(part) > width:
            lines.append("  ")
        lines[-1] += part
    return joined(lines, (Break(),))


def _totals(profile: Profile) -> Iterator[Block]:
    if profile.totals:
        title = "the whole network: theory + reasons = predicted (bytes, FLOPs, MACs, elements)"
        names = [name for name in OF_TOTALS if name != "reasons"]
        yield comparison_table(profile.totals, names, title, with_units=False)


def _greatest_reasons(profile: Profile) -> Iterator[Block]:
    # torchinfo stands below, among the other tools: it prints totals, and doubles every byte.
    groups = [group for group in reason_groups(profile) if group.instruments != ("torchinfo",)]
    if not groups:
        yield Paragraph("No layer differs from the textbook by any instrument.")
        return
    yield Paragraph("Why instruments see something else than the textbook:")
    for group in groups[:MAX_REASONS]:
        layers = f"{len(group.layers):,} layer{'s' if len(group.layers) > 1 else ''}"
        yield Paragraph(
            f"{group.quantity} by {', '.join(group.instruments)}: "
            f"{amount(group.amount, group.quantity)} ({share(group.share)}) in {layers}, "
            f"{group.code}: {textwrap.shorten(group.text, MAX_REASON_TEXT, placeholder=' …')}"
        )
    if len(groups) > MAX_REASONS:
        yield Paragraph(f"and {len(groups) - MAX_REASONS:,} smaller ones, in the saved files.")
    yield Space()
