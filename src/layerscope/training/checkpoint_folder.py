"""The checkpoints of a run: last, the one before it, and best."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch

from layerscope.errors import NonFiniteLoss, UserError
from layerscope.files import remove_leftovers, sync_directory, write_atomically
from layerscope.training.checkpoint_files import BEST, LAST, PREVIOUS
from layerscope.training.checkpoints import read_checkpoint


class CheckpointFolder:
    """Saves through the trainer, so that Lightning's own state is in the file.

    A kill between any two steps leaves last.ckpt, or previous.ckpt, whole and best.ckpt no older
    than last.ckpt says.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "checkpoints"
        self.last = self._folder / LAST
        self.best = self._folder / BEST

    def save(self, trainer: L.Trainer, is_best: bool = False) -> None:
        """last.ckpt, and before it best.ckpt where this is the best.

        Raises:
            NonFiniteLoss: a weight is not finite; nothing is saved.
            OSError: the disk is full, or the like; the files are as they were.
        """
        self._refuse_non_finite(trainer)
        target = self.best if is_best else self.last
        if not is_best and trainer.is_global_zero:
            self._keep_previous()
        trainer.save_checkpoint(target)
        if is_best and trainer.is_global_zero:
            self._keep_previous()
            copy_file(self.best, self.last)

    def adopt_best(self, resumed: Path) -> dict[str, Any] | None:
        """The best checkpoint, taken along from beside the one that a new directory goes on from.

        None where there is no whole one.
        """
        source = self.best if self.best.exists() else resumed.parent / BEST
        try:
            checkpoint = read_checkpoint(source)
        except UserError:
            return None
        if source != self.best:
            copy_file(source, self.best)
        return checkpoint

    def remove_leftovers(self) -> None:
        """Of a process that was killed while it saved."""
        remove_leftovers(self._folder)

    def describe_last(self) -> str:
        """For a message."""
        if self.last.exists():
            return f"the last finite checkpoint is {self.last}"
        return "no checkpoint was saved"

    def _keep_previous(self) -> None:
        if self.last.exists():
            copy_file(self.last, self._folder / PREVIOUS)

    def _refuse_non_finite(self, trainer: L.Trainer) -> None:
        for name, tensor in trainer.lightning_module.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NonFiniteLoss(
                    f"{name} is no longer finite in step {trainer.global_step}: lower the learning "
                    "rate (optimizer.lr) or set trainer.gradient_clip_norm"
                )


def copy_file(source: Path, target: Path) -> None:
    """By a second name for the same bytes where the file system has that; atomically."""
    spare = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    spare.unlink(missing_ok=True)
    try:
        os.link(source, spare)
    except OSError:
        write_atomically(target, lambda file: file.write(source.read_bytes()))
        return
    try:
        os.replace(spare, target)
    finally:  # two names of one file are not renamed over one another: the spare one stays
        spare.unlink(missing_ok=True)
    sync_directory(target.parent)
