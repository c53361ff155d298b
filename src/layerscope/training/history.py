"""What the epochs of a run were, read back from a checkpoint."""

import csv
from collections.abc import Sequence
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
        try:
            state = checkpoint["callbacks"][EndOfEpoch.__name__]
            best = state["best"]
            return cls(
                metrics=_numbers(METRICS, state["metrics"]),
                timing=_numbers(TIMING, state["timing"]),
                best=None if best is None else Best(**best),
                stopped_early=state.get("stopped_early", False) is True,
            )
        except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
            raise UserError(
                "the checkpoint holds no history to go on with: give a last.ckpt of a run"
            ) from error

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


def _numbers(columns: Sequence[str], lines: Sequence[str]) -> list[dict[str, str]]:
    """Rows of which every field is a number or empty; a ValueError where one is not."""
    if any(line.count("\n") != 1 for line in lines):
        raise ValueError("a row is a line")
    rows = parse_rows(columns, lines)
    for field in (field for row in rows for field in row.values() if field):
        float(field)
    return rows
