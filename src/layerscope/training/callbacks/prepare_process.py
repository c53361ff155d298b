"""The settings of a process that trains."""

import lightning as L
import torch

from layerscope.config.schema import TrainerConfig
from layerscope.training.processes.scripts import end_with_starter
from layerscope.training.silence import silence_lightning


def prepare_process(config: TrainerConfig) -> None:
    """Set up this process for training: threads, logging, and its end with its parent."""
    end_with_starter()
    silence_lightning()
    if config.threads is not None:
        torch.set_num_threads(config.threads)


class PrepareProcess(L.Callback):
    """Calls `prepare_process` in each process that Lightning starts (ddp_spawn)."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the process: Lightning calls this hook first."""
        prepare_process(self._config)
