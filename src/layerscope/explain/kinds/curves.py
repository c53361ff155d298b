"""How a layer is explained that applies one function to each number."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    derived_constant,
    number_at,
    product,
    total,
    where_used,
)
from layerscope.explain.kinds.elementwise import EACH, same_position, scaled_gradient
from layerscope.explain.notation import DL_DX
from layerscope.explain.values import Factor, Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall

Function = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """A function of one number.

    Args:
        latex: with x.
        text: in plain characters, with a `{}` for each x: see Origin.
    """

    latex: str
    text: str
    value: Function

    def at(self, x: float) -> Factor:
        """Its value there."""
        arguments = (x,) * self.text.count("{}")
        return derived_constant(self.latex, self.value(x), self.text, *arguments)


@dataclass(frozen=True)
class Curve:
    """An activation.

    Args:
        where: what its formula's other symbols mean, a sentence with `$...$`.
        identity_above: inputs beyond are passed on as they are.
    """

    function: Line
    derivative: Line
    where: str = ""
    identity_above: float = math.inf

    def output(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term, the function's value."""
        x = float(captured.inputs[0][position])
        line = Line("x", "{}", lambda x: x) if x > self.identity_above else self.function
        actual = number_at(captured.output, position)
        return (total(captured, indexed("y", position), (product(line.at(x)),), actual),)

    def input_gradient(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term."""
        x = float(captured.inputs[0][position])
        line = Line("1", "1", lambda x: 1.0) if x > self.identity_above else self.derivative
        return scaled_gradient(captured, position, line.at(x))

    def formulas(self, spec: DescribedCall) -> tuple[GeneralFormula, ...]:
        """y and dL/dx."""
        where = f"{EACH} {self.where}".rstrip()
        return (
            GeneralFormula("y", f"y = {self.function.latex}", where),
            GeneralFormula("dL/dx", f"{DL_DX} = {DL_DY} {self.derivative.latex}"),
        )


CurveOf = Callable[[DescribedCall], Curve]


def explainer(curve_of: CurveOf) -> Explainer:
    """Of a curve that depends on the layer's settings."""

    def gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
        return curve_of(captured.spec).input_gradient(captured, position)

    return Explainer(
        formulas=lambda spec: curve_of(spec).formulas(spec),
        output=lambda captured, position: curve_of(captured.spec).output(captured, position),
        input_gradient=where_used("dL/dx", gradient),
        first_input=same_position,
    )


def explainer_of(curve: Curve) -> Explainer:
    """Of a curve without settings."""
    return explainer(lambda spec: curve)
