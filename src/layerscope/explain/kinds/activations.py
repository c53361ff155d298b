"""Activations other than ReLU, each by its function of one number and the derivative."""

import math

from layerscope.explain.explainer import Explainer
from layerscope.explain.kinds.curves import Curve, Line, explainer, explainer_of
from layerscope.explain.kinds.elementwise import IS_POSITIVE
from layerscope.explain.notation import number, plain
from layerscope.networks.layer_calls import DescribedCall


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


def _leaky_relu(spec: DescribedCall) -> Curve:
    slope = spec.geometry.get("negative_slope", 0.01)
    latex, text = number(slope), plain(slope)
    return Curve(
        Line(
            rf"\max(x, 0) + {latex} \min(x, 0)",
            f"max({{}}, 0) + {text}·min({{}}, 0)",
            lambda x: x if x > 0 else slope * x,
        ),
        Line(
            rf"\left( {IS_POSITIVE} + {latex} \left[ x \le 0 \right] \right)",
            f"[{{}} > 0] + {text}·[{{}} ≤ 0]",
            lambda x: 1.0 if x > 0 else slope,
        ),
        where="A bracket is 1 where it holds, else 0.",
    )


def _elu(spec: DescribedCall) -> Curve:
    alpha = spec.geometry.get("alpha", 1.0)
    times_latex = "" if alpha == 1 else f"{number(alpha)} "
    times_text = "" if alpha == 1 else f"{plain(alpha)}·"
    return Curve(
        Line(
            rf"\max(x, 0) + {times_latex}(e^{{\min(x, 0)}} - 1)",
            f"max({{}}, 0) + {times_text}(e^(min({{}}, 0)) − 1)",
            lambda x: x if x > 0 else alpha * math.expm1(x),
        ),
        Line(
            rf"\left( {IS_POSITIVE} + {times_latex}\left[ x \le 0 \right] e^x \right)",
            f"[{{}} > 0] + {times_text}[{{}} ≤ 0]·e^({{}})",
            lambda x: 1.0 if x > 0 else alpha * math.exp(x),
        ),
        where="A bracket is 1 where it holds, else 0.",
    )


def _hardtanh(spec: DescribedCall) -> Curve:
    low, high = spec.geometry.get("min_val", -1.0), spec.geometry.get("max_val", 1.0)
    return _clamped(low, high)


def _clamped(low: float, high: float) -> Curve:
    return Curve(
        Line(
            rf"\min(\max(x, {number(low)}), {number(high)})",
            f"min(max({{}}, {plain(low)}), {plain(high)})",
            lambda x: min(max(x, low), high),
        ),
        Line(
            rf"\left[ {number(low)} \lt x \lt {number(high)} \right]",
            f"[{plain(low)} < {{}} < {plain(high)}]",
            lambda x: float(low < x < high),
        ),
        where="Its slope is 1 between the two bounds, else 0.",
    )


def _softplus(spec: DescribedCall) -> Curve:
    beta, threshold = spec.geometry.get("beta", 1.0), spec.geometry.get("threshold", 20.0)
    scaled_latex = "x" if beta == 1 else f"{number(beta)} x"
    scaled_text = "{}" if beta == 1 else f"{plain(beta)}·{{}}"
    over_latex, over_text = ("", "") if beta == 1 else (f" / {number(beta)}", f"/{plain(beta)}")
    return Curve(
        Line(
            rf"\ln(1 + e^{{{scaled_latex}}}){over_latex}",
            f"ln(1 + e^({scaled_text})){over_text}",
            lambda x: _softplus_of(beta * x) / beta,
        ),
        Line(
            rf"\frac{{1}}{{1 + e^{{-{scaled_latex}}}}}",
            f"1/(1 + e^(−{scaled_text}))",
            lambda x: _sigmoid(beta * x),
        ),
        where=f"Beyond ${scaled_latex} = {number(threshold)}$ it is $y = x$.",
        identity_above=threshold / beta,
    )


def _gelu(spec: DescribedCall) -> Curve:
    if spec.geometry.get("approximate", "none") == "none":
        share = "(1 + erf({}/√2))/2"
        return Curve(
            Line(r"x \Phi(x)", f"{{}}·{share}", lambda x: x * _normal_share(x)),
            Line(
                r"\left( \Phi(x) + \frac{x}{\sqrt{2 \pi}} e^{-x^2/2} \right)",
                f"{share} + {{}}·e^(−{{}}^2/2)/√(2·π)",
                lambda x: _normal_share(x) + x * _normal_density(x),
            ),
            where=r"$\Phi(x) = \frac{1}{2} \left( 1 + \text{erf}(x / \sqrt{2}) \right)$.",
        )
    t = "tanh(√(2/π)·({} + 0.044715·{}^3))"
    return Curve(
        Line(
            r"\frac{x}{2} (1 + t)",
            f"{{}}/2·(1 + {t})",
            lambda x: 0.5 * x * (1 + _gelu_tanh(x)),
        ),
        Line(
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
    "sigmoid": explainer_of(
        Curve(
            Line(r"\sigma(x)", _SIGMOID, _sigmoid),
            Line(
                r"\sigma(x) (1 - \sigma(x))",
                f"{_SIGMOID}·(1 − {_SIGMOID})",
                lambda x: _sigmoid(x) * _sigmoid(-x),
            ),
            where=_SIGMOID_WHERE,
        )
    ),
    "tanh": explainer_of(
        Curve(
            Line(r"\tanh(x)", "tanh({})", math.tanh),
            Line(r"(1 - \tanh^2(x))", "1 − tanh({})^2", lambda x: 1 - math.tanh(x) ** 2),
        )
    ),
    "silu": explainer_of(
        Curve(
            Line(r"x \sigma(x)", "{}/(1 + e^(−{}))", lambda x: x * _sigmoid(x)),
            Line(
                r"\sigma(x) \left( 1 + x (1 - \sigma(x)) \right)",
                f"{_SIGMOID}·(1 + {{}}·(1 − {_SIGMOID}))",
                lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
            ),
            where=_SIGMOID_WHERE,
        )
    ),
    "mish": explainer_of(
        Curve(
            Line(
                r"x \tanh(\ln(1 + e^x))",
                f"{{}}·{_MISH}",
                lambda x: x * math.tanh(_softplus_of(x)),
            ),
            Line(
                r"\left( t + x (1 - t^2) \sigma(x) \right)",
                f"{_MISH} + {{}}·(1 − {_MISH}^2)/(1 + e^(−{{}}))",
                _mish_slope,
            ),
            where=rf"Of its slope, $t = \tanh(\ln(1 + e^x))$ and {_SIGMOID_WHERE}",
        )
    ),
    "relu6": explainer_of(_clamped(0.0, 6.0)),
    "hardtanh": explainer(_hardtanh),
    "hardsigmoid": explainer_of(
        Curve(
            Line(
                r"\min(\max(x + 3, 0), 6) / 6",
                "min(max({} + 3, 0), 6)/6",
                lambda x: min(max(x + 3, 0.0), 6.0) / 6,
            ),
            Line(
                r"\left[ -3 \lt x \lt 3 \right] \frac{1}{6}",
                "[−3 < {} < 3]/6",
                lambda x: float(-3 < x < 3) / 6,
            ),
        )
    ),
    "hardswish": explainer_of(
        Curve(
            Line(
                r"x \min(\max(x + 3, 0), 6) / 6",
                "{}·min(max({} + 3, 0), 6)/6",
                lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
            ),
            Line(
                r"\left( \left[ x \ge 3 \right] + "
                r"\left[ -3 \lt x \lt 3 \right] \frac{2 x + 3}{6} \right)",
                "[{} ≥ 3] + [−3 < {} < 3]·(2·{} + 3)/6",
                lambda x: 1.0 if x >= 3 else (2 * x + 3) / 6 if x > -3 else 0.0,
            ),
        )
    ),
    "leaky_relu": explainer(_leaky_relu),
    "elu": explainer(_elu),
    "softplus": explainer(_softplus),
    "gelu": explainer(_gelu),
}
