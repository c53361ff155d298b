"""Activations: each output depends on the input at the same place."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    constant,
    input_gradient_at,
    number_at,
    output_gradient,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.notation import DL_DX
from layerscope.explain.values import Position, Value, indexed
from layerscope.layers.spec import LayerSpec


def same_position(spec: LayerSpec, position: Position) -> Position:
    """An output depends on the input at its own place."""
    return position


def scaled_gradient(
    captured: Captured, position: Position, symbol: str, derivative: float
) -> tuple[Value, ...]:
    """dL/dx where y depends on x at the same place only.

    Args:
        symbol: of the derivative, in LaTeX.
    """
    dl_dy = single(DL_DY, output_gradient(captured), position)
    terms = product(dl_dy, constant(symbol, derivative))
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _relu_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    groups = (product(single("x", captured.inputs[0], position)), product(constant("0", 0.0)))
    name, actual = indexed("y", position), number_at(captured.output, position)
    return (Value(name, captured.spec.key, "max", groups, actual, captured.dtype),)


def _relu_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    is_let_through = not captured.inputs[0][position] <= 0  # NaN is
    return scaled_gradient(captured, position, _IS_POSITIVE, float(is_let_through))


def _relu_formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y = \max(x, 0)", _EACH),
        GeneralFormula(
            "dL/dx",
            f"{DL_DX} = {_IS_POSITIVE} {DL_DY}",
            f"${_IS_POSITIVE}$ is 1 where the input is positive, else 0; at 0 it is 0.",
        ),
    )


_EACH = "At each position by itself."
_IS_POSITIVE = r"\left[ x \gt 0 \right]"

RELU = Explainer(
    formulas=_relu_formulas,
    output=_relu_output,
    input_gradient=where_used("dL/dx", _relu_gradient),
    first_input=same_position,
)


@dataclass(frozen=True)
class _Curve:
    """A smooth function of one number.

    Args:
        latex: of x.
        derivative_latex: of its derivative.
    """

    latex: str
    derivative_latex: str
    value: Callable[[float], float]
    derivative: Callable[[float], float]

    def output(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term, the function's value."""
        result = self.value(float(captured.inputs[0][position]))
        actual = number_at(captured.output, position)
        terms = product(constant(self.latex, result))
        return (total(captured, indexed("y", position), (terms,), actual),)

    def input_gradient(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term."""
        slope = self.derivative(float(captured.inputs[0][position]))
        return scaled_gradient(captured, position, self.derivative_latex, slope)

    def formulas(self, spec: LayerSpec) -> tuple[GeneralFormula, ...]:
        """y and dL/dx."""
        return (
            GeneralFormula("y", f"y = {self.latex}", _EACH),
            GeneralFormula("dL/dx", f"{DL_DX} = {DL_DY} {self.derivative_latex}"),
        )


CurveOf = Callable[[LayerSpec], _Curve]


def _explainer(curve_of: CurveOf) -> Explainer:
    def gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
        return curve_of(captured.spec).input_gradient(captured, position)

    return Explainer(
        formulas=lambda spec: curve_of(spec).formulas(spec),
        output=lambda captured, position: curve_of(captured.spec).output(captured, position),
        input_gradient=where_used("dL/dx", gradient),
        first_input=same_position,
    )


def _always(curve: _Curve) -> Explainer:
    return _explainer(lambda spec: curve)


def _sigmoid(x: float) -> float:
    """Without overflow for a large negative number."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _normal_share(x: float) -> float:
    """Φ, the share of the normal distribution below x."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _normal_density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _leaky_relu(spec: LayerSpec) -> _Curve:
    slope = spec.geometry.get("negative_slope", 0.01)
    return _Curve(
        rf"\max(x, 0) + {slope:g} \min(x, 0)",
        rf"\left( {_IS_POSITIVE} + {slope:g} \left[ x \le 0 \right] \right)",
        lambda x: x if x > 0 else slope * x,
        lambda x: 1.0 if x > 0 else slope,
    )


def _gelu(spec: LayerSpec) -> _Curve:
    if spec.geometry.get("approximate", "none") == "none":
        return _Curve(
            r"x \Phi(x)",
            r"\left( \Phi(x) + \frac{x}{\sqrt{2 \pi}} e^{-x^2/2} \right)",
            lambda x: x * _normal_share(x),
            lambda x: _normal_share(x) + x * _normal_density(x),
        )
    inner = r"t = \tanh \left( \sqrt{2 / \pi} (x + 0.044715 x^3) \right)"
    return _Curve(
        rf"\frac{{x}}{{2}} (1 + t), \quad {inner}",
        r"\left( \frac{1 + t}{2} + \frac{x}{2} (1 - t^2) \sqrt{2 / \pi} (1 + 0.134145 x^2) \right)",
        lambda x: 0.5 * x * (1 + _gelu_tanh(x)),
        _gelu_tanh_slope,
    )


def _gelu_tanh(x: float) -> float:
    return math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _gelu_tanh_slope(x: float) -> float:
    t = _gelu_tanh(x)
    inner_slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner_slope


CURVES: dict[str, Explainer] = {
    "sigmoid": _always(
        _Curve(
            r"\sigma(x)",
            r"\sigma(x) (1 - \sigma(x))",
            _sigmoid,
            lambda x: _sigmoid(x) * _sigmoid(-x),
        )
    ),
    "tanh": _always(
        _Curve(
            r"\tanh(x)",
            r"(1 - \tanh^2(x))",
            math.tanh,
            lambda x: 1 - math.tanh(x) ** 2,
        )
    ),
    "silu": _always(
        _Curve(
            r"x \sigma(x)",
            r"\sigma(x) \left( 1 + x (1 - \sigma(x)) \right)",
            lambda x: x * _sigmoid(x),
            lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
        )
    ),
    "relu6": _always(
        _Curve(
            r"\min(\max(x, 0), 6)",
            r"\left[ 0 \lt x \lt 6 \right]",
            lambda x: min(max(x, 0.0), 6.0),
            lambda x: float(0 < x < 6),
        )
    ),
    "hardsigmoid": _always(
        _Curve(
            r"\min(\max(x + 3, 0), 6) / 6",
            r"\left[ -3 \lt x \lt 3 \right] \frac{1}{6}",
            lambda x: min(max(x + 3, 0.0), 6.0) / 6,
            lambda x: float(-3 < x < 3) / 6,
        )
    ),
    "hardswish": _always(
        _Curve(
            r"x \min(\max(x + 3, 0), 6) / 6",
            r"\left( \left[ x \ge 3 \right] + "
            r"\left[ -3 \lt x \lt 3 \right] \frac{2 x + 3}{6} \right)",
            lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
            lambda x: 1.0 if x >= 3 else (2 * x + 3) / 6 if x > -3 else 0.0,
        )
    ),
    "leaky_relu": _explainer(_leaky_relu),
    "gelu": _explainer(_gelu),
}
