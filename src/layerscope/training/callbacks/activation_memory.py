"""The callback that records activation memory during training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from layerscope.config.schema import TrainConfig
from layerscope.data.batches import Batch
from layerscope.measure import ActivationRecord, ActivationRecorder, record_activations
from layerscope.report.activation_table import ActivationTable
from layerscope.training.module import Classifier


class ActivationMemory(L.Callback):
    """Records the first full step and every n-th, on rank 0; other steps carry no hook.

    In the first step of a process on a CUDA device, the libraries allocate workspaces for good (32
    MiB for each cuBLAS handle on a Hopper GPU), which no later step does. Its peak is therefore
    left out, and a later step is recorded for the peak.
    """

    def __init__(self, directory: Path, config: TrainConfig, full_size: int) -> None:
        self._every = config.callbacks.activation_memory.every_n_steps
        self._full_size = full_size
        self._table = ActivationTable(directory, config.trainer.precision)
        self._recorder: ActivationRecorder | None = None
        self._is_warm = False  # a full step has run in this process

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the records of the run that is resumed."""
        assert isinstance(pl_module, Classifier)
        if trainer.is_global_zero:
            self._table.resume(pl_module.batches_seen)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start to record, if this step is one to record."""
        assert isinstance(pl_module, Classifier)
        is_full = len(batch[1]) * trainer.world_size >= self._full_size
        on_cuda = pl_module.device.type == "cuda"
        if trainer.is_global_zero and is_full and self._is_due(pl_module.batches_seen, on_cuda):
            self._recorder = record_activations(pl_module.network)
            self._recorder.__enter__()

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Count what autograd has saved, now that the forward pass and the loss are done."""
        if self._recorder is not None:
            self._recorder.finish()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Write the record and remove all hooks."""
        is_warm = self._is_warm
        self._is_warm |= len(batch[1]) * trainer.world_size >= self._full_size
        if self._recorder is None:
            return
        assert isinstance(pl_module, Classifier)
        self._recorder.__exit__(None, None, None)
        record = self._recorder.record
        self._recorder = None
        if not is_warm:
            record = replace(record, peak_bytes=None)
        self._table.add(pl_module.batches_seen - 1, len(batch[1]), record)
        for logger in trainer.loggers:
            logger.log_metrics(_summary(record), step=trainer.global_step)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Remove all hooks."""
        if self._recorder is not None:
            self._recorder.__exit__(type(exception), exception, exception.__traceback__)
            self._recorder = None

    def _is_due(self, step: int, on_cuda: bool) -> bool:
        if not self._table.has_records:
            return True
        if on_cuda and self._is_warm and not self._table.has_peak:
            return True
        return self._every is not None and step % self._every == 0


def _summary(record: ActivationRecord) -> dict[str, float]:
    summary = {
        "activation_memory/output_bytes": record.output_bytes,
        "activation_memory/saved_bytes": record.saved_bytes,
    }
    if record.peak_bytes is not None:
        summary["activation_memory/peak_bytes"] = record.peak_bytes
    return {name: float(value) for name, value in summary.items()}
