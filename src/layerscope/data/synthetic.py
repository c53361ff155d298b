"""A made-up, learnable set of CIFAR-10's shape, for tests and machines without a network."""

import numpy as np
from numpy.typing import NDArray

NUM_CLASSES = 10
SIZE = 32
COARSE = 4  # each class has a pattern of COARSE by COARSE coloured patches
CONTRAST = 40.0  # grey levels between a pattern's patches
NOISE = 60.0  # grey levels, standard deviation of a pixel's noise

# Keys of the generator: what is drawn is the same for ever.
PATTERNS_KEY = 0
SPLIT_KEYS = {"train": 1, "val": 2, "test": 3}


def read_split(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (count, 32, 32, 3) and labels (count,); image i does not depend on `count`."""
    patterns = _uniform(PATTERNS_KEY, 0, NUM_CLASSES * COARSE * COARSE * 3) - 0.5
    patterns = patterns.reshape(NUM_CLASSES, COARSE, COARSE, 3) * 2 * CONTRAST
    patterns = patterns.repeat(SIZE // COARSE, axis=1).repeat(SIZE // COARSE, axis=2)
    labels = labels_of(count)
    noise = _uniform(SPLIT_KEYS[split], 1, count * SIZE * SIZE * 3).reshape(count, SIZE, SIZE, 3)
    noise = (noise - 0.5) * np.sqrt(12) * NOISE
    images = np.clip(127.5 + patterns[labels] + noise, 0, 255).round().astype(np.uint8)
    return images, labels


def labels_of(count: int) -> NDArray[np.uint8]:
    """The classes in turn."""
    return (np.arange(count) % NUM_CLASSES).astype(np.uint8)


def _uniform(key: int, stream: int, count: int) -> NDArray[np.float64]:
    raw = np.random.Philox(key=np.array([key, stream], dtype=np.uint64)).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
