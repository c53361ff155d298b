"""Metrics of the user's own, from torchmetrics or a class of theirs, beside loss and accuracy."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torchmetrics import Metric

from layerscope.base.errors import RunFailed, UserError
from layerscope.base.targets import Targets, call_target, check_typed_list, import_target, own_code
from layerscope.config.problems import as_typed_in_full
from layerscope.config.schema import MetricsConfig

_KEY = "metrics.extra"


class OwnMetrics:
    """The metrics by name, over the images since the last reset.

    No module, so that nothing of them is in a checkpoint: none is saved within a validation.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics

    def start(self, device: torch.device) -> None:
        """Forget all images; the next ones are on this device."""
        for name, metric in self._metrics.items():
            with _told(name, "reset"):
                metric.to(device).reset()

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: outputs (N, num_classes), of which they get the softmax, and labels (N,)."""
        if not self._metrics:
            return
        probabilities = outputs.detach().float().softmax(1)
        for name, metric in self._metrics.items():
            with _told(name, "update"):
                metric.update(probabilities, labels)

    def compute(self) -> dict[str, Tensor]:
        """Return each value over all ranks, a float32 scalar."""
        return {name: self._value(name) for name in self._metrics}

    def _value(self, name: str) -> Tensor:
        with _told(name, "compute"):
            value = torch.as_tensor(self._metrics[name].compute())
            if value.numel() != 1:
                raise ValueError(f"a tensor of shape {tuple(value.shape)}, not one number")
            return value.detach().float().reshape(())


def _told(name: str, doing: str) -> AbstractContextManager[None]:
    return own_code(f"{_KEY}: {name}", doing)


def make_metrics(config: MetricsConfig, targets: Targets) -> OwnMetrics:
    """Return the metrics that a configuration names.

    Raises:
        UserError: the user did not type one of them, it cannot be made, or is no Metric.
    """
    plain = [entry.model_dump(by_alias=True, exclude_none=True) for entry in config.extra]
    mend = f'type it again, "{_KEY}={as_typed_in_full(plain)}", or leave it out with {_KEY}=[]'
    check_typed_list(targets, _KEY, [entry.target for entry in config.extra], mend)
    metrics: dict[str, Metric] = {}
    for entry in config.extra:
        found = import_target(_KEY, entry.target)
        metric = call_target(entry.target, found, _KEY, **entry.arguments)
        if not isinstance(metric, Metric):
            raise UserError(
                f"{_KEY}: {entry.target} makes a {type(metric).__name__}, not a torchmetrics.Metric"
            )
        metrics[entry.column] = metric
    return OwnMetrics(metrics)


def check_metrics(config: MetricsConfig, targets: Targets, num_classes: int) -> None:
    """Measure two made-up images of each class, before anything else is made.

    Raises:
        UserError: a metric fails, or gives more than one number.
    """
    metrics = make_metrics(config, targets)
    labels = torch.arange(num_classes).repeat(2)
    outputs = torch.randn(len(labels), num_classes, generator=torch.Generator().manual_seed(0))
    try:
        metrics.start(torch.device("cpu"))
        metrics.update(outputs, labels)
        metrics.compute()
    except RunFailed as error:
        raise UserError(
            f"{error}: it gets probabilities (N, {num_classes}) and labels (N,), and gives a number"
        ) from error
