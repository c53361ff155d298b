"""Products of matrices: fully connected layers, and products of two tensors."""

from dataclasses import replace

from layerscope.explain import notation
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.linear_maps import (
    Along,
    Part,
    batch_letters,
    linear_explainer,
    linear_formulas,
    refuse_twins,
    shared_letter,
)
from layerscope.explain.notation import sized
from layerscope.explain.operation import Operation


def _linear(operation: Operation) -> tuple[Part, ...]:
    """Return a product on the last dimension of an input with any others in front."""
    shape, last = operation.output_shape, len(operation.output_shape) - 1
    rows = tuple(Along(shape[dim], {"y": dim, "x": dim}) for dim in range(last))
    out_features, in_features = operation.shapes["w"]
    made = Along(out_features, {"y": last, "w": 0})
    read = Along(in_features, {"x": last, "w": 1})
    products = Part(("x", "w"), (*rows, made, read))
    if "b" not in operation.shapes:
        return (products,)
    over_rows = tuple(Along(shape[dim], {"y": dim}) for dim in range(last))
    return products, Part(("b",), (*over_rows, Along(out_features, {"y": last, "b": 0})))


def _linear_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    batch = notation.leading(operation.output_shape, 1)
    rows = {"image" if len(batch) == 1 else "row": batch}
    axes = (
        *batch_letters(batch),
        shared_letter("o", sized("F", "out"), "ywb"),
        shared_letter("f", sized("F", "in"), "xw"),
    )
    where = {"y": notation.index_legend(**rows, output_feature="o", input_feature="f")}
    has_bias = "b" in operation.shapes
    return linear_formulas(axes, "xw", where, has_bias=has_bias)


def _bias_dim(operation: Operation) -> int:
    return len(operation.output_shape) - 1


def _refuses_linear(operation: Operation) -> str | None:
    return None if len(operation.shapes["w"]) == 2 else "a weight of one dimension"


LINEAR = replace(
    linear_explainer(_linear, _linear_formulas), refuses=_refuses_linear, bias_dim=_bias_dim
)


def _product(operation: Operation) -> tuple[Part, ...]:
    """Return a product as torch.matmul takes it: of vectors, matrices, and repeated batches."""
    x, z = operation.shapes["x"], operation.shapes["z"]
    shape = operation.output_shape
    has_rows, has_columns = len(x) > 1, len(z) > 1
    num_batch = len(shape) - has_rows - has_columns
    axes = [
        Along(shape[dim], {"y": dim, **_batch_dims(dim - num_batch, {"x": x, "z": z})})
        for dim in range(num_batch)
    ]
    if has_rows:
        axes.append(Along(x[-2], {"y": num_batch, "x": len(x) - 2}))
    axes.append(Along(x[-1], {"x": len(x) - 1, "z": max(len(z) - 2, 0)}))
    if has_columns:
        axes.append(Along(z[-1], {"y": len(shape) - 1, "z": len(z) - 1}))
    return (Part(("x", "z"), tuple(axes)),)


def _batch_dims(from_last: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the dimension of each factor that has this one, counted from the last of the batch."""
    found = {}
    for symbol, shape in shapes.items():
        dim = len(shape) - 2 + from_last
        if len(shape) > 2 and dim >= 0 and shape[dim] != 1:
            found[symbol] = dim
    return found


def _product_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    x, z = operation.shapes["x"], operation.shapes["z"]
    has_rows, has_columns = len(x) > 1, len(z) > 1
    batch = notation.leading(operation.output_shape, has_rows + has_columns)
    axes = []
    for number, letter in enumerate(batch):
        read = _batch_dims(number - len(batch), {"x": x, "z": z})
        axes.append(shared_letter(letter, letter.replace("n", "N"), "".join(("y", *read))))
    axes += [shared_letter("i", "I", "yx")] if has_rows else []
    axes.append(shared_letter("k", "K", "xz"))
    axes += [shared_letter("j", "J", "yz")] if has_columns else []
    legend = notation.index_legend(
        batch=batch, row="i" if has_rows else "", column="j" if has_columns else "", summed="k"
    )
    sentence = f"$x$ is the first factor, $z$ the second; $K = {x[-1]}$. {legend}"
    return linear_formulas(axes, "xz", {"y": sentence})


def _refuses_product(operation: Operation) -> str | None:
    if not {"x", "z"} <= operation.shapes.keys():
        return f"{operation.name} whose factors are not recorded"
    return refuse_twins(operation)


PRODUCT = replace(
    linear_explainer(_product, _product_formulas), refuses=_refuses_product, others=("z",)
)
