from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.base.errors import UserError

# The key of the split's generator: fixed, so that every run validates on the same images.
SPLIT_KEY = np.array([0x5A11D, 0], dtype=np.uint64)


@dataclass(frozen=True)
class ImageSet:
    """Images (N, H, W, C) uint8 and labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def stratified_split(
    labels: NDArray[np.uint8], val_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to validate on, each ascending, the same share of every class.

    A function of the labels and the size alone. Where the shares are not whole numbers, the first
    classes give one image more.
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
