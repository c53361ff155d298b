"""Convolution, linear layer, ReLU and batch norm."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.reference.windows import Sizes, Windows

Floats = NDArray[np.float64]


def conv_forward(
    x: Floats,
    w: Floats,
    b: Floats | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
) -> Floats:
    """y[n,c,i] = b[c] + Σ_j Σ_m w[c,j,m] · x[n, g·J + j, s·i + d·m − p].

    j runs over the J = C_in / groups input channels of a group, m over the kernel; the group of
    output channel c is g = ⌊c / (C_out / groups)⌋. What is read outside x is padding, and 0.

    Args:
        w: (C_out, C_in / groups, *kernel_size).
        b: (C_out,), or None.
        padding: zeros on both sides; where the two differ, pad x.
    """
    windows = Windows(x.shape[2:], w.shape[2:], stride, padding, dilation)
    num_outputs, num_inputs = len(w) // groups, w.shape[1]  # of one group
    y = np.zeros((len(x), len(w), *windows.output_size))
    for n, c, *i in np.ndindex(y.shape):
        g = c // num_outputs
        y[n, c, *i] = 0 if b is None else b[c]
        for j, *m in np.ndindex(w.shape[1:]):
            k = windows.read_by(i, m)
            if windows.holds(k):
                y[n, c, *i] += w[c, j, *m] * x[n, g * num_inputs + j, *k]
    return y


def conv_backward(
    dy: Floats,
    x: Floats,
    w: Floats,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
) -> tuple[Floats, Floats, Floats]:
    """dL/dx, dL/dw and dL/db; db[c] = Σ_n Σ_i dy[n,c,i]."""
    windows = Windows(x.shape[2:], w.shape[2:], stride, padding, dilation)
    dx = _conv_input_gradient(dy, x, w, windows, groups)
    dw = _conv_weight_gradient(dy, x, w, windows, groups)
    db = np.zeros(len(w))
    for n, c, *i in np.ndindex(dy.shape):
        db[c] += dy[n, c, *i]
    return dx, dw, db


def _conv_input_gradient(dy: Floats, x: Floats, w: Floats, windows: Windows, groups: int) -> Floats:
    """dx[n,e,k] = Σ_c Σ_m dy[n,c,i] · w[c, e − g·J, m], i = (k + p − d·m) / s.

    c runs over the output channels of e's group, g = ⌊e / J⌋; m over the kernel, where i is whole
    and 0 <= i < output size.
    """
    num_outputs, num_inputs = len(w) // groups, w.shape[1]
    dx = np.zeros(x.shape)
    for n, e, *k in np.ndindex(dx.shape):
        g = e // num_inputs
        for c in range(g * num_outputs, (g + 1) * num_outputs):
            for m in np.ndindex(w.shape[2:]):
                i = windows.reader_of(k, m, dy.shape[2:])
                if i is not None:
                    dx[n, e, *k] += dy[n, c, *i] * w[c, e - g * num_inputs, *m]
    return dx


def _conv_weight_gradient(
    dy: Floats, x: Floats, w: Floats, windows: Windows, groups: int
) -> Floats:
    """dw[c,j,m] = Σ_n Σ_i dy[n,c,i] · x[n, g·J + j, s·i + d·m − p], g = ⌊c / (C_out / groups)⌋."""
    num_outputs, num_inputs = len(w) // groups, w.shape[1]
    dw = np.zeros(w.shape)
    for c, j, *m in np.ndindex(dw.shape):
        g = c // num_outputs
        for n in range(len(x)):
            for i in np.ndindex(dy.shape[2:]):
                k = windows.read_by(i, m)
                if windows.holds(k):
                    dw[c, j, *m] += dy[n, c, *i] * x[n, g * num_inputs + j, *k]
    return dw


def linear_forward(x: Floats, w: Floats, b: Floats | None) -> Floats:
    """y[n,o] = b[o] + Σ_f w[o,f] · x[n,f].

    Args:
        x: (N, in_features).
        w: (out_features, in_features).
    """
    y = np.zeros((len(x), len(w)))
    for n, o in np.ndindex(y.shape):
        y[n, o] = 0 if b is None else b[o]
        for f in range(x.shape[1]):
            y[n, o] += w[o, f] * x[n, f]
    return y


def linear_backward(dy: Floats, x: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    """dx[n,f] = Σ_o dy[n,o] · w[o,f], dw[o,f] = Σ_n dy[n,o] · x[n,f], db[o] = Σ_n dy[n,o]."""
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(len(w))
    for n, o in np.ndindex(dy.shape):
        db[o] += dy[n, o]
        for f in range(x.shape[1]):
            dx[n, f] += dy[n, o] * w[o, f]
            dw[o, f] += dy[n, o] * x[n, f]
    return dx, dw, db


def relu_forward(x: Floats) -> Floats:
    """y = max(x, 0), element by element; NaN stays NaN."""
    return np.maximum(x, 0.0)


def relu_backward(dy: Floats, x: Floats) -> Floats:
    """dx = dy where x > 0, 0 where x <= 0: at 0 the framework takes 0."""
    return np.where(x <= 0, 0.0, dy)


def batch_norm_forward(
    x: Floats,
    w: Floats,
    b: Floats,
    eps: float,
    running: tuple[Floats, Floats] | None = None,
) -> tuple[Floats, Floats, Floats]:
    """y[n,c,i] = w[c] · (x[n,c,i] − mean[c]) / √(var[c] + eps) + b[c].

    In training, over the M = N · H · W values of a channel,
    mean[c] = 1/M · Σ_n Σ_i x[n,c,i] and var[c] = 1/M · Σ_n Σ_i (x[n,c,i] − mean[c])².

    Args:
        running: the running mean and variance, used in their place in evaluation.

    Returns:
        y, mean and var.
    """
    mean, var = _batch_statistics(x) if running is None else running
    y = np.zeros(x.shape)
    for n, c, *i in np.ndindex(x.shape):
        y[n, c, *i] = w[c] * (x[n, c, *i] - mean[c]) / np.sqrt(var[c] + eps) + b[c]
    return y, mean, var


def _batch_statistics(x: Floats) -> tuple[Floats, Floats]:
    """The mean and the (biased) variance of each channel."""
    M = x.size // x.shape[1]
    mean, var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for n, c, *i in np.ndindex(x.shape):
        mean[c] += x[n, c, *i] / M
    for n, c, *i in np.ndindex(x.shape):
        var[c] += (x[n, c, *i] - mean[c]) ** 2 / M
    return mean, var


class BatchNormGradients(NamedTuple):
    """Gradients of x, of the weight and bias, and of the mean and variance."""

    dx: Floats
    dw: Floats
    db: Floats
    dmean: Floats
    dvar: Floats


def batch_norm_backward(
    dy: Floats,
    x: Floats,
    w: Floats,
    eps: float,
    running: tuple[Floats, Floats] | None = None,
) -> BatchNormGradients:
    """The chain rule through y, var and mean, with r[c] = 1 / √(var[c] + eps).

    dw[c] = Σ_n Σ_i dy[n,c,i] · (x[n,c,i] − mean[c]) · r[c]
    db[c] = Σ_n Σ_i dy[n,c,i]
    dvar[c] = Σ_n Σ_i dy[n,c,i] · w[c] · (x[n,c,i] − mean[c]) · (−1/2) · r[c]³
    dmean[c] = Σ_n Σ_i (−dy[n,c,i] · w[c] · r[c] − dvar[c] · 2/M · (x[n,c,i] − mean[c]))
    dx[n,c,i] = dy[n,c,i] · w[c] · r[c] + dvar[c] · 2/M · (x[n,c,i] − mean[c]) + dmean[c] / M

    The second sum of dmean is 0 but for rounding, since the deviations from a mean add up to 0.
    With `running` statistics, mean and var depend neither on x nor on each other: the terms with M
    are not there.
    """
    mean, var = _batch_statistics(x) if running is None else running
    per_value = 0.0 if running is not None else x.shape[1] / x.size  # 1/M
    r = 1 / np.sqrt(var + eps)
    dw, db, dvar, dmean = (np.zeros(x.shape[1]) for _ in range(4))
    for n, c, *i in np.ndindex(x.shape):
        dw[c] += dy[n, c, *i] * (x[n, c, *i] - mean[c]) * r[c]
        db[c] += dy[n, c, *i]
        dvar[c] += dy[n, c, *i] * w[c] * (x[n, c, *i] - mean[c]) * (-1 / 2) * r[c] ** 3
    for n, c, *i in np.ndindex(x.shape):
        dmean[c] += -dy[n, c, *i] * w[c] * r[c]
        dmean[c] += -dvar[c] * 2 * per_value * (x[n, c, *i] - mean[c])
    dx = np.zeros(x.shape)
    for n, c, *i in np.ndindex(x.shape):
        dx[n, c, *i] += dy[n, c, *i] * w[c] * r[c]
        dx[n, c, *i] += dvar[c] * 2 * per_value * (x[n, c, *i] - mean[c])
        dx[n, c, *i] += dmean[c] * per_value
    return BatchNormGradients(dx, dw, db, dmean, dvar)
