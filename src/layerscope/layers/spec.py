"""The one description of a layer that every other room shares."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerSpec:
    """One call of one layer: what went in, what came out, and the settings that decide its cost.

    Args:
        kind: `conv2d`, `batch_norm`, `add`, ...; of an unknown layer, its class or function name.
        input_shapes: of the tensors that it was called with, in order; parameters and buffers left
            out, unless it got nothing else. Empty for an operation that makes a tensor.
        output_shapes: of the tensors that it returned.
        num_parameters: elements; shared ones stand with the first call that has them.
        num_buffer_elements: like `num_parameters`; `buffer_bytes` are theirs.
        geometry: the settings of its kind: `kernel_size`, `stride`, `groups`, ...
        in_place: it returned an input that it had overwritten.
        is_view: it returned an input, or a view of one, as it was.
    """

    key: str
    kind: str
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    num_parameters: int = 0
    num_buffer_elements: int = 0
    buffer_bytes: int = 0
    geometry: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    in_place: bool = False
    is_view: bool = False

    @property
    def input_shape(self) -> Shape:
        """Of the first input."""
        return self.input_shapes[0]

    @property
    def output_shape(self) -> Shape:
        """Of the first output."""
        return self.output_shapes[0]

    @property
    def output_elements(self) -> int:
        """Elements of everything the layer returns."""
        return sum(map(math.prod, self.output_shapes))


def calls_by_layer(specs: Iterable[LayerSpec]) -> dict[str, tuple[LayerSpec, ...]]:
    """The calls of each layer under its key, in the order of the layers' first calls."""
    layers: dict[str, tuple[LayerSpec, ...]] = {}
    for spec in specs:
        layers[spec.key] = (*layers.get(spec.key, ()), spec)
    return layers
