"""Softmax and the losses as their formulas say; the notation is that of the package."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def softmax_forward(x: Floats) -> Floats:
    """y[n,c] = exp(x[n,c] − a[n]) / Σ_k exp(x[n,k] − a[n]), a[n] = max_k x[n,k].

    a cancels out, and keeps exp from overflowing.
    """
    y = np.zeros(x.shape)
    for n, c in np.ndindex(x.shape):
        a = max(x[n])
        y[n, c] = np.exp(x[n, c] - a) / sum(np.exp(x[n, k] - a) for k in range(x.shape[1]))
    return y


def softmax_backward(dy: Floats, y: Floats) -> Floats:
    """dx[n,c] = dy[n,c] · y[n,c] − Σ_k dy[n,k] · y[n,k] · y[n,c]."""
    dx = np.zeros(y.shape)
    for n, c in np.ndindex(dx.shape):
        dx[n, c] = dy[n, c] * y[n, c]
        for k in range(y.shape[1]):
            dx[n, c] -= dy[n, k] * y[n, k] * y[n, c]
    return dx


def cross_entropy_forward(x: Floats, target: Sequence[int], label_smoothing: float = 0.0) -> float:
    """L = 1/N · Σ_n Σ_c −q[n,c] · log softmax(x)[n,c].

    log softmax(x)[n,c] = x[n,c] − a[n] − log Σ_k exp(x[n,k] − a[n]), a[n] = max_k x[n,k], and
    q[n,c] = (1 − s) · [c = target[n]] + s / C with s the label smoothing; [c = target[n]] is 1 of
    the image's class, 0 of the others.

    Args:
        x: (N, C), the network's outputs.
        target: (N,), classes.
    """
    N, C = x.shape
    q = _smoothed(target, C, label_smoothing)
    loss = 0.0
    for n, c in np.ndindex(x.shape):
        a = max(x[n])
        log_sum = np.log(sum(np.exp(x[n, k] - a) for k in range(C)))
        loss += -q[n, c] * (x[n, c] - a - log_sum) / N
    return float(loss)


def cross_entropy_backward(
    x: Floats, target: Sequence[int], label_smoothing: float = 0.0
) -> Floats:
    """dx[n,c] = (softmax(x)[n,c] − q[n,c]) / N, with q as in the forward pass."""
    q = _smoothed(target, x.shape[1], label_smoothing)
    return (softmax_forward(x) - q) / len(x)


def _smoothed(target: Sequence[int], num_classes: int, label_smoothing: float) -> Floats:
    """q of a cross-entropy."""
    q = np.full((len(target), num_classes), label_smoothing / num_classes)
    for n, c in enumerate(target):
        q[n, c] += 1 - label_smoothing
    return q


def mse_forward(x: Floats, target: Floats) -> float:
    """L = 1/(N·C) · Σ_n Σ_c (x[n,c] − target[n,c])²."""
    return float(sum((x[at] - target[at]) ** 2 / x.size for at in np.ndindex(x.shape)))


def mse_backward(x: Floats, target: Floats) -> Floats:
    """dx[n,c] = 2/(N·C) · (x[n,c] − target[n,c])."""
    return 2 / x.size * (x - target)
