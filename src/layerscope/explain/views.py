"""Layers that only pass numbers on: views, dropout, sums of branches."""

from collections.abc import Callable

import numpy as np

from layerscope.explain.captured import Captured
from layerscope.explain.elementwise import same_position, scaled_gradient
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    constant,
    every_place,
    gathered,
    input_gradient_at,
    number_at,
    output_gradient,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.notation import DL_DX
from layerscope.explain.values import Indices, Position, Value, indexed
from layerscope.layers.spec import LayerSpec, Shape


def _moved(position: Position, shape: Shape, other: Shape) -> Position:
    """The position in another shape of as many elements, in row-major order."""
    if not position:
        return (0,) * len(other)
    rank = np.ravel_multi_index(position, shape)
    return tuple(int(index) for index in np.unravel_index(rank, other)) if other else ()


def _first_input(spec: LayerSpec, position: Position) -> Position:
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


def _view_formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
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


def _drops(spec: LayerSpec) -> bool:
    return bool(spec.geometry.get("training", True)) and _rate(spec) > 0


def _rate(spec: LayerSpec) -> float:
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
    terms = product(single("x", captured.inputs[0], position), constant(_MASK, kept))
    note = f"It was {'kept' if kept else 'dropped'}: drawn at random."
    actual = number_at(captured.output, position)
    return (total(captured, indexed("y", position), (terms,), actual, note),)


def _dropout_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    if not _drops(captured.spec):
        return _view_gradient(captured, position)
    return scaled_gradient(captured, position, _MASK, _kept(captured, position))


def _dropout_formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
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


def _projected(position: Position, shape: Shape) -> Position:
    """Where a tensor of this shape, repeated to a larger one, is read."""
    last = position[len(position) - len(shape) :]
    return tuple(0 if size == 1 else index for index, size in zip(last, shape, strict=True))


def _readers(position: Position, shape: Shape, output: Shape) -> Indices:
    """(num, num_dims), the outputs that read this element of a tensor of this shape."""
    everywhere = every_place(output)
    own = everywhere[:, len(output) - len(shape) :]
    fixed = [column for column, size in enumerate(shape) if size != 1]
    wanted = np.array(position, dtype=np.int64)
    return everywhere[np.all(own[:, fixed] == wanted[fixed], axis=1)]


def _two_inputs(spec: LayerSpec) -> str | None:
    if len(spec.inputs) == 2:
        return None
    return f"{spec.kind} of a tensor and a number or parameter, which is not recorded"


def _sum_output(sign: float) -> Callable[[Captured, Position], tuple[Value, ...]]:
    def explain(captured: Captured, position: Position) -> tuple[Value, ...]:
        first, second = captured.inputs
        other = single("z", second, _projected(position, second.shape))
        signed = product(other) if sign > 0 else product(other, constant("-1", -1.0))
        groups = (product(single("x", first, _projected(position, first.shape))), signed)
        actual = number_at(captured.output, position)
        return (total(captured, indexed("y", position), groups, actual),)

    return explain


def _sum_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    where = _readers(position, captured.inputs[0].shape, captured.output.shape)
    terms = product(gathered(DL_DY, output_gradient(captured), where))
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _first_of_two(spec: LayerSpec, position: Position) -> Position:
    return _projected(position, spec.input_shape)


def _sum_formulas(sign: str) -> Callable[[LayerSpec], tuple[GeneralFormula, ...]]:
    def formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
        where = "Summed over the outputs that read it, where a tensor is repeated to fit the other."
        same = spec.input_shapes[0] == spec.input_shapes[1]
        over = "" if same else r"\sum "
        minus = "-" if sign == "-" else ""
        dl_dz = rf"\frac{{\partial L}}{{\partial z}} = {minus}{over}{DL_DY}"
        return (
            GeneralFormula("y", f"y = x {sign} z", "$x$ and $z$ are the two inputs."),
            GeneralFormula("dL/dx", f"{DL_DX} = {over}{DL_DY}", "" if same else where),
            GeneralFormula("dL/dz", dl_dz),
        )

    return formulas


def _sum_explainer(sign: str) -> Explainer:
    return Explainer(
        formulas=_sum_formulas(sign),
        output=_sum_output(-1.0 if sign == "-" else 1.0),
        input_gradient=where_used("dL/dx", _sum_gradient),
        first_input=_first_of_two,
        refuses=_two_inputs,
    )


ADD = _sum_explainer("+")
SUB = _sum_explainer("-")
