"""The data of a run as a LightningDataModule."""

from collections.abc import Callable, Iterator, Sequence

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from layerscope.base.targets import Targets
from layerscope.config.schema import (
    Cifar10Config,
    Cifar100Config,
    CustomDataConfig,
    ImageFolderConfig,
    TrainConfig,
)
from layerscope.data.batches import (
    AnySet,
    Batch,
    BatchSettings,
    BatchSource,
    DeviceBatches,
    EvalSplit,
    ImageSet,
    Split,
    StreamedSet,
    channel_statistics,
)
from layerscope.data.cifar100 import Cifar100
from layerscope.data.custom import CustomData
from layerscope.data.image_folder import ImageFolder
from layerscope.data.loaders import WorkerBatches
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.sets import SPLITS, Cifar10, DataSet, Synthetic, limited
from layerscope.data.store import Provenance
from layerscope.data.view import View, see_images, see_labels, view_for


class ImageData(L.LightningDataModule):
    """Training, validation and test batches of the configured set.

    Args:
        data: the configured set, prepared.
        provenance: what preparing it gave.
        next_step: number of training batches seen so far, over all epochs. The training loader
            starts there, which is how a run resumes within an epoch.
        preprocessing: a checkpoint's; by default derived from the configuration and the images.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DataSet,
        provenance: Provenance,
        next_step: Callable[[], int],
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self.provenance = provenance
        self._config = config
        self._data = data
        self._next_step = next_step
        self._preprocessing = preprocessing
        self.sets: dict[Split, AnySet] = {}
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
            else view_for(config.data, config.model, self._data.class_names)
        )
        self._on_device = None
        is_streamed = config.data.loader == "workers"
        self.sets = {split: _viewed(self._data, split, view, is_streamed) for split in splits}
        if self._preprocessing is None:
            self._preprocessing = Preprocessing(
                view,
                channel_statistics(self.sets["train"]),
                self._data.class_names,
                self._data.stored_size,
            )

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

    def test_images(self, rows: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return some test images (S, S, C) as they are before normalisation."""
        return [self.sets["test"].read(row, 0) for row in rows]

    def sets_in_memory(self) -> dict[Split, ImageSet]:
        """Return those sets that are not streamed; with `data.loader=device`, all."""
        return {split: s for split, s in self.sets.items() if isinstance(s, ImageSet)}

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
            batches = DeviceBatches(self.sets_in_memory(), settings, device)
            self._on_device = ((settings, device), batches)
        return self._on_device[1]

    def batch_settings(self, rank: int, num_ranks: int) -> BatchSettings:
        """Return what decides the batches of one rank."""
        data = self._config.data
        return BatchSettings(
            seed=self._config.seed,
            batch_size=data.batch_size,
            drop_last=data.drop_last,
            crop_padding=default_padding(self._config, self._data),
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


def open_data(config: TrainConfig, targets: Targets) -> DataSet:
    """Return the configured data set, of which only the classes are known yet.

    Args:
        targets: what the command line itself says: a user's own class is taken from there alone.

    Raises:
        UserError: there is no such data, or it is not as it should be.
    """
    data, size = config.data, config.model.input_shape[1]
    if isinstance(data, ImageFolderConfig):
        return ImageFolder(data, size)
    if isinstance(data, CustomDataConfig):
        return CustomData(data, targets, size, config.seed)
    if isinstance(data, Cifar100Config):
        return Cifar100(data)
    return Cifar10(data) if isinstance(data, Cifar10Config) else Synthetic(data)


def count_images(data: DataSet, view: View, splits: Sequence[Split] = SPLITS) -> dict[Split, int]:
    """Count the images of each split that belong to a class of the view; read only labels."""
    return {split: int((see_labels(data.labels(split), view) >= 0).sum()) for split in splits}


def default_padding(config: TrainConfig, data: DataSet) -> int:
    """Return by how many pixels training images are padded before they are cropped."""
    if config.data.crop_padding is not None:
        return config.data.crop_padding
    return seen_size(config, data) // 16


def seen_size(config: TrainConfig, data: DataSet) -> int:
    """Return height and width of the images in memory; larger views are made on the device."""
    return min(config.model.input_shape[1], data.stored_size)


def _viewed(data: DataSet, split: Split, view: View, is_streamed: bool) -> AnySet:
    """Return the images of a split that belong to a class of the view, as it sees them."""
    classes = see_labels(data.labels(split), view)
    is_kept = classes >= 0
    reader = data.reader(split) if is_streamed else None
    if reader is not None:
        return StreamedSet(reader, np.flatnonzero(is_kept), classes[is_kept], view)
    images = data.images(split)
    if is_kept.all():
        return ImageSet(see_images(images, view), classes)
    return ImageSet(see_images(images[is_kept], view), classes[is_kept])
