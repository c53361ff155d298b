"""Lightning's Trainer, as this project uses it."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler

from layerscope.config import TrainerConfig
from layerscope.training.checkpoint_files import open_plain, save_sealed
from layerscope.training.hardware import num_processes, uses_gpu


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's reads and writes of checkpoints, without its pickles and its torn files."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Sealed, through a temporary file in the same directory."""
        save_sealed(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Always as plain data, whatever `weights_only` says."""
        return open_plain(path)


def make_trainer(
    config: TrainerConfig,
    directory: Path,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger] = (),
    some_outputs_unused: bool = False,
) -> L.Trainer:
    """For training with the configured strategy.

    Args:
        some_outputs_unused: the loss does not depend on every parameter, which DDP must be told.
    """
    strategy: str = config.strategy
    if some_outputs_unused and strategy != "auto":
        strategy += "_find_unused_parameters_true"
    return L.Trainer(
        devices=num_processes(config),
        strategy=strategy,
        max_epochs=config.max_epochs,
        logger=list(loggers) or False,
        callbacks=list(callbacks),
        profiler=_profiler(config, directory),
        num_sanity_val_steps=0,
        # Scores are logged by epoch; this only keeps Lightning from warning of short epochs.
        log_every_n_steps=1 if loggers else 50,
        **_shared(config, directory),
    )


def make_test_trainer(
    config: TrainerConfig, directory: Path, callbacks: Sequence[L.Callback] = ()
) -> L.Trainer:
    """On one device, whatever trained: every image once, and the same number each time."""
    return L.Trainer(
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        **_shared(config, directory),
    )


def silence_lightning() -> None:
    """Its notes on devices, its tips and its own deprecations, which say nothing about the run."""
    # The scores are reduced over the ranks already, by torchmetrics.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


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
