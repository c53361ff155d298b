"""Batches from a DataLoader, for sets that do not fit on the training device."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from layerscope.data.batches import AnySet, Batch, BatchSettings, EvalSplit, Split
from layerscope.data.order import EpochPlan, epoch_plan
from layerscope.data.view import enlarge


class WorkerBatches:
    """A BatchSource that reads image by image in worker processes."""

    def __init__(
        self,
        sets: Mapping[Split, AnySet],
        settings: BatchSettings,
        device: torch.device,
        num_workers: int,
    ) -> None:
        self._sets = sets
        self._settings = settings
        self._device = device
        self._num_workers = num_workers

    def train(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """See BatchSource."""
        images, settings = self._sets["train"], self._settings
        plan = epoch_plan(settings.seed, epoch, len(images), settings.crop_padding, settings.flip)
        batches = self._batches(len(images), range(start, stop))
        return self._load(_Augmented(images, epoch, plan, settings), batches)

    def evaluate(self, split: EvalSplit, stop: int) -> Iterator[Batch]:
        """See BatchSource."""
        images = self._sets[split]
        return self._load(_Plain(images, self._settings), self._batches(len(images), range(stop)))

    def _batches(self, count: int, indices: range) -> list[list[int]]:
        positions = [*range(count)]
        return [positions[self._settings.rows(index, count)] for index in indices]

    def _load(
        self, images: Dataset[tuple[Tensor, int]], batches: list[list[int]]
    ) -> Iterator[Batch]:
        loader = DataLoader(
            images,
            batch_sampler=batches,
            num_workers=self._num_workers,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_end_by_the_parent_alone,
            multiprocessing_context=_start_method() if self._num_workers else None,
        )
        memory_format = (
            torch.channels_last if self._settings.channels_last else torch.contiguous_format
        )
        for pixels, labels in loader:
            moved = enlarge(pixels.to(self._device, non_blocking=True), self._settings.view)
            there = labels.to(self._device, non_blocking=True)
            yield moved.contiguous(memory_format=memory_format), there


def _start_method() -> str:
    """Return how worker processes start.

    Jobs of joblib run in processes whose default, `loky`, cannot start a DataLoader's workers.
    """
    usable = multiprocessing.get_all_start_methods()  # the platform's default is the first
    method = multiprocessing.get_start_method()
    return method if method in usable else usable[0]


def _end_by_the_parent_alone(worker: int) -> None:
    """Let a worker ignore every SIGTERM that its parent did not send.

    A batch system sends SIGTERM to all processes of a run, and the one that trains needs batches
    until it stops. A batch that it then leaves unread is no error.
    """
    sys.excepthook = _without_lost_readers
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _without_lost_readers(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _wait_for_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


class _Plain(Dataset[tuple[Tensor, int]]):
    """A dataset of the normalised images (C, H, W) of a set and their labels."""

    def __init__(self, images: AnySet, settings: BatchSettings, epoch: int = 0) -> None:
        self._images = images
        self._epoch = epoch
        self._normalise = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(settings.normalisation.mean, settings.normalisation.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._normalise(self._pixels(index)), int(self._images.labels[index])

    def _pixels(self, index: int) -> Tensor:
        return torch.tensor(self._images.read(index, self._epoch)).permute(2, 0, 1)  # (C, H, W)


class _Augmented(_Plain):
    """A dataset of the images of an epoch in its order, cropped and flipped as the plan says."""

    def __init__(
        self, images: AnySet, epoch: int, plan: EpochPlan, settings: BatchSettings
    ) -> None:
        super().__init__(images, settings, epoch)
        self._plan = plan
        self._pad = v2.Pad(settings.crop_padding, padding_mode="reflect")

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = int(self._plan.images[index])
        pixels = self._pixels(image)
        _, height, width = pixels.shape
        top, left = (int(offset) for offset in self._plan.crops[index])
        pixels = v2.functional.crop(self._pad(pixels), top, left, height, width)
        if self._plan.flipped[index]:
            pixels = v2.functional.horizontal_flip(pixels)
        return self._normalise(pixels), int(self._images.labels[image])
