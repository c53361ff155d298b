"""Where branches of a network meet: sums, differences, products, and channels put together."""

from collections.abc import Callable
from itertools import combinations
from typing import Literal

import numpy as np

from layerscope.dry_run import Shape
from layerscope.explain.captured import Captured
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
from layerscope.explain.values import Factor, Indices, Position, Terms, Value, indexed
from layerscope.networks.layer_calls import DescribedCall

_DL_DZ = r"\frac{\partial L}{\partial z}"

Operation = Literal["+", "-", "·"]


def _refuses(spec: DescribedCall) -> str | None:
    if len(spec.inputs) != 2 or len(spec.arguments) != 2:
        return f"{spec.kind} of a tensor and a number or parameter, which is not recorded"
    first, second = spec.inputs
    if first.is_same_memory(second):
        return f"{spec.kind} of a tensor and itself, whose two gradients are not told apart"
    if spec.geometry.get("alpha", 1) != 1:
        return f"{spec.kind} with alpha={spec.geometry['alpha']}, whose formula is not written here"
    return None


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


def _second(captured: Captured, where: Indices) -> Factor:
    """z as these outputs read it."""
    shape = captured.inputs[1].shape
    own = where[:, where.shape[1] - len(shape) :] * (np.array(shape, dtype=np.int64) != 1)
    return gathered("z", captured.inputs[1], own)


def _groups(operation: Operation, x: Factor, z: Factor) -> tuple[Terms, ...]:
    if operation == "·":
        return (product(x, z),)
    return product(x), product(z) if operation == "+" else product(z, constant("-1", -1.0))


def _explainer(operation: Operation) -> Explainer:
    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        x = single("x", captured.inputs[0], _projected(position, captured.inputs[0].shape))
        z = single("z", captured.inputs[1], _projected(position, captured.inputs[1].shape))
        actual = number_at(captured.output, position)
        groups = _groups(operation, x, z)
        return (total(captured, indexed("y", position), groups, actual),)

    def gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
        where = _readers(position, captured.inputs[0].shape, captured.output.shape)
        dl_dy = gathered(DL_DY, output_gradient(captured), where)
        factors = (dl_dy, _second(captured, where)) if operation == "·" else (dl_dy,)
        actual = input_gradient_at(captured, position)
        return (total(captured, indexed("dL/dx", position), (product(*factors),), actual),)

    return Explainer(
        formulas=_formulas(operation),
        output=output,
        input_gradient=where_used("dL/dx", gradient),
        first_input=lambda spec, position: _projected(position, spec.input_shape),
        refuses=_refuses,
    )


def _formulas(operation: Operation) -> Callable[[DescribedCall], tuple[GeneralFormula, ...]]:
    y = {"+": "x + z", "-": "x - z", "·": r"x \cdot z"}[operation]
    to_x = f"{DL_DY} z" if operation == "·" else DL_DY
    to_z = {"+": DL_DY, "-": f"-{DL_DY}", "·": f"{DL_DY} x"}[operation]

    def formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
        shapes = spec.input_shapes
        if shapes[0] == shapes[1]:
            over, where = "", "At each position by itself."
        else:
            over, where = r"\sum ", "The sum is over the outputs that read the element."
        return (
            GeneralFormula("y", f"y = {y}", "$x$ is the first input, $z$ the second."),
            GeneralFormula("dL/dx", f"{DL_DX} = {over}{to_x}", where),
            GeneralFormula("dL/dz", f"{_DL_DZ} = {over}{to_z}"),
        )

    return formulas


ADD = _explainer("+")
SUB = _explainer("-")
MUL = _explainer("·")


def _cat_dim(spec: DescribedCall) -> int:
    return spec.geometry.get("dim", 0) % len(spec.output_shape)


def _part_of(spec: DescribedCall, position: Position) -> tuple[int, Position]:
    """Which input an output comes from, and where in it."""
    dim, index = _cat_dim(spec), position[_cat_dim(spec)]
    for number, shape in enumerate(spec.input_shapes):
        if index < shape[dim]:
            return number, (*position[:dim], index, *position[dim + 1 :])
        index -= shape[dim]
    raise AssertionError(f"{position} lies outside {spec.output_shape}")


def _cat_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    number, source = _part_of(captured.spec, position)
    terms = product(single(f"x_{{{number + 1}}}", captured.inputs[number], source))
    actual = number_at(captured.output, position)
    return (total(captured, indexed("y", position), (terms,), actual),)


def _cat_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    terms = product(single(DL_DY, output_gradient(captured), position))
    actual = input_gradient_at(captured, position)
    return (total(captured, indexed("dL/dx", position), (terms,), actual),)


def _cat_first_input(spec: DescribedCall, position: Position) -> Position:
    """In the first input, whose gradient is explained; its origin for outputs of the others."""
    number, source = _part_of(spec, position)
    return source if number == 0 else (0,) * len(position)


def _cat_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    sizes = ", ".join(str(shape[_cat_dim(spec)]) for shape in spec.input_shapes)
    where = f"The inputs follow each other along dimension {_cat_dim(spec)}, with sizes {sizes}."
    dl_dx = r"\frac{\partial L}{\partial x_i} = \left( \frac{\partial L}{\partial y} \right)_i"
    where_x = "Each input takes the part of the gradient that stands where it does."
    return (
        GeneralFormula("y", r"y = (x_1, x_2, \dots)", where),
        GeneralFormula("dL/dx", dl_dx, where_x),
    )


def _refuses_cat(spec: DescribedCall) -> str | None:
    if len(spec.inputs) != len(spec.arguments) or not spec.inputs:
        return "cat of tensors that are parameters, which are not recorded"
    if any(first.is_same_memory(second) for first, second in combinations(spec.inputs, 2)):
        return "cat of a tensor and itself, whose gradients are not told apart"
    return None


CAT = Explainer(
    formulas=_cat_formulas,
    output=_cat_output,
    input_gradient=where_used("dL/dx", _cat_gradient),
    first_input=_cat_first_input,
    refuses=_refuses_cat,
)
