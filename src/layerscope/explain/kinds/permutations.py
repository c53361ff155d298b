"""Views that reorder dimensions: permute, transpose, movedim."""

from collections.abc import Callable, Sequence

import numpy as np

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    input_gradient_at,
    number_at,
    output_gradient,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.notation import at, gradient
from layerscope.explain.values import Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall

Order = Callable[[DescribedCall], tuple[int, ...]]  # of each dimension of the output: the input's


def _permuted(spec: DescribedCall) -> tuple[int, ...]:
    rank = len(spec.input_shape)
    return tuple(dim % rank for dim in spec.geometry["dims"])


def _transposed(spec: DescribedCall) -> tuple[int, ...]:
    order = list(range(len(spec.input_shape)))
    first, second = spec.geometry["dim0"], spec.geometry["dim1"]
    order[first], order[second] = order[second], order[first]
    return tuple(order)


def _moved(spec: DescribedCall) -> tuple[int, ...]:
    named = np.empty(range(len(spec.input_shape)))  # each dimension as long as its number
    moved = np.moveaxis(named, spec.geometry["source"], spec.geometry["destination"])
    return moved.shape


def _explainer(order: Order, needed: Sequence[str]) -> Explainer:
    def first_input(spec: DescribedCall, position: Position) -> Position:
        source = dict(zip(order(spec), position, strict=True))
        return tuple(source[dim] for dim in range(len(position)))

    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        source = first_input(captured.spec, position)
        terms = product(single("x", captured.inputs[0], source))
        actual = number_at(captured.output, position)
        return (total(captured, indexed("y", position), (terms,), actual),)

    def input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
        made = tuple(position[dim] for dim in order(captured.spec))
        terms = product(single(DL_DY, output_gradient(captured), made))
        actual = input_gradient_at(captured, position)
        return (total(captured, indexed("dL/dx", position), (terms,), actual),)

    def formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
        read = [f"a_{dim}" for dim in range(len(spec.input_shape))]
        made = [read[dim] for dim in order(spec)]
        where = f"{spec.input_shape} becomes {spec.output_shape}: every number keeps its indices, "
        where += "in another order."
        y = f"{at('y', *made)} = {at('x', *read)}"
        dl_dx = f"{gradient('x', *read)} = {gradient('y', *made)}"
        return GeneralFormula("y", y, where), GeneralFormula("dL/dx", dl_dx)

    def refuses(spec: DescribedCall) -> str | None:
        if all(name in spec.geometry for name in needed):
            return None
        return f"{spec.kind} whose dimensions are not recorded"

    return Explainer(
        formulas=formulas,
        output=output,
        input_gradient=where_used("dL/dx", input_gradient),
        first_input=first_input,
        refuses=refuses,
    )


PERMUTE = _explainer(_permuted, ("dims",))
TRANSPOSE = _explainer(_transposed, ("dim0", "dim1"))
MOVEDIM = _explainer(_moved, ("source", "destination"))
