"""Softmax and its logarithm, along one dimension."""

import math

import numpy as np

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    derived,
    derived_constant,
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
from layerscope.networks.layer_calls import DescribedCall

MAXIMUM_NOTE = "The largest is subtracted before e is raised to it: large numbers would overflow."

PROBABILITY = "e^({} − {})/{}"  # of the score, the largest of the row, Z


def shifted_exponentials(scores: Floats, maximum: float) -> Floats:
    """e to the power of each score less the largest."""
    return np.exp(scores - maximum)


def exponential_factor(letter: str, scores: Factor, maximum: float) -> Factor:
    """e^(score − M) at the places of the scores.

    Args:
        letter: of the scores.
    """
    exponentials = shifted_exponentials(scores.values, maximum)
    factor = Factor(f"e^{{{letter} - M}}", exponentials, scores.places)
    return derived(factor, "e^({} − {})", scores.values, maximum)


def one_over_z(z: float) -> Factor:
    """1/Z."""
    return derived_constant(r"\frac{1}{Z}", 1 / z, "1/{}", z)


def probabilities(scores: Floats) -> Floats:
    """Softmax of a row of scores."""
    exponentials = shifted_exponentials(scores, float(np.max(scores)))
    return exponentials / math.fsum(exponentials)


def _dim(spec: DescribedCall) -> int:
    rank = len(spec.input_shape)
    dim = spec.geometry.get("dim")
    if dim is None:  # as PyTorch chooses, with a warning
        return 0 if rank in (0, 1, 3) else 1
    return dim % rank


def _row(spec: DescribedCall, position: Position) -> Indices:
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
    terms = product(exponential_factor("x", scores, largest.computed))
    return largest, total(captured, indexed("Z", others), (terms,))


def _output(captured: Captured, position: Position) -> tuple[Value, ...]:
    largest, z = _sums(captured, position)
    score = single("x", captured.inputs[0], position)
    exponential = exponential_factor("x", score, largest.computed)
    terms = product(exponential, one_over_z(z.computed))
    actual = number_at(captured.output, position)
    return largest, z, total(captured, indexed("y", position), (terms,), actual)


def _log_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    largest, z = _sums(captured, position)
    groups = (
        product(single("x", captured.inputs[0], position)),
        product(derived_constant("-M", -largest.computed, "−{}", largest.computed)),
        product(derived_constant(r"-\ln Z", -math.log(z.computed), "−ln({})", z.computed)),
    )
    actual = number_at(captured.output, position)
    return largest, z, total(captured, indexed("y", position), groups, actual)


class _Row:
    """The probabilities that are made together with one, as factors."""

    def __init__(self, captured: Captured, position: Position) -> None:
        self.places = _row(captured.spec, position)
        self._own = position[_dim(captured.spec)]
        self._scores = captured.inputs[0][tuple(self.places.T)]
        self._maximum = float(self._scores.max())
        self._z = math.fsum(shifted_exponentials(self._scores, self._maximum))

    def all(self, symbol: str) -> Factor:
        """Each at its place."""
        factor = Factor(symbol, probabilities(self._scores), self.places)
        return derived(factor, PROBABILITY, self._scores, self._maximum, self._z)

    def own(self, symbol: str) -> Factor:
        """The one, with the sign of the symbol."""
        share, score = float(probabilities(self._scores)[self._own]), self._scores[self._own]
        arguments = (float(score), self._maximum, self._z)
        if symbol.startswith("-"):
            return derived_constant(symbol, -share, f"−{PROBABILITY}", *arguments)
        return derived_constant(symbol, share, PROBABILITY, *arguments)


def _input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    row = _Row(captured, position)
    direct = product(single(DL_DY, output_gradient(captured), position), row.own("y_c"))
    through_sum = product(
        gathered(DL_DY, output_gradient(captured), row.places), row.all("y"), row.own("-y_c")
    )
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (direct, through_sum), actual),)


def _log_input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    row = _Row(captured, position)
    through_sum = product(gathered(DL_DY, output_gradient(captured), row.places), row.own("-p_c"))
    direct = product(single(DL_DY, output_gradient(captured), position))
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (direct, through_sum), actual),)


_OTHER = "c'"  # a class of the row, where c is the one that is explained
_Z = r"Z = \sum_{c'=0}^{C-1} e^{x_{c'} - M}"
_WHERE = (
    rf"With $M = \max_{{c'}} x_{{c'}}$ and ${_Z}$, over the $C$ classes along the layer's "
    "dimension. $M$ cancels out; without it, large numbers would overflow."
)


def _formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y_c = \frac{e^{x_c - M}}{Z}", _WHERE),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', 'c')} = {gradient('y', 'c')} y_c - y_c \sum_{{c'=0}}^{{C-1}} "
            rf"{gradient('y', _OTHER)} y_{{c'}}",
            "Every output of the row depends on every score, by their common sum $Z$.",
        ),
    )


def _log_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y_c = x_c - M - \ln Z", _WHERE),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', 'c')} = {gradient('y', 'c')} - p_c \sum_{{c'=0}}^{{C-1}} "
            rf"{gradient('y', _OTHER)}",
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
