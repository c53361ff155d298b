"""One comparison as text, for every format: the only place that writes a row's figures."""

from collections.abc import Callable
from dataclasses import dataclass

from layerscope.base.formatting import (
    UNKNOWN,
    amount,
    at_least,
    count_exact,
    count_short,
    figure,
    seconds_short,
    signed,
    unit_of,
)
from layerscope.reconcile.rows import Row

NOTHING = "–"


@dataclass(frozen=True)
class RowText:
    """A row, written out.

    Args:
        unit: of the quantity; empty for a count of things, and where the figures carry it.
        not_counted: what the instrument has no formula for.
        reasons: amount and words of each.
        holds: nothing that could be compared is left over.
    """

    layer: str
    type: str
    quantity: str
    unit: str
    instrument: str
    theory: str
    not_counted: str
    reasons: tuple[tuple[str, str], ...]
    predicted: str
    measured: str
    unexplained: str
    holds: bool

    @property
    def quantity_in_unit(self) -> str:
        """The quantity and its unit."""
        return f"{self.quantity}, {self.unit}" if self.unit else self.quantity


def row_text(row: Row, short: bool = False) -> RowText:
    """Write a row: what is not counted as such, what is unknown as unknown.

    Args:
        short: three digits of large counts instead of all; what is unexplained is always exact.
    """
    count: Callable[[int | None], str] = count_short if short else count_exact
    shown = {"theory": NOTHING, "predicted": NOTHING, "unexplained": NOTHING}
    if row.counted and not is_time(row):
        shown["theory"] = _at_least(row, count)
        shown["predicted"] = count(row.predicted)
        shown["unexplained"] = NOTHING if row.measured is None else signed(row.unexplained)
    elif row.theory:
        shown["theory"] = shown["predicted"] = count(row.theory)
    return RowText(
        layer=row.layer,
        type=row.type or NOTHING,
        quantity=row.quantity,
        unit="" if is_time(row) else unit_of(row.quantity),
        instrument=row.instrument,
        theory=shown["theory"],
        not_counted=NOTHING if row.theory_not_counted == 0 else count(row.theory_not_counted),
        reasons=tuple((amount(r.amount, row.quantity), r.text) for r in row.reasons),
        predicted=shown["predicted"],
        measured=_measured(row, count),
        unexplained=shown["unexplained"],
        holds=holds(row),
    )


def holds(row: Row) -> bool:
    """Tell whether nothing that could be compared is left over."""
    return not (row.is_exact and row.counted and row.unexplained)


def is_time(row: Row) -> bool:
    """Tell whether the row is of seconds, of which there is no theory."""
    return row.quantity.endswith("_seconds")


def _at_least(row: Row, count: Callable[[int | None], str]) -> str:
    """At least 0 is no more than not knowing."""
    if row.lower_bound and not row.theory:
        return UNKNOWN
    return at_least(count(row.theory), row.lower_bound)


def _measured(row: Row, count: Callable[[int | None], str]) -> str:
    if not row.counted:
        return "not compared" if row.theory else "not counted"
    if row.measured is None:
        return "not measured"
    if is_time(row):
        return seconds_short(row.measured)
    return count(int(row.measured)) if count is count_short else figure(row.measured, row.quantity)
