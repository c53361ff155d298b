"""Figures of networks as an earlier version of the code gave them.

That version had formulas for each kind of layer. `tests/frozen/freeze.py` of commit 963d481 made
the file; it needs the code of that commit.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "figures.json.gz"


@dataclass(frozen=True, slots=True)
class FrozenCounts:
    """What the instruments count for one layer, predicted and measured, which are equal.

    Args:
        fvcore: a multiply-accumulate as one.
        counter_forward: the dispatcher's FLOP counter, as `counter_backward`.
        profiler_forward: torch.profiler's with_flops, as `profiler_backward`.
    """

    fvcore: int
    counter_forward: int
    counter_backward: int
    profiler_forward: int
    profiler_backward: int


@dataclass(frozen=True, slots=True)
class FrozenLayer:
    """One layer, all its calls summed. None means that it is unknown.

    Args:
        output_bytes: textbook figure; 0 for a view.
        gradient_bytes: textbook figure, of the gradients of all inputs; 0 for a view.
        predicted_output_bytes: memory that the layer newly allocates for its outputs.
        predicted_saved_bytes: memory that the layer allocates and autograd saves for backward.
        counts: None where the instruments were not run on the network.
    """

    key: str
    kind: str
    num_calls: int
    num_parameters: int
    buffer_bytes: int
    output_elements: int
    output_bytes: int
    macs: int | None
    forward_flops: int | None
    input_gradient_flops: int | None
    weight_gradient_flops: int | None
    bias_gradient_flops: int | None
    gradient_bytes: int
    predicted_output_bytes: int | None
    predicted_saved_bytes: int | None
    counts: FrozenCounts | None = None


@dataclass(frozen=True, slots=True)
class FrozenTotal:
    """Sums over all layers; what is unknown is missing in them.

    Args:
        counts: None where the instruments were not run on the network.
        unknown_flops: kinds whose FLOPs are missing.
        unknown_saved: kinds of which it is unknown what they save. Then the saved bytes and the
            peak of the network are lower bounds.
    """

    num_parameters: int
    buffer_bytes: int
    output_elements: int
    output_bytes: int
    macs: int
    forward_flops: int
    input_gradient_flops: int
    weight_gradient_flops: int
    bias_gradient_flops: int
    gradient_bytes: int
    predicted_output_bytes: int
    predicted_saved_bytes: int
    counts: FrozenCounts | None
    unknown_flops: tuple[str, ...]
    unknown_saved: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrozenPeak:
    """Predicted peak of a training step, above parameters, buffers and the network's input.

    Args:
        live_bytes: without what operations allocate and free within themselves.
        peak_bytes: with that, for one thread.
        layer: where `peak_bytes` is reached.
        phase: `forward`, `loss` or `backward`.
        measured_live_bytes: None where it was not measured.
    """

    live_bytes: int
    peak_bytes: int
    layer: str
    phase: str
    measured_live_bytes: int | None


@dataclass(frozen=True)
class FrozenSettings:
    """How the network was described.

    Args:
        network: name of torchvision's builder, or `cifar_cnn`, `tiny_cnn`, `simple_cnn`.
        input_shape: with the batch.
        dtype: `float32`, `bfloat16` or `bf16_autocast`.
        freeze: modules whose parameters require no gradient.
    """

    network: str
    input_shape: tuple[int, ...]
    dtype: str
    channels_last: bool
    train: bool
    freeze: tuple[str, ...]


@dataclass(frozen=True)
class FrozenNetwork:
    """Everything that is frozen of one network under one set of settings.

    Args:
        layers: by key, in the order of their first calls.
        unused_parameters: elements of parameters that no layer uses.
        num_unseen: tensors that no layer made.
    """

    name: str
    settings: FrozenSettings
    layers: dict[str, FrozenLayer]
    total: FrozenTotal
    peak: FrozenPeak
    unused_parameters: int
    num_unseen: int

    @property
    def has_counts(self) -> bool:
        """Whether the instruments were run on it."""
        return self.total.counts is not None


@cache
def frozen(name: str) -> FrozenNetwork:
    """Return the figures of a network.

    Args:
        name: one of `names()`: `resnet18`, `cifar_cnn`, or a variant, `cifar_cnn/bfloat16`.
    """
    values = _document()["networks"][name]
    return FrozenNetwork(
        name=name,
        settings=FrozenSettings(**_tuples(values["settings"])),
        layers=_layers(values["layers"], values["counts"]),
        total=_total(values["total"]),
        peak=FrozenPeak(**values["peak"]),
        unused_parameters=values["unused_parameters"],
        num_unseen=values["num_unseen"],
    )


def names() -> tuple[str, ...]:
    """Return the names of all networks and variants, sorted."""
    return tuple(_document()["networks"])


def made_with() -> dict[str, str]:
    """Return the commit and the versions of the packages that gave the figures."""
    return _document()["made_with"]


@cache
def _document() -> dict[str, Any]:
    return json.loads(gzip.decompress(FILE.read_bytes()))


def _layers(columns: dict[str, list], counts: dict[str, list] | None) -> dict[str, FrozenLayer]:
    layers = [FrozenLayer(**row) for row in _rows(columns)]
    if counts is not None:
        rows = zip(layers, _rows(counts), strict=True)
        layers = [replace(layer, counts=FrozenCounts(**row)) for layer, row in rows]
    return {layer.key: layer for layer in layers}


def _rows(columns: dict[str, list]) -> Iterator[dict[str, Any]]:
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _total(values: dict[str, Any]) -> FrozenTotal:
    counts = values["counts"]
    return FrozenTotal(
        **_tuples({**values, "counts": None if counts is None else FrozenCounts(**counts)})
    )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
