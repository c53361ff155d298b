"""A profile on the terminal: tables that fit 100 columns, and the findings in words."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from layerscope.audit import Audit
from layerscope.formatting import (
    at_least,
    bytes_short,
    count_exact,
    count_short,
    figure,
    seconds_short,
    shape_text,
    signed,
    unit_of,
    wrapped,
)
from layerscope.reconcile.profile import Profile, Settings
from layerscope.reconcile.rows import Row
from layerscope.report.profile.audit import audit_line
from layerscope.report.profile.cells import sum_known
from layerscope.report.profile.findings import (
    bottleneck,
    gap_sentence,
    gaps,
    layer_seconds,
    machine_line,
    measured_or_predicted,
    peak_lines,
    unexplained_rows,
    verdict,
)
from layerscope.report.terminal import Screen
from layerscope.theory.table import LayerCost

NUM_GAPS = 5
_MODES = {True: "train mode", False: "eval mode", None: "each module in its own mode"}
KEY_WIDTH, KIND_WIDTH = 24, 12
MAX_EXACT = 1_000_000  # parameters below it fit their column as they are
MAX_UNEXPLAINED = 10


def show_profile(screen: Screen, profile: Profile, audit: Audit | None = None) -> None:
    """Settings, layers, totals, gaps, bottleneck, peak, audit."""
    screen.say(wrapped(settings_line(profile.settings), "  "))
    _show_layers(screen, profile)
    _show_totals(screen, profile)
    _show_gaps(screen, profile)
    lines = [
        *(bottleneck(profile), machine_line(profile), *peak_lines(profile)),
        *(() if audit is None else (audit_line(audit),)),
        *profile.notes,
    ]
    for line in lines:
        if line:
            screen.say(wrapped(line, "  "))


def settings_line(settings: Settings) -> str:
    """What was profiled, and how."""
    facts = [
        f"{settings.network}, input {shape_text(settings.input_shape)}",
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


def _show_layers(screen: Screen, profile: Profile) -> None:
    kept = measured_or_predicted(profile, "saved_bytes", "saved")
    seconds = {timing.layer: layer_seconds(timing) for timing in profile.times or ()}
    columns = ["layer", "kind", "output", "params", "output B", "kept B", "fwd FLOP", "bwd FLOP"]
    if profile.times:
        columns.append("time")

    names = list(_names(profile.costs.layers))
    # What short names leave of their column, long kinds may have.
    longest = max((len(line) for name, _ in names for line in name.split("\n")), default=0)
    kind_width = KIND_WIDTH + max(0, KEY_WIDTH - longest)

    def cells(cost: LayerCost, name: str) -> list[str]:
        shown = [
            *(name, _kind(cost, kind_width), _outputs(cost), _count(cost.num_parameters)),
            *(bytes_short(cost.output_bytes), bytes_short(kept.get(cost.layer))),
            *(count_short(cost.forward_flops), count_short(cost.backward_flops)),
        ]
        return [*shown, seconds_short(seconds.get(cost.layer))] if profile.times else shown

    rows = []
    for name, cost in names:
        rows.append([name] + [""] * (len(columns) - 1) if cost is None else cells(cost, name))
    screen.table(
        _layers_title(profile),
        columns,
        [[_short_unknown(cell) for cell in row] for row in rows],
        num_text_columns=3,
        total=_layer_totals(profile, kept, seconds),
        tight=True,
    )


def _layers_title(profile: Profile) -> str:
    title = "layers, whole batch (output: of one image); by theory"
    measured = ["kept B"] if any(row.quantity == "saved_bytes" for row in profile.rows) else []
    measured += ["time (fwd + bwd)"] if profile.times else []
    return title + (f", but measured: {', '.join(measured)}" if measured else "")


def _layer_totals(
    profile: Profile, kept: dict[str, int], seconds: dict[str, float]
) -> Sequence[str]:
    layers = profile.costs.layers

    def sum_of(values: Sequence[int | None], text: Callable[[int], str]) -> str:
        added = sum_known(values)
        return at_least(text(added.value), added.lower_bound)

    cells = [
        *("total", "", ""),
        sum_of([c.num_parameters for c in layers], _count),
        sum_of([c.output_bytes for c in layers], bytes_short),
        sum_of([kept.get(c.layer) for c in layers], bytes_short) if kept else "?",
        sum_of([c.forward_flops for c in layers], count_short),
        sum_of([c.backward_flops for c in layers], count_short),
    ]
    return [*cells, seconds_short(sum(seconds.values()))] if seconds else cells


def _names(layers: Sequence[LayerCost]) -> Iterator[tuple[str, LayerCost | None]]:
    """What to call each layer; where a key is long, its owner stands once, above its layers."""
    for owner, run in groupby(layers, key=lambda cost: cost.layer.rpartition(".")[0]):
        members = list(run)
        if not owner or all(len(cost.layer) <= KEY_WIDTH for cost in members):
            yield from ((_folded(cost.layer), cost) for cost in members)
        else:
            yield _folded(owner + "."), None
            yield from ((_folded("  " + cost.layer[len(owner) + 1 :]), cost) for cost in members)


def _folded(name: str, width: int = KEY_WIDTH, at: str = ".") -> str:
    """On several lines where it is too long for its column, broken behind an `at`."""
    lines = [""]
    for part in name.replace(at, at + "\0").split("\0"):
        if lines[-1].strip() and len(lines[-1]) + len(part) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _kind(cost: LayerCost, width: int) -> str:
    calls = "" if cost.num_calls == 1 else f" ×{cost.num_calls}"
    return _folded(cost.kind + calls, width, "_")


def _count(count: int) -> str:
    return count_exact(count) if count < MAX_EXACT else count_short(count)


def _outputs(cost: LayerCost) -> str:
    shapes = [shape_text(shape[1:]) or "1" for shape in dict.fromkeys(cost.output_shapes)]
    return shapes[0] if len(shapes) == 1 else f"{shapes[0]}, +{len(shapes) - 1}" if shapes else "-"


def _short_unknown(cell: str) -> str:
    return "?" if cell == "unknown" else cell


def _show_totals(screen: Screen, profile: Profile) -> None:
    if not profile.totals:
        return
    rows = [
        (
            row.quantity,
            row.instrument,
            at_least(count_exact(row.theory), row.lower_bound and row.theory is not None),
            figure(row.measured, row.quantity),
            signed(_difference(row)),
            signed(row.unexplained),
        )
        for row in profile.totals
    ]
    screen.table(
        "theory beside the instruments, the whole network (bytes, FLOPs, elements)",
        ("quantity", "instrument", "theory", "measured", "difference", "unexplained"),
        rows,
        num_text_columns=2,
        tight=True,
    )
    screen.say(wrapped(verdict(profile), "  "))
    for row in unexplained_rows(profile)[:MAX_UNEXPLAINED]:
        screen.say(
            wrapped(
                f"  UNEXPLAINED: {row.layer}, {row.quantity} by {row.instrument}: "
                f"{signed(row.unexplained)} {unit_of(row.quantity)}",
                "    ",
            )
        )


def _show_gaps(screen: Screen, profile: Profile) -> None:
    found = gaps(profile, NUM_GAPS)
    screen.say("")
    if not found:
        screen.say("No layer differs from the textbook by any instrument.")
        return
    screen.say("Largest gaps between an instrument and the textbook, and why:")
    for number, gap in enumerate(found, 1):
        screen.say(wrapped(f"{number}. {gap_sentence(gap)}", "   "))
    screen.say("")


def _difference(row: Row) -> float | None:
    if row.measured is None or row.theory is None:
        return None
    return row.measured - row.theory
