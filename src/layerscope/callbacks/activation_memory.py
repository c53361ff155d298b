"""The callback that records activation memory during training, in anybody's Trainer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

# The base class of torch's losses, which has no public name.
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric, MetricCollection

from layerscope.base.errors import UserError
from layerscope.layers.calls import unwrapped
from layerscope.layers.tensors import tensors_in
from layerscope.measure import ActivationRecord, ActivationRecorder
from layerscope.report.activation_table import ActivationTable

_COMPILED = "ActivationMemory sees layers that run one by one, not compiled or scripted ones"


class ActivationMemory(L.Callback):
    """Records the first full step and every n-th, on rank 0; other steps carry no hook.

    Writes activation_memory.json and activation_memory.csv, and logs the totals to the Trainer's
    loggers. A step is one training batch, counted from 0 over all epochs. It is recorded up to its
    first backward pass: with two optimizers, what ran before the first one's. A step without a
    backward pass (`training_step` returned None) is not recorded; the next one is.

    A fit that begins at step 0 begins the files anew. One that is resumed (`ckpt_path=`) keeps the
    records of earlier steps that the directory has.

    In the first step of a process on a CUDA device, the libraries allocate workspaces for good (32
    MiB for each cuBLAS handle on a Hopper GPU), which no later step does. Its peak is therefore
    left out, and a later step is recorded for the peak.

    Args:
        every_n_steps: record every n-th step too; None: the first full one only.
        directory: where the files go; None: the Trainer's `log_dir`.
        module: path of the module to record, such as "network", as `record_activations` does; its
            layers are then named without that path. None: every module that `training_step` calls,
            except torch's losses and torchmetrics' metrics.
        full_batch: examples in a full batch of this process; smaller ones are not recorded. None:
            the largest batch so far. The number of examples is the length of the first tensor.

    Raises:
        UserError: `every_n_steps` is no positive number; when the fit starts: there is no such
            module, or it is compiled or scripted, so that its layers do not run one by one.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        directory: str | Path | None = None,
        module: str | None = None,
        full_batch: int | None = None,
    ) -> None:
        if every_n_steps is not None and (not isinstance(every_n_steps, int) or every_n_steps < 1):
            raise UserError(
                f"every_n_steps={every_n_steps}: give a number of steps, such as 100, or None for "
                "the first full step only"
            )
        self._every = every_n_steps
        self._directory = directory
        self._module = module
        self._full_batch = full_batch
        self._largest_batch = 0
        self._table: ActivationTable | None = None
        self._recorder: ActivationRecorder | None = None
        self._is_warm = False  # a full step has run in this process

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the directory, and refuse what cannot be recorded."""
        self._recorded_module(pl_module)
        # Every process must ask for `log_dir`, which one of them tells the others.
        directory = self._directory or trainer.log_dir or trainer.default_root_dir
        self._table = ActivationTable(Path(directory), str(trainer.precision))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the records of the run that is resumed."""
        if trainer.is_global_zero:
            self._records.resume(trainer.fit_loop.total_batch_idx + 1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start to record, if this step is one to record."""
        step, on_cuda = trainer.fit_loop.total_batch_idx, pl_module.device.type == "cuda"
        if trainer.is_global_zero and self._is_full(batch) and self._is_due(step, on_cuda):
            module = self._recorded_module(pl_module)
            is_forward = _called_by_step(pl_module) if self._module is None else None
            self._recorder = ActivationRecorder(module, is_forward)
            self._recorder.__enter__()

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Count what autograd has saved, now that the forward pass and the loss are done."""
        if self._recorder is not None and self._recorder.has_run:
            self._recorder.finish()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the record and remove all hooks."""
        is_warm = self._is_warm
        self._is_warm |= self._is_full(batch)
        if self._recorder is None:
            return
        recorder, self._recorder = self._recorder, None
        # Asked before the block ends, which ends the forward pass too: a record that is there now
        # was ended by a backward pass.
        has_record = not recorder.why_no_record
        recorder.__exit__()
        if not has_record:
            return
        record = recorder.record
        if not is_warm:
            record = replace(record, peak_bytes=None)
        self._records.add(trainer.fit_loop.total_batch_idx, _batch_size(batch), record)
        for logger in trainer.loggers:
            logger.log_metrics(_summary(record), step=trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove all hooks, should `on_train_batch_start` have ended the epoch."""
        self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if no step could be recorded."""
        if trainer.is_global_zero and not self._records.has_records:
            rank_zero_warn(
                "ActivationMemory has recorded no step: in none with a full batch did a module of "
                f"{type(pl_module).__name__} run before a backward pass"
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Remove all hooks."""
        self._stop()

    def _stop(self) -> None:
        if self._recorder is not None:
            self._recorder.__exit__()
            self._recorder = None

    @property
    def _records(self) -> ActivationTable:
        assert self._table is not None, "on_fit_start comes first"
        return self._table

    def _recorded_module(self, pl_module: L.LightningModule) -> nn.Module:
        """Return the module to record.

        Raises:
            UserError: there is no such module, or its layers do not run one by one.
        """
        try:
            module = pl_module.get_submodule(self._module or "")
        except AttributeError as error:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise UserError(
                f"ActivationMemory(module={self._module!r}): {type(pl_module).__name__} has no "
                f"such module: choose one of {names or 'none'}, or one below"
            ) from error
        try:
            module = unwrapped(module)
        except UserError as error:
            raise UserError(f"{_COMPILED}: {error}") from error
        if pl_module._compiler_ctx is not None:  # Lightning has no public way to ask.
            raise UserError(f"{_COMPILED}: give the Trainer the LightningModule that was compiled")
        return module

    def _is_full(self, batch: Any) -> bool:
        size = _batch_size(batch)
        self._largest_batch = max(self._largest_batch, size or 0)
        return size is None or size >= (self._full_batch or self._largest_batch)

    def _is_due(self, step: int, on_cuda: bool) -> bool:
        if not self._records.has_records:
            return True
        if on_cuda and self._is_warm and not self._records.has_peak:
            return True
        return self._every is not None and step % self._every == 0


def _called_by_step(pl_module: L.LightningModule) -> Callable[[nn.Module], bool]:
    """Return what tells the networks that `training_step` calls from losses and metrics."""
    aside = [m for m in pl_module.modules() if isinstance(m, _Loss | Metric | MetricCollection)]
    left_out = {inner for module in aside for inner in module.modules()}

    def is_network(module: nn.Module) -> bool:
        # With several processes, Lightning calls `training_step` as the forward of the
        # LightningModule: it sets a function in place of the method for the time of the call.
        is_own = getattr(module.forward, "__self__", None) is module
        return module not in left_out and (module is not pl_module or is_own)

    return is_network


def _batch_size(batch: Any) -> int | None:
    """Return the length of the first tensor in a batch of any structure; None: there is none."""
    sized = (tensor for tensor in tensors_in(batch) if tensor.dim() > 0)
    first = next(sized, None)
    return None if first is None else len(first)


def _summary(record: ActivationRecord) -> dict[str, float]:
    summary = {
        "activation_memory/output_bytes": record.output_bytes,
        "activation_memory/saved_bytes": record.saved_bytes,
    }
    if record.peak_bytes is not None:
        summary["activation_memory/peak_bytes"] = record.peak_bytes
    return {name: float(value) for name, value in summary.items()}
