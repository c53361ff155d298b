"""The data of a run as a LightningDataModule."""

from collections.abc import Callable, Iterator
from pathlib import Path

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from layerscope.base.errors import UserError
from layerscope.config.schema import DataConfig, SyntheticConfig, TrainConfig
from layerscope.data import synthetic
from layerscope.data.batches import (
    Batch,
    BatchSettings,
    BatchSource,
    DeviceBatches,
    EvalSplit,
    ImageSet,
    Split,
    channel_statistics,
)
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.loaders import WorkerBatches
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.store import load_cifar10
from layerscope.data.view import View, see_images, see_labels, view_for

# Key of the generator that draws the split. Fixed: every run validates on the same images.
SPLIT_KEY = np.array([0x5A11D, 0], dtype=np.uint64)


class ImageData(L.LightningDataModule):
    """Training, validation and test batches of the configured set.

    Args:
        next_step: number of training batches seen so far, over all epochs. The training loader
            starts there, which is how a run resumes within an epoch.
        preprocessing: a checkpoint's; by default derived from the configuration and the images.
    """

    def __init__(
        self,
        config: TrainConfig,
        next_step: Callable[[], int],
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self._next_step = next_step
        self._preprocessing = preprocessing
        self.sets: dict[Split, ImageSet] = {}
        self._on_device: tuple[tuple[BatchSettings, torch.device], DeviceBatches] | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing; `setup` must come first."""
        assert self._preprocessing is not None, "setup() comes first"
        return self._preprocessing

    def setup(self, stage: str) -> None:
        """Read the stage's images and bring them to the network's size, channels and classes."""
        splits: tuple[Split, ...] = ("train", "val") if stage == "fit" else ("test",)
        if set(splits) <= set(self.sets):
            return
        config = self._config
        view = (
            self._preprocessing.view
            if self._preprocessing
            else view_for(config.data, config.model, CLASS_NAMES)
        )
        self._on_device = None
        self.sets = {split: _preprocessed(*_read(config.data, split), view) for split in splits}
        if self._preprocessing is None:
            statistics = channel_statistics(self.sets["train"].images)
            self._preprocessing = Preprocessing(view, statistics)

    def train_dataloader(self) -> "TrainLoader":
        """Return the batches from the next step on."""
        count = self.batch_settings(0, 1).num_train_batches(len(self.sets["train"]))
        length = limited(count, self._config.trainer.limit_train_batches)
        return TrainLoader(self._source(), length, self._next_step)

    def val_dataloader(self) -> "EvalLoader":
        """Return every validation image once."""
        return self._eval_loader("val", self._config.trainer.limit_val_batches)

    def test_dataloader(self) -> "EvalLoader":
        """Return every test image once."""
        return self._eval_loader("test", self._config.trainer.limit_test_batches)

    def test_images(self) -> NDArray[np.uint8]:
        """Return the test images (N, S, S, C) as they are before normalisation."""
        return self.sets["test"].images

    def _eval_loader(self, split: EvalSplit, limit: float) -> "EvalLoader":
        count = self.batch_settings(0, 1).num_batches(len(self.sets[split]))
        return EvalLoader(self._source(), split, limited(count, limit))

    def _source(self) -> BatchSource:
        assert self.trainer is not None
        settings = self.batch_settings(self.trainer.global_rank, self.trainer.world_size)
        device = self.trainer.strategy.root_device
        if self._config.data.loader == "workers":
            return WorkerBatches(self.sets, settings, device, self._config.data.num_workers)
        return self._device_batches(settings, device)

    def _device_batches(self, settings: BatchSettings, device: torch.device) -> DeviceBatches:
        # All loaders share one copy of the images on the device.
        if self._on_device is None or self._on_device[0] != (settings, device):
            self._on_device = ((settings, device), DeviceBatches(self.sets, settings, device))
        return self._on_device[1]

    def batch_settings(self, rank: int, num_ranks: int) -> BatchSettings:
        """Return what decides the batches of one rank."""
        data = self._config.data
        return BatchSettings(
            seed=self._config.seed,
            batch_size=data.batch_size,
            drop_last=data.drop_last,
            crop_padding=default_padding(self._config),
            flip=data.flip,
            view=self.preprocessing.view,
            normalisation=self.preprocessing.normalisation,
            channels_last=self._config.trainer.channels_last,
            rank=rank,
            num_ranks=num_ranks,
        )


class TrainLoader:
    """The rest of the current epoch's batches."""

    def __init__(self, source: BatchSource, length: int, next_step: Callable[[], int]) -> None:
        self._source = source
        self._length = length
        self._next_step = next_step

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        # A generator: it reads the step at the first batch, after a checkpoint is restored.
        epoch, start = divmod(self._next_step(), self._length)
        yield from self._source.train(epoch, start, self._length)

    def state_dict(self) -> dict[str, int]:
        """Return nothing. Lightning resumes within an epoch where a loader has this method."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore nothing: `next_step` says where to start."""


class EvalLoader:
    """Validation or test batches."""

    def __init__(self, source: BatchSource, split: EvalSplit, length: int) -> None:
        self._source = source
        self._split: EvalSplit = split
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return self._source.evaluate(self._split, self._length)


def count_images(config: TrainConfig) -> dict[Split, int]:
    """Count the images of each split that belong to a class of the view; read only labels."""
    view = view_for(config.data, config.model, CLASS_NAMES)
    splits: tuple[Split, ...] = ("train", "val", "test")
    return {
        split: int((see_labels(_read_labels(config.data, split), view) >= 0).sum())
        for split in splits
    }


def default_padding(config: TrainConfig) -> int:
    """Return by how many pixels training images are padded before they are cropped."""
    if config.data.crop_padding is not None:
        return config.data.crop_padding
    return stored_size(config) // 16


def stored_size(config: TrainConfig) -> int:
    """Return height and width of the stored images; larger views are made on the device."""
    return min(config.model.input_shape[1], synthetic.SIZE)


def limited(count: int, limit: float) -> int:
    """Return a share of `count`, at least 1, or a number of at most `count`."""
    if isinstance(limit, float):
        return max(1, int(count * limit))
    return min(count, limit)


def stratified_split(
    labels: NDArray[np.uint8], val_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and those to validate on, each ascending.

    Every class gives the same share; where that is no whole number, the first classes give one
    image more. The split depends on the labels and the size alone.
    """
    if not 0 < val_size < len(labels):
        raise UserError(f"data.val_size={val_size}: must leave some of {len(labels)} to train on")
    keys = np.random.Philox(key=SPLIT_KEY).random_raw(len(labels))
    shuffled = np.argsort(keys, kind="stable")
    classes, counts = np.unique(labels, return_counts=True)
    wanted = counts * val_size // len(labels)
    wanted[: val_size - wanted.sum()] += 1
    chosen = [
        shuffled[labels[shuffled] == label][:count]
        for label, count in zip(classes, wanted, strict=True)
    ]
    validated = np.zeros(len(labels), dtype=bool)
    validated[np.concatenate(chosen)] = True
    return np.flatnonzero(~validated), np.flatnonzero(validated)


def _read(data: DataConfig, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Read the images (N, 32, 32, 3) and labels (N,) of a split."""
    if isinstance(data, SyntheticConfig):
        return synthetic.read_split(split, getattr(data, f"num_{split}"))
    arrays = load_cifar10(Path(data.dir) if data.dir else None)
    if split == "test":
        return arrays.test_images, arrays.test_labels
    trained, validated = stratified_split(arrays.train_labels, data.val_size)
    rows = trained if split == "train" else validated
    return arrays.train_images[rows], arrays.train_labels[rows]


def _read_labels(data: DataConfig, split: Split) -> np.ndarray:
    if isinstance(data, SyntheticConfig):
        return synthetic.labels_of(getattr(data, f"num_{split}"))
    return _read(data, split)[1]


def _preprocessed(images: np.ndarray, labels: np.ndarray, view: View) -> ImageSet:
    classes = see_labels(labels, view)
    kept = classes >= 0
    if kept.all():
        return ImageSet(see_images(images, view), classes)
    return ImageSet(see_images(images[kept], view), classes[kept])
