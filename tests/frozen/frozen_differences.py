"""The frozen figures held against the dry run, the textbook and the predictions of today."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torchvision.models as zoo
from figures import FrozenLayer, FrozenSettings, frozen
from torch import nn

from layerscope.dry_run import DryRun, dry_run
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.reconcile import DTYPES
from layerscope.reconcile.account import Account, account
from layerscope.reconcile.comparisons import COMPARISONS
from layerscope.reconcile.flops import Prediction

OURS = {"cifar_cnn": CifarCNN, "tiny_cnn": TinyCNN, "simple_cnn": SimpleCNN}
COSTS = (
    *("num_calls", "num_parameters", "buffer_bytes", "output_elements", "output_bytes"),
    *("macs", "forward_flops", "input_gradient_flops", "weight_gradient_flops"),
    *("bias_gradient_flops", "gradient_bytes"),
)
PREDICTED = {
    "predicted_output_bytes": ("output_bytes", "outputs"),
    "predicted_saved_bytes": ("saved_bytes", "saved"),
}
COUNTS = {
    "fvcore": ("macs", "fvcore"),
    "counter_forward": ("forward_flops", "flop_counter"),
    "counter_backward": ("backward_flops", "flop_counter"),
    "profiler_forward": ("forward_flops", "profiler"),
    "profiler_backward": ("backward_flops", "profiler"),
}

# The peaks that were wrong then beside convnext_tiny's, which was measured: as measured since.
RIGHT_PEAKS = {
    "convnext_small": 406_047_656,
    "convnext_base": 570_625_960,
}

Difference = tuple[str, str, Any, Any]


def run_of(name: str) -> DryRun:
    """Run a frozen network dry; nothing but its shapes is ever built."""
    settings = frozen(name).settings
    dtype, autocast = DTYPES[settings.dtype]
    form = torch.channels_last if settings.channels_last else torch.contiguous_format
    network = _network(settings).to(dtype).to(memory_format=form)  # type: ignore[call-overload]
    network.train(settings.train)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(not any(key.startswith(f"{name}.") for name in settings.freeze))
    image = torch.empty(settings.input_shape, dtype=dtype, device="meta").to(memory_format=form)
    return dry_run(network, (image,), device=torch.device("cpu"), autocast=autocast)


def _network(settings: FrozenSettings) -> nn.Module:
    if settings.network in OURS:
        return OURS[settings.network]()
    options = {"init_weights": False} if settings.network in ("googlenet", "inception_v3") else {}
    with suppress(NotImplementedError), torch.device("meta"):
        return zoo.get_model(settings.network, weights=None, **options)
    with ExitStack() as stack:  # it computes its sizes; its parameters are never written
        for name in filter(lambda name: name.endswith("_"), vars(nn.init)):
            if not name.startswith("_"):
                stack.enter_context(patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        return zoo.get_model(settings.network, weights=None, **options)


def differences(name: str, run: DryRun) -> list[Difference]:
    """Return what the earlier code knew and today's says otherwise: where, what, then, now."""
    then = frozen(name)
    theory = account(run, DTYPES[then.settings.dtype][0].itemsize)
    found: list[Difference] = []
    if list(then.layers) != list(theory.layers):
        found.append(("", "layers", list(then.layers), list(theory.layers)))
    for key in then.layers.keys() & theory.layers.keys():
        found += _of_layer(then.layers[key], theory, then.has_counts)
    if then.unused_parameters != run.unused_parameters:
        found.append(("", "unused", then.unused_parameters, run.unused_parameters))
    peak = then.peak.measured_live_bytes or RIGHT_PEAKS.get(name, then.peak.live_bytes)
    if not then.total.unknown_saved and peak != run.live_peak_bytes:
        found.append(("", "live_peak", peak, run.live_peak_bytes))
    return found


def _of_layer(then: FrozenLayer, theory: Account, has_counts: bool) -> Iterator[Difference]:
    cost = theory.layers[then.key]
    known = [(field, getattr(then, field), getattr(cost, field)) for field in COSTS]
    known += [
        (field, getattr(then, field), _predicted(theory, then.key, source))
        for field, source in PREDICTED.items()
    ]
    if has_counts:
        known += [
            (field, getattr(then.counts, field), _predicted(theory, then.key, source))
            for field, source in COUNTS.items()
        ]
    for field, old, new in known:
        if old is not None and old != new:
            yield then.key, field, old, new


def _predicted(theory: Account, layer: str, source: tuple[str, str]) -> int | None:
    prediction = _PREDICT[source](theory, layer)
    if not prediction.counted:
        return 0
    if prediction.theory is None:
        return None
    return prediction.theory + sum(reason.amount for reason in prediction.reasons)


_PREDICT: dict[tuple[str, str], Callable[[Account, str], Prediction]] = {
    (comparison.quantity, comparison.instrument): partial(comparison.predict)
    for comparison in COMPARISONS
}
