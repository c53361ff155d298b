"""The settings of a process that trains."""

import ctypes
import os

import lightning as L
import torch

from layerscope.config.schema import TrainerConfig
from layerscope.training.processes.scripts import end_with_starter
from layerscope.training.silence import silence_lightning

# Of glibc's malloc.h. A threshold above 32 MiB is refused.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_ON_HEAP = 32 * 2**20
_MOST_KEPT = 2**30


def prepare_process(config: TrainerConfig) -> None:
    """Set up this process for training: memory, threads, logging, and its end with its parent."""
    end_with_starter()
    _keep_freed_memory()
    silence_lightning()
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, up to 1 GiB; other systems decide alone.

    By itself it may give large blocks back to the system, depending on what was freed before, and
    the next step is made of new pages: 1.2 million page faults in 150 steps of cifar_cnn instead of
    0.28 million, and 20 ms a backward pass instead of 14. Whoever sets a MALLOC_ variable decides.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and not any(name.startswith("MALLOC_") for name in os.environ):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


class PrepareProcess(L.Callback):
    """Calls `prepare_process` in each process that Lightning starts (ddp_spawn)."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the process: Lightning calls this hook first."""
        prepare_process(self._config)
