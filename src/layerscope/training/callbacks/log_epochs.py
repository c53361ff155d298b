"""Rows of metrics.csv for the trackers."""

from collections.abc import Mapping, Sequence

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from layerscope.report.tables import GrowingTable
from layerscope.training.loggers import Tracker


class LogEpochs(Checkpoint):
    """Tells the trackers each row of metrics.csv, once the epoch's checkpoint is saved.

    Logged before it, a row would be there twice after a kill in between. As the row is in the
    checkpoint, a resumed run logs it if the kill came first. It is a subclass of Lightning's
    Checkpoint, so that it runs after EndOfEpoch.

    Args:
        metrics: table of the rows.
    """

    def __init__(self, trackers: Sequence[Tracker], metrics: GrowingTable) -> None:
        self._trackers = tuple(trackers)
        self._metrics = metrics

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the rows of the checkpoint that the trackers do not have."""
        self._log(trainer, self._metrics.rows())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the new row."""
        self._log(trainer, self._metrics.rows()[-1:])

    def _log(self, trainer: L.Trainer, rows: Sequence[Mapping[str, str]]) -> None:
        if trainer.is_global_zero:
            for tracker in self._trackers:
                tracker.log_epochs(rows)
