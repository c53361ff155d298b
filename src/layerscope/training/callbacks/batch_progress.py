import time
from typing import Any

import lightning as L
from rich.progress import Progress, TaskID

from layerscope.report.terminal import Screen

SECONDS_BETWEEN_UPDATES = 0.2  # Moving the bar at every batch costs more than a small batch.


class BatchProgress(L.Callback):
    """Shows a progress bar over the batches of an epoch."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._next_update = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a new bar."""
        if not self._screen.is_rich or not trainer.is_global_zero:
            return
        self._bar = self._screen.progress()
        self._task = self._bar.add_task(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            total=trainer.num_training_batches,
        )
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar, at most five times a second."""
        if self._bar is not None and time.monotonic() >= self._next_update:
            self._bar.update(self._task, completed=batch_idx + 1)
            self._next_update = time.monotonic() + SECONDS_BETWEEN_UPDATES

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
