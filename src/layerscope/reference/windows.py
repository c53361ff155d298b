"""Positions of the input that a window reads, for convolutions and pooling.

For one, two or three spatial dimensions alike: a position, a size and a setting have one entry per
dimension, and a formula in i, m and k holds in each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Sizes = tuple[int, ...]


def count_windows(
    size: int,
    kernel_size: int,
    stride: int,
    padding: int,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> int:
    """Return the number of windows along one dimension: put there one by one and counted.

    Window i reads the positions s·i + d·m − p, m = 0 … k−1. It counts if the last of them is at
    most size + p − 1. With `ceil_mode` it also counts if it hangs over that end by less than one
    stride, and begins before the padding there.
    """
    windows = 0
    while True:
        first = stride * windows - padding
        last = first + dilation * (kernel_size - 1)
        hangs_over = last - (size + padding - 1)
        fits = hangs_over <= 0
        is_extra = ceil_mode and hangs_over < stride and first < size
        if not (fits or is_extra):
            return windows
        windows += 1


def count_transposed(
    size: int,
    kernel_size: int,
    stride: int,
    padding: int,
    output_padding: int = 0,
    dilation: int = 1,
) -> int:
    """Count the positions that a transposed convolution makes of `size` along one dimension.

    Input i writes to s·i + d·m, m = 0 … k−1. Of the positions from 0 to the last one written, the
    first p and the last p are dropped; `output_padding` more are put at the end.
    """
    last = max(stride * i + dilation * m for i in range(size) for m in range(kernel_size))
    return len(range(padding, last + 1 - padding)) + output_padding


@dataclass(frozen=True)
class Windows:
    """The way a kernel slides over an input."""

    input_size: Sizes
    kernel_size: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    ceil_mode: bool = False

    @property
    def output_size(self) -> Sizes:
        """Number of windows, per dimension."""
        settings = zip(
            self.input_size,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            strict=True,
        )
        return tuple(count_windows(*setting, self.ceil_mode) for setting in settings)

    def read_by(self, i: Sequence[int], m: Sequence[int]) -> Sizes:
        """The input position k = s·i + d·m − p that output i reads with its kernel's position m.

        It may lie outside the input: in the padding, or beyond it.
        """
        settings = zip(i, m, self.stride, self.padding, self.dilation, strict=True)
        return tuple(s * i + d * m - p for i, m, s, p, d in settings)

    def holds(self, k: Sequence[int]) -> bool:
        """Tell whether 0 <= k < input size: an input, no padding."""
        return all(0 <= k < size for k, size in zip(k, self.input_size, strict=True))

    def holds_with_padding(self, k: Sequence[int]) -> bool:
        """Tell whether −p <= k < input size + p: an input or padding."""
        settings = zip(k, self.input_size, self.padding, strict=True)
        return all(-p <= k < size + p for k, size, p in settings)

    def reader_of(
        self, k: Sequence[int], m: Sequence[int], output_size: Sequence[int]
    ) -> Sizes | None:
        """The output i = (k + p − d·m) / s that reads input k with its kernel's position m.

        None where the division leaves a rest, or i is no output: not 0 <= i < output size.
        """
        i = []
        settings = zip(k, m, self.stride, self.padding, self.dilation, output_size, strict=True)
        for k, m, s, p, d, size in settings:
            quotient, rest = divmod(k + p - d * m, s)
            if rest != 0 or not 0 <= quotient < size:
                return None
            i.append(quotient)
        return tuple(i)


def adaptive_window(i: Sequence[int], input_size: Sizes, output_size: Sizes) -> tuple[range, ...]:
    """Return what output i of an adaptive pooling reads, per dimension.

    From ⌊i · H_in / H_out⌋ up to, and without, ⌈(i + 1) · H_in / H_out⌉.
    """
    return tuple(
        range(math.floor(i * size / out), math.ceil((i + 1) * size / out))
        for i, size, out in zip(i, input_size, output_size, strict=True)
    )
