"""Functions of one number at each position: each by its formula and that of its derivative."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from layerscope.dry_run import Shape
from layerscope.explain.explainer import Explainer, GeneralFormula, where_used
from layerscope.explain.factors import (
    constant,
    derived,
    derived_constant,
    every_place,
    gathered,
    product,
    single,
    sum_value,
)
from layerscope.explain.families.arrangements import EACH
from layerscope.explain.notation import DL_DX, DL_DY, latex_number, plain_number
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import Factor, Position, Terms, Value, indexed

ScalarFunction = Callable[[float], float]
IS_POSITIVE = r"\left[ x \gt 0 \right]"
_BRACKET = "A bracket is 1 where it holds, else 0."


@dataclass(frozen=True)
class WrittenFunction:
    """A function of one number.

    Args:
        latex: with x.
        text: in plain characters, with a `{}` for each x: see Origin.
    """

    latex: str
    text: str
    value: ScalarFunction

    def at(self, x: float) -> Factor:
        """Return its value there."""
        arguments = (x,) * self.text.count("{}")
        return derived_constant(self.latex, self.value(x), self.text, *arguments)


@dataclass(frozen=True)
class PointwiseFunction:
    """A function and its derivative.

    Args:
        where: what its formula's other symbols mean, a sentence with `$...$`.
        identity_above: inputs beyond are passed on as they are.
    """

    function: WrittenFunction
    derivative: WrittenFunction
    where: str = ""
    identity_above: float = math.inf


def scaled_gradient(captured: Captured, position: Position, *slope: Factor) -> tuple[Value, ...]:
    """Return dL/dx where y depends on x at the same place only, with this derivative."""
    terms = product(single(DL_DY, captured.dl_dy, position), *slope)
    actual = captured.gradient_at("x", position)
    return (sum_value(captured, indexed("dL/dx", position), (terms,), actual),)


def _explainer(curve_of: Callable[[Operation], PointwiseFunction]) -> Explainer:
    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        x, curve = float(captured.operands["x"][position]), curve_of(captured.operation)
        line = (
            WrittenFunction("x", "{}", lambda x: x) if x > curve.identity_above else curve.function
        )
        actual = float(captured.output[position])
        return (sum_value(captured, indexed("y", position), (product(line.at(x)),), actual),)

    def input_gradient(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
        x, curve = float(captured.operands["x"][position]), curve_of(captured.operation)
        line = (
            WrittenFunction("1", "1", lambda x: 1.0)
            if x > curve.identity_above
            else curve.derivative
        )
        return scaled_gradient(captured, position, line.at(x))

    def formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
        curve = curve_of(operation)
        return (
            GeneralFormula("y", f"y = {curve.function.latex}", f"{EACH} {curve.where}".rstrip()),
            GeneralFormula("dL/dx", f"{DL_DX} = {DL_DY} {curve.derivative.latex}"),
        )

    return Explainer(formulas, output, where_used(input_gradient))


def _curve(function: WrittenFunction, derivative: WrittenFunction, where: str = "") -> Explainer:
    curve = PointwiseFunction(function, derivative, where)
    return _explainer(lambda operation: curve)


def _sigmoid(x: float) -> float:
    """Return it without overflow for a large negative number."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _normal_share(x: float) -> float:
    """Return Φ, the share of the normal distribution below x."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _normal_density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _softplus_of(x: float) -> float:
    """Return ln(1 + e^x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# ReLU and what is made of pieces ------------------------------------------------------------------


def _relu_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    groups = (product(single("x", captured.operands["x"], position)), product(constant("0", 0.0)))
    name, actual = indexed("y", position), float(captured.output[position])
    return (Value(name, captured.operation.key, "max", groups, actual, captured.dtype),)


def _relu_gradient(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
    x = float(captured.operands["x"][position])
    is_let_through = not x <= 0  # NaN is
    slope = derived_constant(IS_POSITIVE, float(is_let_through), "[{} > 0]", x)
    return scaled_gradient(captured, position, slope)


def _relu_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y = \max(x, 0)", EACH),
        GeneralFormula(
            "dL/dx",
            f"{DL_DX} = {IS_POSITIVE} {DL_DY}",
            f"${IS_POSITIVE}$ is 1 where the input is positive, else 0; at 0 it is 0.",
        ),
    )


def _leaky_relu(operation: Operation) -> PointwiseFunction:
    slope = operation.get("negative_slope", 0.01)
    latex, text = latex_number(slope), plain_number(slope)
    return PointwiseFunction(
        WrittenFunction(
            rf"\max(x, 0) + {latex} \min(x, 0)",
            f"max({{}}, 0) + {text}·min({{}}, 0)",
            lambda x: x if x > 0 else slope * x,
        ),
        WrittenFunction(
            rf"\left( {IS_POSITIVE} + {latex} \left[ x \le 0 \right] \right)",
            f"[{{}} > 0] + {text}·[{{}} ≤ 0]",
            lambda x: 1.0 if x > 0 else slope,
        ),
        where=_BRACKET,
    )


def _clamped(low: float, high: float) -> PointwiseFunction:
    return PointwiseFunction(
        WrittenFunction(
            rf"\min(\max(x, {latex_number(low)}), {latex_number(high)})",
            f"min(max({{}}, {plain_number(low)}), {plain_number(high)})",
            lambda x: min(max(x, low), high),
        ),
        WrittenFunction(
            rf"\left[ {latex_number(low)} \lt x \lt {latex_number(high)} \right]",
            f"[{plain_number(low)} < {{}} < {plain_number(high)}]",
            lambda x: float(low < x < high),
        ),
        where="Its slope is 1 between the two bounds, else 0.",
    )


def _hardtanh(operation: Operation) -> PointwiseFunction:
    return _clamped(operation.get("min_val", -1.0), operation.get("max_val", 1.0))


# Exponential ones ---------------------------------------------------------------------------------


def _elu_of(alpha: float, scale: float = 1.0, divisor: float = 1.0) -> PointwiseFunction:
    """Return scale·(max(x, 0) + α·(e^(min(x, 0)/divisor) − 1))."""
    front = ("", "") if scale == 1 else (f"{latex_number(scale)} ", f"{plain_number(scale)}·")
    times = ("", "") if alpha == 1 else (f"{latex_number(alpha)} ", f"{plain_number(alpha)}·")
    over = (
        ("", "") if divisor == 1 else (f" / {latex_number(divisor)}", f"/{plain_number(divisor)}")
    )
    slope = ("", "")
    if alpha != divisor:
        steepness = alpha / divisor
        slope = (f"{latex_number(steepness)} ", f"{plain_number(steepness)}·")
    function = rf"\max(x, 0) + {times[0]}(e^{{\min(x, 0){over[0]}}} - 1)"
    text = f"max({{}}, 0) + {times[1]}(e^(min({{}}, 0){over[1]}) − 1)"
    derivative = (
        rf"\left( {IS_POSITIVE} + {slope[0]}\left[ x \le 0 \right] e^{{x{over[0]}}} \right)"
    )
    if divisor == 1:
        derivative = derivative.replace("e^{x}", "e^x")
    slope_text = f"[{{}} > 0] + {slope[1]}[{{}} ≤ 0]·e^({{}}{over[1]})"
    if scale != 1:
        function, text = rf"{front[0]}\left( {function} \right)", f"{front[1]}({text})"
        derivative, slope_text = f"{front[0]}{derivative}", f"{front[1]}({slope_text})"
    return PointwiseFunction(
        WrittenFunction(
            function, text, lambda x: scale * (x if x > 0 else alpha * math.expm1(x / divisor))
        ),
        WrittenFunction(
            derivative,
            slope_text,
            lambda x: scale * (1.0 if x > 0 else alpha / divisor * math.exp(x / divisor)),
        ),
        where=_BRACKET,
    )


def _elu(operation: Operation) -> PointwiseFunction:
    return _elu_of(operation.get("alpha", 1.0))


def _celu(operation: Operation) -> PointwiseFunction:
    alpha = operation.get("alpha", 1.0)
    return _elu_of(alpha, divisor=alpha)


# torch's own constants of SELU.
_SELU = _elu_of(1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _softplus(operation: Operation) -> PointwiseFunction:
    beta, threshold = operation.get("beta", 1.0), operation.get("threshold", 20.0)
    scaled_latex = "x" if beta == 1 else f"{latex_number(beta)} x"
    scaled_text = "{}" if beta == 1 else f"{plain_number(beta)}·{{}}"
    over_latex, over_text = (
        ("", "") if beta == 1 else (f" / {latex_number(beta)}", f"/{plain_number(beta)}")
    )
    return PointwiseFunction(
        WrittenFunction(
            rf"\ln(1 + e^{{{scaled_latex}}}){over_latex}",
            f"ln(1 + e^({scaled_text})){over_text}",
            lambda x: _softplus_of(beta * x) / beta,
        ),
        WrittenFunction(
            rf"\frac{{1}}{{1 + e^{{-{scaled_latex}}}}}",
            f"1/(1 + e^(−{scaled_text}))",
            lambda x: _sigmoid(beta * x),
        ),
        where=f"Beyond ${scaled_latex} = {latex_number(threshold)}$ it is $y = x$.",
        identity_above=threshold / beta,
    )


def _gelu(operation: Operation) -> PointwiseFunction:
    if operation.get("approximate", "none") == "none":
        share = "(1 + erf({}/√2))/2"
        return PointwiseFunction(
            WrittenFunction(r"x \Phi(x)", f"{{}}·{share}", lambda x: x * _normal_share(x)),
            WrittenFunction(
                r"\left( \Phi(x) + \frac{x}{\sqrt{2 \pi}} e^{-x^2/2} \right)",
                f"{share} + {{}}·e^(−{{}}^2/2)/√(2·π)",
                lambda x: _normal_share(x) + x * _normal_density(x),
            ),
            where=r"$\Phi(x) = \frac{1}{2} \left( 1 + \text{erf}(x / \sqrt{2}) \right)$.",
        )
    t = "tanh(√(2/π)·({} + 0.044715·{}^3))"
    return PointwiseFunction(
        WrittenFunction(
            r"\frac{x}{2} (1 + t)", f"{{}}/2·(1 + {t})", lambda x: 0.5 * x * (1 + _gelu_tanh(x))
        ),
        WrittenFunction(
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

# A learned slope, and gates -----------------------------------------------------------------------


def _slope_places(shape: Shape, weight: Shape, position: Position) -> Position:
    return (0,) if weight == (1,) or len(shape) < 2 else (position[1],)


def _prelu_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    x, weight = float(captured.operands["x"][position]), captured.operands["w"]
    place = _slope_places(captured.output.shape, weight.shape, position)
    groups = (
        product(derived_constant(r"\max(x, 0)", max(x, 0.0), "max({}, 0)", x)),
        product(
            single("w", weight, place),
            derived_constant(r"\min(x, 0)", min(x, 0.0), "min({}, 0)", x),
        ),
    )
    actual = float(captured.output[position])
    return (sum_value(captured, indexed("y", position), groups, actual),)


def _prelu_gradient(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
    shape, weight = captured.output.shape, captured.operands["w"]
    array = captured.operands["x"]
    if symbol == "x":
        x = float(array[position])
        slope = single("w", weight, _slope_places(shape, weight.shape, position))
        dl_dy = single(DL_DY, captured.dl_dy, position)
        groups: tuple[Terms, ...] = (
            product(dl_dy, derived_constant(IS_POSITIVE, float(x > 0), "[{} > 0]", x)),
            product(
                dl_dy,
                slope,
                derived_constant(r"\left[ x \le 0 \right]", float(not x > 0), "[{} ≤ 0]", x),
            ),
        )
    else:
        where = every_place(shape)
        if len(weight) > 1:
            where = where[where[:, 1] == position[0]]
        read = array[tuple(where.T)]
        below = derived(Factor(r"\min(x, 0)", np.minimum(read, 0.0), where), "min({}, 0)", read)
        groups = (product(gathered(DL_DY, captured.dl_dy, where), below),)
    name = indexed(f"dL/d{symbol}", position)
    return (sum_value(captured, name, groups, captured.gradient_at(symbol, position)),)


def _prelu_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    each = "for all channels" if operation.shapes["w"] == (1,) else "for each channel"
    return (
        GeneralFormula("y", r"y = \max(x, 0) + w \min(x, 0)", f"{EACH} There is one $w$ {each}."),
        GeneralFormula(
            "dL/dx",
            rf"{DL_DX} = {DL_DY} \left( {IS_POSITIVE} + w \left[ x \le 0 \right] \right)",
            _BRACKET,
        ),
        GeneralFormula(
            "dL/dw",
            rf"\frac{{\partial L}}{{\partial w}} = \sum {DL_DY} \min(x, 0)",
            "The sum is over all positions that have this $w$.",
        ),
    )


def _prelu_first(operation: Operation, symbol: str, position: Position) -> Position:
    if symbol == "x":
        return position
    return _slope_places(operation.output_shape, operation.shapes["w"], position)


def _gate_dim(operation: Operation) -> int:
    return operation.get("dim", -1) % len(operation.output_shape)


def _halves(operation: Operation, position: Position) -> tuple[Position, Position]:
    """Return the places of a and b that make the output at this position."""
    dim = _gate_dim(operation)
    half = operation.output_shape[dim]
    index = position[dim] % half
    place = (*position[:dim], index), position[dim + 1 :]
    return (*place[0], *place[1]), (*position[:dim], index + half, *place[1])


def _glu_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    a, b = _halves(captured.operation, position)
    x = captured.operands["x"]
    gate = float(x[b])
    open_share = derived_constant(r"\sigma(b)", _sigmoid(gate), _SIGMOID, gate)
    actual = float(captured.output[position])
    terms = product(single("a", x, a), open_share)
    return (sum_value(captured, indexed("y", position), (terms,), actual),)


def _glu_gradient(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
    a, b = _halves(captured.operation, position)
    x = captured.operands["x"]
    gate, dl_dy = float(x[b]), single(DL_DY, captured.dl_dy, a)
    if position == a:
        factors = (derived_constant(r"\sigma(b)", _sigmoid(gate), _SIGMOID, gate),)
    else:
        slope = derived_constant(
            r"\sigma(b) (1 - \sigma(b))",
            _sigmoid(gate) * _sigmoid(-gate),
            f"{_SIGMOID}·(1 − {_SIGMOID})",
            *(gate, gate),
        )
        factors = (single("a", x, a), slope)
    actual = captured.gradient_at("x", position)
    groups = (product(dl_dy, *factors),)
    return (sum_value(captured, indexed("dL/dx", position), groups, actual),)


def _glu_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    dl_da, dl_db = (rf"\frac{{\partial L}}{{\partial {half}}}" for half in "ab")
    where = (
        f"$a$ is the first half of the input along dimension {_gate_dim(operation)}, $b$ the "
        rf"second; $\sigma(b) = \frac{{1}}{{1 + e^{{-b}}}}$."
    )
    return (
        GeneralFormula("y", r"y = a \sigma(b)", where),
        GeneralFormula("dL/dx", rf"{dl_da} = {DL_DY} \sigma(b)", "Of the first half."),
        GeneralFormula(
            "dL/dx", rf"{dl_db} = {DL_DY} a \sigma(b) (1 - \sigma(b))", "Of the second half."
        ),
    )


POINTWISE: dict[str, Explainer] = {
    "relu": Explainer(_relu_formulas, _relu_output, where_used(_relu_gradient)),
    "sigmoid": _curve(
        WrittenFunction(r"\sigma(x)", _SIGMOID, _sigmoid),
        WrittenFunction(
            r"\sigma(x) (1 - \sigma(x))",
            f"{_SIGMOID}·(1 − {_SIGMOID})",
            lambda x: _sigmoid(x) * _sigmoid(-x),
        ),
        _SIGMOID_WHERE,
    ),
    "tanh": _curve(
        WrittenFunction(r"\tanh(x)", "tanh({})", math.tanh),
        WrittenFunction(r"(1 - \tanh^2(x))", "1 − tanh({})^2", lambda x: 1 - math.tanh(x) ** 2),
    ),
    "silu": _curve(
        WrittenFunction(r"x \sigma(x)", "{}/(1 + e^(−{}))", lambda x: x * _sigmoid(x)),
        WrittenFunction(
            r"\sigma(x) \left( 1 + x (1 - \sigma(x)) \right)",
            f"{_SIGMOID}·(1 + {{}}·(1 − {_SIGMOID}))",
            lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
        ),
        _SIGMOID_WHERE,
    ),
    "mish": _curve(
        WrittenFunction(
            r"x \tanh(\ln(1 + e^x))", f"{{}}·{_MISH}", lambda x: x * math.tanh(_softplus_of(x))
        ),
        WrittenFunction(
            r"\left( t + x (1 - t^2) \sigma(x) \right)",
            f"{_MISH} + {{}}·(1 − {_MISH}^2)/(1 + e^(−{{}}))",
            _mish_slope,
        ),
        rf"Of its slope, $t = \tanh(\ln(1 + e^x))$ and {_SIGMOID_WHERE}",
    ),
    "relu6": _explainer(lambda operation: _clamped(0.0, 6.0)),
    "hardtanh": _explainer(_hardtanh),
    "hardsigmoid": _curve(
        WrittenFunction(
            r"\min(\max(x + 3, 0), 6) / 6",
            "min(max({} + 3, 0), 6)/6",
            lambda x: min(max(x + 3, 0.0), 6.0) / 6,
        ),
        WrittenFunction(
            r"\left[ -3 \lt x \lt 3 \right] \frac{1}{6}",
            "[−3 < {} < 3]/6",
            lambda x: float(-3 < x < 3) / 6,
        ),
    ),
    "hardswish": _curve(
        WrittenFunction(
            r"x \min(\max(x + 3, 0), 6) / 6",
            "{}·min(max({} + 3, 0), 6)/6",
            lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
        ),
        WrittenFunction(
            r"\left( \left[ x \ge 3 \right] + "
            r"\left[ -3 \lt x \lt 3 \right] \frac{2 x + 3}{6} \right)",
            "[{} ≥ 3] + [−3 < {} < 3]·(2·{} + 3)/6",
            lambda x: 1.0 if x >= 3 else (2 * x + 3) / 6 if x > -3 else 0.0,
        ),
    ),
    "leaky_relu": _explainer(_leaky_relu),
    "elu": _explainer(_elu),
    "celu": _explainer(_celu),
    "selu": _explainer(lambda operation: _SELU),
    "softplus": _explainer(_softplus),
    "gelu": _explainer(_gelu),
    "prelu": Explainer(_prelu_formulas, _prelu_output, where_used(_prelu_gradient), _prelu_first),
    "glu": Explainer(
        _glu_formulas,
        _glu_output,
        where_used(_glu_gradient),
        lambda operation, symbol, position: _halves(operation, position)[0],
    ),
}
