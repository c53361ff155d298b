"""The textbook's tables for a network: layers, blocks, types and totals.

Theory is the textbook's figure at one element size. Mode, device, memory format and `requires_grad`
do not matter: every output is stored, and every layer computes its input's gradient.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from layerscope.dry_run import DryRun, LayerCall
from layerscope.dry_run.records import Shape
from layerscope.operations import QUANTITIES, CostFormula
from layerscope.theory.units import CountedUnit

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class LayerCost:
    """The costs of a layer, all its calls summed; None is unknown.

    Args:
        path: path of its module, or of the module whose code calls the function.
        input_shapes: shapes in the first call, as are `output_shapes` and `gradient_shape`.
        output_bytes: bytes of the new tensors that it returns; 0 for a view.
        gradient_shape: shape of the gradient of its (first) input; None without an input.
        gradient_bytes: bytes of the gradients of all its inputs; 0 for a view.
        parameter_gradient_bytes: bytes of one gradient for each parameter.
    """

    layer: str
    type: str
    path: str
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
        """FLOPs of the input and weight gradients; bias sums are counted apart."""
        if self.input_gradient_flops is None or self.weight_gradient_flops is None:
            return None
        return self.input_gradient_flops + self.weight_gradient_flops


@dataclass(frozen=True)
class Total:
    """A sum over layers.

    Args:
        name: name of the block or type; `total` for all layers.
        unknown: types whose FLOPs are unknown and missing. The FLOPs are then lower bounds.
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
        """FLOPs of the input and weight gradients."""
        return self.input_gradient_flops + self.weight_gradient_flops

    @property
    def lower_bound(self) -> bool:
        """Tell whether the FLOPs of a layer are missing."""
        return bool(self.unknown)


@dataclass(frozen=True)
class CostTable:
    """All layers in the order of their first calls.

    Args:
        input_shape: shape of the network's first input, (N, C, H, W).
        input_bytes: bytes of all its inputs; in no total.
        element_size: bytes of one activation or parameter.
        formulas: formulas of each layer's first call.
    """

    input_shape: Shape
    input_bytes: int
    element_size: int
    layers: tuple[LayerCost, ...]
    formulas: dict[str, tuple[CostFormula, ...]]

    def total(self) -> Total:
        """Return the sum of all layers, without input and loss."""
        return _total("total", self.layers)

    def blocks(self) -> tuple[tuple[Total, tuple[LayerCost, ...]], ...]:
        """Return the layers of each top-level module, with their sum; leave out single layers."""
        groups = _grouped(self.layers, lambda cost: cost.layer.partition(".")[0])
        return tuple(
            (_total(name, costs), costs)
            for name, costs in groups.items()
            if [cost.layer for cost in costs] != [name]
        )

    def by_type(self) -> tuple[Total, ...]:
        """Return one sum per type, in the order of first appearance."""
        groups = _grouped(self.layers, lambda cost: cost.type)
        return tuple(_total(name, costs) for name, costs in groups.items())


def cost_table(run: DryRun, units: tuple[CountedUnit, ...], element_size: int) -> CostTable:
    """Return the tables of one forward and backward pass.

    Args:
        element_size: bytes of one activation or parameter in theory.
    """
    calls: dict[str, list[LayerCall]] = {}
    for call in run.layers:
        calls.setdefault(call.key, []).append(call)
    of_call: dict[int | None, list[CountedUnit]] = {}
    of_layer: dict[str, list[CountedUnit]] = {}
    for unit in units:
        of_call.setdefault(unit.call, []).append(unit)
        of_layer.setdefault(unit.layer, []).append(unit)
    return CostTable(
        input_shape=run.inputs[0].shape if run.inputs else (),
        input_bytes=sum(tensor.num_elements for tensor in run.inputs) * element_size,
        element_size=element_size,
        layers=tuple(
            _layer_cost(own, of_call, of_layer.get(layer, []), element_size)
            for layer, own in calls.items()
        ),
        formulas={
            layer: tuple(
                formula
                for unit in of_call.get(own[0].number, ())
                for formula in unit.costs.formulas
            )
            for layer, own in calls.items()
        },
    )


def is_textbook_view(call: LayerCall, units: list[CountedUnit]) -> bool:
    """Tell whether a call does nothing but views, so that the textbook stores no output."""
    if not units:
        return call.returns_input
    return all(unit.is_view or not _makes_memory(unit, call) for unit in units)


def _makes_memory(unit: CountedUnit, call: LayerCall) -> bool:
    return unit.family is not None or not call.returns_input


def textbook_output_bytes(call: LayerCall, units: list[CountedUnit], element_size: int) -> int:
    """Return the bytes of one call's outputs: every output is stored, except a view."""
    return 0 if is_textbook_view(call, units) else call.output_elements * element_size


def _layer_cost(
    calls: list[LayerCall],
    of_call: dict[int | None, list[CountedUnit]],
    units: list[CountedUnit],
    element_size: int,
) -> LayerCost:
    first = calls[0]
    num_parameters = sum(call.num_parameters for call in calls)
    views = [is_textbook_view(call, of_call.get(call.number, [])) for call in calls]
    stored = [call for call, is_view in zip(calls, views, strict=True) if not is_view]
    gradients = sum(prod(shape) for call in stored for shape in call.input_shapes)
    return LayerCost(
        layer=first.key,
        type=first.type,
        path=first.path,
        num_calls=len(calls),
        input_shapes=first.input_shapes,
        output_shapes=first.output_shapes,
        num_parameters=num_parameters,
        parameter_bytes=num_parameters * element_size,
        num_buffer_elements=sum(call.num_buffer_elements for call in calls),
        buffer_bytes=sum(call.buffer_bytes for call in calls),
        output_elements=sum(call.output_elements for call in calls),
        output_bytes=sum(call.output_elements for call in stored) * element_size,
        gradient_shape=first.input_shape if first.inputs else None,
        gradient_bytes=gradients * element_size,
        parameter_gradient_bytes=num_parameters * element_size,
        **{
            quantity: sum_if_known(unit.costs.counts[quantity] for unit in units)
            for quantity in QUANTITIES
        },
    )


def _total(name: str, costs: Iterable[LayerCost]) -> Total:
    costs = tuple(costs)
    unknown = dict.fromkeys(cost.type for cost in costs if cost.forward_flops is None)
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
    *QUANTITIES,
)


def _grouped(
    costs: Iterable[LayerCost], name_of: Callable[[LayerCost], str]
) -> dict[str, tuple[LayerCost, ...]]:
    groups: dict[str, list[LayerCost]] = {}
    for cost in costs:
        groups.setdefault(name_of(cost), []).append(cost)
    return {name: tuple(members) for name, members in groups.items()}


def sum_if_known(values: Iterable[_Number | None]) -> _Number | None:
    """Return the sum; None if a summand is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None  # type: ignore[return-value]
