"""Activations other than ReLU: curves, each by its function of one number and the derivative."""

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
from layerscope.explain.kinds.elementwise import EACH, IS_POSITIVE, same_position, scaled_gradient
from layerscope.explain.notation import DL_DX, number, plain
from layerscope.explain.values import Factor, Position, Value, indexed
from layerscope.layers.spec import LayerSpec

Function = Callable[[float], float]


@dataclass(frozen=True)
class _Line:
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
class _Curve:
    """An activation.

    Args:
        where: what its formula's other symbols mean, a sentence with `$...$`.
        identity_above: inputs beyond are passed on as they are.
    """

    function: _Line
    derivative: _Line
    where: str = ""
    identity_above: float = math.inf

    def output(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term, the function's value."""
        x = float(captured.inputs[0][position])
        line = _Line("x", "{}", lambda x: x) if x > self.identity_above else self.function
        actual = number_at(captured.output, position)
        return (total(captured, indexed("y", position), (product(line.at(x)),), actual),)

    def input_gradient(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term."""
        x = float(captured.inputs[0][position])
        line = _Line("1", "1", lambda x: 1.0) if x > self.identity_above else self.derivative
        return scaled_gradient(captured, position, line.at(x))

    def formulas(self, spec: LayerSpec) -> tuple[GeneralFormula, ...]:
        """y and dL/dx."""
        where = f"{EACH} {self.where}".rstrip()
        return (
            GeneralFormula("y", f"y = {self.function.latex}", where),
            GeneralFormula("dL/dx", f"{DL_DX} = {DL_DY} {self.derivative.latex}"),
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


def _softplus_of(x: float) -> float:
    """ln(1 + e^x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _leaky_relu(spec: LayerSpec) -> _Curve:
    slope = spec.geometry.get("negative_slope", 0.01)
    latex, text = number(slope), plain(slope)
    return _Curve(
        _Line(
            rf"\max(x, 0) + {latex} \min(x, 0)",
            f"max({{}}, 0) + {text}·min({{}}, 0)",
            lambda x: x if x > 0 else slope * x,
        ),
        _Line(
            rf"\left( {IS_POSITIVE} + {latex} \left[ x \le 0 \right] \right)",
            f"[{{}} > 0] + {text}·[{{}} ≤ 0]",
            lambda x: 1.0 if x > 0 else slope,
        ),
        where="A bracket is 1 where it holds, else 0.",
    )


def _elu(spec: LayerSpec) -> _Curve:
    alpha = spec.geometry.get("alpha", 1.0)
    times_latex = "" if alpha == 1 else f"{number(alpha)} "
    times_text = "" if alpha == 1 else f"{plain(alpha)}·"
    return _Curve(
        _Line(
            rf"\max(x, 0) + {times_latex}(e^{{\min(x, 0)}} - 1)",
            f"max({{}}, 0) + {times_text}(e^(min({{}}, 0)) − 1)",
            lambda x: x if x > 0 else alpha * math.expm1(x),
        ),
        _Line(
            rf"\left( {IS_POSITIVE} + {times_latex}\left[ x \le 0 \right] e^x \right)",
            f"[{{}} > 0] + {times_text}[{{}} ≤ 0]·e^({{}})",
            lambda x: 1.0 if x > 0 else alpha * math.exp(x),
        ),
        where="A bracket is 1 where it holds, else 0.",
    )


def _hardtanh(spec: LayerSpec) -> _Curve:
    low, high = spec.geometry.get("min_val", -1.0), spec.geometry.get("max_val", 1.0)
    return _clamped(low, high)


def _clamped(low: float, high: float) -> _Curve:
    return _Curve(
        _Line(
            rf"\min(\max(x, {number(low)}), {number(high)})",
            f"min(max({{}}, {plain(low)}), {plain(high)})",
            lambda x: min(max(x, low), high),
        ),
        _Line(
            rf"\left[ {number(low)} \lt x \lt {number(high)} \right]",
            f"[{plain(low)} < {{}} < {plain(high)}]",
            lambda x: float(low < x < high),
        ),
        where="Its slope is 1 between the two bounds, else 0.",
    )


def _softplus(spec: LayerSpec) -> _Curve:
    beta, threshold = spec.geometry.get("beta", 1.0), spec.geometry.get("threshold", 20.0)
    scaled_latex = "x" if beta == 1 else f"{number(beta)} x"
    scaled_text = "{}" if beta == 1 else f"{plain(beta)}·{{}}"
    over_latex, over_text = ("", "") if beta == 1 else (f" / {number(beta)}", f"/{plain(beta)}")
    return _Curve(
        _Line(
            rf"\ln(1 + e^{{{scaled_latex}}}){over_latex}",
            f"ln(1 + e^({scaled_text})){over_text}",
            lambda x: _softplus_of(beta * x) / beta,
        ),
        _Line(
            rf"\frac{{1}}{{1 + e^{{-{scaled_latex}}}}}",
            f"1/(1 + e^(−{scaled_text}))",
            lambda x: _sigmoid(beta * x),
        ),
        where=f"Beyond ${scaled_latex} = {number(threshold)}$ it is $y = x$.",
        identity_above=threshold / beta,
    )


def _gelu(spec: LayerSpec) -> _Curve:
    if spec.geometry.get("approximate", "none") == "none":
        share = "(1 + erf({}/√2))/2"
        return _Curve(
            _Line(r"x \Phi(x)", f"{{}}·{share}", lambda x: x * _normal_share(x)),
            _Line(
                r"\left( \Phi(x) + \frac{x}{\sqrt{2 \pi}} e^{-x^2/2} \right)",
                f"{share} + {{}}·e^(−{{}}^2/2)/√(2·π)",
                lambda x: _normal_share(x) + x * _normal_density(x),
            ),
            where=r"$\Phi(x) = \frac{1}{2} \left( 1 + \text{erf}(x / \sqrt{2}) \right)$.",
        )
    t = "tanh(√(2/π)·({} + 0.044715·{}^3))"
    return _Curve(
        _Line(
            r"\frac{x}{2} (1 + t)",
            f"{{}}/2·(1 + {t})",
            lambda x: 0.5 * x * (1 + _gelu_tanh(x)),
        ),
        _Line(
            r"\left( \frac{1 + t}{2} + \frac{x}{2} (1 - t^2) \sqrt{2 / \pi} "
            r"(1 + 0.134145 x^2) \right)",
            f"(1 + {t})/2 + {{}}/2·(1 − ({t})^2)·√(2/π)·(1 + 0.134145·{{}}^2)",
            _gelu_tanh_slope,
        ),
        where=r"$t = \tanh \left( \sqrt{2 / \pi} (x + 0.044715 x^3) \right)$.",
    )


def _gelu_tanh(x: float) -> float:
    return math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _gelu_tanh_slope(x: float) -> float:
    t = _gelu_tanh(x)
    inner_slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner_slope


def _mish_slope(x: float) -> float:
    t = math.tanh(_softplus_of(x))
    return t + x * (1 - t * t) * _sigmoid(x)


_SIGMOID = "1/(1 + e^(−{}))"
_SIGMOID_WHERE = r"$\sigma(x) = \frac{1}{1 + e^{-x}}$."
_MISH = "tanh(ln(1 + e^({})))"

CURVES: dict[str, Explainer] = {
    "sigmoid": _always(
        _Curve(
            _Line(r"\sigma(x)", _SIGMOID, _sigmoid),
            _Line(
                r"\sigma(x) (1 - \sigma(x))",
                f"{_SIGMOID}·(1 − {_SIGMOID})",
                lambda x: _sigmoid(x) * _sigmoid(-x),
            ),
            where=_SIGMOID_WHERE,
        )
    ),
    "tanh": _always(
        _Curve(
            _Line(r"\tanh(x)", "tanh({})", math.tanh),
            _Line(r"(1 - \tanh^2(x))", "1 − tanh({})^2", lambda x: 1 - math.tanh(x) ** 2),
        )
    ),
    "silu": _always(
        _Curve(
            _Line(r"x \sigma(x)", "{}/(1 + e^(−{}))", lambda x: x * _sigmoid(x)),
            _Line(
                r"\sigma(x) \left( 1 + x (1 - \sigma(x)) \right)",
                f"{_SIGMOID}·(1 + {{}}·(1 − {_SIGMOID}))",
                lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
            ),
            where=_SIGMOID_WHERE,
        )
    ),
    "mish": _always(
        _Curve(
            _Line(
                r"x \tanh(\ln(1 + e^x))",
                f"{{}}·{_MISH}",
                lambda x: x * math.tanh(_softplus_of(x)),
            ),
            _Line(
                r"\left( t + x (1 - t^2) \sigma(x) \right)",
                f"{_MISH} + {{}}·(1 − {_MISH}^2)/(1 + e^(−{{}}))",
                _mish_slope,
            ),
            where=rf"Of its slope, $t = \tanh(\ln(1 + e^x))$ and {_SIGMOID_WHERE}",
        )
    ),
    "relu6": _always(_clamped(0.0, 6.0)),
    "hardtanh": _explainer(_hardtanh),
    "hardsigmoid": _always(
        _Curve(
            _Line(
                r"\min(\max(x + 3, 0), 6) / 6",
                "min(max({} + 3, 0), 6)/6",
                lambda x: min(max(x + 3, 0.0), 6.0) / 6,
            ),
            _Line(
                r"\left[ -3 \lt x \lt 3 \right] \frac{1}{6}",
                "[−3 < {} < 3]/6",
                lambda x: float(-3 < x < 3) / 6,
            ),
        )
    ),
    "hardswish": _always(
        _Curve(
            _Line(
                r"x \min(\max(x + 3, 0), 6) / 6",
                "{}·min(max({} + 3, 0), 6)/6",
                lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
            ),
            _Line(
                r"\left( \left[ x \ge 3 \right] + "
                r"\left[ -3 \lt x \lt 3 \right] \frac{2 x + 3}{6} \right)",
                "[{} ≥ 3] + [−3 < {} < 3]·(2·{} + 3)/6",
                lambda x: 1.0 if x >= 3 else (2 * x + 3) / 6 if x > -3 else 0.0,
            ),
        )
    ),
    "leaky_relu": _explainer(_leaky_relu),
    "elu": _explainer(_elu),
    "softplus": _explainer(_softplus),
    "gelu": _explainer(_gelu),
}
