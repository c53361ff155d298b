"""Checkpoints inside an epoch: every so many steps, and where a signal asks the run to end."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from layerscope.data.batches import Batch
from layerscope.training.checkpoint_folder import CheckpointFolder
from layerscope.training.module import Classifier
from layerscope.training.stop_request import StopRequest


class WithinEpoch(Checkpoint):
    """Saves after a step whose update is done; never after an epoch's last one, whose validation
    and row come first: there EndOfEpoch saves.

    A Checkpoint to Lightning, behind EndOfEpoch, so that a stop at an epoch's end comes after its
    checkpoint.

    Args:
        every_n_steps: training batches between two checkpoints; None: only when asked to stop.
    """

    def __init__(
        self, folder: CheckpointFolder, every_n_steps: int | None, request: StopRequest
    ) -> None:
        self._folder = folder
        self._every = every_n_steps
        self._request = request
        self._last_saved = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from the checkpoint that the run goes on from, and listen for signals."""
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
        """Save, and end, where it is time to."""
        assert isinstance(pl_module, Classifier)
        if batch_idx + 1 == trainer.num_training_batches or not pl_module.has_updated:
            return
        alone = trainer.world_size == 1  # else what all have heard in the step's own message
        stops = self._request.signal is not None if alone else pl_module.stop_is_wanted
        if stops or self._is_due(pl_module.batches_seen):
            self._folder.save(trainer)
            self._last_saved = pl_module.batches_seen
        if stops:
            self._stop(f"after step {pl_module.batches_seen}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The epoch is saved: end here if asked to, and there is more to come."""
        assert isinstance(pl_module, Classifier)
        self._last_saved = pl_module.batches_seen
        if self._stops(trainer):
            self._stop(f"after epoch {trainer.current_epoch + 1}")

    def _is_due(self, batches_seen: int) -> bool:
        return self._every is not None and batches_seen - self._last_saved >= self._every

    def _stops(self, trainer: L.Trainer) -> bool:
        """Tell whether any process is to stop."""
        wanted = self._request.signal is not None
        if trainer.world_size == 1:
            return wanted
        return trainer.strategy.reduce_boolean_decision(wanted, all=False)

    def _stop(self, when: str) -> None:
        hint = self._request.how_to_resume
        raise self._request.error(f"ended {when}, saved {self._folder.last}; {hint}")
