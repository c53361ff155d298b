"""Output sizes of convolutions and pooling, per spatial dimension.

They are plain arithmetic: integers give the size, and sympy symbols the formula.
"""

from typing import Any

# An int, or a sympy expression.
Number = Any


def conv_output_size(
    size: Number, kernel_size: Number, stride: Number, padding: Number, dilation: Number = 1
) -> Number:
    """Return the output size, also of pooling, rounded down; `padding` is added on both sides."""
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def conv_transpose_output_size(
    size: Number,
    kernel_size: Number,
    stride: Number,
    padding: Number,
    output_padding: Number = 0,
    dilation: Number = 1,
) -> Number:
    """Return the size from which a convolution with these settings makes `size`."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1


def overhanging_windows(
    size: Number, kernel_size: Number, stride: Number, padding: Number, dilation: Number = 1
) -> Number:
    """Return `conv_output_size` rounded up: the last window may reach beyond the end."""
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1 + stride - 1) // stride + 1


def ceil_pool_output_size(
    size: int, kernel_size: int, stride: int, padding: int, dilation: int = 1
) -> int:
    """Return the size with ceil_mode: a window that starts inside may reach beyond the end."""
    windows = overhanging_windows(size, kernel_size, stride, padding, dilation)
    return windows - 1 if (windows - 1) * stride >= size + padding else windows
