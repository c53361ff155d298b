"""The end of an epoch: its row, its line on the screen and its checkpoint, in this order."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from layerscope.base.errors import NonFiniteLoss
from layerscope.base.formatting import percent
from layerscope.data.batches import Batch
from layerscope.measure.step import synchronize
from layerscope.report.tables import GrowingTable
from layerscope.report.terminal import Screen, complain
from layerscope.training.checkpoint_files import open_plain
from layerscope.training.checkpoint_folder import CheckpointFolder
from layerscope.training.history import HISTORY_KEY, METRICS, TIMING, Best, History, columns_in
from layerscope.training.module import Classifier, as_number


class EndOfEpoch(Checkpoint):
    """Writes metrics.csv, timing.csv, checkpoints/last.ckpt and best.ckpt.

    It is a subclass of Lightning's Checkpoint, so that it runs after the module has logged the
    epoch's scores. The row is written before the checkpoint, which holds all rows: a run resumed
    from it neither loses nor repeats one.

    Args:
        own_metrics: names of the user's own metrics, which get columns behind the others.
    """

    def __init__(
        self,
        directory: Path,
        folder: CheckpointFolder,
        screen: Screen,
        own_metrics: Sequence[str] = (),
    ) -> None:
        self._columns = (*METRICS, *(f"val/{name}" for name in own_metrics))
        self.metrics = GrowingTable(directory / "metrics.csv", self._columns)
        self.timing = GrowingTable(directory / "timing.csv", TIMING)
        self.best: Best | None = None
        self._stopped_early = False
        self._folder = folder
        self._screen = screen
        self._started = 0.0
        self._images = 0
        self._seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the tables, or resume those of the checkpoint; start the clock.

        Lightning does not call `on_train_epoch_start` for an epoch that is resumed within it, so
        that its time counts from here.
        """
        self._started = _now(pl_module.device)
        if trainer.is_global_zero:
            self.metrics.start(self.metrics.lines)
            self.timing.start(self.timing.lines)
            if self.best is not None and trainer.ckpt_path is not None:
                self._take_best_along(Path(trainer.ckpt_path), pl_module)
        self.best = trainer.strategy.broadcast(self.best)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._images = 0
        self._seconds = 0.0
        self._started = _now(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the images of all ranks, which have equal shares of a batch."""
        self._images += len(batch[1]) * trainer.world_size

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock: training ends here."""
        self._stop_clock(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row, print the line, and save the checkpoint."""
        self._stop_clock(pl_module)
        scores = {
            name: as_number(trainer.callback_metrics[name])
            for name in self._columns
            if name in trainer.callback_metrics
        }
        assert isinstance(pl_module, Classifier)
        _refuse_non_finite(scores, trainer.current_epoch, pl_module.batches_seen)
        improved = self._note_best(trainer.current_epoch, scores)
        if trainer.is_global_zero:
            self._write_rows(trainer, scores, improved)
        self._stopped_early = trainer.should_stop
        self._folder.save(trainer, is_best=improved)

    @property
    def state_key(self) -> str:
        """The key under which `History.of` finds the state."""
        return HISTORY_KEY

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the best epoch, as plain data."""
        return {
            "columns": list(self._columns),
            "metrics": list(self.metrics.lines),
            "timing": list(self.timing.lines),
            "best": None if self.best is None else vars(self.best).copy(),
            "stopped_early": self._stopped_early,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows and the best epoch of a checkpoint, which `History.of` has checked."""
        self.metrics.take_over(columns_in(state_dict), state_dict["metrics"])
        self.timing.lines = list(state_dict["timing"])
        self.best = None if state_dict["best"] is None else Best(**state_dict["best"])

    def _take_best_along(self, resumed: Path, pl_module: L.LightningModule) -> None:
        """Copy best.ckpt from beside the checkpoint that is resumed.

        After a kill between the two writes, last.ckpt names an older best epoch than best.ckpt.
        """
        history = History.of(open_plain(resumed))
        self.best = self._folder.adopt_best(resumed, history, pl_module.state_dict())
        if self.best is None:
            complain(
                f"warning: {resumed.parent} has no whole best.ckpt of this run: "
                "the best epoch is sought from here on"
            )

    def _stop_clock(self, pl_module: L.LightningModule) -> None:
        if not self._seconds:
            self._seconds = _now(pl_module.device) - self._started

    def _note_best(self, epoch: int, scores: dict[str, float]) -> bool:
        if self.best is not None and scores["val/acc"] <= self.best.accuracy:
            return False
        self.best = Best(epoch, scores["val/acc"], scores["val/loss"])
        return True

    def _write_rows(self, trainer: L.Trainer, scores: dict[str, float], improved: bool) -> None:
        epoch, lr = trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"]
        speed = self._images / self._seconds
        self.metrics.append({"epoch": epoch, "step": trainer.global_step, **scores, "lr": lr})
        self.timing.append(
            {
                "epoch": epoch,
                "seconds": round(self._seconds, 3),
                "images_per_second": round(speed, 1),
            }
        )
        self._screen.say(
            f"epoch {epoch + 1:>3}/{trainer.max_epochs}"
            f"  train loss {scores['train/loss']:.4f} acc {percent(scores['train/acc'])}"
            f"  val loss {scores['val/loss']:.4f} acc {percent(scores['val/acc'])}"
            f"  {self._seconds:.1f} s  {speed:,.0f} images/s" + ("  best" if improved else "")
        )


def _refuse_non_finite(scores: dict[str, float], epoch: int, step: int) -> None:
    """Refuse an epoch's loss that is not finite.

    Each step has checked its own training loss, but the sum over an epoch can still overflow.
    """
    for name in ("train/loss", "val/loss"):
        if not math.isfinite(scores[name]):
            raise NonFiniteLoss(f"{name} is {scores[name]} in epoch {epoch + 1}, after step {step}")


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()
