"""The checkpoints of a run: last, previous and best."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from layerscope.base.errors import NonFiniteLoss, UserError
from layerscope.base.files import remove_leftovers, sync_directory, write_atomically
from layerscope.training.checkpoint_files import BEST, LAST, PREVIOUS
from layerscope.training.checkpoints import read_checkpoint
from layerscope.training.history import Best, History
from layerscope.training.module import Classifier


class CheckpointFolder:
    """Saves through the trainer, so that the file holds Lightning's own state too.

    After a kill between any two steps last.ckpt or previous.ckpt is whole, and best.ckpt is not
    older than last.ckpt says.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "checkpoints"
        self.last = self._folder / LAST
        self.best = self._folder / BEST

    def save(self, trainer: L.Trainer, is_best: bool = False) -> None:
        """Save last.ckpt, and before it best.ckpt where this is the best.

        Raises:
            NonFiniteLoss: a weight or an optimizer state is not finite; nothing is saved.
            OSError: the disk is full, or the like; the files are unchanged.
        """
        self._check_finite(trainer)
        target = self.best if is_best else self.last
        if not is_best and trainer.is_global_zero:
            self._keep_previous()
        trainer.save_checkpoint(target)
        if is_best and trainer.is_global_zero:
            self._keep_previous()
            copy_file(self.best, self.last)

    def adopt_best(
        self, resumed: Path, history: History, state: Mapping[str, Tensor]
    ) -> Best | None:
        """Return the best epoch, and copy its checkpoint from beside `resumed` if need be.

        None where there is no whole best.ckpt of the same run.

        Args:
            history: of `resumed`, the checkpoint that the run resumes from.
            state: has the names and shapes that the best checkpoint's must have.
        """
        source = self.best if self.best.exists() else resumed.parent / BEST
        best = best_in(source, history, state)
        if best is not None and source != self.best:
            copy_file(source, self.best)
        return best

    def remove_leftovers(self) -> None:
        """Remove temporary files of a process that was killed while it saved."""
        remove_leftovers(self._folder)

    def describe_last(self) -> str:
        """Return a clause for a message."""
        if self.last.exists():
            return f"the last finite checkpoint is {self.last}"
        return "no checkpoint was saved"

    def _keep_previous(self) -> None:
        if self.last.exists():
            copy_file(self.last, self._folder / PREVIOUS)

    def _check_finite(self, trainer: L.Trainer) -> None:
        """Raise for numbers that `validate_checkpoint` would refuse."""
        module = trainer.lightning_module
        assert isinstance(module, Classifier)
        saved = dict(_saved_tensors(trainer))
        if all_are_finite(saved.values()):
            return
        for name, tensor in saved.items():
            if not all_are_finite([tensor]):
                raise NonFiniteLoss(f"{name} is no longer finite in step {module.batches_seen}")


def all_are_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether every number is finite; a GPU is waited for once."""
    numbers = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    largest = torch.nn.utils.get_total_norm(numbers, float("inf"))
    return bool(torch.isfinite(largest))


def _saved_tensors(trainer: L.Trainer) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint, with names for a message."""
    module = trainer.lightning_module
    yield from module.state_dict().items()
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    for optimizer in trainer.optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {key} of {names[parameter]}", value


def best_in(path: Path, history: History, state: Mapping[str, Tensor]) -> Best | None:
    """Return the best epoch, whose checkpoint the file is; None where it is not of the same run.

    The arguments are those of `CheckpointFolder.adopt_best`.
    """
    try:
        checkpoint = read_checkpoint(path)
        best = History.of(checkpoint).best_of(history)
    except UserError:
        return None
    return best if _belongs_to(checkpoint["state_dict"], state) else None


def _belongs_to(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Tell whether names, shapes and types are this run's, and all numbers finite."""
    return (
        saved.keys() == wanted.keys()
        and all_are_finite(saved.values())
        and all(
            tensor.shape == wanted[name].shape and tensor.dtype == wanted[name].dtype
            for name, tensor in saved.items()
        )
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy atomically; as a second name for the same bytes where the file system has links."""
    spare = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    spare.unlink(missing_ok=True)
    try:
        os.link(source, spare)
    except OSError:
        write_atomically(target, lambda file: file.write(source.read_bytes()))
        return
    try:
        os.replace(spare, target)
    finally:  # rename does nothing where both are names of one file: the spare one stays
        spare.unlink(missing_ok=True)
    sync_directory(target.parent)
