"""Rows that compare theory, named reasons and a measurement of one quantity."""

from collections.abc import Iterable
from dataclasses import dataclass

from layerscope.theory import sum_if_known

# Quantities that are integers and must have nothing unexplained.
EXACT_QUANTITIES = (
    "output_elements",
    "num_parameters",
    "parameter_bytes",
    "buffer_bytes",
    "output_bytes",
    "saved_bytes",
    "macs",
    "forward_flops",
    "backward_flops",
    "live_peak_bytes",
)


@dataclass(frozen=True)
class Reason:
    """A reason why an instrument's figure differs from the textbook's.

    Args:
        amount: number to add to the theory, in the quantity's unit. It follows from the operations
            and the settings, never from a measurement of the machine.
        source: `dry_run` if the amount is what the dry run saw, because no rule gives it.
    """

    code: str
    amount: int
    text: str
    source: str | None = None


@dataclass(frozen=True)
class Row:
    """One quantity of one layer (or of all, `layer="total"`) by one instrument.

    Args:
        theory: the textbook's figure of what the instrument has a formula for. None if it is not
            known, and for seconds, which have no theory.
        theory_not_counted: the textbook's figure of the rest of the layer.
        measured: None if the instrument could not measure, or counts nothing of this layer.
        counted: false if the instrument counts nothing of this layer; then it is no comparison.
        lower_bound: true for a total in which a summand is unknown and missing.
    """

    layer: str
    type: str
    quantity: str
    instrument: str
    theory: int | None
    reasons: tuple[Reason, ...]
    measured: int | float | None
    theory_not_counted: int | None = 0
    counted: bool = True
    lower_bound: bool = False

    @property
    def is_exact(self) -> bool:
        """Tell whether the quantity is exact, so that nothing may stay unexplained."""
        return self.quantity in EXACT_QUANTITIES

    @property
    def predicted(self) -> int | None:
        """Theory plus the amounts of all reasons; None if a part is not known."""
        if self.theory is None or self.lower_bound:
            return None
        return self.theory + sum(reason.amount for reason in self.reasons)

    @property
    def unexplained(self) -> int | float | None:
        """Measured minus predicted; None if either is unknown."""
        if self.measured is None or self.predicted is None:
            return None
        return self.measured - self.predicted

    @property
    def is_compared(self) -> bool:
        """Tell whether it was measured and could have failed."""
        return (
            self.is_exact and self.counted and self.unexplained is not None and not self.is_trivial
        )

    @property
    def is_trivial(self) -> bool:
        """Tell whether theory, every reason and the measurement are 0."""
        return not (self.theory or self.measured or any(reason.amount for reason in self.reasons))


@dataclass(frozen=True)
class Comparisons:
    """Numbers of rows by how they compare.

    Args:
        num_compared: rows that were measured and could have failed.
        num_trivial: rows with theory, every reason and the measurement 0.
        num_unexplained: compared rows with a difference that no reason explains.
        num_not_counted: rows of layers of which the instrument counts nothing.
        num_unknown: rows without a known theory.
    """

    num_compared: int
    num_trivial: int
    num_unexplained: int
    num_not_counted: int
    num_unknown: int


def comparisons(rows: Iterable[Row]) -> Comparisons:
    """Count the exact rows by how they compare."""
    exact = [row for row in rows if row.is_exact]
    counted = [row for row in exact if row.counted]
    known = [row for row in counted if row.unexplained is not None]
    compared = [row for row in known if row.is_compared]
    return Comparisons(
        num_compared=len(compared),
        num_trivial=len(known) - len(compared),
        num_unexplained=sum(1 for row in compared if row.unexplained),
        num_not_counted=len(exact) - len(counted),
        num_unknown=sum(1 for row in counted if row.predicted is None and not row.lower_bound),
    )


def total(rows: Iterable[Row]) -> Row:
    """Return the sum of all counted rows; a lower bound if a summand is unknown."""
    rows = tuple(rows)
    counted = [row for row in rows if row.counted]
    known = [row for row in counted if row.theory is not None]
    measured = [row.measured for row in counted]
    return Row(
        layer="total",
        type="",
        quantity=rows[0].quantity,
        instrument=rows[0].instrument,
        theory=sum(row.theory or 0 for row in known),
        reasons=merged(reason for row in known for reason in row.reasons),
        measured=sum_if_known(measured) if counted else None,
        theory_not_counted=sum_if_known(row.theory_not_counted for row in rows),
        counted=bool(counted),
        lower_bound=any(row.theory is None for row in counted),
    )


def merged(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Join the reasons of each code: sum the amounts and list the different texts."""
    amounts: dict[str, int] = {}
    texts: dict[str, dict[str, None]] = {}
    sources: dict[str, str | None] = {}
    for reason in reasons:
        amounts[reason.code] = amounts.get(reason.code, 0) + reason.amount
        texts.setdefault(reason.code, {})[reason.text] = None
        sources[reason.code] = sources.get(reason.code) or reason.source
    return tuple(
        Reason(code, amounts[code], _joined(texts[code]), sources[code]) for code in amounts
    )


def _joined(texts: dict[str, None], most: int = 3) -> str:
    first = list(texts)[:most]
    more = len(texts) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")
