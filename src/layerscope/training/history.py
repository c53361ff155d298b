"""The epochs of a run, read back from a checkpoint."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.base.errors import UserError
from layerscope.report.tables import parse_rows

HISTORY_KEY = "EndOfEpoch"  # of EndOfEpoch, which writes it, among a checkpoint's callbacks
METRICS = ("epoch", "step", "train/loss", "train/acc", "val/loss", "val/acc", "lr")
TIMING = ("epoch", "seconds", "images_per_second")
_WHOLE = {"epoch", "step"}
_SHARES = {"train/acc", "val/acc"}
_MAX_COLUMNS = 1_000
_LARGEST = 1e15  # limit for every column but losses: times and speeds are multiplied


@dataclass(frozen=True)
class Best:
    """The epoch with the highest validation accuracy so far; the earliest if several are equal."""

    epoch: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class History:
    """All epochs up to a checkpoint, including those before a resume."""

    metrics: list[dict[str, str]]  # rows of metrics.csv, METRICS and the user's own
    timing: list[dict[str, str]]  # rows of timing.csv
    best: Best | None  # None before the first epoch has ended
    stopped_early: bool

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "History":
        """Read the history that EndOfEpoch wrote into a checkpoint.

        Raises:
            UserError: the history is missing, or is none that a run writes.
        """
        try:
            state = checkpoint["callbacks"][HISTORY_KEY]
            history = cls(
                metrics=_checked_rows(columns_in(state), state["metrics"]),
                timing=_checked_rows(TIMING, state["timing"]),
                best=None if state["best"] is None else _checked_best(**state["best"]),
                stopped_early=state.get("stopped_early", False),
            )
            history._check(checkpoint["epoch"])
            return history
        except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
            raise UserError(
                "the checkpoint holds no history to resume from: give a last.ckpt of a run"
            ) from error

    def best_of(self, later: "History") -> Best | None:
        """Return the best epoch of a best.ckpt with this history; `later` is that of last.ckpt.

        None if the file belongs to another run, or if this run was resumed from before it. A kill
        between the two writes leaves best.ckpt one epoch ahead. That epoch, trained again, can
        differ in its last bits; last.ckpt then names the best epoch of the file itself.
        """
        best, known = self.best, later.num_epochs
        if best is None or best.epoch != self.num_epochs - 1 or best.epoch > known:
            return None
        ours = later.metrics[: best.epoch + 1]
        is_named = best == later.best or best.epoch == known
        num_equal = best.epoch if is_named else best.epoch + 1
        return best if self.metrics[:num_equal] == ours[:num_equal] else None

    def _check(self, epoch: Any) -> None:
        """Raise a ValueError if the parts contradict one another, or the checkpoint's epoch."""
        # At the end of an epoch its row is there; within an epoch it is still missing.
        if type(epoch) is not int or self.num_epochs not in (epoch, epoch + 1):
            raise ValueError("another number of epochs")
        if len(self.timing) != self.num_epochs or type(self.stopped_early) is not bool:
            raise ValueError("another number of times")
        if self.best is not None and self.best.epoch >= self.num_epochs:
            raise ValueError("an epoch that has not been")
        has_ended = self.num_epochs == epoch + 1
        if (has_ended and self.best is None) or (self.stopped_early and not has_ended):
            raise ValueError("an epoch ends with its best, and stops the run only then")

    @property
    def num_epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.metrics)

    @property
    def seconds(self) -> float:
        """Seconds spent on training batches, without validation and checkpoints."""
        return round(sum(float(row["seconds"]) for row in self.timing), 3)

    @property
    def images_per_second(self) -> float:
        """Mean training speed over all epochs."""
        images = sum(float(row["seconds"]) * float(row["images_per_second"]) for row in self.timing)
        return round(images / self.seconds, 1)


def columns_in(state: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of the rows in EndOfEpoch's state; raise a ValueError for odd ones."""
    columns = state.get("columns", list(METRICS))
    if type(columns) is not list or not all(type(name) is str for name in columns):
        raise TypeError("columns that are no texts")
    own = columns[len(METRICS) :]
    if tuple(columns[: len(METRICS)]) != METRICS or len(set(columns)) != len(columns):
        raise ValueError("other columns")
    if len(own) > _MAX_COLUMNS or not all(_is_own_column(name) for name in own):
        raise ValueError("columns that no run writes")
    return tuple(columns)


def _is_own_column(name: str) -> bool:
    """Tell whether it is the column of a metric of the user's own, `val/NAME`."""
    return name.startswith("val/") and name.removeprefix("val/").isidentifier()


def _checked_rows(columns: Sequence[str], lines: Sequence[str]) -> list[dict[str, str]]:
    """Return a row per epoch; raise a ValueError if a value is none that a run writes."""
    if type(lines) is not list or any(line.count("\n") != 1 for line in lines):
        raise ValueError("a row is a line")
    rows = parse_rows(columns, lines)
    for index, row in enumerate(rows):
        _check_row(index, row)
    return rows


def _check_row(index: int, row: Mapping[str, str]) -> None:
    if row["epoch"] != str(index):
        raise ValueError("the rows are of the epochs in their order")
    for column, text in row.items():
        if column not in METRICS + TIMING:  # the user's own can be any number, and was not always
            float(text or "nan")
            continue
        value = float(text)
        limit = 1.0 if column in _SHARES else _LARGEST
        is_loss = column.endswith("/loss")
        if not (math.isfinite(value) if is_loss else 0 <= value <= limit):
            raise ValueError(f"{column}={text}")
        if column in _WHOLE and not (text.isascii() and text.isdecimal()):
            raise ValueError(f"{column}={text}")


def _checked_best(epoch: Any, accuracy: Any, loss: Any) -> Best:
    if type(epoch) is not int or type(accuracy) is not float or type(loss) is not float:
        raise TypeError("a count and two scores")
    if epoch < 0 or not 0 <= accuracy <= 1 or not math.isfinite(loss):
        raise ValueError("scores that no epoch has")
    return Best(epoch, accuracy, loss)
