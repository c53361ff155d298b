"""Code that the networks share: widths, sizes of feature maps, and initial biases."""

from collections.abc import Sequence

from torch import nn

from layerscope.base.errors import UserError


def scaled_channels(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Return channel counts times the width multiplier, rounded, never below 1."""
    return tuple(max(1, round(count * width)) for count in channels)


def image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (C, H, W) of an input shape; a UserError if it is neither that nor (N, C, H, W)."""
    sizes = tuple(input_shape)
    if len(sizes) not in (3, 4) or not all(isinstance(size, int) for size in sizes):
        raise UserError(f"input_shape={sizes}: give (C, H, W), or (N, C, H, W)")
    return sizes[-3], sizes[-2], sizes[-1]


def start_alive(convolution: nn.Conv2d) -> None:
    """Set the biases to 0.1, so that the next ReLU is not 0 everywhere.

    With two channels and torch's own initialization, one seed in five gives a network whose last
    ReLU is 0 for every image. Such a network can never learn.
    """
    assert convolution.bias is not None
    nn.init.constant_(convolution.bias, 0.1)


def pooled_size(size: int, times: int, network: str) -> int:
    """Return height or width after `times` poolings by 2; a UserError if nothing is left."""
    left = size // 2**times
    if left < 1:
        raise UserError(
            f"{network} pools {times} times by 2, which leaves nothing of {size} pixels: "
            f"set model.input_shape to at least {2**times} by {2**times}"
        )
    return left
