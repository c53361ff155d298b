"""Which numbers each norm normalises together, and which of them share a weight."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from layerscope.explain.factors import grid
from layerscope.explain.values import Indices, Position
from layerscope.networks.layer_calls import DescribedCall


@dataclass(frozen=True)
class NormScheme:
    """A kind of norm.

    Args:
        index: (num, k), of the statistics of inputs at (num, num_dims) places.
        members: (m, num_dims), the places of all inputs with the statistics of this index.
        weight_dims: the dimensions of the input that the weight and the bias have.
        uses_batch: whether the statistics are those of the input, not running ones.
    """

    index: Callable[[DescribedCall, Indices], Indices]
    members: Callable[[DescribedCall, Position], Indices]
    weight_dims: Callable[[DescribedCall], tuple[int, ...]]
    uses_batch: Callable[[DescribedCall], bool] = lambda spec: True

    def weight_position(self, spec: DescribedCall, position: Position) -> Position:
        """Of the weight that an input is scaled by."""
        return tuple(position[dim] for dim in self.weight_dims(spec))

    def sharing(self, spec: DescribedCall, weight: Position) -> Indices:
        """(num, num_dims), the places of all inputs that are scaled by this weight."""
        fixed = zip(self.weight_dims(spec), weight, strict=True)
        return _places(spec, {dim: np.array([index]) for dim, index in fixed})


def _places(spec: DescribedCall, chosen: Mapping[int, Indices]) -> Indices:
    """Those with the chosen indices along some dimensions, and all along the others."""
    sizes = enumerate(spec.input_shape)
    return grid(*(chosen.get(dim, np.arange(size)) for dim, size in sizes))


def uses_batch(spec: DescribedCall) -> bool:
    """Whether batch norm takes the batch's statistics: in train mode, or where it keeps none."""
    geometry = spec.geometry
    return bool(geometry.get("training")) or geometry.get("track_running_stats") is False


def num_normalized(spec: DescribedCall) -> int:
    """How many of the last dimensions layer norm normalises together."""
    shape = spec.geometry["normalized_shape"]
    return 1 if isinstance(shape, int) else len(shape)


def _num_rows_dims(spec: DescribedCall) -> int:
    return len(spec.input_shape) - num_normalized(spec)


def channels_per_group(spec: DescribedCall) -> int:
    """Of group norm."""
    return spec.input_shape[1] // spec.geometry["num_groups"]


def _channel_groups(spec: DescribedCall, where: Indices) -> Indices:
    return np.stack([where[:, 0], where[:, 1] // channels_per_group(spec)], axis=-1)


def _of_channel_group(spec: DescribedCall, index: Position) -> Indices:
    size, (image, group) = channels_per_group(spec), index
    channels = group * size + np.arange(size)
    return _places(spec, {0: np.array([image]), 1: channels})


BATCH = NormScheme(
    index=lambda spec, where: where[:, 1:2],
    members=lambda spec, index: _places(spec, {1: np.array(index)}),
    weight_dims=lambda spec: (1,),
    uses_batch=uses_batch,
)
LAYER = NormScheme(
    index=lambda spec, where: where[:, : _num_rows_dims(spec)],
    members=lambda spec, index: _places(spec, {d: np.array([i]) for d, i in enumerate(index)}),
    weight_dims=lambda spec: tuple(range(_num_rows_dims(spec), len(spec.input_shape))),
)
GROUP = NormScheme(index=_channel_groups, members=_of_channel_group, weight_dims=lambda spec: (1,))
