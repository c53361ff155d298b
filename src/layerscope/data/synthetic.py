"""A synthetic, learnable set of CIFAR-10's shape, for tests and machines without a network."""

import numpy as np
from numpy.typing import NDArray

NUM_CLASSES = 10
SIZE = 32
COARSE = 4  # each class has a pattern of COARSE by COARSE coloured patches
CONTRAST = 40.0  # grey levels between a pattern's patches
NOISE = 60.0  # grey levels, standard deviation of a pixel's noise
IMAGES_AT_ONCE = 4096  # 100 MB of random numbers

# Keys of the generator. They never change, so that neither do the images.
PATTERNS_KEY = 0
SPLIT_KEYS = {"train": 1, "val": 2, "test": 3}


def read_split(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (count, 32, 32, 3) and labels (count,); image i does not depend on `count`."""
    count_of_patches = NUM_CLASSES * COARSE * COARSE * 3
    patterns = _uniform(_generator(PATTERNS_KEY, 0), count_of_patches) - 0.5
    patterns = patterns.reshape(NUM_CLASSES, COARSE, COARSE, 3) * 2 * CONTRAST
    patterns = patterns.repeat(SIZE // COARSE, axis=1).repeat(SIZE // COARSE, axis=2)
    labels = labels_of(count)
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    draw = _generator(SPLIT_KEYS[split], 1)
    for start in range(0, count, IMAGES_AT_ONCE):
        part = images[start : start + IMAGES_AT_ONCE]
        noise = (_uniform(draw, part.size).reshape(part.shape) - 0.5) * np.sqrt(12) * NOISE
        means = 127.5 + patterns[labels[start : start + len(part)]]
        part[:] = np.clip(means + noise, 0, 255).round()
    return images, labels


def labels_of(count: int) -> NDArray[np.uint8]:
    """Return the classes in turn."""
    return (np.arange(count) % NUM_CLASSES).astype(np.uint8)


def _generator(key: int, stream: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([key, stream], dtype=np.uint64))


def _uniform(draw: np.random.Philox, count: int) -> NDArray[np.float64]:
    """Draw the next `count` numbers in [0, 1)."""
    return (draw.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
