"""Forward and backward of pooling as the formulas say; the notation is that of the package."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerscope.reference.windows import Sizes, Windows, adaptive_window

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def max_pool_forward(
    x: Floats,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool = False,
) -> tuple[Floats, Indices]:
    """y[n,c,i] = max_m x[n,c, s·i + d·m − p], over those m that read no padding.

    Returns:
        y and, of the same shape, the winners: the position of each maximum, counted row by row over
        a channel of x. Of equal values the first in the window wins, of NaNs the last. A window
        that reads nothing but padding gives −inf, and −1.
    """
    windows = Windows(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    y = np.full((*x.shape[:2], *windows.output_size), -np.inf)
    winner = np.full(y.shape, -1)
    for n, c, *i in np.ndindex(y.shape):
        for m in np.ndindex(kernel_size):
            k = windows.read_by(i, m)
            if not windows.holds(k):
                continue
            value = x[n, c, *k]
            if winner[n, c, *i] == -1 or value > y[n, c, *i] or np.isnan(value):
                y[n, c, *i] = value
                winner[n, c, *i] = np.ravel_multi_index(k, x.shape[2:])
    return y, winner


def max_pool_backward(dy: Floats, winner: Indices, x_shape: Sizes) -> Floats:
    """dx[n,c,k] = Σ_i dy[n,c,i] over those windows i in which k won."""
    dx = np.zeros(x_shape)
    for n, c, *i in np.ndindex(dy.shape):
        if winner[n, c, *i] != -1:
            k = np.unravel_index(winner[n, c, *i], x_shape[2:])
            dx[n, c, *k] += dy[n, c, *i]
    return dx


def avg_pool_forward(
    x: Floats,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Floats:
    """y[n,c,i] = 1/D_i · Σ_m x[n,c, s·i + m − p], over those m that read no padding.

    D_i is `divisor`; without one, the number of m that read an input, or, with
    `count_include_pad`, an input or padding. What hangs over the padding's end never counts.
    """
    windows = Windows(x.shape[2:], kernel_size, stride, padding, (1,) * len(stride), ceil_mode)
    y = np.zeros((*x.shape[:2], *windows.output_size))
    for n, c, *i in np.ndindex(y.shape):
        for m in np.ndindex(kernel_size):
            k = windows.read_by(i, m)
            if windows.holds(k):
                y[n, c, *i] += x[n, c, *k] / _divisor(windows, i, count_include_pad, divisor)
    return y


def avg_pool_backward(
    dy: Floats,
    x_shape: Sizes,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Floats:
    """dx[n,c,k] = Σ_m dy[n,c,i] / D_i, i = (k + p − m) / s where that is whole and an output."""
    windows = Windows(x_shape[2:], kernel_size, stride, padding, (1,) * len(stride), ceil_mode)
    dx = np.zeros(x_shape)
    for n, c, *k in np.ndindex(dx.shape):
        for m in np.ndindex(kernel_size):
            i = windows.reader_of(k, m, dy.shape[2:])
            if i is not None:
                D = _divisor(windows, i, count_include_pad, divisor)
                dx[n, c, *k] += dy[n, c, *i] / D
    return dx


def _divisor(
    windows: Windows, i: Sequence[int], count_include_pad: bool, divisor: int | None
) -> int:
    """D_i of an average pooling."""
    if divisor is not None:
        return divisor
    counts = windows.holds_with_padding if count_include_pad else windows.holds
    return sum(counts(windows.read_by(i, m)) for m in np.ndindex(windows.kernel_size))


def adaptive_avg_pool_forward(x: Floats, output_size: Sizes) -> Floats:
    """y[n,c,i] = 1/|K_i| · Σ_k x[n,c,k], over the positions k in K_i.

    K_i is, in each dimension, from ⌊i · H_in / H_out⌋ up to, and without, ⌈(i+1) · H_in / H_out⌉.
    """
    y = np.zeros((*x.shape[:2], *output_size))
    for n, c, *i in np.ndindex(y.shape):
        K = _adaptive_positions(i, x.shape[2:], output_size)
        for k in K:
            y[n, c, *i] += x[n, c, *k] / len(K)
    return y


def adaptive_avg_pool_backward(dy: Floats, x_shape: Sizes) -> Floats:
    """dx[n,c,k] = Σ_i dy[n,c,i] / |K_i| over those i whose K_i holds k."""
    dx = np.zeros(x_shape)
    for n, c, *i in np.ndindex(dy.shape):
        K = _adaptive_positions(i, x_shape[2:], dy.shape[2:])
        for k in K:
            dx[n, c, *k] += dy[n, c, *i] / len(K)
    return dx


def _adaptive_positions(i: Sequence[int], input_size: Sizes, output_size: Sizes) -> list[Sizes]:
    """K_i of an adaptive pooling."""
    return list(itertools.product(*adaptive_window(i, input_size, output_size)))
