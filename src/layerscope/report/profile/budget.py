"""A saved profile as a budget: which layers have grown beyond it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from layerscope.base.errors import UserError
from layerscope.base.formatting import share, unit_of
from layerscope.reconcile.profile import Profile
from layerscope.reconcile.rows import EXACT_QUANTITIES
from layerscope.reconcile.settings import ProfileSettings
from layerscope.report.document import Cell, Table, columns_in
from layerscope.report.profile.records import FORMAT, profile_record, settings_record
from layerscope.report.terminal import Screen

# What may differ: the network's name, and what decides no figure that is compared.
_NOT_COMPARED = frozenset({"network", "optimizer", "as_it_is"})

# A profile of a network of ten thousand layers has less.
MAX_BUDGET_BYTES = 2**28

_MEND = "give a profile.json that a profile has saved"

RowKey = tuple[str, str, str]  # layer, quantity, instrument


@dataclass(frozen=True)
class Figures:
    """Figures of one row that can be compared.

    Args:
        theory: the textbook's figure of the whole layer, whether the instrument counts it or not;
            of the live peak the prediction.
    """

    theory: int | None
    measured: int | None


@dataclass(frozen=True)
class Budget:
    """A saved profile.json.

    Args:
        layers: in order, without `total`.
    """

    path: Path
    settings: Mapping[str, Any]
    figures: Mapping[RowKey, Figures]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """Difference of a layer, or of the total, from its budget.

    Args:
        quantity: empty for a layer that is new or has vanished, as are the figures.
    """

    layer: str
    what: Literal["grew", "new", "vanished"]
    quantity: str = ""
    instrument: str = ""
    budget: int | None = None
    now: int | None = None

    @property
    def exceeds(self) -> bool:
        """A layer that is gone costs nothing."""
        return self.what != "vanished"

    @property
    def growth(self) -> float:
        """Relative; infinite where there was nothing before."""
        assert self.budget is not None
        assert self.now is not None
        return (self.now - self.budget) / self.budget if self.budget else float("inf")


def read_budget(path: Path) -> Budget:
    """Read a budget before a run, so that a wrong file costs nothing.

    Raises:
        UserError: it cannot be read, is no profile.json, or one of another version.
    """
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise UserError(f"budget={path} is no file: {_MEND}")
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(MAX_BUDGET_BYTES + 1)[:MAX_BUDGET_BYTES])
    except OSError as error:
        raise UserError(f"budget={path} cannot be read ({error.strerror}): {_MEND}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or none that a profile is
        raise UserError(f"budget={path} is no profile.json ({error}): {_MEND}") from error
    try:
        _check_format(path, record)
        return _budget(path, record)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"budget={path} is no profile.json ({type(error).__name__} {error}): {_MEND}"
        ) from error


def _check_format(path: Path, record: Any) -> None:
    """Refuse a profile of another version: its figures are others."""
    found = record["format"]
    if not isinstance(found, int) or found == FORMAT:
        return
    age = "an older" if found < FORMAT else "a newer"
    raise UserError(
        f"budget={path} was saved by {age} version (format {found}, not {FORMAT}): save a new one "
        "with the same command without budget=, and give its profile.json"
    )


def check_budget_settings(budget: Budget, settings: ProfileSettings) -> None:
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
            f"budget={budget.path} is of other settings: {'; '.join(differing)}: "
            "profile with the same, or save a new budget"
        )


def compare_with_budget(
    profile: Profile, path: str | Path, tolerance: float = 0.0
) -> tuple[Change, ...]:
    """Return every quantity of every layer and of the total that grew; new and vanished layers.

    What is compared is measured where both profiles have measured it, else theory, of the live peak
    the prediction. A quantity that
    several instruments see is listed once, as the one with the largest growth sees it.

    Args:
        tolerance: relative growth that is still within the budget; 0.0 is none.

    Raises:
        UserError: see `read_budget` and `check_budget_settings`; a negative tolerance; no figure
            that both have.
    """
    if not tolerance >= 0:
        raise UserError(f"tolerance={tolerance}: give 0 or a positive share, 0.05 for 5 %")
    budget = read_budget(Path(path))
    check_budget_settings(budget, profile.settings)
    now = _figures(profile_record(profile))
    layers = tuple(cost.layer for cost in profile.costs.layers)
    if not any(_comparable(budget.figures.get(key), figures) for key, figures in now.items()):
        raise UserError(
            f"budget={budget.path} has no figure that this profile has: switch on its instruments"
        )
    changes = [Change(layer, "new") for layer in layers if layer not in budget.layers]
    changes += [Change(layer, "vanished") for layer in budget.layers if layer not in layers]
    return (*changes, *_grown(budget.figures, now, tolerance))


def show_budget(screen: Screen, changes: Sequence[Change], tolerance: float) -> None:
    """Show what exceeds the budget in the network's order, or that nothing does."""
    grown = [change for change in changes if change.what == "grew"]
    if not any(change.exceeds for change in changes):
        screen.say(f"Within the budget: nothing grew by more than {share(tolerance)}.")
    else:
        screen.say(f"BUDGET EXCEEDED (tolerance {share(tolerance)}):")
    for change in changes:
        if change.what == "new":
            screen.say(f"+ {change.layer}: a layer that the budget does not have")
        elif change.what == "vanished":
            screen.say(f"- {change.layer}: in the budget, but no longer in the network")
    if grown:
        columns = (
            *columns_in("text", "layer", "quantity", "instrument"),
            *columns_in("count", "budget", "now"),
            *columns_in("share", "growth"),
        )
        screen.show(Table(columns, tuple(_cells(change) for change in grown), title="grew"))


def _cells(change: Change) -> tuple[Cell, ...]:
    unit = unit_of(change.quantity)
    growth = "from 0" if change.budget == 0 else f"+{share(change.growth)}"
    return (
        *(change.layer, f"{change.quantity}{f', {unit}' if unit else ''}", change.instrument),
        *(change.budget, change.now, growth),
    )


def _grown(
    before: Mapping[RowKey, Figures], now: Mapping[RowKey, Figures], tolerance: float
) -> tuple[Change, ...]:
    worst: dict[tuple[str, str], Change] = {}
    for key, figures in now.items():
        pair = _comparable(before.get(key), figures)
        if pair is None or pair[1] - pair[0] <= tolerance * pair[0]:
            continue
        layer, quantity, instrument = key
        change = Change(layer, "grew", quantity, instrument, *pair)
        known = worst.get((layer, quantity))
        if known is None or change.growth > known.growth:
            worst[layer, quantity] = change
    return tuple(worst.values())


def _comparable(before: Figures | None, now: Figures) -> tuple[int, int] | None:
    if before is None:
        return None
    if before.measured is not None and now.measured is not None:
        return before.measured, now.measured
    if before.theory is not None and now.theory is not None:
        return before.theory, now.theory
    return None


def _budget(path: Path, record: Any) -> Budget:
    if not isinstance(record["settings"], dict):
        raise TypeError("settings")
    layers = tuple(str(cost["layer"]) for cost in record["costs"]["layers"])
    return Budget(path, record["settings"], _figures(record), layers)


def _figures(record: Mapping[str, Any]) -> dict[RowKey, Figures]:
    """Return what is exact; seconds differ from run to run."""
    predicted = _count(record["peak"]["predicted_live_bytes"])
    figures = {("total", "live_peak_bytes", "memory"): Figures(predicted, None)}
    for row in (*record["rows"], *record["totals"]):
        if row["quantity"] in EXACT_QUANTITIES:
            key = (row["layer"], row["quantity"], row["instrument"])
            figures[key] = Figures(_whole_theory(row), _count(row["measured"]))
    return figures


def _whole_theory(row: Mapping[str, Any]) -> int | None:
    counted, rest = _count(row["theory"]), _count(row["theory_not_counted"])
    return None if counted is None or rest is None else counted + rest


def _count(value: Any) -> int | None:
    if value is not None and not isinstance(value, int):
        raise TypeError(f"{value!r} is no count")
    return value


def _text(value: Any) -> str:
    return json.dumps(value)
