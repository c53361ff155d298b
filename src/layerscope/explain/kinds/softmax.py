"""Softmax and its logarithm, along one dimension."""

import math

import numpy as np

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    constant,
    gathered,
    input_gradient_at,
    number_at,
    output_gradient,
    places,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.kinds.elementwise import same_position
from layerscope.explain.notation import gradient
from layerscope.explain.values import Factor, Floats, Indices, Position, Value, indexed
from layerscope.layers.spec import LayerSpec

MAXIMUM_NOTE = "The largest is subtracted before e is raised to it: large numbers would overflow."


def shifted_exponentials(scores: Floats, maximum: float) -> Floats:
    """e to the power of each score less the largest."""
    return np.exp(scores - maximum)


def probabilities(scores: Floats) -> Floats:
    """Softmax of a row of scores."""
    exponentials = shifted_exponentials(scores, float(np.max(scores)))
    return exponentials / math.fsum(exponentials)


def _dim(spec: LayerSpec) -> int:
    rank = len(spec.input_shape)
    dim = spec.geometry.get("dim")
    if dim is None:  # as PyTorch chooses, with a warning
        return 0 if rank in (0, 1, 3) else 1
    return dim % rank


def _row(spec: LayerSpec, position: Position) -> Indices:
    """(num_classes, num_dims), all positions that are normalised together with this one."""
    dim = _dim(spec)
    return places(*position[:dim], np.arange(spec.input_shape[dim]), *position[dim + 1 :])


def _sums(captured: Captured, position: Position) -> tuple[Value, Value]:
    """The largest score of the row, and the sum of the exponentials of all."""
    dim = _dim(captured.spec)
    where = _row(captured.spec, position)
    scores = gathered("x", captured.inputs[0], where)
    others = (*position[:dim], *position[dim + 1 :])
    key, dtype = captured.spec.key, captured.dtype
    name = indexed("max", others)
    largest = Value(name, key, "max", (product(scores),), None, dtype, MAXIMUM_NOTE)
    exponentials = shifted_exponentials(scores.values, largest.computed)
    terms = product(Factor("e^{x - M}", exponentials, where))
    return largest, total(captured, indexed("Z", others), (terms,))


def _output(captured: Captured, position: Position) -> tuple[Value, ...]:
    largest, z = _sums(captured, position)
    exponential = math.exp(captured.inputs[0][position] - largest.computed)
    where = np.array([position], dtype=np.int64)
    terms = product(
        Factor("e^{x - M}", np.array([exponential]), where),
        constant(r"\frac{1}{Z}", 1 / z.computed),
    )
    actual = number_at(captured.output, position)
    return largest, z, total(captured, indexed("y", position), (terms,), actual)


def _log_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    largest, z = _sums(captured, position)
    groups = (
        product(single("x", captured.inputs[0], position)),
        product(constant("-M", -largest.computed)),
        product(constant(r"-\ln Z", -math.log(z.computed))),
    )
    actual = number_at(captured.output, position)
    return largest, z, total(captured, indexed("y", position), groups, actual)


def _input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    where = _row(captured.spec, position)
    share = probabilities(captured.inputs[0][tuple(where.T)])
    own = position[_dim(captured.spec)]
    own_share = float(share[own])
    direct = product(single(DL_DY, output_gradient(captured), position), constant("y_c", own_share))
    through_sum = product(
        gathered(DL_DY, output_gradient(captured), where),
        Factor("y", share, where),
        constant("-y_c", -own_share),
    )
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (direct, through_sum), actual),)


def _log_input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    where = _row(captured.spec, position)
    share = probabilities(captured.inputs[0][tuple(where.T)])
    own = position[_dim(captured.spec)]
    through_sum = product(
        gathered(DL_DY, output_gradient(captured), where), constant("-p_c", -float(share[own]))
    )
    direct = product(single(DL_DY, output_gradient(captured), position))
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (direct, through_sum), actual),)


_Z = "Z = \\sum_{k=0}^{C-1} e^{x_k - M}"
_WHERE = (
    rf"With $M = \max_k x_k$ and ${_Z}$, over the $C$ classes along the layer's dimension. $M$ "
    "cancels out; without it, large numbers would overflow."
)


def _formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y_c = \frac{e^{x_c - M}}{Z}", _WHERE),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', 'c')} = {gradient('y', 'c')} y_c - y_c \sum_{{k=0}}^{{C-1}} "
            rf"{gradient('y', 'k')} y_k",
            "Every output of the row depends on every score, by their common sum $Z$.",
        ),
    )


def _log_formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y_c = x_c - M - \ln Z", _WHERE),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', 'c')} = {gradient('y', 'c')} - p_c \sum_{{k=0}}^{{C-1}} "
            rf"{gradient('y', 'k')}",
            "$p_c = e^{y_c}$ is the probability of the class.",
        ),
    )


SOFTMAX = Explainer(
    formulas=_formulas,
    output=_output,
    input_gradient=where_used("dL/dx", _input_gradient),
    first_input=same_position,
)

LOG_SOFTMAX = Explainer(
    formulas=_log_formulas,
    output=_log_output,
    input_gradient=where_used("dL/dx", _log_input_gradient),
    first_input=same_position,
)
