"""Sizes of feature maps, and the refusal of a network that pools an image to nothing."""

from layerscope.errors import UserError


def scaled_channels(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Channel counts times the width multiplier, rounded, never below 1."""
    return tuple(max(1, round(count * width)) for count in channels)


def pooled_size(size: int, times: int, network: str) -> int:
    """Height or width after `times` poolings by 2; a UserError if nothing is left."""
    left = size // 2**times
    if left < 1:
        raise UserError(
            f"{network} pools {times} times by 2, which leaves nothing of {size} pixels: "
            f"set model.input_shape to at least {2**times} by {2**times}"
        )
    return left
