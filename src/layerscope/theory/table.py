"""The textbook's tables for a network: every layer, blocks, kinds and totals.

Theory here is the textbook figure at one element size, whatever the mode, the device, the memory
format and what requires a gradient: every output is stored and every layer computes its input's
gradient.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

from layerscope.layers.spec import LayerSpec, NetworkSpec, Shape, calls_by_layer
from layerscope.theory.formulas import Formula
from layerscope.theory.kinds import KINDS, flops_are_known, formulas, macs


@dataclass(frozen=True)
class LayerCost:
    """A layer, all its calls summed; None is unknown.

    Args:
        input_shapes: of the first call, as `output_shapes` and `gradient_shape`.
        output_bytes: of what it newly makes; 0 for a view.
        gradient_shape: of the gradient of its (first) input; None where it has no input.
        gradient_bytes: of the gradients of all its inputs; 0 for a view.
        parameter_gradient_bytes: one gradient for each parameter.
    """

    layer: str
    kind: str
    num_calls: int
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    num_parameters: int
    parameter_bytes: int
    num_buffer_elements: int
    buffer_bytes: int
    output_elements: int
    output_bytes: int
    macs: int | None
    forward_flops: int | None
    gradient_shape: Shape | None
    gradient_bytes: int
    parameter_gradient_bytes: int
    input_gradient_flops: int | None
    weight_gradient_flops: int | None
    bias_gradient_flops: int | None

    @property
    def backward_flops(self) -> int | None:
        """Input gradient and weight gradient; bias sums stand apart."""
        if self.input_gradient_flops is None or self.weight_gradient_flops is None:
            return None
        return self.input_gradient_flops + self.weight_gradient_flops


@dataclass(frozen=True)
class Total:
    """A sum over layers.

    Args:
        name: of the block or kind; `total` of all.
        unknown: the kinds whose FLOPs are missing in it: then the FLOPs are lower bounds.
    """

    name: str
    num_layers: int
    num_parameters: int
    parameter_bytes: int
    buffer_bytes: int
    output_elements: int
    output_bytes: int
    macs: int
    forward_flops: int
    gradient_bytes: int
    parameter_gradient_bytes: int
    input_gradient_flops: int
    weight_gradient_flops: int
    bias_gradient_flops: int
    unknown: tuple[str, ...]

    @property
    def backward_flops(self) -> int:
        """Input gradients and weight gradients."""
        return self.input_gradient_flops + self.weight_gradient_flops

    @property
    def lower_bound(self) -> bool:
        """Whether the FLOPs of a layer are missing."""
        return bool(self.unknown)


@dataclass(frozen=True)
class CostTable:
    """All layers in the order of their first calls.

    Args:
        input_shape: of the network's first input, (N, C, H, W).
        input_bytes: of all its inputs; in no total.
        element_size: bytes of one activation or parameter.
        formulas: of each layer's first call.
    """

    input_shape: Shape
    input_bytes: int
    element_size: int
    layers: tuple[LayerCost, ...]
    formulas: dict[str, tuple[Formula, ...]]

    def total(self) -> Total:
        """Of all layers; without input and loss."""
        return _total("total", self.layers)

    def blocks(self) -> tuple[tuple[Total, tuple[LayerCost, ...]], ...]:
        """Layers under one top-level module, with their sum; a module that is a layer is none."""
        groups = _grouped(self.layers, lambda cost: cost.layer.partition(".")[0])
        return tuple(
            (_total(name, costs), costs)
            for name, costs in groups.items()
            if [cost.layer for cost in costs] != [name]
        )

    def by_kind(self) -> tuple[Total, ...]:
        """One sum per kind, in the order of first appearance."""
        groups = _grouped(self.layers, lambda cost: cost.kind)
        return tuple(_total(name, costs) for name, costs in groups.items())


def cost_table(network: NetworkSpec, element_size: int) -> CostTable:
    """The tables of one forward and backward pass."""
    calls = calls_by_layer(network.layers)
    return CostTable(
        input_shape=network.inputs[0].shape if network.inputs else (),
        input_bytes=sum(tensor.num_elements for tensor in network.inputs) * element_size,
        element_size=element_size,
        layers=tuple(_layer_cost(specs, element_size) for specs in calls.values()),
        formulas={layer: formulas(specs[0]) for layer, specs in calls.items()},
    )


def textbook_output_bytes(spec: LayerSpec, element_size: int) -> int:
    """Of one call: every output is stored, but for a view."""
    kind = KINDS.get(spec.kind)
    if kind.is_view if kind is not None else spec.is_view:
        return 0
    return spec.output_elements * element_size


def textbook_flops(spec: LayerSpec) -> dict[str, int | None]:
    """Of one call, by quantity: 0 where nothing is computed, None where it is not known."""
    missing = 0 if flops_are_known(spec) else None
    counts: dict[str, int | None] = dict.fromkeys(_FLOPS, missing)
    counts["macs"] = macs(spec)
    for formula in formulas(spec):
        counts[formula.quantity] = formula.value
    return counts


_FLOPS = (
    "macs",
    "forward_flops",
    "input_gradient_flops",
    "weight_gradient_flops",
    "bias_gradient_flops",
)


def _layer_cost(specs: tuple[LayerSpec, ...], element_size: int) -> LayerCost:
    first = specs[0]
    num_parameters = sum(spec.num_parameters for spec in specs)
    flops = [textbook_flops(spec) for spec in specs]
    return LayerCost(
        layer=first.key,
        kind=first.kind,
        num_calls=len(specs),
        input_shapes=first.input_shapes,
        output_shapes=first.output_shapes,
        num_parameters=num_parameters,
        parameter_bytes=num_parameters * element_size,
        num_buffer_elements=sum(spec.num_buffer_elements for spec in specs),
        buffer_bytes=sum(spec.buffer_bytes for spec in specs),
        output_elements=sum(spec.output_elements for spec in specs),
        output_bytes=sum(textbook_output_bytes(spec, element_size) for spec in specs),
        gradient_shape=first.input_shape if first.inputs else None,
        gradient_bytes=sum(_gradient_bytes(spec, element_size) for spec in specs),
        parameter_gradient_bytes=num_parameters * element_size,
        **{quantity: _sum(counts[quantity] for counts in flops) for quantity in _FLOPS},
    )


def _gradient_bytes(spec: LayerSpec, element_size: int) -> int:
    kind = KINDS.get(spec.kind)
    if kind.is_view if kind is not None else spec.is_view:
        return 0
    return sum(prod(shape) for shape in spec.input_shapes) * element_size


def _total(name: str, costs: Iterable[LayerCost]) -> Total:
    costs = tuple(costs)
    unknown = dict.fromkeys(cost.kind for cost in costs if cost.forward_flops is None)
    return Total(
        name=name,
        num_layers=len(costs),
        unknown=tuple(unknown),
        **{field: sum(getattr(cost, field) or 0 for cost in costs) for field in _SUMMED},
    )


_SUMMED = (
    "num_parameters",
    "parameter_bytes",
    "buffer_bytes",
    "output_elements",
    "output_bytes",
    "gradient_bytes",
    "parameter_gradient_bytes",
    *_FLOPS,
)


def _grouped(
    costs: Iterable[LayerCost], name_of: Callable[[LayerCost], str]
) -> dict[str, tuple[LayerCost, ...]]:
    groups: dict[str, list[LayerCost]] = {}
    for cost in costs:
        groups.setdefault(name_of(cost), []).append(cost)
    return {name: tuple(members) for name, members in groups.items()}


def _sum(counts: Iterable[int | None]) -> int | None:
    """None where a summand is."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
