"""The data sets, each under the one interface that a run needs of it."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerscope.base.errors import UserError
from layerscope.base.formatting import bytes_short
from layerscope.config.schema import Cifar10Config, SyntheticConfig
from layerscope.data import synthetic
from layerscope.data.batches import Split
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.store import Provenance, load_cifar10, prepare_cifar10
from layerscope.data.transfer import Report

SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Key of the generator that draws the split. Fixed: every run validates on the same images.
SPLIT_KEY = np.array([0x5A11D, 0], dtype=np.uint64)
_SECONDS_BETWEEN = 10.0
ReadOne = Callable[[int, int], NDArray[np.uint8]]  # image and epoch to pixels (S, S, 3)


class DataSet(ABC):
    """A data set. Its classes are known at once, its images after `prepare`.

    A process that is started for training takes a copy, so a data set can be pickled.
    """

    class_names: tuple[str, ...]  # in the order of the labels
    stored_size: int  # height and width of the stored images
    warnings: tuple[str, ...] = ()  # of what `prepare` has found

    @abstractmethod
    def prepare(self, splits: Sequence[Split], report: Report) -> Provenance:
        """Find the images of these splits and check them; fetch or decode them where needed.

        Raises:
            UserError: an image is missing or cannot be used.
            RunFailed: the disk is full or broken.
        """

    @abstractmethod
    def labels(self, split: Split) -> NDArray[np.integer]:
        """Return the labels (N,) of a split."""

    @abstractmethod
    def images(self, split: Split) -> NDArray[np.uint8]:
        """Return all images (N, S, S, 3) of a split, for `data.loader=device`."""

    def reader(self, split: Split) -> ReadOne | None:
        """Return what reads a single image, in each epoch anew; None: all are in memory anyway."""
        return None


class Cifar10(DataSet):
    """The verified CIFAR-10."""

    class_names = CLASS_NAMES
    stored_size = 32

    def __init__(self, config: Cifar10Config) -> None:
        self._directory = Path(config.dir) if config.dir else None
        self._val_size = config.val_size

    def prepare(self, splits: Sequence[Split], report: Report) -> Provenance:
        """See DataSet."""
        return prepare_cifar10(self._directory, report)

    def labels(self, split: Split) -> NDArray[np.integer]:
        """See DataSet."""
        arrays = load_cifar10(self._directory)
        if split == "test":
            return arrays.test_labels
        return arrays.train_labels[self._rows(split, arrays.train_labels)]

    def images(self, split: Split) -> NDArray[np.uint8]:
        """See DataSet."""
        arrays = load_cifar10(self._directory)
        if split == "test":
            return arrays.test_images
        return arrays.train_images[self._rows(split, arrays.train_labels)]

    def _rows(self, split: Split, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        trained, validated = stratified_split(labels, self._val_size)
        return trained if split == "train" else validated


class Synthetic(DataSet):
    """The made-up set of CIFAR-10's shape and classes."""

    class_names = CLASS_NAMES
    stored_size = synthetic.SIZE

    def __init__(self, config: SyntheticConfig) -> None:
        self._counts: dict[Split, int] = {
            "train": config.num_train,
            "val": config.num_val,
            "test": config.num_test,
        }

    def prepare(self, splits: Sequence[Split], report: Report) -> Provenance:
        """See DataSet."""
        return {"name": "synthetic", "source": "made by layerscope.data.synthetic", "sha256": {}}

    def labels(self, split: Split) -> NDArray[np.integer]:
        """See DataSet."""
        return synthetic.labels_of(self._counts[split])

    def images(self, split: Split) -> NDArray[np.uint8]:
        """See DataSet."""
        return synthetic.read_split(split, self._counts[split])[0]


def stratified_split(
    labels: NDArray[np.integer], size: int, setting: str | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and `size` others, each ascending.

    Every class gives the same share; where that is no whole number, the first classes give one
    image more. The split depends on the labels and the size alone.

    Args:
        setting: what the user said of their number, for messages; None: `data.val_size={size}`.
    """
    if not 0 < size < len(labels):
        said = setting or f"data.val_size={size}"
        raise UserError(f"{said} leaves none of {len(labels)} images to train on: lower it")
    keys = np.random.Philox(key=SPLIT_KEY).random_raw(len(labels))
    shuffled = np.argsort(keys, kind="stable")
    classes, counts = np.unique(labels, return_counts=True)
    wanted = counts * size // len(labels)
    wanted[: size - wanted.sum()] += 1
    chosen = [
        shuffled[labels[shuffled] == label][:count]
        for label, count in zip(classes, wanted, strict=True)
    ]
    is_chosen = np.zeros(len(labels), dtype=bool)
    is_chosen[np.concatenate(chosen)] = True
    return np.flatnonzero(~is_chosen), np.flatnonzero(is_chosen)


def limited(count: int, limit: float) -> int:
    """Return a share of `count`, at least 1, or a number of at most `count`."""
    if isinstance(limit, float):
        return max(1, int(count * limit))
    return min(count, limit)


class Progress:
    """Says every ten seconds how much of some work is done."""

    def __init__(self, report: Report, what: str, total: int) -> None:
        self._report = report
        self._what = what
        self._total = total
        self._said_at = time.monotonic()

    def reach(self, count: int) -> None:
        """Say that `count` are done, unless something was said just before."""
        if time.monotonic() - self._said_at >= _SECONDS_BETWEEN:
            self._report(f"{self._what}: {count:,} of {self._total:,}")
            self._said_at = time.monotonic()


def refuse_more_than_memory(num_images: int, size: int) -> None:
    """Refuse images (N, size, size, 3) that do not fit into this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = num_images * size * size * 3
    if needed > memory:
        raise UserError(
            f"{num_images:,} images of {size} x {size} take {bytes_short(needed)}, more than the "
            "memory of this machine: set data.loader=workers, which reads them as they are needed"
        )
