"""The progress bar of a run."""

import multiprocessing
import time
from typing import Any

import lightning as L
from rich.progress import Progress, TaskID

from layerscope.base.formatting import clock, number
from layerscope.data.batches import Batch
from layerscope.report.terminal import Screen
from layerscope.training.module import Classifier

SECONDS_BETWEEN_UPDATES = 0.2  # Moving the bar at every batch costs more than a small batch.
SECONDS_BETWEEN_LOSSES = 1.0  # Each waits for the device.


class Pace:
    """How fast this process trains, from the end of its first batch, which pays for the start.

    Args:
        num_batches: batches of an epoch.
    """

    def __init__(self, num_batches: int, num_epochs: int) -> None:
        self._num_batches = num_batches
        self._num_epochs = num_epochs
        self._since: float | None = None
        self._images = 0
        self._batches = 0
        self._seconds = 0.0  # of training, without what comes between epochs
        self._between = 0.0  # validation, the checkpoint and the next epoch's start, the last time
        self._paused: float | None = None

    def add(self, num_images: int, now: float) -> None:
        """Count a batch that has ended now."""
        if self._paused is not None:
            self._between, self._paused = now - self._paused, None
        elif self._since is not None:
            self._seconds += now - self._since
            self._images += num_images
            self._batches += 1
        self._since = now

    def pause(self, now: float) -> None:
        """Note the end of an epoch's training."""
        self._paused = now

    @property
    def images_per_second(self) -> float | None:
        """None before the second batch."""
        return self._images / self._seconds if self._seconds else None

    def seconds_left(self, epoch: int, batch: int) -> float | None:
        """Return the time that the rest of the run takes; None before the second batch.

        Args:
            epoch: the running one, counted from 0.
            batch: batches of it that have ended.
        """
        if not self._batches:
            return None
        epochs_left = self._num_epochs - epoch
        batches_left = epochs_left * self._num_batches - batch
        return batches_left * self._seconds / self._batches + epochs_left * self._between


class BatchProgress(L.Callback):
    """Shows how far the epoch is, the mean loss so far, images/s and the time left of the run."""

    def __init__(self, screen: Screen) -> None:
        # Jobs of a sweep that run at a time share the terminal, and their bars would overwrite
        # each other. Each has a process of its own; the other runs begin in the main process.
        self._is_shown = screen.is_rich and multiprocessing.parent_process() is None
        self._screen = screen
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._pace = Pace(1, 1)
        self._loss = ""
        self._next_update = 0.0
        self._next_loss = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a bar, which an epoch that is resumed within it would not get otherwise."""
        assert trainer.max_epochs is not None
        self._pace = Pace(int(trainer.num_training_batches), trainer.max_epochs)
        self._start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a new bar."""
        self._start(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Move the bar, at most five times a second."""
        if self._bar is None:
            return
        now = time.monotonic()
        self._pace.add(len(batch[1]) * trainer.world_size, now)
        if now < self._next_update:
            return
        self._next_update = now + SECONDS_BETWEEN_UPDATES
        if now >= self._next_loss:
            self._next_loss = now + SECONDS_BETWEEN_LOSSES
            assert isinstance(pl_module, Classifier)
            self._loss = f"loss {number(pl_module.train_scores.mean_loss_here())}"
        speed = self._pace.images_per_second
        left = self._pace.seconds_left(trainer.current_epoch, batch_idx + 1)
        figures = (
            self._loss,
            "" if left is None else f"{clock(left)} left",
            "" if speed is None else f"{speed:,.0f} images/s",
        )
        self._bar.update(self._task, completed=batch_idx + 1, figures=figures)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave validation out of the speed."""
        self._pace.pause(time.monotonic())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._stop()

    def _start(self, trainer: L.Trainer) -> None:
        self._stop()
        if not self._is_shown or not trainer.is_global_zero:
            return
        self._bar = self._screen.progress()
        self._task = self._bar.add_task(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            total=trainer.num_training_batches,
            figures=(),
        )
        self._bar.start()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
