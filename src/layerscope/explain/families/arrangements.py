"""Functions whose outputs are inputs, put elsewhere, added up or scaled.

Views and permutations, tensors put together, sums, differences and products of two tensors, means
and sums over dimensions, dropout.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import constant, derived_constant, one_over
from layerscope.explain.linear_maps import (
    Along,
    Axis,
    ListedRows,
    Part,
    RowMajor,
    ScaleFactor,
    linear_explainer,
    refuse_twins,
)
from layerscope.explain.notation import DL_DX, DL_DY, at, gradient, latex_number, plain_number
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import Factor, Position, Value

EACH = "At each position by itself."

# Views --------------------------------------------------------------------------------------------


def _row_major(operation: Operation) -> tuple[Part, ...]:
    shapes = {"y": operation.output_shape, "x": operation.shapes["x"]}
    return (Part(("x",), (RowMajor(shapes),)),)


def _view_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    before, after = operation.shapes["x"], operation.output_shape
    if before == after:
        where = "Each number stays where it is."
        y, dl_dx = "y = x", f"{DL_DX} = {DL_DY}"
    else:
        where = f"Element $e$ in row-major order: {before} becomes {after}."
        y, dl_dx = "y_e = x_e", r"\frac{\partial L}{\partial x_e} = \frac{\partial L}{\partial y_e}"
    return GeneralFormula("y", y, where), GeneralFormula("dL/dx", dl_dx)


VIEW = linear_explainer(_row_major, _view_formulas)

# Permutations -------------------------------------------------------------------------------------

Order = Callable[[Operation], tuple[int, ...]]  # of each dimension of the output: the input's


def _permuted(operation: Operation) -> tuple[int, ...]:
    rank = len(operation.output_shape)
    return tuple(dim % rank for dim in operation.arguments["dims"])


def _transposed(operation: Operation) -> tuple[int, ...]:
    order = list(range(len(operation.output_shape)))
    first, second = operation.arguments["dim0"], operation.arguments["dim1"]
    order[first], order[second] = order[second], order[first]
    return tuple(order)


def _moved(operation: Operation) -> tuple[int, ...]:
    named = np.empty(range(len(operation.output_shape)))  # each dimension as long as its number
    moved = np.moveaxis(named, operation.arguments["source"], operation.arguments["destination"])
    return moved.shape


def _permutation(order: Order, *needed: str) -> Explainer:
    def parts(operation: Operation) -> tuple[Part, ...]:
        pairs = enumerate(order(operation))
        axes = (Along(operation.output_shape[y], {"y": y, "x": x}) for y, x in pairs)
        return (Part(("x",), tuple(axes)),)

    def formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
        read = [f"a_{dim}" for dim in range(len(operation.output_shape))]
        made = [read[dim] for dim in order(operation)]
        before, after = operation.shapes["x"], operation.output_shape
        where = f"{before} becomes {after}: every number keeps its indices, in another order."
        y = f"{at('y', *made)} = {at('x', *read)}"
        dl_dx = f"{gradient('x', *read)} = {gradient('y', *made)}"
        return GeneralFormula("y", y, where), GeneralFormula("dL/dx", dl_dx)

    def refuses(operation: Operation) -> str | None:
        if all(name in operation.arguments for name in needed):
            return None
        return f"{operation.name} whose dimensions are not recorded"

    return replace(linear_explainer(parts, formulas), refuses=refuses)


PERMUTE = _permutation(_permuted, "dims")
TRANSPOSE = _permutation(_transposed, "dim0", "dim1")
MOVEDIM = _permutation(_moved, "source", "destination")

# Tensors put together -----------------------------------------------------------------------------


def _cat_dim(operation: Operation) -> int:
    return operation.get("dim", 0) % len(operation.output_shape)


def _cat(operation: Operation) -> tuple[Part, ...]:
    """Return a part for each input: none has terms but the one that an output comes from."""
    joined, shape = _cat_dim(operation), operation.output_shape
    found, start = [], 0
    for symbol, own in operation.shapes.items():
        axes: list[Axis] = [
            Along(size, {"y": dim, symbol: dim}) for dim, size in enumerate(shape) if dim != joined
        ]
        read = np.arange(own[joined])[:, None]
        axes.append(
            ListedRows({"y": (joined,), symbol: (joined,)}, {"y": start + read, symbol: read})
        )
        found.append(Part((symbol,), tuple(axes)))
        start += own[joined]
    return tuple(found)


def _cat_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    joined = _cat_dim(operation)
    sizes = ", ".join(str(shape[joined]) for shape in operation.shapes.values())
    where = f"The inputs follow each other along dimension {joined}, with sizes {sizes}."
    dl_dx = r"\frac{\partial L}{\partial x_i} = \left( \frac{\partial L}{\partial y} \right)_i"
    where_x = "Each input takes the part of the gradient that stands where it does."
    return (
        GeneralFormula("y", r"y = (x_1, x_2, \dots)", where),
        GeneralFormula("dL/dx", dl_dx, where_x),
    )


CAT = replace(linear_explainer(_cat, _cat_formulas), refuses=refuse_twins, input="x_1")

# Two tensors, or a tensor and a number ------------------------------------------------------------


def _broadcast(operation: Operation, *symbols: str) -> tuple[Axis, ...]:
    """Return the axes of tensors that are repeated to the output's shape."""
    shape, axes = operation.output_shape, []
    for dim, size in enumerate(shape):
        along = {"y": dim}
        for symbol in symbols:
            own = operation.shapes[symbol]
            if own[dim - len(shape) :][:1] not in ((), (1,)) and dim >= len(shape) - len(own):
                along[symbol] = dim - len(shape) + len(own)
        axes.append(Along(size, along))
    return tuple(axes)


def _fixed(symbol: str, value: float) -> ScaleFactor:
    factor = constant(symbol, value)
    return lambda captured, found: factor


def _numbers(operation: Operation) -> tuple[float, float]:
    """Return what the second term is multiplied by, and the number that stands for z."""
    alpha = operation.get("alpha", 1)
    return float(alpha), float(operation.get("other", 0)) if _is_number(operation) else 0.0


def _is_number(operation: Operation) -> bool:
    return isinstance(operation.get("other"), int | float)


def _sum(sign: int) -> Explainer:
    def parts(operation: Operation) -> tuple[Part, ...]:
        alpha, number_added = _numbers(operation)
        weight = sign * alpha
        first = Part(("x",), _broadcast(operation, "x"))
        if _is_number(operation):
            return first, Part((), _broadcast(operation), _fixed("c", weight * number_added))
        scale = None if weight == 1 else _fixed(latex_number(weight), weight)
        return first, Part(("z",), _broadcast(operation, "z"), scale)

    def formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
        alpha, number_added = _numbers(operation)
        if _is_number(operation):
            where = f"{EACH} $c = {latex_number(sign * alpha * number_added)}$."
            y = GeneralFormula("y", "y = x + c", where)
            return y, GeneralFormula("dL/dx", f"{DL_DX} = {_over(operation)}{DL_DY}")
        times = "" if alpha == 1 else f"{latex_number(alpha)} "
        to_z = f"{'-' * (sign < 0)}{times}{DL_DY}"
        return _two(operation, f"x {'+' if sign > 0 else '-'} {times}z", DL_DY, to_z)

    return replace(linear_explainer(parts, formulas), refuses=_refuses_two, others=("z",))


def _product() -> Explainer:
    def parts(operation: Operation) -> tuple[Part, ...]:
        if _is_number(operation):
            _, factor = _numbers(operation)
            return (Part(("x",), _broadcast(operation, "x"), _fixed("c", factor)),)
        return (Part(("x", "z"), _broadcast(operation, "x", "z")),)

    def formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
        if _is_number(operation):
            where = f"{EACH} $c = {latex_number(_numbers(operation)[1])}$."
            return (
                GeneralFormula("y", "y = c x", where),
                GeneralFormula("dL/dx", f"{DL_DX} = c {DL_DY}"),
            )
        return _two(operation, r"x \cdot z", f"{DL_DY} z", f"{DL_DY} x")

    return replace(linear_explainer(parts, formulas), refuses=_refuses_two, others=("z",))


def _over(operation: Operation) -> str:
    return "" if len(set(operation.shapes.values())) == 1 else r"\sum "


def _two(operation: Operation, y: str, to_x: str, to_z: str) -> tuple[GeneralFormula, ...]:
    over = _over(operation)
    where = "The sum is over the outputs that read the element." if over else EACH
    return (
        GeneralFormula("y", f"y = {y}", "$x$ is the first input, $z$ the second."),
        GeneralFormula("dL/dx", f"{DL_DX} = {over}{to_x}", where),
        GeneralFormula("dL/dz", rf"\frac{{\partial L}}{{\partial z}} = {over}{to_z}"),
    )


def _refuses_two(operation: Operation) -> str | None:
    if "x" not in operation.shapes or not ("z" in operation.shapes or _is_number(operation)):
        return f"{operation.name} whose two operands are not recorded"
    return refuse_twins(operation)


ADD = _sum(1)
SUB = _sum(-1)
MUL = _product()

# Means and sums -----------------------------------------------------------------------------------


def _reduced(operation: Operation) -> tuple[int, ...]:
    """Return the dimensions that are reduced; all if the call names none."""
    rank, dims = len(operation.shapes["x"]), operation.get("dim")
    if dims is None or dims in ((), []):
        return tuple(range(rank))
    return tuple(sorted(d % rank for d in ((dims,) if isinstance(dims, int) else dims)))


def _reduction(*, is_mean: bool) -> Explainer:
    def parts(operation: Operation) -> tuple[Part, ...]:
        shape, reduced = operation.shapes["x"], _reduced(operation)
        keeps = len(operation.output_shape) == len(shape)
        axes, made = [], 0
        for dim, size in enumerate(shape):
            axes.append(Along(size, {"x": dim} if dim in reduced else {"x": dim, "y": made}))
            made += keeps or dim not in reduced
        return (Part(("x",), tuple(axes), share(operation) if is_mean else None),)

    def share(operation: Operation) -> ScaleFactor:
        factor = one_over(r"\frac{1}{m}", size_of(operation))
        return lambda captured, found: factor

    def size_of(operation: Operation) -> int:
        return prod(operation.shapes["x"][dim] for dim in _reduced(operation))

    def formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
        weight = r"\frac{1}{m} " if is_mean else ""
        dims = ", ".join(map(str, _reduced(operation)))
        where = f"Over the $m = {size_of(operation)}$ elements of dimensions {dims}."
        return (
            GeneralFormula("y", rf"y = {weight}\sum x", where),
            GeneralFormula("dL/dx", f"{DL_DX} = {weight}{DL_DY}"),
        )

    def refuses(operation: Operation) -> str | None:
        return None if operation.shapes.get("x") else "a reduction of a single number"

    return replace(linear_explainer(parts, formulas), refuses=refuses)


MEAN = _reduction(is_mean=True)
SUM = _reduction(is_mean=False)

# Dropout ------------------------------------------------------------------------------------------

_MASK = r"\frac{z}{1 - p}"


def _rate(operation: Operation) -> float:
    return float(operation.get("p", 0.5))


def _drops(operation: Operation) -> bool:
    return bool(operation.get("training", True)) and _rate(operation) > 0


def _kept(captured: Captured, position: Position) -> float:
    """Return what is multiplied with: 0 or 1 / (1 - p), drawn at random, so seen in what came out.

    An input of 0 gives 0 either way; its draw shows in the gradient, where there is one.
    """
    came_out = captured.output[position]
    if captured.operands["x"][position] == 0:
        came_out = captured.gradient_at("x", position) or 0.0
    rate = _rate(captured.operation)
    return 1 / (1 - rate) if came_out != 0 and rate < 1 else 0.0


def _mask(captured: Captured, found: Any) -> Factor:
    """Return z / (1 - p); 0 by itself where all is dropped."""
    rate, kept = _rate(captured.operation), _kept(captured, tuple(found.places["y"][0]))
    text = f"{int(kept != 0)}/(1 − {plain_number(rate)})" if rate < 1 else "0"
    return derived_constant(_MASK, kept, text)


def _dropped(operation: Operation) -> tuple[Part, ...]:
    (part,) = _row_major(operation)
    return (replace(part, scale=_mask),) if _drops(operation) else (part,)


def _dropout_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    if not _drops(operation):
        y, dl_dx = _view_formulas(operation)
        return GeneralFormula("y", y.latex, "Nothing is dropped outside training."), dl_dx
    rate = _rate(operation)
    where = f"$z$ is 0 with probability $p = {rate:g}$, else 1, drawn anew at each step."
    return (
        GeneralFormula("y", rf"y = {_MASK} x", where),
        GeneralFormula("dL/dx", rf"{DL_DX} = {_MASK} {DL_DY}"),
    )


def _refuses_dropout(operation: Operation) -> str | None:
    return "alpha dropout shifts what is left" if "alpha" in operation.name else None


def _dropout() -> Explainer:
    linear = linear_explainer(_dropped, _dropout_formulas)

    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        (value,) = linear.output(captured, position)
        if not _drops(captured.operation):
            return (value,)
        kept = "kept" if _kept(captured, position) else "dropped"
        return (replace(value, note=f"It was {kept}: drawn at random."),)

    return replace(linear, output=output, refuses=_refuses_dropout)


DROPOUT = _dropout()
