"""A profile on the terminal: the answer first, then tables that fit its width."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from layerscope.audit import Audit
from layerscope.base.formatting import (
    amount,
    at_least,
    bytes_short,
    count_exact,
    count_short,
    seconds_short,
    shape_text,
    share,
    wrapped,
)
from layerscope.reconcile.profile import Profile, ProfileSettings
from layerscope.report.audit import audit_line
from layerscope.report.profile.cells import Sum
from layerscope.report.profile.findings import (
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
from layerscope.report.profile.row_text import RowText, row_text
from layerscope.report.terminal import Screen

MAX_LINES = 40  # of the layer table: what a person reads
MAX_REASONS = 8
MAX_REASON_TEXT = 160  # characters; the saved files have all
MAX_UNEXPLAINED = 10
MAX_EXACT = 1_000_000  # parameters below it fit their column as they are
KEY_WIDTH, TYPE_WIDTH = 24, 14
_MODES = {True: "train mode", False: "eval mode", None: "each module in its own mode"}
_OF_LIBRARY = "result.show(depth={})"


@dataclass(frozen=True)
class ScreenColumn:
    """A column of text cells.

    Args:
        rank: where the screen is too narrow, columns of the highest rank are left out first; those
            of rank 0 stay.
    """

    title: str
    cells: tuple[str, ...]
    total: str = ""
    rank: int = 0
    is_text: bool = False

    @property
    def width(self) -> int:
        """Columns of the screen that it takes."""
        texts = [self.title, self.total, *(line for c in self.cells for line in c.split("\n"))]
        return max(map(len, texts))


def show_profile(
    screen: Screen,
    profile: Profile,
    audit: Audit | None = None,
    depth: int | None = None,
    command: str = _OF_LIBRARY,
) -> None:
    """Show settings, verdict, peak and the most expensive layers; then layers, totals, reasons.

    Args:
        depth: of the layer table in the module tree; None: the largest that is not too long.
        command: what shows another depth, with `{}` in its place.
    """
    _show_answer(screen, profile)
    _show_layers(screen, profile, depth, command)
    _show_totals(screen, profile)
    _show_reasons(screen, profile)
    lines = (
        slowest_line(profile),
        machine_line(profile),
        None if audit is None else audit_line(audit),
        verdict(profile),
    )
    for line in lines:
        if line:
            _say(screen, line)


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


def _say(screen: Screen, line: str) -> None:
    screen.say(wrapped(line, "  ", screen.width))


def _show_answer(screen: Screen, profile: Profile) -> None:
    _say(screen, settings_line(profile.settings))
    for note in profile.notes:
        _say(screen, f"Note: {note}.")
    screen.say("")
    _say(screen, verdict(profile))
    open_rows = unexplained_rows(profile)
    for row in open_rows[:MAX_UNEXPLAINED]:
        _say(screen, f"  {unexplained_line(row)}")
    if len(open_rows) > MAX_UNEXPLAINED:
        _say(screen, f"  and {len(open_rows) - MAX_UNEXPLAINED:,} more")
    for name, text in peak_lines(profile):
        _say(screen, f"{name.capitalize()}: {text}.")
    screen.say("")
    rows = [
        (each.title if place == 0 else "", leader.layer, leader.amount, leader.share)
        for each in leaders(profile)
        for place, leader in enumerate(each.layers)
    ]
    _show_table(
        screen,
        "the most expensive layers",
        [
            ScreenColumn("most", tuple(row[0] for row in rows), is_text=True),
            ScreenColumn(
                "layer",
                tuple(fold_name(row[1], max(KEY_WIDTH, screen.width - 40)) for row in rows),
                is_text=True,
            ),
            ScreenColumn("amount", tuple(row[2] for row in rows)),
            ScreenColumn("share", tuple(row[3] for row in rows)),
        ],
    )


def _show_table(
    screen: Screen, title: str, columns: Sequence[ScreenColumn], has_total: bool = False
) -> None:
    """Show the columns for which there is room."""
    shown = fitting(columns, screen.width)
    screen.say(
        wrapped(title, width=screen.width)
    )  # the table's own title is as narrow as the table
    screen.table(
        "",
        [column.title for column in shown],
        list(zip(*(column.cells for column in shown), strict=True)),
        num_text_columns=sum(column.is_text for column in shown),
        total=[column.total for column in shown] if has_total else None,
        tight=True,
    )


def fitting(columns: Sequence[ScreenColumn], width: int) -> list[ScreenColumn]:
    """Leave out columns of the highest ranks until the others fit."""
    shown = list(columns)
    while sum(column.width + 1 for column in shown) + 1 > width:
        last = max(shown, key=lambda column: column.rank)
        if last.rank == 0:
            break
        shown.remove(last)
    return shown


# Layers ---------------------------------------------------------------------------------------


def _show_layers(screen: Screen, profile: Profile, depth: int | None, command: str) -> None:
    deepest = tree_depth(profile)
    chosen = fitting_depth(profile, MAX_LINES) if depth is None else min(depth, deepest)
    lines = layer_lines(profile, chosen)
    num_layers = sum(len(line.layers) for line in lines)
    shown = shortened_lines(lines) if depth is None else lines
    names = list(_names(shown))
    total = folded("total", lines)
    _show_table(
        screen,
        _layers_title(profile, chosen, deepest),
        _layer_columns(names, total, with_time=bool(profile.times)),
        has_total=True,
    )
    if len(shown) < num_layers:
        _say(
            screen,
            f"{len(shown):,} lines for {num_layers:,} layers; all of them: "
            f"{command.format(deepest)}, or the saved profile.md and profile.html.",
        )
        screen.say("")


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


def _layer_columns(
    names: Sequence[tuple[str, LayerLine | None]], total: LayerLine, with_time: bool
) -> list[ScreenColumn]:
    figures = [[""] * 8 if line is None else layer_figures(line) for _, line in names]
    sums = layer_figures(total)
    columns = [
        ScreenColumn("layer", tuple(name for name, _ in names), "total", is_text=True),
        _column("type", 0, figures, "", 4, is_text=True),
        _column("output", 1, figures, "", 7, is_text=True),
        _column("params", 2, figures, sums[2], 6),
        _column("output B", 3, figures, sums[3], 5),
        _column("saved B", 4, figures, sums[4], 0),
        _column("fwd FLOP", 5, figures, sums[5], 2),
        _column("bwd FLOP", 6, figures, sums[6], 3),
    ]
    return [*columns, _column("time", 7, figures, sums[7], 1)] if with_time else columns


def _column(
    title: str,
    place: int,
    rows: Sequence[Sequence[str]],
    total: str,
    rank: int,
    is_text: bool = False,
) -> ScreenColumn:
    return ScreenColumn(title, tuple(row[place] for row in rows), total, rank, is_text)


def layer_figures(line: LayerLine) -> list[str]:
    """Return type, output, parameters, output bytes, saved bytes, FLOPs of both passes, time."""
    return [
        _type(line),
        _outputs(line),
        count_exact(line.num_parameters)
        if line.num_parameters < MAX_EXACT
        else count_short(line.num_parameters),
        bytes_short(line.output_bytes),
        bytes_short(line.saved_bytes),
        _flops(line.forward_flops),
        _flops(line.backward_flops),
        "?" if line.seconds is None else seconds_short(line.seconds),
    ]


def _flops(flops: Sum | None) -> str:
    return "?" if flops is None else at_least(count_short(flops.value), flops.lower_bound)


def _type(line: LayerLine) -> str:
    if len(line.layers) > 1:
        return f"{len(line.layers):,} layers"
    calls = f" ×{line.num_calls}" if line.num_calls > 1 else ""
    return fold_name(line.type + calls, TYPE_WIDTH, "_")


def _outputs(line: LayerLine) -> str:
    if not line.output_shapes:
        return "–"
    shapes = [shape_text(shape[1:]) or "1" for shape in dict.fromkeys(line.output_shapes)]
    return shapes[0] if len(shapes) == 1 else f"{shapes[0]}, +{len(shapes) - 1}"


def _names(lines: Sequence[LayerLine]) -> Iterator[tuple[str, LayerLine | None]]:
    """Name each line; where names are long, their owner stands once, above its lines."""
    for owner, run in groupby(lines, key=lambda line: line.name.rpartition(".")[0]):
        members = list(run)
        if not owner or all(len(line.name) <= KEY_WIDTH for line in members):
            yield from ((fold_name(line.name), line) for line in members)
        else:
            yield fold_name(owner + "."), None
            yield from ((fold_name("  " + line.name[len(owner) + 1 :]), line) for line in members)


def fold_name(name: str, width: int = KEY_WIDTH, at: str = ".") -> str:
    """Break a name that is too long for its column behind an `at`."""
    lines = [""]
    for part in name.replace(at, at + "\0").split("\0"):
        if lines[-1].strip() and len(lines[-1]) + len(part) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


# Totals and reasons ---------------------------------------------------------------------------


def _show_totals(screen: Screen, profile: Profile) -> None:
    if not profile.totals:
        return
    for short in (False, True):
        columns = _total_columns([row_text(row, short) for row in profile.totals])
        if len(fitting(columns, screen.width)) == len(columns):
            break
    title = "the whole network: theory + reasons = predicted (bytes, FLOPs, MACs, elements)"
    _show_table(screen, title, columns)


def _total_columns(rows: Sequence[RowText]) -> list[ScreenColumn]:
    return [
        ScreenColumn("quantity", tuple(row.quantity for row in rows), is_text=True),
        ScreenColumn("instrument", tuple(row.instrument for row in rows), is_text=True),
        ScreenColumn("theory", tuple(row.theory for row in rows), rank=1),
        ScreenColumn("not counted", tuple(row.not_counted for row in rows), rank=3),
        ScreenColumn("predicted", tuple(row.predicted for row in rows), rank=2),
        ScreenColumn("measured", tuple(row.measured for row in rows)),
        ScreenColumn("unexplained", tuple(row.unexplained for row in rows)),
    ]


def _show_reasons(screen: Screen, profile: Profile) -> None:
    groups = reason_groups(profile)
    if not groups:
        screen.say("No layer differs from the textbook by any instrument.")
        return
    screen.say("Why instruments see something else than the textbook:")
    for group in groups[:MAX_REASONS]:
        layers = f"{len(group.layers):,} layer{'s' if len(group.layers) > 1 else ''}"
        _say(
            screen,
            f"{group.quantity} by {', '.join(group.instruments)}: "
            f"{amount(group.amount, group.quantity)} ({share(group.share)}) in {layers}, "
            f"{group.code}: {textwrap.shorten(group.text, MAX_REASON_TEXT, placeholder=' …')}",
        )
    if len(groups) > MAX_REASONS:
        _say(screen, f"and {len(groups) - MAX_REASONS:,} smaller ones, in the saved files.")
    screen.say("")
