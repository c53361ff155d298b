"""Layers whose outputs each depend on the input at the same place; ReLU."""

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    constant,
    derived_constant,
    input_gradient_at,
    number_at,
    output_gradient,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.notation import DL_DX
from layerscope.explain.values import Factor, Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall


def same_position(spec: DescribedCall, position: Position) -> Position:
    """An output depends on the input at its own place."""
    return position


def scaled_gradient(captured: Captured, position: Position, slope: Factor) -> tuple[Value, ...]:
    """dL/dx where y depends on x at the same place only, with this derivative."""
    dl_dy = single(DL_DY, output_gradient(captured), position)
    terms = product(dl_dy, slope)
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _relu_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    groups = (product(single("x", captured.inputs[0], position)), product(constant("0", 0.0)))
    name, actual = indexed("y", position), number_at(captured.output, position)
    return (Value(name, captured.spec.key, "max", groups, actual, captured.dtype),)


def _relu_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    x = float(captured.inputs[0][position])
    is_let_through = not x <= 0  # NaN is
    slope = derived_constant(IS_POSITIVE, float(is_let_through), "[{} > 0]", x)
    return scaled_gradient(captured, position, slope)


def _relu_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y = \max(x, 0)", EACH),
        GeneralFormula(
            "dL/dx",
            f"{DL_DX} = {IS_POSITIVE} {DL_DY}",
            f"${IS_POSITIVE}$ is 1 where the input is positive, else 0; at 0 it is 0.",
        ),
    )


EACH = "At each position by itself."
IS_POSITIVE = r"\left[ x \gt 0 \right]"

RELU = Explainer(
    formulas=_relu_formulas,
    output=_relu_output,
    input_gradient=where_used("dL/dx", _relu_gradient),
    first_input=same_position,
)
