"""A saved profile as a budget: which layers have grown beyond it, and which have shrunk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from layerscope.base.errors import UserError
from layerscope.base.formatting import share, unit_of
from layerscope.compare import SavedProfile, read_profile
from layerscope.compare.saved import TEXTBOOK, TEXTBOOK_QUANTITIES, RowKey
from layerscope.reconcile.profile import Profile
from layerscope.reconcile.rows import Row
from layerscope.reconcile.settings import ProfileSettings
from layerscope.report.document import Cell, Table, columns_in
from layerscope.report.profile.records import comparable, settings_record
from layerscope.report.terminal import Screen

# What may differ: the network's name, and what decides no figure that is compared.
_NOT_COMPARED = frozenset({"network", "optimizer", "as_it_is"})

MOST_SAVINGS = 20  # lines


@dataclass(frozen=True)
class BudgetChange:
    """Difference of a layer, or of the total, from its budget.

    Args:
        quantity: empty for a layer that is new or has vanished, as are the figures.
    """

    layer: str
    what: Literal["grew", "shrank", "new", "vanished"]
    quantity: str = ""
    instrument: str = ""
    budget: int | None = None
    now: int | None = None

    @property
    def exceeds(self) -> bool:
        """A layer that is gone costs nothing."""
        return self.what in ("grew", "new")

    @property
    def growth(self) -> float:
        """Relative, negative for a saving; infinite where there was nothing before."""
        assert self.budget is not None
        assert self.now is not None
        return (self.now - self.budget) / self.budget if self.budget else float("inf")


def read_budget(path: Path) -> SavedProfile:
    """Read a budget before a run, so that a wrong file costs nothing.

    Raises:
        UserError: see `read_profile`.
    """
    return read_profile(path, "budget", "with the same command without budget=")


def check_budget_settings(budget: SavedProfile, settings: ProfileSettings) -> None:
    """Refuse figures of other settings, which say nothing about growth.

    Raises:
        UserError: names what differs.
    """
    ours = settings_record(settings)
    differing = [
        f"{name}={_text(ours.get(name))} here, {_text(budget.settings.get(name))} there"
        for name in ours
        if name not in _NOT_COMPARED and ours[name] != budget.settings.get(name)
    ]
    if differing:
        raise UserError(
            f"budget={budget.source} is of other settings: {'; '.join(differing)}: "
            "profile with the same, or save a new budget"
        )


def compare_with_budget(
    profile: Profile, budget: SavedProfile, tolerance: float = 0.0
) -> tuple[BudgetChange, ...]:
    """Return every figure of every layer and of the total that differs; new and vanished layers.

    What is compared is measured where both profiles have measured it, else theory, of the live peak
    the prediction. Where no instrument ran on both, it is the textbook's figure. A quantity that
    several instruments see is listed once, as the one with the largest change sees it; one that
    grew by any instrument has grown.

    Args:
        tolerance: relative growth that is still within the budget; 0.0 is none.

    Raises:
        UserError: see `check_budget_settings`; a negative tolerance.
    """
    if not tolerance >= 0:
        raise UserError(f"tolerance={tolerance}: give 0 or a positive share, 0.05 for 5 %")
    check_budget_settings(budget, profile.settings)
    now = comparable(profile, "")
    return (
        *(BudgetChange(layer, "new") for layer in now.layers if layer not in budget.layers),
        *(BudgetChange(layer, "vanished") for layer in budget.layers if layer not in now.layers),
        *_changed(_pairs(budget, now), tolerance),
    )


def show_budget(screen: Screen, changes: Sequence[BudgetChange], tolerance: float) -> None:
    """Show what exceeds the budget in the network's order, or that nothing does; then savings."""
    if not any(change.exceeds for change in changes):
        screen.say(f"Within the budget: nothing grew by more than {share(tolerance)}.")
    else:
        screen.say(f"BUDGET EXCEEDED (tolerance {share(tolerance)}):")
    for change in changes:
        if change.what == "new":
            screen.say(f"+ {change.layer}: a layer that the budget does not have")
        elif change.what == "vanished":
            screen.say(f"- {change.layer}: in the budget, but no longer in the network")
    _show_table(screen, "grew", [change for change in changes if change.what == "grew"])
    savings = sorted((c for c in changes if c.what == "shrank"), key=lambda change: change.growth)
    _show_table(screen, "savings, largest share first", savings[:MOST_SAVINGS])
    if len(savings) > MOST_SAVINGS:
        screen.say(f"and {len(savings) - MOST_SAVINGS:,} smaller savings")


def _show_table(screen: Screen, title: str, changes: Sequence[BudgetChange]) -> None:
    if not changes:
        return
    columns = (
        *columns_in("text", "layer", "quantity", "instrument"),
        *columns_in("count", "budget", "now"),
        *columns_in("share", "change"),
    )
    screen.show(Table(columns, tuple(_cells(change) for change in changes), title=title))


def _cells(change: BudgetChange) -> tuple[Cell, ...]:
    unit = unit_of(change.quantity)
    sign = "+" if change.growth > 0 else ""
    growth = "from 0" if change.budget == 0 else f"{sign}{share(change.growth)}"
    return (
        *(change.layer, f"{change.quantity}{f', {unit}' if unit else ''}", change.instrument),
        *(change.budget, change.now, growth),
    )


def _changed(pairs: Mapping[RowKey, tuple[int, int]], tolerance: float) -> tuple[BudgetChange, ...]:
    """Return each quantity of a layer once: its largest growth, else its largest saving."""
    found: dict[tuple[str, str], BudgetChange] = {}
    for (layer, quantity, instrument), (before, now) in pairs.items():
        if now - before > tolerance * before:
            what = "grew"
        elif now < before:
            what = "shrank"
        else:
            continue
        change = BudgetChange(layer, what, quantity, instrument, before, now)
        known = found.get((layer, quantity))
        if known is None or _outranks(change, known):
            found[layer, quantity] = change
    return tuple(found.values())


def _outranks(change: BudgetChange, known: BudgetChange) -> bool:
    if change.what != known.what:
        return change.what == "grew"
    return abs(change.growth) > abs(known.growth)


def _pairs(budget: SavedProfile, now: SavedProfile) -> dict[RowKey, tuple[int, int]]:
    """Return budget and present figure wherever both have one; seconds differ from run to run."""
    pairs: dict[RowKey, tuple[int, int]] = {}
    for key, row in (*now.rows.items(), *now.totals.items()):
        before = budget.rows.get(key) or budget.totals.get(key)
        pair = None if before is None else _comparable(before, row)
        if pair is not None:
            pairs[key] = pair
    seen = {(layer, quantity) for layer, quantity, _ in pairs}
    for (layer, quantity), pair in _textbook_pairs(budget, now).items():
        if (layer, quantity) not in seen:
            pairs[layer, quantity, TEXTBOOK] = pair
    peak = ("total", "live_peak_bytes", "memory")
    predicted = (budget.predicted_live_bytes, now.predicted_live_bytes)
    if peak not in pairs and predicted[0] is not None and predicted[1] is not None:
        pairs[peak] = (predicted[0], predicted[1])
    return pairs


def _textbook_pairs(
    budget: SavedProfile, now: SavedProfile
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the textbook's figures of layers that both have, and of the totals."""
    pairs: dict[tuple[str, str], tuple[int, int]] = {}
    for quantity in TEXTBOOK_QUANTITIES:
        for layer in now.layers.keys() & budget.layers.keys():
            old = budget.layers[layer].figures[quantity]
            new = now.layers[layer].figures[quantity]
            if old is not None and new is not None:
                pairs[layer, quantity] = (old, new)
        old, new = (side.textbook_total(quantity) for side in (budget, now))
        if old is not None and new is not None:
            pairs["total", quantity] = (old, new)
    return pairs


def _comparable(before: Row, now: Row) -> tuple[int, int] | None:
    if before.measured is not None and now.measured is not None:
        return int(before.measured), int(now.measured)
    if now.quantity == "live_peak_bytes":
        return None  # its theory is the prediction, which stands apart
    whole = (_whole_theory(before), _whole_theory(now))
    return None if whole[0] is None or whole[1] is None else (whole[0], whole[1])


def _whole_theory(row: Row) -> int | None:
    """Return the textbook's figure of the whole layer, whether the instrument counts it or not."""
    if row.theory is None or row.theory_not_counted is None:
        return None
    return row.theory + row.theory_not_counted


def _text(value: Any) -> str:
    return json.dumps(value)
