"""Linear layers, matrix products, einsum and attention."""

from math import prod
from typing import Any

import numpy as np

from layerscope.operations.convolution import bias_sum_flops
from layerscope.operations.family import (
    Cost,
    Family,
    Invocation,
    Number,
    Shape,
    SizesByName,
    on_output,
)
from layerscope.operations.softmax import softmax_flops, softmax_gradient_flops


def linear_macs(rows: Number, in_features: Number, out_features: Number) -> Number:
    """Return the MACs of a linear layer: one per weight for each row.

    Args:
        rows: N, times all further dimensions of the input but the last.
    """
    return rows * in_features * out_features


def linear_flops(rows: Number, in_features: Number, out_features: Number) -> Number:
    """Return the FLOPs of forward, input gradient or weight gradient: 2 per MAC each."""
    return 2 * linear_macs(rows, in_features, out_features)


def matmul_macs(batch: Number, rows: Number, inner: Number, columns: Number) -> Number:
    """Return the MACs of a matrix product: the inner dimension for each output element."""
    return batch * rows * inner * columns


def matmul_flops(batch: Number, rows: Number, inner: Number, columns: Number) -> Number:
    """Return the FLOPs of a matrix product: 2 per MAC."""
    return 2 * matmul_macs(batch, rows, inner, columns)


def matmul_gradient_flops(batch: Number, rows: Number, inner: Number, columns: Number) -> Number:
    """Return the FLOPs of both factors' gradients, each a product with 2 per MAC."""
    return 4 * matmul_macs(batch, rows, inner, columns)


def attention_macs(
    batch: Number, queries: Number, keys: Number, E: Number, E_value: Number
) -> Number:
    """Return the MACs of attention.

    A score is a product over E for each query and key. The output is a sum of the values, weighted
    by the scores.

    Args:
        batch: N times the number of heads.
    """
    return batch * queries * keys * (E + E_value)


def attention_flops(
    batch: Number, queries: Number, keys: Number, E: Number, E_value: Number
) -> Number:
    """Return the FLOPs of attention: 2 per MAC, and 3 of softmax per score, masked or not."""
    scores = softmax_flops(batch=batch, queries=queries, keys=keys)
    return 2 * attention_macs(batch, queries, keys, E, E_value) + scores


def attention_gradient_flops(
    batch: Number, queries: Number, keys: Number, E: Number, E_value: Number
) -> Number:
    """Return the gradients' FLOPs: twice the forward's products, and 4 of softmax per score."""
    scores = softmax_gradient_flops(batch=batch, queries=queries, keys=keys)
    return 4 * attention_macs(batch, queries, keys, E, E_value) + scores


def _linear_sizes(call: Invocation) -> SizesByName:
    weight = call.arguments["weight"].shape
    return {
        "rows": prod(call.input_shape[:-1]),
        "in_features": weight[-1],
        "out_features": weight[0] if len(weight) > 1 else 1,
    }


def _fvcore_linear(call: Invocation) -> int:
    return linear_macs(**_linear_sizes(call))


# Products of two tensors, by the names of their arguments.
_FACTORS = {
    "matmul": ("input", "other"),
    "mm": ("input", "mat2"),
    "bmm": ("input", "mat2"),
    "mv": ("input", "vec"),
    "dot": ("input", "tensor"),
    "vdot": ("input", "other"),
    "addmm": ("mat1", "mat2"),
    "addmv": ("mat", "vec"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
}


def _product_sizes(first: Shape, second: Shape) -> SizesByName:
    """Return the sizes of a product from the factors' shapes, by the rules of torch.matmul."""
    left = (1, *first) if len(first) == 1 else first
    right = (*second, 1) if len(second) == 1 else second
    batch = _broadcast(left[:-2], right[:-2])
    return {"batch": prod(batch), "rows": left[-2], "inner": left[-1], "columns": right[-1]}


def _broadcast(first: Shape, second: Shape) -> Shape:
    length = max(len(first), len(second))
    pairs = zip(
        (1,) * (length - len(first)) + tuple(first),
        (1,) * (length - len(second)) + tuple(second),
        strict=True,
    )
    return tuple(b if a == 1 else a for a, b in pairs)


def _factor(call: Invocation, name: str) -> Any:
    value = call.arguments.get(name)
    return call.arguments["self"] if value is None else value


def _product(name: str, factors: tuple[str, str]) -> Family:
    def sizes(call: Invocation) -> SizesByName:
        first, second = (_factor(call, factor).shape for factor in factors)
        return _product_sizes(first, second)

    def fvcore(call: Invocation) -> int:
        return _fvcore_product(name, call, sizes(call))

    parameters = (
        factors if name in ("matmul", "mm", "bmm", "mv", "dot", "vdot") else ("input", *factors)
    )
    return Family(
        name=name,
        functions=(name,),
        operations=(f"aten::{name}",),
        parameters=parameters,
        macs=Cost(matmul_macs, sizes),
        forward=Cost(matmul_flops, sizes),
        input_gradient=Cost(matmul_gradient_flops, sizes),
        matrices=factors,
        fvcore=fvcore if name in ("matmul", "mm", "bmm", "addmm") else None,
        fvcore_beyond=lambda call: fvcore(call) - prod(sizes(call).values()),
    )


def _fvcore_product(name: str, call: Invocation, sizes: SizesByName) -> int:
    """Return the first factor's elements times the second's last size, without broadcasting."""
    if name == "matmul":
        first, second = (_factor(call, factor).shape for factor in _FACTORS["matmul"])
        return prod(first) * second[-1]
    return prod(sizes.values())


def _attention_sizes(call: Invocation) -> SizesByName:
    query, key, value = (call.arguments[name].shape for name in ("query", "key", "value"))
    return {
        "batch": prod(query[:-2]),
        "queries": query[-2],
        "keys": key[-2],
        "E": query[-1],
        "E_value": value[-1],
    }


def einsum_macs(**sizes: Number) -> Number:
    """Return the MACs of einsum: one for every combination of the indices."""
    return prod(sizes.values())


def einsum_flops(**sizes: Number) -> Number:
    """Return the FLOPs of einsum: 2 per MAC."""
    return 2 * einsum_macs(**sizes)


def einsum_gradient_flops(**sizes: Number) -> Number:
    """Return the FLOPs of both factors' gradients, each an einsum over the same indices."""
    return 4 * einsum_macs(**sizes)


def _einsum_sizes(call: Invocation) -> SizesByName:
    if not isinstance(call.arguments["equation"], str):  # Operands alternate with indices.
        return {"elements": call.output_elements}
    equation = call.arguments["equation"].replace(" ", "").partition("->")[0]
    sizes: dict[str, int] = {}
    for indices, operand in zip(equation.split(","), call.inputs, strict=True):
        names = list(indices)
        if "..." in indices:
            before, _, after = indices.partition("...")
            more = len(operand.shape) - len(before) - len(after)
            names = [*before, *(f"_{number}" for number in range(more, 0, -1)), *after]
        for name, size in zip(names, operand.shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return sizes


def _fvcore_einsum(call: Invocation) -> int:
    """Return half of numpy's count for the best order, of which numpy prints four digits."""
    equation = call.arguments["equation"].replace(" ", "")
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    named = equation.translate({ord(x): 97 + i for i, x in enumerate(letters)})
    first, last = call.inputs[0].shape, call.inputs[-1].shape
    if named == "abc,abd->acd":
        return prod(first) * last[-1]
    if named == "abc,adc->adb":
        return prod(first) * last[1]
    operands = [np.broadcast_to(np.zeros(()), operand.shape) for operand in call.inputs]
    report = np.einsum_path(named, *operands, optimize="optimal")[1]
    line = next(line for line in report.split("\n") if "optimized flop" in line.lower())
    return int(float(line.split(":")[-1]) // 2)


_ATTENTION_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_ATTENTION_KERNELS = tuple(
    f"aten::_scaled_dot_product_{kind}"
    for kind in (
        *("flash_attention", "flash_attention_for_cpu", "efficient_attention"),
        *("cudnn_attention", "fused_attention_overrideable", "attention_math"),
    )
)

FAMILIES = (
    Family(
        name="linear",
        functions=("linear",),
        parameters=("input", "weight", "bias"),
        macs=Cost(linear_macs, _linear_sizes),
        forward=Cost(linear_flops, _linear_sizes),
        input_gradient=Cost(linear_flops, _linear_sizes),
        weight_gradient=Cost(linear_flops, _linear_sizes),
        bias_gradient=on_output(bias_sum_flops),
        matrices=("input", "weight"),
        fvcore=_fvcore_linear,
        settings=("in_features", "out_features"),
        weight_settings=lambda shape, _: {"in_features": shape[-1], "out_features": shape[0]},
    ),
    *(_product(name, factors) for name, factors in _FACTORS.items()),
    Family(
        name="einsum",
        functions=("einsum",),
        parameters=("equation", "operands"),
        macs=Cost(einsum_macs, _einsum_sizes),
        forward=Cost(einsum_flops, _einsum_sizes),
        input_gradient=Cost(einsum_gradient_flops, _einsum_sizes),
        matrices=("operands",),
        fvcore=_fvcore_einsum,
        fvcore_beyond=lambda call: _fvcore_einsum(call) - prod(_einsum_sizes(call).values()),
    ),
    Family(
        name="attention",
        functions=("scaled_dot_product_attention",),
        operations=_ATTENTION_KERNELS,
        parameters=_ATTENTION_PARAMETERS,
        macs=Cost(attention_macs, _attention_sizes),
        forward=Cost(attention_flops, _attention_sizes),
        input_gradient=Cost(attention_gradient_flops, _attention_sizes),
        matrices=("query", "key", "value"),
        has_backends=True,
    ),
)


# Functions that torch's tracer decomposes: fvcore counts the linear layers inside them.
TRACED_APART = frozenset({"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"})

# Counts of the dispatcher's FLOP counter ----------------------------------------------------------


def _shapes(call: Invocation, *names: str) -> list[Shape]:
    return [_factor(call, name).shape for name in names]


def product_flops(call: Invocation) -> int:
    """Return 2 per MAC of mm, addmm, bmm and baddbmm."""
    name = call.name.removeprefix("aten::")
    factors = ("self", "mat2") if name in ("mm", "bmm") else _FACTORS[name]
    return matmul_flops(**_product_sizes(*_shapes(call, *factors)))


def _kernel_flops(call: Invocation) -> int:
    return 2 * attention_macs(**_attention_sizes(call))


def _kernel_backward_flops(call: Invocation) -> int:
    """Return the FLOPs of recomputed scores, and of two products for each of the forward's two."""
    batch, queries, keys, E, E_value = _attention_sizes(call).values()
    return 2 * batch * queries * keys * (3 * E + 2 * E_value)


DISPATCHER = {
    **dict.fromkeys(("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"), product_flops),
    **{
        f"aten::_scaled_dot_product_{kind}": _kernel_flops
        for kind in (
            *("flash_attention", "flash_attention_for_cpu", "efficient_attention"),
            "cudnn_attention",
        )
    },
    **{
        f"aten::_scaled_dot_product_{kind}_backward": _kernel_backward_flops
        for kind in (
            *("flash_attention", "flash_attention_for_cpu", "efficient_attention"),
            "cudnn_attention",
        )
    },
}
