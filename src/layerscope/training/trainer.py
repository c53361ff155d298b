"""Lightning's Trainer, as this project uses it."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import Strategy

# Lightning has no public way to leave SIGTERM alone: see _WithoutSigterm.
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from layerscope.config.schema import EarlyStoppingConfig, TrainerConfig
from layerscope.training.checkpoint_files import open_plain, save_sealed
from layerscope.training.hardware import num_processes, uses_gpu
from layerscope.training.processes.strategy import Processes
from layerscope.training.stop_request import StopRequest


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads and writes checkpoints for Lightning, without pickles and without torn files."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write the file with a checksum, through a temporary file in the same directory."""
        save_sealed(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the file as plain data, whatever `weights_only` says."""
        return open_plain(path)


class _WithoutSigterm(_SignalConnector):
    """Registers Lightning's signal handlers except the one for SIGTERM.

    That one starts a collective with the other processes wherever the program is, and ends a
    validation halfway.
    """

    @staticmethod
    def _register_signal(signum: Any, handlers: Any) -> None:
        if signum != signal.SIGTERM:
            _SignalConnector._register_signal(signum, handlers)


def make_trainer(
    config: TrainerConfig,
    directory: Path,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger] = (),
    some_outputs_unused: bool = False,
    request: StopRequest | None = None,
) -> L.Trainer:
    """Return a Trainer for training with the configured strategy.

    Args:
        some_outputs_unused: the loss does not depend on every parameter, which DDP must be told.
        request: notes signals that ask the run to stop; None if the Trainer only serves checks.
    """
    devices = num_processes(config)
    strategy: str | Strategy = config.strategy
    if config.strategy != "auto":
        request = request or StopRequest("")
        strategy = Processes(config.strategy, some_outputs_unused, request)
    trainer = L.Trainer(
        devices=devices,
        strategy=strategy,
        max_epochs=config.max_epochs,
        logger=list(loggers) or False,
        callbacks=list(callbacks),
        profiler=_profiler(config, directory),
        num_sanity_val_steps=0,
        # Scores are logged per epoch. This only silences a warning about short epochs.
        log_every_n_steps=1 if loggers else 50,
        **_shared(config, directory),
    )
    return _with_our_signals(trainer)


def make_test_trainer(
    config: TrainerConfig, directory: Path, callbacks: Sequence[L.Callback] = ()
) -> L.Trainer:
    """Return a Trainer for testing on one device, however many devices trained.

    Every image is scored exactly once, so that the score is the same each time.
    """
    trainer = L.Trainer(
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        **_shared(config, directory),
    )
    return _with_our_signals(trainer)


def early_stopping(config: EarlyStoppingConfig) -> list[EarlyStopping]:
    """Return Lightning's callback; an empty list where no patience is set."""
    if config.patience is None:
        return []
    return [
        EarlyStopping(
            config.monitor,
            patience=config.patience,
            min_delta=config.min_delta,
            mode="max" if config.monitor == "val/acc" else "min",
        )
    ]


def _with_our_signals(trainer: L.Trainer) -> L.Trainer:
    trainer._signal_connector = _WithoutSigterm(trainer)
    return trainer


def _shared(config: TrainerConfig, directory: Path) -> dict[str, Any]:
    return {
        "accelerator": "gpu" if uses_gpu(config) else "cpu",
        "precision": config.precision,
        "deterministic": config.deterministic,
        "default_root_dir": directory,
        "plugins": [SafeCheckpointIO()],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def _profiler(config: TrainerConfig, directory: Path) -> Profiler | None:
    if config.profiler == "simple":
        return SimpleProfiler(dirpath=directory, filename="profiler")
    if config.profiler == "pytorch":
        schedule = torch.profiler.schedule(wait=0, warmup=1, active=3, repeat=1)
        return PyTorchProfiler(directory, "profiler", schedule=schedule, acc_events=True)
    return None
