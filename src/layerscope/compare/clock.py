"""Quantities that differ from run to run: each with its spread."""

from collections.abc import Iterator
from dataclasses import dataclass

from layerscope.compare.saved import SavedProfile
from layerscope.measure.timing import Spread


@dataclass(frozen=True)
class ClockDifference:
    """One quantity of a layer, or of the whole step, on both sides.

    Args:
        layer: `total` for the whole step.
        is_repeated: false for a quantity that a profile measures once, whose spread is not known.
    """

    layer: str
    quantity: str
    a: Spread
    b: Spread
    is_repeated: bool = True

    @property
    def differs(self) -> bool | None:
        """Tell whether the two ranges have nothing in common; None where there is no range."""
        if not self.is_repeated:
            return None
        return self.a.maximum < self.b.minimum or self.b.maximum < self.a.minimum


def clock_differences(a: SavedProfile, b: SavedProfile) -> Iterator[ClockDifference]:
    """Yield what both have measured: the step, its peak, then the layers of both."""
    step = ("total", "step_seconds")
    for key in (step, *(key for key in b.seconds if key != step)):
        if key in a.seconds and key in b.seconds:
            yield ClockDifference(*key, a.seconds[key], b.seconds[key])
        if key == step and a.peak_bytes is not None and b.peak_bytes is not None:
            once = (Spread(*[float(each)] * 3) for each in (a.peak_bytes, b.peak_bytes))
            yield ClockDifference("total", "peak_bytes", *once, is_repeated=False)
