"""What happens to each image in each epoch, as a pure function of (seed, epoch).

Drawn by Philox, a counter-based generator: nothing is kept between epochs, so a resumed run draws
what an uninterrupted one would. numpy promises the raw stream (not its distributions) for ever,
therefore only that is used.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Flip = Literal["alternate", "random", "none"]

# One stream per purpose: the second half of the generator's key.
ORDER, CROP, FLIP, STEP = range(4)


@dataclass(frozen=True)
class EpochPlan:
    """Per position in the epoch; batch b holds the positions from b * batch_size on."""

    images: NDArray[np.int64]  # (count,) which image
    crops: NDArray[np.int64]  # (count, 2) row and column of the crop in the padded image
    flipped: NDArray[np.bool_]  # (count,) mirrored left to right


def epoch_plan(seed: int, epoch: int, count: int, padding: int, flip: Flip) -> EpochPlan:
    """A shuffle without replacement, a crop for each position, a flip for each image."""
    order = np.argsort(_draw(seed, ORDER, epoch, count), kind="stable")
    raw = _draw(seed, CROP, epoch, count)
    choices = np.uint64(2 * padding + 1)
    crops = np.stack([(raw >> np.uint64(32)) % choices, (raw & np.uint64(0xFFFFFFFF)) % choices], 1)
    return EpochPlan(order, crops.astype(np.int64), _flips(seed, epoch, count, flip)[order])


def step_seed(seed: int, step: int, rank: int) -> int:
    """For the framework's own generators (dropout and the like), set anew before each step."""
    generator, state = _step_generator(seed, rank)
    state["state"]["counter"][1] = step
    generator.state = state
    return int(generator.random_raw()) >> 1


@lru_cache(maxsize=8)
def _step_generator(seed: int, rank: int) -> tuple[np.random.Philox, Any]:
    """Return a generator and its state at step 0; setting that takes a tenth of making another."""
    generator = _generator(seed, STEP, 0, rank)
    return generator, generator.state


def _flips(seed: int, epoch: int, count: int, flip: Flip) -> NDArray[np.bool_]:
    """By image, not by position: alternation needs each image's previous flip."""
    if flip == "none":
        return np.zeros(count, dtype=bool)
    drawn = _draw(seed, FLIP, 0 if flip == "alternate" else epoch, count) % np.uint64(2) == 1
    return drawn ^ (epoch % 2 == 1) if flip == "alternate" else drawn


def _draw(seed: int, stream: int, epoch: int, count: int) -> NDArray[np.uint64]:
    return _generator(seed, stream, epoch, 0).random_raw(count)


def _generator(seed: int, stream: int, epoch: int, rank: int) -> np.random.Philox:
    # The lowest word of the counter is the position, which counts up as numbers are drawn.
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, epoch, rank, 0], dtype=np.uint64))
