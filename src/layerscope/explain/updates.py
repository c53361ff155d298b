"""What one step of SGD and one of Adam make of one element of a parameter, with their numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layerscope.explain.capture import CapturedCall, exact
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.explanation import Update
from layerscope.explain.factors import constant, derived_constant, product
from layerscope.explain.notation import plain_number
from layerscope.explain.values import Factor, Position, Value, indexed

BETAS = (0.9, 0.999)  # torch.optim.Adam's own, as EPSILON
EPSILON = 1e-8
Parameter = Literal["weight", "bias"]
_SYMBOLS: Mapping[str, str] = {"weight": "w", "bias": "b"}


@dataclass(frozen=True, eq=False)
class _Element:
    """An element of a parameter that is updated for the first time.

    Args:
        symbol: `w` or `b`.
        value: before the step; `gradient` is what autograd gave it.
    """

    layer: str
    symbol: str
    position: Position
    value: float
    gradient: float
    dtype: torch.dtype

    def factor(self) -> Factor:
        return self._placed(self.symbol, self.value)

    def gradient_factor(self) -> Factor:
        return self._placed(rf"\frac{{\partial L}}{{\partial {self.symbol}}}", self.gradient)

    def value_of(
        self, name: str, terms: tuple[tuple[Factor, ...], ...], actual: float | None = None
    ) -> Value:
        """The sum of these products."""
        return Value(
            name=indexed(name, self.position),
            layer=self.layer,
            reduction="sum",
            groups=tuple(product(*factors) for factors in terms),
            actual=actual,
            dtype=self.dtype,
        )

    def _placed(self, symbol: str, value: float) -> Factor:
        return Factor(symbol, np.array([value]), np.array([self.position], dtype=np.int64))


def updates_of(
    call: CapturedCall, weight: Position | None, bias: Position | None, learning_rate: float
) -> tuple[Update, ...]:
    """Return the updates of the weight and the bias at these positions that got a gradient.

    The gradient is everything that the step gave the parameter, other calls of the layer included.
    """
    found: list[Update] = []
    chosen: tuple[tuple[Parameter, Position | None], ...]
    chosen = (("weight", weight), ("bias", bias))
    for parameter, position in chosen:
        if position is not None and _SYMBOLS[parameter] in call.whole_gradients:
            found += [
                _sgd(call, parameter, position, learning_rate),
                _adam(call, parameter, position, learning_rate),
            ]
    return tuple(found)


def _sgd(call: CapturedCall, parameter: Parameter, position: Position, rate: float) -> Update:
    updated, _ = _step(torch.optim.SGD, call, parameter, lr=rate)
    element = _element(call, parameter, position)
    after = element.value_of(
        f"{element.symbol}_new",
        ((element.factor(),), (_minus_rate(rate), element.gradient_factor())),
        float(updated[position]),
    )
    return Update(
        call.key, parameter, position, "sgd", rate, _sgd_formulas(element.symbol), (after,)
    )


def _adam(call: CapturedCall, parameter: Parameter, position: Position, rate: float) -> Update:
    updated, state = _step(torch.optim.Adam, call, parameter, lr=rate, betas=BETAS, eps=EPSILON)
    element = _element(call, parameter, position)
    gradient, (first, second) = element.gradient_factor(), BETAS
    m = element.value_of(
        "m",
        (
            (constant(r"\beta_1", first), constant("m_0", 0.0)),
            (_rest(r"(1-\beta_1)", first), gradient),
        ),
        float(state["exp_avg"][position]),
    )
    v = element.value_of(
        "v",
        (
            (constant(r"\beta_2", second), constant("v_0", 0.0)),
            (_rest(r"(1-\beta_2)", second), gradient, gradient),
        ),
        float(state["exp_avg_sq"][position]),
    )
    m_hat = element.value_of(
        "m_hat", ((_correction(r"\frac{1}{1-\beta_1}", first), constant("m", m.computed)),)
    )
    v_hat = element.value_of(
        "v_hat", ((_correction(r"\frac{1}{1-\beta_2}", second), constant("v", v.computed)),)
    )
    scale = derived_constant(
        r"\frac{1}{\sqrt{\hat v}+\epsilon}",
        1 / (math.sqrt(v_hat.computed) + EPSILON),
        f"1/(√({{}}) + {plain_number(EPSILON)})",
        v_hat.computed,
    )
    m_factor = derived_constant(
        r"\hat m", m_hat.computed, f"{{}}/(1 − {plain_number(first)})", m.computed
    )
    after = element.value_of(
        f"{element.symbol}_new",
        (
            (element.factor(),),
            (
                _minus_rate(rate),
                m_factor,
                scale,
            ),
        ),
        float(updated[position]),
    )
    formulas, values = _adam_formulas(element.symbol), (m, v, m_hat, v_hat, after)
    return Update(call.key, parameter, position, "adam", rate, formulas, values)


def _step(
    optimizer: type[torch.optim.Optimizer],
    call: CapturedCall,
    parameter: str,
    **arguments: object,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A copy of the parameter after torch's own first step, and the optimizer's state, exact."""
    copy = call.operands[_SYMBOLS[parameter]].clone().requires_grad_()
    copy.grad = call.whole_gradients[_SYMBOLS[parameter]].clone()
    made = optimizer([copy], **arguments)  # type: ignore[call-arg]
    made.step()
    state = {n: t.double().cpu() for n, t in made.state[copy].items() if isinstance(t, Tensor)}
    return copy.detach().double().cpu(), state


def _element(call: CapturedCall, parameter: str, position: Position) -> _Element:
    tensor = call.operands[_SYMBOLS[parameter]]
    return _Element(
        layer=call.key,
        symbol=_SYMBOLS[parameter],
        position=position,
        value=float(exact(tensor)[position]),
        gradient=float(exact(call.whole_gradients[_SYMBOLS[parameter]])[position]),
        dtype=tensor.dtype,
    )


def _minus_rate(rate: float) -> Factor:
    return constant(r"(-\eta)", -rate)


def _rest(symbol: str, beta: float) -> Factor:
    return derived_constant(symbol, 1 - beta, f"1 − {plain_number(beta)}")


def _correction(symbol: str, beta: float) -> Factor:
    """Return it for the first step, in which beta is raised to the power of 1."""
    return derived_constant(symbol, 1 / (1 - beta), f"1/(1 − {plain_number(beta)})")


def _sgd_formulas(symbol: str) -> tuple[GeneralFormula, ...]:
    gradient = rf"\frac{{\partial L}}{{\partial {symbol}}}"
    return (
        GeneralFormula(
            f"{symbol}_new",
            rf"{symbol}_{{new}} = {symbol} - \eta \cdot {gradient}",
            r"$\eta$ is the learning rate; without momentum and weight decay.",
        ),
    )


def _adam_formulas(symbol: str) -> tuple[GeneralFormula, ...]:
    gradient = rf"\frac{{\partial L}}{{\partial {symbol}}}"
    start = "$m_0 = v_0 = 0$: this is the first step."
    return (
        GeneralFormula("m", rf"m = \beta_1 \cdot m_0 + (1-\beta_1) \cdot {gradient}", start),
        GeneralFormula(
            "v", rf"v = \beta_2 \cdot v_0 + (1-\beta_2) \cdot \left({gradient}\right)^2", start
        ),
        GeneralFormula("m_hat", r"\hat m = \frac{m}{1-\beta_1^t}", "$t = 1$ in the first step."),
        GeneralFormula("v_hat", r"\hat v = \frac{v}{1-\beta_2^t}", "$t = 1$ in the first step."),
        GeneralFormula(
            f"{symbol}_new",
            rf"{symbol}_{{new}} = {symbol} - \eta \cdot "
            r"\frac{\hat m}{\sqrt{\hat v} + \epsilon}",
            rf"$\eta$ is the learning rate, $\beta_1 = {BETAS[0]}$, $\beta_2 = {BETAS[1]}$, "
            rf"$\epsilon = 10^{{{round(math.log10(EPSILON))}}}$.",
        ),
    )
