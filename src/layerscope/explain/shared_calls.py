"""The gradient of a parameter that several calls of a layer share: a part from each of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from layerscope.explain.capture import CapturedCall, exact
from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explain, Explainer
from layerscope.explain.explanation import LayerExplanation
from layerscope.explain.values import Factor, Position, Terms, Value


def with_later_calls(
    layer: LayerExplanation,
    explainer: Explainer,
    first: CapturedCall,
    later: Sequence[Captured],
) -> LayerExplanation:
    """Behind the first call's gradients those of the later ones, and the sum of all.

    Args:
        first: whose `whole_gradients` autograd's sum is.
    """
    if not later:
        return layer
    return replace(
        layer,
        weight_gradient_values=_all_calls(
            layer.weight_gradient_values,
            explainer.weight_gradient,
            later,
            layer.weight_position,
            _whole(first, "weight", layer.weight_position),
        ),
        bias_gradient_values=_all_calls(
            layer.bias_gradient_values,
            explainer.bias_gradient,
            later,
            layer.bias_position,
            _whole(first, "bias", layer.bias_position),
        ),
    )


def _whole(call: CapturedCall, parameter: str, position: Position | None) -> float | None:
    gradient = call.whole_gradients.get(parameter)
    return None if gradient is None or position is None else float(exact(gradient)[position])


def _all_calls(
    own: tuple[Value, ...],
    explain: Explain | None,
    later: Sequence[Captured],
    position: Position | None,
    actual: float | None,
) -> tuple[Value, ...]:
    if not own or explain is None or position is None:
        return own
    values, last = list(own), own[-1]
    parts = [last.computed]
    for number, captured in enumerate(later, start=2):
        found = explain(captured, position)
        values += [replace(value, name=f"{value.name}, call {number}") for value in found]
        parts.append(found[-1].computed)
    symbol = rf"\frac{{\partial L}}{{\partial {last.name.partition('[')[0].removeprefix('dL/d')}}}"
    total = Value(
        name=f"{last.name}, all calls",
        layer=last.layer,
        reduction="sum",
        groups=(Terms((Factor(symbol, np.array(parts)),), len(parts)),),
        actual=actual,
        dtype=last.dtype,
        note="One part from each call: this is what an optimizer gets.",
    )
    return (*values, total)
