"""The names that the walkthrough's formulas use, taken from a cost table."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import isqrt, prod

from layerscope.audit.formulas import Column, FormulaError, Shape, Value, evaluate
from layerscope.theory import CostTable, LayerCost


class Quantities:
    """Dotted name to value: `block1.conv.forward_flops`, `convs.C_in` (a column), `step_flops`.

    Args:
        groups: name to layer keys; `input` is a layer that only has an output.
        definitions: name to formula, over layers, groups and earlier definitions.
        constants: further names.

    Raises:
        FormulaError: a definition that cannot be evaluated.
    """

    def __init__(
        self,
        costs: CostTable,
        groups: Mapping[str, Sequence[str]],
        definitions: Mapping[str, str],
        constants: Mapping[str, int],
    ) -> None:
        self._layers = {cost.layer: cost for cost in costs.layers}
        self._input = _of_input(costs)
        self._groups = groups
        self._values: dict[str, Value] = {"element_size": costs.element_size, **constants}
        for name, formula in definitions.items():
            self._values[name] = evaluate(formula, self)

    def __call__(self, name: str) -> Value:
        """The value of a name.

        Raises:
            FormulaError: there is no such layer or quantity, or theory does not know it.
        """
        if name in self._values:
            return self._values[name]
        owner, _, quantity = name.rpartition(".")
        if owner in self._groups:
            return Column(self._of(layer, quantity) for layer in self._groups[owner])
        return self._of(owner, quantity)

    def _of(self, layer: str, quantity: str) -> Value:
        if layer == "input" and quantity in self._input:
            return self._input[quantity]
        cost = self._layers.get(layer)
        if cost is None or quantity not in _QUANTITIES:
            raise FormulaError(f"no quantity {quantity!r} of {layer!r}")
        value = _QUANTITIES[quantity](cost)
        if value is None:
            raise FormulaError(f"theory does not know {quantity!r} of {layer!r}")
        return value


def _of_input(costs: CostTable) -> dict[str, Value]:
    return {
        "input_shape": None,
        "output_shape": costs.input_shape,
        "output_elements": prod(costs.input_shape),
        "output_bytes": costs.input_bytes,
        "num_parameters": 0,
        "parameter_bytes": 0,
        "forward_flops": 0,
        **{name: _size(costs.input_shape, at) for name, at in _OUTPUT_SIZES.items()},
    }


def _size(shape: Shape, at: int) -> int:
    """1 for height and width of (N, C)."""
    return shape[at] if at < len(shape) else 1


_INPUT_SIZES = {"C_in": 1, "H_in": 2, "W_in": 3}
_OUTPUT_SIZES = {"N": 0, "C_out": 1, "H_out": 2, "W_out": 3}


def _input_size(at: int) -> Callable[[LayerCost], int]:
    return lambda cost: _size(cost.input_shapes[0], at)


def _output_size(at: int) -> Callable[[LayerCost], int]:
    return lambda cost: _size(cost.output_shapes[0], at)


def _weights(cost: LayerCost) -> int:
    """Weights of a convolution or linear layer: each meets each output position once."""
    positions = cost.output_elements // cost.output_shapes[0][1]
    return (cost.macs or 0) // positions


def _kernel_size(cost: LayerCost) -> int:
    """Side of the square kernel of a convolution or max-pool."""
    if cost.macs:
        area = Fraction(_weights(cost), cost.input_shapes[0][1] * cost.output_shapes[0][1])
    else:
        area = Fraction(cost.forward_flops or 0, cost.output_elements)
    side = isqrt(int(area))
    if side * side != area:
        raise FormulaError(f"{cost.layer!r} has no square kernel")
    return side


def _stride(cost: LayerCost) -> Fraction:
    return Fraction(cost.input_shapes[0][2], cost.output_shapes[0][2])


def _padding(cost: LayerCost) -> Fraction:
    """Return each side's padding if the kernel's last position ends with the padded input."""
    reach = (cost.output_shapes[0][2] - 1) * _stride(cost) + _kernel_size(cost)
    return (reach - cost.input_shapes[0][2]) / 2


_QUANTITIES: dict[str, Callable[[LayerCost], Value]] = {
    "input_shape": lambda cost: cost.input_shapes[0],
    "output_shape": lambda cost: cost.output_shapes[0],
    "gradient_shape": lambda cost: cost.gradient_shape,
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
    "weights": _weights,
    "bias": lambda cost: cost.num_parameters - _weights(cost),
    "k": _kernel_size,
    "s": _stride,
    "p": _padding,
    **{name: _input_size(at) for name, at in _INPUT_SIZES.items()},
    **{name: _output_size(at) for name, at in _OUTPUT_SIZES.items()},
}
