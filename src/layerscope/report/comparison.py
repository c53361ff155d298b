"""What a comparison of two profiles says, and its files."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from layerscope.base.files import write_json, write_text
from layerscope.base.formatting import amount, share, unit_of
from layerscope.compare import ClockDifference, Difference, ProfileComparison, SavedProfile
from layerscope.compare.differences import Change
from layerscope.compare.saved import TEXTBOOK
from layerscope.reconcile.rows import Reason
from layerscope.reconcile.settings import ProfileSettings
from layerscope.report.document import (
    BLANK,
    Block,
    Break,
    Bullets,
    Cell,
    Column,
    Document,
    Folded,
    Heading,
    Paragraph,
    Space,
    Table,
    Text,
    columns_in,
    joined,
)
from layerscope.report.html import fragment, to_page
from layerscope.report.markdown import to_markdown
from layerscope.report.profile.content import fold_name, input_text, settings_line, spread_text
from layerscope.report.profile.records import json_value
from layerscope.report.terminal import Screen, TextScreen

FORMAT = 1  # of compare.json

# Whose figure of a quantity is named first, if both sides have it; the others are listed apart.
_FIRST = {
    "num_parameters": ("outputs", TEXTBOOK),
    "output_bytes": ("outputs", TEXTBOOK),
    "saved_bytes": ("saved", "dry_run"),
    "macs": (TEXTBOOK,),
    "forward_flops": (TEXTBOOK,),
    "backward_flops": ("flop_counter", TEXTBOOK),  # what a step computes, without frozen layers
    "live_peak_bytes": ("memory", "dry_run"),
}
MOST = 5  # layers of a quantity that are named
MOST_REASONS = 3  # of a quantity, on a terminal
MOST_NAMES = 20  # layers that only one side has, on a terminal
_BY_PATH = (
    "Layers are matched by their paths: one that was renamed stands here as removed and as added."
)


class ComparisonReport:
    """What `layerscope.compare` returns: printed, it is a report of 100 columns."""

    def __init__(self, comparison: ProfileComparison) -> None:
        self.comparison = comparison

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The figures of layers that differ, or that one side does not know."""
        return self.comparison.differences

    @property
    def totals(self) -> tuple[Difference, ...]:
        """The figures of the whole network."""
        return self.comparison.totals

    @property
    def added(self) -> tuple[str, ...]:
        """Layers that only b has."""
        return self.comparison.added

    @property
    def removed(self) -> tuple[str, ...]:
        """Layers that only a has."""
        return self.comparison.removed

    @property
    def retyped(self) -> tuple[Change, ...]:
        """Layers of both that have another type."""
        return self.comparison.retyped

    @property
    def clock(self) -> tuple[ClockDifference, ...]:
        """Seconds and the measured peak, with their spread."""
        return self.comparison.clock

    def __str__(self) -> str:
        screen = TextScreen()
        self.show(screen=screen)
        return screen.text

    def __repr__(self) -> str:
        names = (
            str(each.settings.get("network")) for each in (self.comparison.a, self.comparison.b)
        )
        return f"<ComparisonReport of {' and '.join(names)}>"

    def _repr_html_(self) -> str:
        """Return the answer without the layers: what a notebook shows."""
        return fragment(tuple(_summary(self.comparison)))

    def show(self, *, screen: Screen | None = None) -> None:
        """Print the report in the terminal's width, with colour where it has any."""
        (screen or Screen()).show(*_summary(self.comparison))

    def save(self, directory: str | Path) -> tuple[Path, ...]:
        """Write compare.json, .md and .html.

        The directory is made; each file is written whole or not at all. Returns what was written.
        """
        document = comparison_document(self.comparison)
        folder = Path(directory)
        paths = tuple(folder / f"compare.{end}" for end in ("json", "md", "html"))
        write_json(paths[0], comparison_record(self.comparison))
        write_text(paths[1], to_markdown(document))
        write_text(paths[2], to_page(document))
        return paths


# compare.json ---------------------------------------------------------------------------------


def comparison_record(comparison: ProfileComparison) -> dict[str, Any]:
    """Return the comparison as plain data: no nan, no infinity."""
    return {
        "format": FORMAT,
        "a": dict(comparison.a.settings),
        "b": dict(comparison.b.settings),
        "changes": json_value(comparison.changes),
        "layers": {
            "added": list(comparison.added),
            "removed": list(comparison.removed),
            "retyped": json_value(comparison.retyped),
        },
        "comparisons": {
            "num_compared": comparison.num_compared,
            "num_equal": comparison.num_equal,
            "num_unknown": comparison.num_unknown,
        },
        "differences": [_difference(each) for each in comparison.differences],
        "totals": [_difference(each) for each in comparison.totals],
        "clock": [json_value(each) | {"differs": each.differs} for each in comparison.clock],
        "only_in": {
            side: [
                {"quantity": quantity, "instrument": instrument} for quantity, instrument in keys
            ]
            for side, keys in comparison.only_in.items()
        },
    }


def _difference(difference: Difference) -> dict[str, Any]:
    reasons = [
        {name: value for name, value in vars(reason).items() if value is not None}
        for reason in difference.reasons
    ]
    return json_value(difference) | {"difference": difference.difference, "reasons": reasons}


# The document ---------------------------------------------------------------------------------


def comparison_document(comparison: ProfileComparison) -> Document:
    """Return the answer, then every layer that differs, then the clock."""
    title = f"Comparison of {_name(comparison.a)} (a) with {_name(comparison.b)} (b)"
    return Document(
        title,
        (
            Heading(1, title),
            *_sides(comparison),
            Heading(2, "In short"),
            Paragraph(_verdict(comparison)),
            *_presence(comparison, most=None),
            Heading(2, "The whole network"),
            *_totals(comparison, title=""),
            *_leaders(comparison),
            Heading(2, "Why"),
            *_why(comparison, most=None),
            Heading(2, "Layers"),
            *_layers(comparison),
            *_clock(comparison),
            Heading(2, "How it is compared"),
            Bullets(_CONVENTIONS),
        ),
    )


_CONVENTIONS = (
    "difference = b - a = the difference of the textbook's figures + the difference of each reason "
    "+ the difference of what is unexplained.",
    "Why the textbook's figures differ is told in this order: the batch, the size of an element "
    "(both in proportion), then the layer itself or its input.",
    _BY_PATH,
    "A figure that only one side has is unknown on the other, and is not compared. A layer that "
    "only one side has is no 0 on the other: all its cost is the difference.",
    "Seconds and the measured peak differ from run to run. Ranges that overlap are no difference; "
    "the peak is measured once, so that its range is not known.",
)


def _summary(comparison: ProfileComparison) -> Iterator[Block]:
    yield from _sides(comparison)
    yield Space()
    yield Paragraph(_verdict(comparison))
    yield from _presence(comparison, most=MOST_NAMES)
    yield from _totals(comparison)
    yield from _leaders(comparison)
    yield from _why(comparison, most=MOST_REASONS)
    yield from _whole_clock(comparison)


def _name(side: SavedProfile) -> str:
    return str(side.settings.get("network", "a network"))


def _sides(comparison: ProfileComparison) -> Iterator[Block]:
    """Yield what both sides are, and which circumstances differ."""
    for name, side in (("a", comparison.a), ("b", comparison.b)):
        yield Paragraph(f"{name}: {_settings_text(side)} ({side.source})", "quiet")
    if comparison.changes:
        rows = tuple(
            (each.name, _value_text(each.a), _value_text(each.b)) for each in comparison.changes
        )
        yield Table(columns_in("text", "what differs", "a", "b"), rows)
    else:
        yield Paragraph("Both have the same settings.", "quiet")


def _settings_text(side: SavedProfile) -> str:
    """Return the settings in one line, as a profile shows them."""
    known = {field.name for field in fields(ProfileSettings)}
    settings = {name: value for name, value in side.settings.items() if name in known}
    return settings_line(ProfileSettings(**settings))


def _value_text(value: object) -> str:
    if value is None:
        return "unknown"
    return input_text(value) if isinstance(value, list | dict) else str(value)


def _verdict(comparison: ProfileComparison) -> str:
    differing = [each for each in comparison.differences if each.difference]
    known = comparison.num_compared
    text = f"{len(differing):,} of {known:,} figures differ"
    if comparison.num_unknown:
        text += f"; {comparison.num_unknown:,} more are unknown on one side"
    unexplained = [
        reason
        for each in (*comparison.differences, *comparison.totals)
        for reason in each.reasons
        if reason.code == "unexplained"
    ]
    left = f"{len(unexplained):,} differences are" if unexplained else "nothing is"
    return f"{text}. Every difference is the sum of its reasons; {left} left unexplained."


def _presence(comparison: ProfileComparison, most: int | None) -> Iterator[Block]:
    """Yield the layers that only one side has, and what is not compared at all."""
    retyped = tuple(f"{each.name} ({each.a} → {each.b})" for each in comparison.retyped)
    for what, names in (
        ("added", comparison.added),
        ("removed", comparison.removed),
        ("retyped", retyped),
    ):
        if names:
            shown = ", ".join(names[:most])
            more = len(names) - len(names[:most])
            yield Paragraph(
                f"{what} layers: {shown}{f', and {more:,} more' if more else ''}", "note"
            )
    if comparison.added and comparison.removed:
        yield Paragraph(_BY_PATH, "quiet")
    for side, keys in comparison.only_in.items():
        if keys:
            instruments = ", ".join(dict.fromkeys(instrument for _, instrument in keys))
            yield Paragraph(f"Only {side} has figures of {instruments}: not compared.", "note")


_COLUMNS = (
    Column("quantity", "quantity"),
    Column("instrument", "instrument"),
    Column("a", "a", "count", rank=3),
    Column("b", "b", "count", rank=2),
    Column("difference", "b - a", "signed"),
    Column("change", "change", "number", rank=1),
)


def _totals(comparison: ProfileComparison, title: str = "the whole network") -> Iterator[Block]:
    """Yield a line for each total; instruments that see the same share one."""
    alike: dict[tuple[object, ...], list[Difference]] = {}
    for total in comparison.totals:
        alike.setdefault((total.quantity, total.a, total.b), []).append(total)
    rows = tuple(
        _figures(found[0], ", ".join(each.instrument for each in found)) for found in alike.values()
    )
    yield Table(_COLUMNS, rows, title=title)


def _figures(difference: Difference, instruments: str = "") -> tuple[Cell, ...]:
    return (
        *(_quantity(difference), instruments or difference.instrument, *_values(difference)),
        *(difference.difference, _change(difference)),
    )


def _quantity(difference: Difference) -> str:
    unit = unit_of(difference.quantity)
    return f"{difference.quantity}, {unit}" if unit else difference.quantity


def _values(difference: Difference) -> tuple[Cell, Cell]:
    match difference.presence:
        case "added":
            return "not there", difference.b
        case "removed":
            return difference.a, "not there"
    return difference.a, difference.b


def _change(difference: Difference) -> Cell:
    """Return the relative growth; there is none of what was not there or 0."""
    if difference.presence != "both":
        return difference.presence
    if difference.difference is None or not difference.a:
        return BLANK if difference.difference is None or not difference.b else "from 0"
    return _signed_share(difference.difference / difference.a)


def _signed_share(part: float) -> str:
    return "0 %" if not part else f"{'+' if part > 0 else ''}{share(part)}"


def _leading(
    comparison: ProfileComparison, found: Sequence[Difference]
) -> Iterator[list[Difference]]:
    """Yield the differences of each main quantity, by the instrument that is named first."""
    seen = {(each.quantity, each.instrument) for each in comparison.totals}
    for quantity, instruments in _FIRST.items():
        chosen = next((name for name in instruments if (quantity, name) in seen), None)
        yield [d for d in found if (d.quantity, d.instrument) == (quantity, chosen)]


def _leaders(comparison: ProfileComparison) -> Iterator[Block]:
    """Yield the layers that grew most and those that shrank most, of each main quantity."""
    for title, sign in (("grew most", 1), ("shrank most", -1)):
        rows: list[tuple[Cell, ...]] = []
        for group in _leading(comparison, comparison.differences):
            own = [each for each in group if (each.difference or 0) * sign > 0]
            own.sort(key=lambda each: -abs(each.difference or 0))
            for each in own[:MOST]:
                quantity, _, *figures = _figures(each)
                rows.append((fold_name(each.layer), quantity, *figures))
        if rows:
            columns = (Column("layer", "layer"), _COLUMNS[0], *_COLUMNS[2:])
            yield Table(columns, tuple(rows), title=title)


def _why(comparison: ProfileComparison, most: int | None) -> Iterator[Block]:
    """Yield the reasons of each total, the largest of a quantity first."""
    groups: dict[tuple[str, str, int, str], list[str]] = {}
    for total in comparison.totals:
        for reason in sorted(total.reasons, key=lambda each: -abs(each.amount)):
            key = (total.quantity, reason.code, reason.amount, reason.text)
            groups.setdefault(key, []).append(total.instrument)
    if not groups:
        yield Paragraph("No total differs.")
        return
    rows = tuple(
        (quantity, ", ".join(instruments), code, amount(number, quantity), text)
        for (quantity, code, number, text), instruments in groups.items()
    )
    columns = (*columns_in("text", "quantity", "instruments", "reason"),
               *columns_in("number", "amount"), *columns_in("text", "why"))  # fmt: skip
    if most is None:
        yield Table(columns, rows, cards=True)
        return
    yield Paragraph("Why the totals differ:")
    shown: dict[str, int] = {}
    for (quantity, code, number, text), instruments in groups.items():
        if _is_first(comparison, quantity, instruments) and shown.get(quantity, 0) < most:
            shown[quantity] = shown.get(quantity, 0) + 1
            yield Paragraph(f"  {quantity}: {amount(number, quantity)}, {code}: {text}")
    hidden = len(groups) - sum(shown.values())
    if hidden:
        yield Paragraph(f"and {hidden:,} more, in the saved files.")
    yield Space()


def _is_first(comparison: ProfileComparison, quantity: str, instruments: Sequence[str]) -> bool:
    seen = {(each.quantity, each.instrument) for each in comparison.totals}
    chosen = next((n for n in _FIRST.get(quantity, ()) if (quantity, n) in seen), None)
    return chosen in instruments


# Layers ---------------------------------------------------------------------------------------


def _layers(comparison: ProfileComparison) -> Iterator[Block]:
    """Yield a line for each layer that differs; behind it every figure with its reasons."""
    by_layer: dict[str, list[Difference]] = {}
    for difference in comparison.differences:
        by_layer.setdefault(difference.layer, []).append(difference)
    if not by_layer:
        yield Paragraph("No layer differs.")
        return
    yield Paragraph(
        "b - a of the whole batch, by the first instrument that both have; each with its reasons "
        "behind the line.",
        "quiet",
    )
    leading = {
        (each.layer, each.quantity): each
        for group in _leading(comparison, comparison.differences)
        for each in group
    }
    quantities = [name for name in _FIRST if name != "live_peak_bytes"]
    columns = (
        *(Column("layer", "layer"), Column("type", "type"), Column("presence", "")),
        *(Column(name, name, "signed") for name in quantities),
    )
    rows = [
        (
            *(layer, found[0].type or BLANK, _presence_text(found[0])),
            *(_short(leading.get((layer, name))) for name in quantities),
        )
        for layer, found in by_layer.items()
    ]
    details = tuple((_all_figures(found),) for found in by_layer.values())
    yield Table(columns, tuple(rows), key="layer", details=details)
    all_rows = _all_figures(comparison.differences, with_layer=True)
    yield Folded("Layer by layer, with reasons", (all_rows,), level=3)


def _presence_text(difference: Difference) -> Cell:
    return BLANK if difference.presence == "both" else difference.presence


def _short(difference: Difference | None) -> Cell:
    """Return the difference, 0 where nothing differs; None is unknown."""
    return 0 if difference is None else difference.difference


def _all_figures(found: Sequence[Difference], with_layer: bool = False) -> Table:
    columns = (*_COLUMNS, Column("reasons", "reasons"))
    rows = [(*_figures(each), _reasons_text(each.quantity, each.reasons)) for each in found]
    if with_layer:
        columns = (Column("layer", "layer"), *columns)
        rows = [(each.layer, *row) for each, row in zip(found, rows, strict=True)]
    return Table(columns, tuple(rows), cards=True)


def _reasons_text(quantity: str, reasons: Sequence[Reason]) -> Text:
    lines = (f"{amount(each.amount, quantity)}, {each.code}: {each.text}" for each in reasons)
    return joined(lines, (Break(),)) or "–"


# The clock ------------------------------------------------------------------------------------


def _clock(comparison: ProfileComparison) -> Iterator[Block]:
    if not comparison.clock:
        return
    yield Heading(2, "Clock and allocator")
    yield from _whole_clock(comparison)
    layers = [each for each in comparison.clock if each.layer != "total"]
    if layers:
        yield Folded("Layer by layer, in seconds", (_clock_table(layers),), level=3)


def _whole_clock(comparison: ProfileComparison) -> Iterator[Block]:
    whole = [each for each in comparison.clock if each.layer == "total"]
    if whole:
        yield _clock_table(whole, "what differs from run to run: median (least–most)")


def _clock_table(found: Sequence[ClockDifference], title: str = "") -> Table:
    columns = (
        *(Column("layer", "layer"), Column("quantity", "quantity")),
        *(Column("a", "a", "number", rank=2), Column("b", "b", "number", rank=1)),
        Column("difference", "difference"),
    )
    rows = tuple(
        (each.layer, each.quantity, *_clock_values(each), _clock_verdict(each)) for each in found
    )
    return Table(columns, rows, title=title)


def _clock_values(each: ClockDifference) -> tuple[Text, Text]:
    if each.is_repeated:
        return spread_text(each.a), spread_text(each.b)
    return f"{each.a.median:,.0f} B", f"{each.b.median:,.0f} B"


def _clock_verdict(each: ClockDifference) -> str:
    change = _signed_share(each.b.median / each.a.median - 1) if each.a.median else ""
    if each.differs is None:
        return f"{change}, measured once"
    return change if each.differs else "none: within the spread"
