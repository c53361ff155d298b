"""The names that a claim's expression may use: a network's layers and what is known of each."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

from layerscope.audit.expressions import (
    ExpressionError,
    ExpressionValue,
    LayerValues,
    Shape,
    expression_value,
)
from layerscope.operations import window_of
from layerscope.reconcile.account import Account
from layerscope.theory import LayerCost


class Quantities:
    """Dotted name to value.

    `block1.conv.forward_flops` is of a layer; `block1.macs` of all layers below a module,
    `total.macs` of all there are; `convs.C_in` of a group, as a column. `input` has the network's
    input as its output. `dry_run.saved_bytes` and `dry_run.live_peak_bytes` are of one step.

    Args:
        groups: name to layer keys.
        definitions: name to expression, over layers, groups and earlier definitions.

    Raises:
        ExpressionError: a definition that cannot be evaluated.
    """

    def __init__(
        self,
        account: Account,
        groups: Mapping[str, Sequence[str]],
        definitions: Mapping[str, str],
    ) -> None:
        self._account = account
        self._groups = groups
        run, costs = account.run, account.costs
        self._values: dict[str, ExpressionValue] = {
            "element_size": costs.element_size,
            "dry_run.saved_bytes": run.saved_bytes,
            "dry_run.live_peak_bytes": run.live_peak_bytes if run.has_backward else None,
        }
        for name, quantity in _INPUT.items():
            self._values[f"input.{name}"] = quantity(costs.input_shape)
        self._values["input.output_bytes"] = costs.input_bytes
        for name, expression in definitions.items():
            self._values[name] = expression_value(expression, self)

    def __call__(self, name: str) -> ExpressionValue:
        """Return the value of a name.

        Raises:
            ExpressionError: there is no such layer or quantity, or theory does not know it.
        """
        if name in self._values:
            return self._values[name]
        owner, _, quantity = name.rpartition(".")
        if owner in self._groups:
            return LayerValues(self(f"{layer}.{quantity}") for layer in self._groups[owner])
        return self._of(owner, quantity)

    def _of(self, owner: str, quantity: str) -> ExpressionValue:
        layers = self._layers(owner)
        value = None
        if layers and quantity in _SUMS:
            values = [_SUMS[quantity](cost) for cost in layers]
            value = None if None in values else sum(v or 0 for v in values)
        elif layers and quantity in _ENDS:
            value = _ENDS[quantity](layers[0], layers[-1])
        elif layers and quantity in ("weights", "bias"):
            weights = sum(self._weights(cost.layer) for cost in layers)
            num_parameters = sum(cost.num_parameters for cost in layers)
            value = weights if quantity == "weights" else num_parameters - weights
        elif layers and quantity in _WINDOW:
            value = self._window(owner, quantity)
        else:
            raise ExpressionError(f"no quantity {quantity!r} of {owner!r}")
        if value is None:
            raise ExpressionError(f"theory does not know {quantity!r} of {owner!r}")
        return value

    def _layers(self, owner: str) -> list[LayerCost]:
        """Return the layer of this name, the layers below the module of this name, or all."""
        layers = self._account.layers
        if owner in layers:
            return [layers[owner]]
        if owner == "total":
            return list(layers.values())
        return [cost for key, cost in layers.items() if key.startswith(f"{owner}.")]

    def _weights(self, layer: str) -> int:
        """Return the elements of what multiplies a layer's input."""
        first = self._account.calls[layer][0]
        return sum(t.num_elements for name, t in first.parameters.items() if name == "weight")

    def _window(self, layer: str, quantity: str) -> int:
        """Return the side, stride or padding of a window that is the same in every dimension."""
        units = self._account.units_by_layer.get(layer, ())
        window = next(filter(None, (window_of(unit.invocation) for unit in units)), None)
        sizes: set[int] = set() if window is None else set(getattr(window, _WINDOW[quantity]))
        if len(sizes) != 1:
            raise ExpressionError(f"{layer!r} has no one {quantity!r}")
        return sizes.pop()


def _size(shape: Shape, at: int) -> int:
    """Return 1 for height and width of (N, C)."""
    return shape[at] if at < len(shape) else 1


def _output_size(at: int) -> Callable[[LayerCost, LayerCost], ExpressionValue]:
    return lambda _, last: _size(last.output_shapes[0], at)


def _input_size(at: int) -> Callable[[LayerCost, LayerCost], ExpressionValue]:
    return lambda first, _: _size(first.input_shapes[0], at) if first.input_shapes else None


# Of several layers: their sum.
_SUMS: dict[str, Callable[[LayerCost], int | None]] = {
    "num_parameters": lambda cost: cost.num_parameters,
    "parameter_bytes": lambda cost: cost.parameter_bytes,
    "parameter_gradient_bytes": lambda cost: cost.parameter_gradient_bytes,
    "buffer_bytes": lambda cost: cost.buffer_bytes,
    "output_elements": lambda cost: cost.output_elements,
    "output_bytes": lambda cost: cost.output_bytes,
    "gradient_elements": lambda cost: prod(cost.gradient_shape or (0,)),
    "gradient_bytes": lambda cost: cost.gradient_bytes,
    "macs": lambda cost: cost.macs,
    "forward_flops": lambda cost: cost.forward_flops,
    "backward_flops": lambda cost: cost.backward_flops,
    "input_gradient_flops": lambda cost: cost.input_gradient_flops,
    "weight_gradient_flops": lambda cost: cost.weight_gradient_flops,
    "bias_gradient_flops": lambda cost: cost.bias_gradient_flops,
}
_OUTPUT_SIZES = {"N": 0, "C_out": 1, "H_out": 2, "W_out": 3}
# Of several layers: what goes into the first, what the last puts out.
_ENDS: dict[str, Callable[[LayerCost, LayerCost], ExpressionValue]] = {
    "input_shape": lambda first, _: first.input_shapes[0] if first.input_shapes else None,
    "gradient_shape": lambda first, _: first.gradient_shape,
    "output_shape": lambda _, last: last.output_shapes[0],
    **{name: _input_size(at) for name, at in {"C_in": 1, "H_in": 2, "W_in": 3}.items()},
    **{name: _output_size(at) for name, at in _OUTPUT_SIZES.items()},
}
_WINDOW = {"k": "kernel_size", "s": "stride", "p": "padding"}
_INPUT: dict[str, Callable[[Shape], ExpressionValue]] = {
    "input_shape": lambda shape: None,
    "output_shape": lambda shape: shape,
    "output_elements": prod,
    "num_parameters": lambda shape: 0,
    "parameter_bytes": lambda shape: 0,
    "forward_flops": lambda shape: 0,
    "N": lambda shape: _size(shape, 0),
    "C_out": lambda shape: _size(shape, 1),
    "H_out": lambda shape: _size(shape, 2),
    "W_out": lambda shape: _size(shape, 3),
}
