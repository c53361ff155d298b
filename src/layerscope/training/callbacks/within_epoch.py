"""Checkpoints within an epoch: every n steps, and when a signal asks the run to end."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from layerscope.data.batches import Batch
from layerscope.training.checkpoint_folder import CheckpointFolder
from layerscope.training.module import Classifier
from layerscope.training.stop_request import StopRequest


class WithinEpoch(Checkpoint):
    """Saves after steps that end in an update, except the last step of an epoch.

    After that one EndOfEpoch saves, once validation is done and its row is written. This class is a
    subclass of Lightning's Checkpoint and runs after EndOfEpoch, so that a stop at the end of an
    epoch comes after its checkpoint.

    Args:
        every_n_steps: training batches between two checkpoints; None saves only when asked to stop.
    """

    def __init__(
        self, folder: CheckpointFolder, every_n_steps: int | None, request: StopRequest
    ) -> None:
        self._folder = folder
        self._every = every_n_steps
        self._request = request
        self._last_saved = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count steps from the checkpoint that is resumed, and listen for signals."""
        assert isinstance(pl_module, Classifier)
        self._request.listen()
        pl_module.listen_to(self._request)
        self._last_saved = pl_module.batches_seen

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save if it is time to; save and end if asked to stop."""
        assert isinstance(pl_module, Classifier)
        if batch_idx + 1 == trainer.num_training_batches or not pl_module.has_updated:
            return
        alone = trainer.world_size == 1  # Several processes have agreed in the step.
        stops = self._request.signal is not None if alone else pl_module.stop_is_wanted
        if stops or self._is_due(pl_module.batches_seen):
            self._folder.save(trainer)
            self._last_saved = pl_module.batches_seen
        if stops:
            self._stop(f"after step {pl_module.batches_seen}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run if asked to stop: EndOfEpoch has saved the epoch."""
        assert isinstance(pl_module, Classifier)
        self._last_saved = pl_module.batches_seen
        if self._stops(trainer):
            self._stop(f"after epoch {trainer.current_epoch + 1}")

    def _is_due(self, batches_seen: int) -> bool:
        return self._every is not None and batches_seen - self._last_saved >= self._every

    def _stops(self, trainer: L.Trainer) -> bool:
        """Tell whether any process was asked to stop."""
        wanted = self._request.signal is not None
        if trainer.world_size == 1:
            return wanted
        return trainer.strategy.reduce_boolean_decision(wanted, all=False)

    def _stop(self, when: str) -> None:
        hint = self._request.how_to_resume
        raise self._request.error(f"ended {when}, saved {self._folder.last}; {hint}")
