"""Order, crops and flips of each epoch, as a pure function of (seed, epoch).

Philox is a counter-based generator: it keeps no state between epochs, so a resumed run draws
what an uninterrupted one would. Only its raw stream is used, since numpy guarantees that across
versions, unlike its distributions.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Flip = Literal["alternate", "random", "none"]

# One stream per purpose: the second half of the generator's key.
ORDER, CROP, FLIP, STEP, ITEM = range(5)


@dataclass(frozen=True)
class EpochPlan:
    """Arrays over the positions of an epoch; batch b starts at position b * batch_size."""

    images: NDArray[np.int64]  # (count,) which image
    crops: NDArray[np.int64]  # (count, 2) row and column of the crop in the padded image
    flipped: NDArray[np.bool_]  # (count,) mirrored left to right


def epoch_plan(seed: int, epoch: int, count: int, padding: int, flip: Flip) -> EpochPlan:
    """Draw a shuffle without replacement, a crop per position and a flip per image."""
    order = np.argsort(_draw(seed, ORDER, epoch, count), kind="stable")
    raw = _draw(seed, CROP, epoch, count)
    choices = np.uint64(2 * padding + 1)
    crops = np.stack([(raw >> np.uint64(32)) % choices, (raw & np.uint64(0xFFFFFFFF)) % choices], 1)
    return EpochPlan(order, crops.astype(np.int64), _flips(seed, epoch, count, flip)[order])


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step for torch's generators, which drop units and the like."""
    generator, state = _step_generator(seed, rank)
    state["state"]["counter"][1] = step
    generator.state = state
    return int(generator.random_raw()) >> 1


def item_seed(seed: int, epoch: int, index: int, split: int) -> int:
    """Return the seed of one image in an epoch, for what a user's dataset draws, below 2^32.

    Args:
        split: a number for each split, so that they draw differently.
    """
    key = np.array([seed, ITEM], dtype=np.uint64)
    counter = np.array([0, epoch, index, split], dtype=np.uint64)
    return int(np.random.Philox(key=key, counter=counter).random_raw()) >> 32


@lru_cache(maxsize=8)
def _step_generator(seed: int, rank: int) -> tuple[np.random.Philox, Any]:
    """Return a generator and its state at step 0; setting that takes a tenth of making another."""
    generator = _generator(seed, STEP, 0, rank)
    return generator, generator.state


def _flips(seed: int, epoch: int, count: int, flip: Flip) -> NDArray[np.bool_]:
    """Draw by image, not by position: alternation needs each image's previous flip."""
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
