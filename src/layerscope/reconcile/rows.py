"""Theory, named reasons and a measurement of one quantity, side by side."""

from dataclasses import dataclass

# The code of a reason that says that something is not known; its amount is 0.
UNKNOWN = "unknown_kind"

# Exact quantities are integers, and nothing of them may stay unexplained.
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
    "bias_gradient_flops",
)


@dataclass(frozen=True)
class Reason:
    """Why an instrument sees something else than the textbook.

    Args:
        amount: what to add to the theory for it, in the quantity's unit; from geometry and
            settings, never from the measurement.
    """

    code: str
    amount: int
    text: str


@dataclass(frozen=True)
class Row:
    """One quantity of one layer (or of all, `layer="total"`) by one instrument.

    Args:
        theory: None where the kind of the layer has no formula, and of what has no theory: seconds.
        measured: None where the instrument could not measure.
        lower_bound: of a total: a summand is unknown and missing in it.
    """

    layer: str
    quantity: str
    instrument: str
    theory: int | None
    reasons: tuple[Reason, ...]
    measured: int | float | None
    lower_bound: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether nothing of it may stay unexplained."""
        return self.quantity in EXACT_QUANTITIES

    @property
    def predicted(self) -> int | None:
        """Theory and all reasons; None where a part of it is not known."""
        if self.theory is None or any(reason.code == UNKNOWN for reason in self.reasons):
            return None
        return self.theory + sum(reason.amount for reason in self.reasons)

    @property
    def unexplained(self) -> int | float | None:
        """What is measured beyond theory and reasons; None where a part of these is unknown."""
        if self.measured is None or self.predicted is None or self.lower_bound:
            return None
        return self.measured - self.predicted
