"""Output sizes of convolutions and pooling, per spatial dimension.

Plain arithmetic, so that sympy symbols give the formula and integers the size.
"""

from typing import Any

# An int, or a sympy expression.
Number = Any


def conv_output_size(
    size: Number, kernel_size: Number, stride: Number, padding: Number, dilation: Number = 1
) -> Number:
    """How often the kernel fits, `padding` added on both sides; also of pooling, rounded down."""
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def conv_transpose_output_size(
    size: Number,
    kernel_size: Number,
    stride: Number,
    padding: Number,
    output_padding: Number = 0,
    dilation: Number = 1,
) -> Number:
    """The size that a convolution with these settings would have made `size` of."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1


def overhanging_windows(
    size: Number, kernel_size: Number, stride: Number, padding: Number, dilation: Number = 1
) -> Number:
    """As `conv_output_size`, rounded up: a last window may hang over the end."""
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1 + stride - 1) // stride + 1


def ceil_pool_output_size(
    size: int, kernel_size: int, stride: int, padding: int, dilation: int = 1
) -> int:
    """With ceil_mode: a last window may hang over the end, if it begins inside."""
    windows = overhanging_windows(size, kernel_size, stride, padding, dilation)
    return windows - 1 if (windows - 1) * stride >= size + padding else windows
