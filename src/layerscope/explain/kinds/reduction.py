"""Means and sums over whole dimensions, as `x.mean((2, 3))` pools."""

from dataclasses import dataclass
from math import prod

import numpy as np

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    gathered,
    grid,
    input_gradient_at,
    number_at,
    one_over,
    output_gradient,
    product,
    single,
    total,
    where_used,
)
from layerscope.explain.notation import DL_DX
from layerscope.explain.values import Factor, Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall


def _dims(spec: DescribedCall) -> tuple[int, ...]:
    """Those that are reduced; all if the call names none."""
    rank = len(spec.input_shape)
    dims = spec.geometry.get("dim")
    if dims is None or dims == () or dims == []:
        return tuple(range(rank))
    return tuple(sorted(d % rank for d in ((dims,) if isinstance(dims, int) else dims)))


def _source(spec: DescribedCall, position: Position) -> Position:
    """The first input of this output."""
    dims, rank = _dims(spec), len(spec.input_shape)
    if len(position) == rank:  # keepdim
        return tuple(0 if d in dims else index for d, index in enumerate(position))
    left = iter(position)
    return tuple(0 if d in dims else next(left) for d in range(rank))


def _reader(spec: DescribedCall, position: Position) -> Position:
    """The output that reads this input."""
    dims = _dims(spec)
    if len(spec.output_shape) == len(position):
        return tuple(0 if d in dims else index for d, index in enumerate(position))
    return tuple(index for d, index in enumerate(position) if d not in dims)


@dataclass(frozen=True)
class _Reduction:
    """A mean, or a sum."""

    is_mean: bool

    def _weight(self, spec: DescribedCall) -> tuple[Factor, ...]:
        if not self.is_mean:
            return ()
        size = prod(spec.input_shape[d] for d in _dims(spec))
        return (one_over(r"\frac{1}{m}", size),)

    def output(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term for each input that is reduced."""
        spec = captured.spec
        source, dims = _source(spec, position), _dims(spec)
        where = grid(
            *(
                np.arange(spec.input_shape[d]) if d in dims else np.array([index])
                for d, index in enumerate(source)
            )
        )
        terms = product(gathered("x", captured.inputs[0], where), *self._weight(spec))
        actual = number_at(captured.output, position)
        return (total(captured, indexed("y", position), (terms,), actual),)

    def input_gradient(self, captured: Captured, position: Position) -> tuple[Value, ...]:
        """One term: each input is read by one output."""
        made = _reader(captured.spec, position)
        dl_dy = single(DL_DY, output_gradient(captured), made)
        terms = product(dl_dy, *self._weight(captured.spec))
        actual = input_gradient_at(captured, position)
        return (total(captured, indexed("dL/dx", position), (terms,), actual),)

    def formulas(self, spec: DescribedCall) -> tuple[GeneralFormula, ...]:
        """y and dL/dx."""
        weight = r"\frac{1}{m} " if self.is_mean else ""
        size = prod(spec.input_shape[d] for d in _dims(spec))
        dims = ", ".join(map(str, _dims(spec)))
        where = f"Over the $m = {size}$ elements of dimensions {dims}."
        return (
            GeneralFormula("y", rf"y = {weight}\sum x", where),
            GeneralFormula("dL/dx", f"{DL_DX} = {weight}{DL_DY}"),
        )


def _explainer(reduction: _Reduction) -> Explainer:
    return Explainer(
        formulas=reduction.formulas,
        output=reduction.output,
        input_gradient=where_used("dL/dx", reduction.input_gradient),
        first_input=_source,
        refuses=_refuses,
    )


def _refuses(spec: DescribedCall) -> str | None:
    return None if spec.input_shape else "a reduction of a single number"


MEAN = _explainer(_Reduction(is_mean=True))
SUM = _explainer(_Reduction(is_mean=False))
