"""Every exact figure that differs between two profiles, in named reasons that sum to it.

difference = difference of the theories + differences of each reason + difference of what is
unexplained. Layers are matched by their paths.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from layerscope.compare.causes import TOGETHER, theory_reasons
from layerscope.compare.clock import ClockDifference, clock_differences
from layerscope.compare.saved import TEXTBOOK, RowKey, SavedProfile
from layerscope.reconcile.rows import EXACT_QUANTITIES, Reason, Row, merged

Presence = Literal["both", "added", "removed"]


@dataclass(frozen=True)
class Difference:
    """One quantity of a layer, or of the total, on both sides.

    Args:
        instrument: what saw it, as in profile.json; `textbook` for the textbook's own figure.
        presence: `added` if only b has the layer, `removed` if only a has it.
        a, b: the figures; None where there is none, which is unknown or, of a layer that is not
            there, nothing.
        reasons: amounts that sum to the difference; none where that is unknown.
    """

    layer: str
    type: str
    quantity: str
    instrument: str
    presence: Presence
    a: int | None
    b: int | None
    reasons: tuple[Reason, ...] = ()

    @property
    def difference(self) -> int | None:
        """What b has more than a; None if a figure is unknown."""
        match self.presence:
            case "added":
                return self.b
            case "removed":
                return None if self.a is None else -self.a
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class Change:
    """A setting, a layer's type or a circumstance that is not the same on both sides."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ProfileComparison:
    """Two profiles and where they differ.

    Args:
        changes: of the settings, of torch's version and of the machine.
        added, removed: layers that only b has, that only a has.
        retyped: layers of both that have another type.
        differences: figures of layers that differ, that are equal for reasons that cancel, or that
            one side does not know.
        totals: the same of the whole network, with those that are equal.
        clock: seconds and the measured peak, which differ from run to run.
        num_compared, num_equal, num_unknown: figures of layers; unknown are those of one side only.
        only_in: quantities with an instrument that only one side has, by side.
    """

    a: SavedProfile
    b: SavedProfile
    changes: tuple[Change, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    retyped: tuple[Change, ...]
    differences: tuple[Difference, ...]
    totals: tuple[Difference, ...]
    clock: tuple[ClockDifference, ...]
    num_compared: int
    num_equal: int
    num_unknown: int
    only_in: Mapping[str, tuple[tuple[str, str], ...]]


def compare_profiles(a: SavedProfile, b: SavedProfile) -> ProfileComparison:
    """Compare every exact figure of every layer and of the total."""
    sides = (_Side(a), _Side(b))
    names = _in_order(sides[0].names, sides[1].names)
    seen = [side.seen for side in sides]
    found = [
        difference
        for layer in names
        for quantity, instrument in seen[1]
        if (quantity, instrument) in seen[0]
        for difference in _of_layer(sides, layer, quantity, instrument)
    ]
    differing = tuple(d for d in found if d.difference != 0 or d.reasons)
    known = [d for d in found if d.difference is not None]
    layers = _in_order(tuple(a.layers), tuple(b.layers))
    return ProfileComparison(
        a=a,
        b=b,
        changes=tuple(_changes(a, b)),
        added=tuple(layer for layer in layers if layer not in a.layers),
        removed=tuple(layer for layer in layers if layer not in b.layers),
        retyped=tuple(
            Change(layer, a.layers[layer].type, b.layers[layer].type)
            for layer in layers
            if layer in a.layers and layer in b.layers
            if a.layers[layer].type != b.layers[layer].type
        ),
        differences=differing,
        totals=tuple(_totals(sides, found)),
        clock=tuple(clock_differences(a, b)),
        num_compared=len(known),
        num_equal=len(found) - len(differing),
        num_unknown=len(found) - len(known),
        only_in={
            name: tuple(key for key in one if key not in other)
            for name, one, other in (("a", *seen), ("b", *reversed(seen)))
        },
    )


def _in_order(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Return all names: the first side's, each of the second's alone behind its predecessor."""
    known, followers = set(first), dict[str, list[str]]()
    before = ""
    for name in second:
        if name in known:
            before = name
        else:
            followers.setdefault(before, []).append(name)
    return tuple(each for name in ("", *first) for each in (name, *followers.get(name, ())) if each)


# Figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ComparedFigure:
    """A figure with what it is made of: value = theory + reasons + unexplained."""

    value: int | None
    theory: int | None
    reasons: tuple[Reason, ...] = ()

    @property
    def unexplained(self) -> int:
        assert self.value is not None
        assert self.theory is not None
        return self.value - self.theory - sum(reason.amount for reason in self.reasons)


_NOTHING = _ComparedFigure(0, 0)


class _Side:
    """One profile's figures, those of the textbook among them."""

    def __init__(self, profile: SavedProfile) -> None:
        self.profile = profile
        self.figures: dict[RowKey, _ComparedFigure] = {}
        for layer in profile.layers.values():
            for quantity, figure in layer.figures.items():
                self.figures[layer.layer, quantity, TEXTBOOK] = _ComparedFigure(figure, figure)
        self.rows = profile.rows
        self.figures |= {key: _figure(row) for key, row in self.rows.items()}
        # What a module runs between layers has rows, but is no layer; the input is neither.
        self.names = tuple(
            dict.fromkeys(
                (*profile.layers, *(layer for layer, *_ in self.rows if layer != "input"))
            )
        )
        order = {quantity: place for place, quantity in enumerate(EXACT_QUANTITIES)}
        pairs = dict.fromkeys((quantity, instrument) for _, quantity, instrument in self.figures)
        self.seen = tuple(sorted(pairs, key=lambda pair: order[pair[0]]))

    def figure(self, layer: str, quantity: str, instrument: str) -> _ComparedFigure | None:
        """Return None where the layer is not there; nothing to count is 0."""
        found = self.figures.get((layer, quantity, instrument))
        if found is None and layer in self.names:
            return _NOTHING  # a profile leaves out rows between layers in which all is 0
        return found

    def is_counted(self, layer: str, quantity: str, instrument: str) -> bool:
        """Tell whether the instrument counts anything of the layer."""
        row = self.rows.get((layer, quantity, instrument))
        return row is None or row.counted

    def type(self, layer: str) -> str:
        """Return the type of a layer; empty for what runs between layers."""
        return self.profile.layers[layer].type if layer in self.profile.layers else ""

    def total(self, quantity: str, instrument: str) -> int | None:
        """Return the whole network's figure."""
        if instrument == TEXTBOOK:
            return self.profile.textbook_total(quantity)
        row = self.profile.totals.get(("total", quantity, instrument))
        return None if row is None else _figure(row).value


def _figure(row: Row) -> _ComparedFigure:
    value = row.measured if row.counted else None
    return _ComparedFigure(None if value is None else int(value), row.theory, row.reasons)


# Layers ---------------------------------------------------------------------------------------


def _of_layer(
    sides: tuple[_Side, _Side], layer: str, quantity: str, instrument: str
) -> Iterator[Difference]:
    """Yield the difference of one figure; none where no side counts anything of the layer."""
    before, after = (side.figure(layer, quantity, instrument) for side in sides)
    there = [side for side in sides if layer in side.names]
    if not any(side.is_counted(layer, quantity, instrument) for side in there):
        return
    type_ = there[-1].type(layer)
    if before is None or after is None:
        presence = "added" if before is None else "removed"
        value = (before or after or _NOTHING).value
        reasons = () if value is None else _whole(presence, value)
        figures = (None, value) if before is None else (value, None)
        yield Difference(layer, type_, quantity, instrument, presence, *figures, reasons)
        return
    reasons = _reasons(sides, layer, quantity, before, after)
    yield Difference(layer, type_, quantity, instrument, "both", before.value, after.value, reasons)


def _whole(presence: Presence, value: int) -> tuple[Reason, ...]:
    if presence == "added":
        return _reason("added", value, "only b has this layer")
    return _reason("removed", -value, "only a has this layer")


def _reason(code: str, amount: int, text: str) -> tuple[Reason, ...]:
    return (Reason(code, amount, text),) if amount else ()


def _reasons(
    sides: tuple[_Side, _Side],
    layer: str,
    quantity: str,
    before: _ComparedFigure,
    after: _ComparedFigure,
) -> tuple[Reason, ...]:
    if before.value is None or after.value is None:
        return ()
    if before.theory is None or after.theory is None:
        text = "there is no theory of it on both sides"
        return _reason("no_theory", after.value - before.value, text)
    profiles = (sides[0].profile, sides[1].profile)
    return (
        *theory_reasons(*profiles, layer, quantity, (before.theory, after.theory)),
        *_changed(before.reasons, after.reasons),
        *_reason(
            "unexplained",
            after.unexplained - before.unexplained,
            "what no profile's reason explains",
        ),
    )


def _changed(before: Iterable[Reason], after: Iterable[Reason]) -> Iterator[Reason]:
    """Yield the difference of each reason's amount, by its code."""
    old = {reason.code: reason for reason in merged(before)}
    new = {reason.code: reason for reason in merged(after)}
    for code in old | new:
        was, now = old.get(code), new.get(code)
        amount = (now.amount if now else 0) - (was.amount if was else 0)
        if amount:
            text = now.text if now else f"no longer: {was.text}" if was else ""
            source = next((each.source for each in (now, was) if each and each.source), None)
            yield Reason(code, amount, text, source)


# The whole network ----------------------------------------------------------------------------


def _totals(sides: tuple[_Side, _Side], found: Sequence[Difference]) -> Iterator[Difference]:
    of_pair: dict[tuple[str, str], list[Difference]] = {}
    for difference in found:
        of_pair.setdefault((difference.quantity, difference.instrument), []).append(difference)
    for (quantity, instrument), layers in of_pair.items():
        a, b = (side.total(quantity, instrument) for side in sides)
        reasons: tuple[Reason, ...] = ()
        if a is not None and b is not None:
            reasons = _of_total(b - a, layers)
        yield Difference("total", "", quantity, instrument, "both", a, b, reasons)
    yield from _live_peak(*sides)


def _of_total(difference: int, layers: Sequence[Difference]) -> tuple[Reason, ...]:
    """Sum the layers' reasons; a layer that one side does not count adds what the other counts."""
    reasons = [reason for layer in layers for reason in layer.reasons]
    times = Counter(reason.code for reason in reasons)
    shared = {code: text for code, text in TOGETHER.items() if times[code] > 1}
    known = merged(replace(each, text=shared.get(each.code, each.text)) for each in reasons)
    on_one_side = sum(
        (layer.b or 0) - (layer.a or 0) for layer in layers if layer.difference is None
    )
    text = "layers of which only one side counts anything"
    one = _reason("counted_on_one_side", on_one_side, text)
    rest = difference - on_one_side - sum(reason.amount for reason in known)
    return (
        *(reason for reason in known if reason.amount),
        *one,
        *_reason("unexplained", rest, "the total and its layers disagree"),
    )


_PARTS = {
    "outputs": "outputs that are alive at the peak and not saved",
    "saved": "what autograd has saved and still holds at the peak",
    "gradients": "gradients of activations that are alive at the peak",
    "parameter_gradients": "gradients of parameters that are there at the peak",
}


def _live_peak(before: _Side, after: _Side) -> Iterator[Difference]:
    """Yield the live peak, as measured where both have measured it, else as the dry run has it."""
    a, b = before.profile, after.profile
    predicted = (a.predicted_live_bytes, b.predicted_live_bytes)
    measured = [side.total("live_peak_bytes", "memory") for side in (before, after)]
    both_measured = None not in measured
    figures = measured if both_measured else predicted
    reasons: tuple[Reason, ...] = ()
    if None not in figures and None not in predicted:
        parts = tuple(
            Reason(part, amount, _PARTS.get(part, "alive at the peak"))
            for part in dict.fromkeys((*a.peak_parts, *b.peak_parts))
            if (amount := b.peak_parts.get(part, 0) - a.peak_parts.get(part, 0))
        )
        rest = (figures[1] or 0) - (figures[0] or 0) - sum(part.amount for part in parts)
        text = "what the dry run's parts of the peak do not explain"
        reasons = (*parts, *_reason("unexplained", rest, text))
    instrument = "memory" if both_measured else "dry_run"
    yield Difference(
        "total", "", "live_peak_bytes", instrument, "both", figures[0], figures[1], reasons
    )


# The circumstances ----------------------------------------------------------------------------


def _changes(a: SavedProfile, b: SavedProfile) -> Iterator[Change]:
    for name in dict.fromkeys((*a.settings, *b.settings)):
        if a.settings.get(name) != b.settings.get(name):
            yield Change(name, a.settings.get(name), b.settings.get(name))
    if a.torch_version != b.torch_version:
        yield Change("torch_version", a.torch_version, b.torch_version)
    if a.machine is not None and b.machine is not None and a.machine != b.machine:
        yield Change("machine", a.machine, b.machine)
