"""Interpolation: each output is the nearest input, or lies between two along each dimension."""

from dataclasses import replace

import numpy as np

from layerscope.explain import notation
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.factors import derived
from layerscope.explain.families.windows import spatial_dims, spatial_shape
from layerscope.explain.linear_maps import Along, ListedRows, Part, Selected, linear_explainer
from layerscope.explain.notation import at, gradient, spaced
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import Factor, Floats, Indices


def _is_nearest(operation: Operation) -> bool:
    return "nearest" in operation.name


def _step(operation: Operation, dim: int, size: int, num_outputs: int) -> float:
    """Return how far the inputs of two outputs are apart."""
    factors = operation.get("scale_factors")
    return 1 / factors[dim] if factors else size / num_outputs


def _nearest(operation: Operation, dim: int, size: int, num_outputs: int) -> Indices:
    """Return the input of each output; torch finds it in float32."""
    step = np.float32(_step(operation, dim, size, num_outputs))
    outputs = np.arange(num_outputs, dtype=np.float32)
    if "exact" in operation.name:
        outputs += np.float32(0.5)
    return np.minimum(np.floor(outputs * step).astype(np.int64), size - 1)


def _between(operation: Operation, dim: int, size: int, num_outputs: int) -> tuple[Indices, Floats]:
    """Return of each output the first of its two inputs, and the share of the second."""
    outputs = np.arange(num_outputs, dtype=np.float64)
    if operation.get("align_corners"):
        read = outputs * ((size - 1) / (num_outputs - 1) if num_outputs > 1 else 0.0)
    else:
        step = _step(operation, dim, size, num_outputs)
        read = np.maximum(step * (outputs + 0.5) - 0.5, 0.0)
    first = np.minimum(np.floor(read).astype(np.int64), size - 1)
    return first, np.clip(read - first, 0.0, 1.0)


def _parts(operation: Operation) -> tuple[Part, ...]:
    shape, dims = operation.output_shape, spatial_dims(operation)
    sizes = spatial_shape(operation.shapes["x"], dims)
    axes: list[Along | ListedRows] = [
        Along(shape[dim], {"y": dim, "x": dim}) for dim in range(len(shape) - dims)
    ]
    for dim, (size, num_outputs) in enumerate(zip(sizes, spatial_shape(shape, dims), strict=True)):
        place, made = (len(shape) - dims + dim,), np.arange(num_outputs)
        tensors = {"y": place, "x": place}
        if _is_nearest(operation):
            read = _nearest(operation, dim, size, num_outputs)
            axes.append(ListedRows(tensors, {"y": made[:, None], "x": read[:, None]}))
            continue
        first, share = _between(operation, dim, size, num_outputs)
        read = np.stack([first, np.minimum(first + 1, size - 1)], axis=1).reshape(-1, 1)
        shares = np.stack([1 - share, share], axis=1).reshape(-1)
        used = shares != 0
        index = {"y": np.repeat(made, 2)[used, None], "x": read[used]}
        axes.append(ListedRows(tensors, index, share=shares[used]))
    return (Part(("x",), tuple(axes), None if _is_nearest(operation) else _share),)


def _share(captured: Captured, found: Selected) -> Factor:
    factor = Factor("a", np.prod(found.shares, axis=0))
    return derived(factor, "·".join(["{}"] * len(found.shares)), *found.shares)


def _formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    dims = spatial_dims(operation)
    image = notation.leading(operation.output_shape, dims)
    image = ("n", "c") if len(image) == 2 else image
    made = tuple(notation.output_letters(dims))
    read = tuple(notation.coordinate_letters(dims))
    y, x = at("y", *image, *made), at("x", *image, *read)
    dl_dy, dl_dx = gradient("y", *image, *made), gradient("x", *image, *read)
    legend = notation.index_legend(
        image=image[:1], channel=image[1:], output_position=made, input_position=read
    )
    readers = rf"\sum_{{{', '.join(made)}}}"
    only = "Only outputs that read this input count."
    if _is_nearest(operation):
        where = f"The input that is nearest to the output. {legend}"
        return (
            GeneralFormula("y", f"{y} = {x}", where),
            GeneralFormula("dL/dx", f"{dl_dx} = {readers} {dl_dy}", only),
        )
    where = (
        "$a$ is the product of the shares along the dimensions: of the two inputs between which "
        f"an output lies, each has the share that it is nearer by. {legend}"
    )
    over = rf"\sum_{{{', '.join(read)}}}"
    return (
        GeneralFormula("y", spaced(f"{y} = {over}", "a", x), where),
        GeneralFormula("dL/dx", spaced(f"{dl_dx} = {readers}", "a", dl_dy), only),
    )


def _refuses(operation: Operation) -> str | None:
    if "bicubic" in operation.name or "_aa" in operation.name:
        return f"the weights of {operation.name} are not written here"
    return None


INTERPOLATE = replace(linear_explainer(_parts, _formulas), refuses=_refuses)
