"""Batches made on the training device, where the whole set lives as uint8."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerscope.data.order import EpochPlan, Flip, epoch_plan
from layerscope.data.view import View, enlarge

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) float32, labels (N,) int64
EvalSplit = Literal["val", "test"]
Split = Literal["train"] | EvalSplit


@dataclass(frozen=True)
class ImageSet:
    """Images (N, H, W, C) uint8 and labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel of the training images, scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class BatchSettings:
    """Everything that decides the batches, except the images."""

    seed: int
    batch_size: int  # global: over all ranks
    drop_last: bool
    crop_padding: int
    flip: Flip
    view: View
    normalisation: Normalisation
    channels_last: bool
    rank: int = 0
    num_ranks: int = 1

    def num_train_batches(self, count: int) -> int:
        """Return the number of batches in an epoch of `count` images."""
        return count // self.batch_size if self.drop_last else self.num_batches(count)

    def num_batches(self, count: int) -> int:
        """Return the number of batches that hold `count` images; the last one may be short."""
        return -(-count // self.batch_size)

    def rows(self, index: int, count: int) -> slice:
        """Return this rank's positions in batch `index`: every num_ranks-th of the global batch."""
        start = index * self.batch_size
        return slice(start + self.rank, min(start + self.batch_size, count), self.num_ranks)


class BatchSource(Protocol):
    """A source of batches. Both implementations give the same images in the same order."""

    def train(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """Yield the augmented batches start, start + 1, ... stop - 1 of an epoch."""
        ...

    def evaluate(self, split: EvalSplit, stop: int) -> Iterator[Batch]:
        """Yield the first `stop` batches of a split in its own order, every image once."""
        ...


class DeviceBatches:
    """A BatchSource whose images live on the training device; no per-image Python."""

    def __init__(
        self,
        sets: Mapping[Split, ImageSet],
        settings: BatchSettings,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._device = device
        self._images = {split: _to(images.images, device) for split, images in sets.items()}
        self._labels = {split: _to(images.labels, device) for split, images in sets.items()}
        if "train" in sets:
            self._crops = _crop_windows(self._images.pop("train"), settings.crop_padding)
        self._scale = Scale(settings.normalisation, settings.view, device)

    def train(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """See BatchSource."""
        settings, labels = self._settings, self._labels["train"]
        drawn = epoch_plan(settings.seed, epoch, len(labels), settings.crop_padding, settings.flip)
        plan = _DevicePlan.of(drawn, self._device)
        for index in range(start, stop):
            rows = settings.rows(index, len(labels))
            images, (row, column), flipped = (
                plan.images[rows],
                plan.crops[rows].T,
                plan.flipped[rows],
            )
            pixels = self._crops[images, row, column]  # (N, H, W * C)
            pixels = pixels.unflatten(2, (-1, self._scale.channels))  # (N, H, W, C)
            pixels = torch.where(flipped[:, None, None, None], pixels.flip(2), pixels)
            yield self._finish(pixels), labels[images]

    def evaluate(self, split: EvalSplit, stop: int) -> Iterator[Batch]:
        """See BatchSource."""
        images, labels = self._images[split], self._labels[split]
        for index in range(stop):
            rows = self._settings.rows(index, len(labels))
            yield self._finish(images[rows]), labels[rows]

    def _finish(self, pixels: Tensor) -> Tensor:
        images = self._scale(pixels)
        if self._settings.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()


@dataclass(frozen=True)
class _DevicePlan:
    """An EpochPlan as tensors on the device of the images."""

    images: Tensor
    crops: Tensor
    flipped: Tensor

    @classmethod
    def of(cls, plan: EpochPlan, device: torch.device) -> "_DevicePlan":
        return cls(_to(plan.images, device), _to(plan.crops, device), _to(plan.flipped, device))


class Scale(nn.Module):
    """Turn uint8 pixels (N, S, S, C) into normalised float32 images (N, C, H, W), enlarged."""

    _mean: Tensor
    _factor: Tensor

    def __init__(self, normalisation: Normalisation, view: View, device: torch.device) -> None:
        super().__init__()
        self._view = view
        self.channels = len(normalisation.mean)
        mean, std = (
            torch.tensor(v, device=device) for v in (normalisation.mean, normalisation.std)
        )
        self.register_buffer("_mean", mean.mul(255), persistent=False)
        self.register_buffer("_factor", std.mul(255).reciprocal(), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the images."""
        width = pixels.shape[2]
        # Whole rows of pixels, since torch does not vectorise over three channels.
        rows = pixels.flatten(2).to(torch.float32)  # (N, S, S * C)
        rows = rows.sub_(self._mean.repeat(width)).mul_(self._factor.repeat(width))
        return enlarge(rows.unflatten(2, (-1, self.channels)).permute(0, 3, 1, 2), self._view)


def channel_statistics(images: NDArray[np.uint8]) -> Normalisation:
    """Compute mean and deviation exactly, from how often each grey level occurs."""
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[3]):
        counts = sum(
            np.bincount(images[start : start + 4096, :, :, channel].ravel(), minlength=256)
            for start in range(0, len(images), 4096)
        )
        shares = counts / np.sum(counts)
        mean.append(float(shares @ levels))
        std.append(float(np.sqrt(shares @ levels**2 - (shares @ levels) ** 2)))
    return Normalisation(tuple(mean), tuple(std))


def _crop_windows(images: Tensor, padding: int) -> Tensor:
    """Return a view (N, 2p+1, 2p+1, H, W*C) of every crop of the reflect-padded images."""
    count, height, width, channels = images.shape
    padded = _reflect_pad(images, padding)
    row = (width + 2 * padding) * channels
    image = (height + 2 * padding) * row
    choices = 2 * padding + 1
    return padded.as_strided(
        (count, choices, choices, height, width * channels), (image, row, channels, row, 1)
    )


def _reflect_pad(images: Tensor, padding: int) -> Tensor:
    # torch's own reflection has no uint8 kernel on some devices; an index does the same.
    rows = _reflected(images.shape[1], padding, images.device)
    columns = _reflected(images.shape[2], padding, images.device)
    return images[:, rows][:, :, columns].contiguous()


def _reflected(size: int, padding: int, device: torch.device) -> Tensor:
    index = torch.arange(-padding, size + padding, device=device).abs()
    return (size - 1) - ((size - 1) - index).abs()


def _to(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)
