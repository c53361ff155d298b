"""Fully connected layers, on the last dimension of an input with any others in front."""

import numpy as np

from layerscope.explain import notation
from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    bias_gradient,
    every_place,
    gathered,
    has_bias,
    input_gradient_at,
    output_gradient,
    parameter_gradient_at,
    places,
    product,
    single,
    total,
    weight_gradient_name,
    where_used,
)
from layerscope.explain.notation import at, batch_sum, gradient, sized, summed
from layerscope.explain.values import Indices, Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall


def _output(captured: Captured, position: Position) -> tuple[Value, ...]:
    *row, o = position
    features = np.arange(captured.spec.input_shape[-1])
    products = product(
        gathered("x", captured.inputs[0], places(*row, features)),
        gathered("w", captured.parameters["weight"], places(o, features)),
    )
    groups = (products,)
    if has_bias(captured):
        groups += (product(single("b", captured.parameters["bias"], (o,))),)
    actual = float(captured.output[position])
    return (total(captured, indexed("y", position), groups, actual),)


def _input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    *row, feature = position
    made = np.arange(captured.spec.output_shape[-1])
    terms = product(
        gathered(DL_DY, output_gradient(captured), places(*row, made)),
        gathered("w", captured.parameters["weight"], places(made, feature)),
    )
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _weight_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    o, feature = position
    rows = _rows(captured)
    terms = product(
        gathered(DL_DY, output_gradient(captured), places(rows, o)),
        gathered("x", captured.inputs[0], places(rows, feature)),
    )
    actual = parameter_gradient_at(captured, "weight", position)
    return (total(captured, weight_gradient_name(position), (terms,), actual),)


def _bias_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    return bias_gradient(captured, position, places(_rows(captured), position[0]))


def _rows(captured: Captured) -> Indices:
    return every_place(captured.spec.input_shape[:-1])


def _formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    batch = notation.leading(spec.output_shape, 1)
    over_rows = batch_sum(batch)
    rows = {"image" if len(batch) == 1 else "row": batch}
    x, dl_dy = at("x", *batch, "f"), gradient("y", *batch, "o")
    bias = " + b_o" if spec.geometry.get("bias") else ""
    formulas = (
        GeneralFormula(
            "y",
            f"{at('y', *batch, 'o')} = {summed('f', sized('F', 'in'))} {x} w_{{o, f}}{bias}",
            notation.legend(**rows, output_feature="o", input_feature="f"),
        ),
        GeneralFormula(
            "dL/dx",
            f"{gradient('x', *batch, 'f')} = {summed('o', sized('F', 'out'))} {dl_dy} w_{{o, f}}",
        ),
        GeneralFormula("dL/dw", f"{gradient('w', 'o', 'f')} = {over_rows} {dl_dy} {x}"),
    )
    if not bias:
        return formulas
    return (*formulas, GeneralFormula("dL/db", f"{gradient('b', 'o')} = {over_rows} {dl_dy}"))


LINEAR = Explainer(
    formulas=_formulas,
    output=_output,
    input_gradient=where_used("dL/dx", _input_gradient),
    first_input=lambda spec, position: (*position[:-1], 0),
    weight_gradient=where_used("dL/dw", _weight_gradient),
    bias_gradient=where_used("dL/db", _bias_gradient),
    first_weight=lambda spec, position: (position[-1], 0),
    bias=lambda spec, position: (position[-1],),
)
