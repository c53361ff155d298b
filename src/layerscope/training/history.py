"""What the epochs of a run were, read back from a checkpoint."""

from dataclasses import dataclass
from typing import Any

from layerscope.errors import UserError
from layerscope.report.tables import parse_rows
from layerscope.training.callbacks.end_of_epoch import METRICS, TIMING, Best, EndOfEpoch


@dataclass(frozen=True)
class History:
    """All epochs up to a checkpoint, also those before a resume."""

    metrics: list[dict[str, str]]  # rows of metrics.csv
    timing: list[dict[str, str]]  # rows of timing.csv
    best: Best | None  # None before the first epoch has ended
    stopped_early: bool

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "History":
        """A checkpoint that EndOfEpoch has written has all of this."""
        state = checkpoint.get("callbacks", {}).get(EndOfEpoch.__name__)
        if state is None:
            raise UserError("the checkpoint holds no history: go on from a last.ckpt of a run")
        return cls(
            metrics=parse_rows(METRICS, state["metrics"]),
            timing=parse_rows(TIMING, state["timing"]),
            best=None if state["best"] is None else Best(**state["best"]),
            stopped_early=state.get("stopped_early", False),
        )

    @property
    def num_epochs(self) -> int:
        """Whole ones."""
        return len(self.metrics)

    @property
    def seconds(self) -> float:
        """Spent on training batches, validation and checkpoints not counted."""
        return round(sum(float(row["seconds"]) for row in self.timing), 3)

    @property
    def images_per_second(self) -> float:
        """Images trained on by the seconds spent on it."""
        images = sum(float(row["seconds"]) * float(row["images_per_second"]) for row in self.timing)
        return round(images / self.seconds, 1)
