"""A user's own dataset, read item by item; docs/own_data.md says what it is."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import index as as_index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from layerscope.base.errors import UserError
from layerscope.base.targets import Targets, accepted, call_target, import_target, typed_target
from layerscope.config.schema import CustomDataConfig
from layerscope.data.batches import Split
from layerscope.data.order import item_seed
from layerscope.data.pictures import PictureError, square_pixels
from layerscope.data.sets import SPLITS, DataSet, Progress, ReadOne, refuse_more_than_memory
from layerscope.data.store import Provenance
from layerscope.data.transfer import Report

KEY = "data._target_"
MAX_SIZE = 4096  # height and width of an item, in pixels
_NUM_TRIED = 4  # items that are read twice, to see whether they are the same again


class CustomData(DataSet):
    """A user's own dataset, one object for each split.

    Args:
        targets: what the user typed, the class among it.
        size: height and width that the network takes, for a class that asks for `image_size`.
        seed: of the run, from which each item gets a seed of its own.

    Raises:
        UserError: there is no such class, or it does not keep the contract.
    """

    def __init__(self, config: CustomDataConfig, targets: Targets, size: int, seed: int) -> None:
        target = typed_target(targets, KEY, config.target)
        self._target, self._seed = target, seed
        self._streams = config.loader == "workers"
        self._make = partial(_make, target, config.arguments, size)
        self._datasets: dict[Split, Any] = {}
        self._labels: dict[Split, NDArray[np.int64]] = {}
        self._images: dict[Split, NDArray[np.uint8]] = {}
        self.class_names = self._names_of("test")

    def prepare(self, splits: Sequence[Split], report: Report) -> Provenance:
        """Read every item once; see DataSet."""
        sums: dict[str, str] = {}
        for split in splits:
            if self._names_of(split) != self.class_names:
                raise self._error(
                    f"class_names of {split} differ from those of test: give one list"
                )
            sums |= self._read_all(split, report)
        return {"name": "custom", "source": self._target, "sha256": sums}

    def labels(self, split: Split) -> NDArray[np.integer]:
        """See DataSet."""
        return self._labels[split]

    def images(self, split: Split) -> NDArray[np.uint8]:
        """See DataSet."""
        return self._images[split]

    def reader(self, split: Split) -> ReadOne:
        """See DataSet."""
        return partial(self._read_pixels, split)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the user's objects out of what another process is sent: it makes its own."""
        return {**self.__dict__, "_datasets": {}}

    def _read_pixels(self, split: Split, item: int, epoch: int) -> NDArray[np.uint8]:
        return self._read(split, item, epoch)[0]

    def _dataset(self, split: Split) -> Any:
        if split not in self._datasets:
            self._datasets[split] = self._make(split)
        return self._datasets[split]

    def _names_of(self, split: Split) -> tuple[str, ...]:
        names: Any = getattr(self._dataset(split), "class_names", None)
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        if not is_list or not all(_is_name(name) for name in names):
            raise self._error("class_names must be a list of texts, one for each class")
        if len(set(names)) < max(2, len(names)):
            raise self._error(f"class_names={list(names)[:10]}: give at least two different names")
        return tuple(names)

    def _read_all(self, split: Split, report: Report) -> dict[str, str]:
        """Read a split, keep its labels, and its images unless they are streamed."""
        dataset = self._dataset(split)
        try:
            count = len(dataset)
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise self._error(f"len() of the {split} split fails ({error})") from error
        if count == 0:
            raise self._error(f"the {split} split has no item")
        first = self._read_pixels(split, 0, 0)
        if not self._labels:
            self.stored_size = first.shape[0]
        self._check_repeated(split, count)
        shape = (count, self.stored_size, self.stored_size, 3)
        if not self._streams:
            refuse_more_than_memory(count, self.stored_size)
        images = None if self._streams else np.empty(shape, np.uint8)
        labels = np.empty(count, np.int64)
        digest = hashlib.sha256()
        progress = Progress(report, f"items of the {split} split read", count)
        for item in range(count):
            pixels, labels[item] = self._read(split, item, 0)
            if pixels.shape != shape[1:]:
                raise self._item_error(
                    split,
                    item,
                    f"is {pixels.shape[0]} x {pixels.shape[1]} and the first one "
                    f"{self.stored_size} x {self.stored_size}: bring all to one size",
                )
            digest.update(pixels.data)
            progress.reach(item + 1)
            if images is not None:
                images[item] = pixels
        self._labels[split] = labels
        if images is not None:
            self._images[split] = images
        return {
            f"{split}_images": digest.hexdigest(),
            f"{split}_labels": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        }

    def _check_repeated(self, split: Split, count: int) -> None:
        """Refuse items that are not a function of their seed; warn of random ones that stay."""
        for item in range(min(count, _NUM_TRIED)):
            first, again, other = (self._read_pixels(split, item, e) for e in (0, 0, 1))
            if not np.array_equal(first, again):
                raise self._item_error(
                    split,
                    item,
                    "is another image when it is read again with the same seed: draw from the "
                    "generators of torch, NumPy (np.random) or random, which are seeded for each "
                    "item",
                )
            if split == "train" and not self._streams and not np.array_equal(first, other):
                self.warnings = (
                    f"{KEY}={self._target}: its items are random, and drawn once for all epochs: "
                    "data.loader=workers draws them anew in each epoch",
                )

    def _read(self, split: Split, item: int, epoch: int) -> tuple[NDArray[np.uint8], int]:
        """Return pixels (S, S, 3) and the label of an item, in an epoch."""
        dataset = self._dataset(split)
        with _seeded(item_seed(self._seed, epoch, item, SPLITS.index(split))):
            try:
                image, label = dataset[item]
            except (Exception, SystemExit) as error:  # the user's own code may raise anything
                raise self._item_error(
                    split, item, f"cannot be read ({type(error).__name__}: {error})"
                ) from error
        try:
            pixels = _pixels(image)
        except (ValueError, PictureError) as error:
            raise self._item_error(split, item, str(error)) from error
        return pixels, self._label(split, item, label)

    def _label(self, split: Split, item: int, label: Any) -> int:
        try:
            number = as_index(label)
        except TypeError:
            number = -1
        if not 0 <= number < len(self.class_names):
            raise self._item_error(
                split,
                item,
                f"has the label {label!r}: give a whole number from 0 to "
                f"{len(self.class_names) - 1}, a place in class_names",
            )
        return number

    def _item_error(self, split: Split, item: int, problem: str) -> UserError:
        return self._error(f"item {item} of the {split} split {problem}")

    def _error(self, problem: str) -> UserError:
        return UserError(f"{KEY}={self._target}: {problem}")


def _make(target: str, arguments: dict[str, Any], size: int, split: Split) -> Any:
    """Call the user's class for a split."""
    make = import_target(KEY, target)
    name = f"{KEY}={target} for split={split}"
    offered = accepted(name, make, "data", {"image_size": size})
    dataset = call_target(name, make, "data", **{**offered, "split": split, **arguments})
    for method in ("__len__", "__getitem__"):
        if not hasattr(dataset, method):
            raise UserError(f"{KEY}={target} has no {method}: write a map-style dataset")
    return dataset


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that a dataset may draw from; give them their states back."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Return an item's image as (S, S, 3).

    Raises:
        ValueError, PictureError: says what it is, and what it should be.
    """
    if isinstance(image, Image.Image):
        if image.width != image.height:
            raise ValueError(f"is {image.width} x {image.height}: crop it to a square")
        image = square_pixels(image)
    is_tensor = isinstance(image, torch.Tensor)
    if not is_tensor and not isinstance(image, np.ndarray):
        raise ValueError(
            f"is a {type(image).__name__}: give a uint8 tensor (C, H, W), a uint8 array (H, W, C) "
            "or a PIL image"
        )
    array = image.detach().cpu().numpy() if is_tensor else image
    if array.dtype != np.uint8:
        raise ValueError(
            f"is {array.dtype}: give uint8, 0 to 255, since the run scales and normalises itself"
        )
    if is_tensor and array.ndim == 3:
        array = array.transpose(1, 2, 0)  # (H, W, C)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[0] != array.shape[1] or array.shape[2] not in (1, 3):
        expected = "(C, H, W)" if is_tensor else "(H, W, C)"
        raise ValueError(
            f"has the shape {tuple(image.shape)}: give a square {expected} with 1 or 3 channels"
        )
    if array.shape[0] > MAX_SIZE:
        raise ValueError(f"is {array.shape[0]} pixels high: scale it to at most {MAX_SIZE}")
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable()
