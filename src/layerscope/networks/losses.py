"""Losses by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from layerscope.config.schema import CrossEntropyConfig, LossConfig, MSEConfig


def _cross_entropy(outputs: Tensor, labels: Tensor, config: CrossEntropyConfig) -> Tensor:
    return F.cross_entropy(outputs, labels, label_smoothing=config.label_smoothing)


def _mse(outputs: Tensor, labels: Tensor, config: MSEConfig) -> Tensor:
    return F.mse_loss(outputs, F.one_hot(labels, outputs.shape[1]).to(outputs.dtype))


LOSSES: dict[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
}


def loss_of(outputs: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Return the mean loss of outputs (N, num_classes) and labels (N,), a scalar."""
    return LOSSES[config.name](outputs, labels, config)
