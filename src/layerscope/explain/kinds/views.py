"""Layers that only pass numbers on: views, and dropout."""

import numpy as np

from layerscope.dry_run import Shape
from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    derived_constant,
    input_gradient_at,
    number_at,
    output_gradient,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.kinds.elementwise import same_position, scaled_gradient
from layerscope.explain.notation import DL_DX, plain
from layerscope.explain.values import Factor, Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall


def _moved(position: Position, shape: Shape, other: Shape) -> Position:
    """The position in another shape of as many elements, in row-major order."""
    if not position:
        return (0,) * len(other)
    rank = np.ravel_multi_index(position, shape)
    return tuple(int(index) for index in np.unravel_index(rank, other)) if other else ()


def _first_input(spec: DescribedCall, position: Position) -> Position:
    return _moved(position, spec.output_shape, spec.input_shape)


def _view_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    source = _first_input(captured.spec, position)
    terms = product(single("x", captured.inputs[0], source))
    actual = number_at(captured.output, position)
    return (total(captured, indexed("y", position), (terms,), actual),)


def _view_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    spec = captured.spec
    made = _moved(position, spec.input_shape, spec.output_shape)
    terms = product(single(DL_DY, output_gradient(captured), made))
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _view_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    if spec.input_shape == spec.output_shape:
        where = "Each number stays where it is."
        y, dl_dx = "y = x", f"{DL_DX} = {DL_DY}"
    else:
        where = f"Element $e$ in row-major order: {spec.input_shape} becomes {spec.output_shape}."
        y, dl_dx = "y_e = x_e", r"\frac{\partial L}{\partial x_e} = \frac{\partial L}{\partial y_e}"
    return GeneralFormula("y", y, where), GeneralFormula("dL/dx", dl_dx)


VIEW = Explainer(
    formulas=_view_formulas,
    output=_view_output,
    input_gradient=where_used("dL/dx", _view_gradient),
    first_input=_first_input,
)


_MASK = r"\frac{z}{1 - p}"


def _drops(spec: DescribedCall) -> bool:
    return bool(spec.geometry.get("training", True)) and _rate(spec) > 0


def _rate(spec: DescribedCall) -> float:
    return float(spec.geometry.get("p", 0.5))


def _kept(captured: Captured, position: Position) -> float:
    """What dropout multiplies with: 0 or 1 / (1 - p), drawn at random, so seen in what came out.

    An input of 0 gives 0 either way; its draw shows in the gradient, where there is one.
    """
    came_out = captured.output[position]
    if captured.inputs[0][position] == 0:
        came_out = input_gradient_at(captured, position) or 0.0
    rate = _rate(captured.spec)
    return 1 / (1 - rate) if came_out != 0 and rate < 1 else 0.0


def _dropout_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    if not _drops(captured.spec):
        return _view_output(captured, position)
    kept = _kept(captured, position)
    terms = product(single("x", captured.inputs[0], position), _mask(captured.spec, kept))
    note = f"It was {'kept' if kept else 'dropped'}: drawn at random."
    actual = number_at(captured.output, position)
    return (total(captured, indexed("y", position), (terms,), actual, note),)


def _dropout_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    if not _drops(captured.spec):
        return _view_gradient(captured, position)
    return scaled_gradient(captured, position, _mask(captured.spec, _kept(captured, position)))


def _mask(spec: DescribedCall, kept: float) -> Factor:
    """z / (1 - p); 0 by itself where all is dropped."""
    text = f"{int(kept != 0)}/(1 − {plain(_rate(spec))})" if _rate(spec) < 1 else "0"
    return derived_constant(_MASK, kept, text)


def _dropout_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    if not _drops(spec):
        y, dl_dx = _view_formulas(spec)
        return GeneralFormula("y", y.latex, "Nothing is dropped outside training."), dl_dx
    where = f"$z$ is 0 with probability $p = {_rate(spec):g}$, else 1, drawn anew at each step."
    return (
        GeneralFormula("y", rf"y = {_MASK} x", where),
        GeneralFormula("dL/dx", rf"{DL_DX} = {_MASK} {DL_DY}"),
    )


DROPOUT = Explainer(
    formulas=_dropout_formulas,
    output=_dropout_output,
    input_gradient=where_used("dL/dx", _dropout_gradient),
    first_input=same_position,
)
