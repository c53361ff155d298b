"""Activations: each output depends on the input at the same place."""

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    constant,
    input_gradient_at,
    output_gradient,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.values import Position, Value, indexed
from layerscope.layers.spec import LayerSpec

_DL_DX = r"\frac{\partial L}{\partial x}"


def _relu_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    groups = (product(single("x", captured.inputs[0], position)), product(constant("0", 0.0)))
    actual = float(captured.output[position])
    name = indexed("y", position)
    return (Value(name, captured.spec.key, "max", groups, actual, captured.dtype),)


def _relu_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    is_positive = float(not captured.inputs[0][position] <= 0)  # NaN lets the gradient through
    return _scaled_gradient(captured, position, r"\left[ x \gt 0 \right]", is_positive)


def _scaled_gradient(
    captured: Captured, position: Position, symbol: str, derivative: float
) -> tuple[Value, ...]:
    terms = product(
        single(DL_DY, output_gradient(captured), position), constant(symbol, derivative)
    )
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _relu_formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y = \max(x, 0)", "At each position."),
        GeneralFormula(
            "dL/dx",
            rf"{_DL_DX} = \left[ x \gt 0 \right] {DL_DY}",
            r"$\left[ x \gt 0 \right]$ is 1 where the input is positive, else 0: also at 0.",
        ),
    )


def _same_position(spec: LayerSpec, position: Position) -> Position:
    return position


RELU = Explainer(
    formulas=_relu_formulas,
    output=_relu_output,
    input_gradient=where_used("dL/dx", _relu_gradient),
    first_input=_same_position,
)
