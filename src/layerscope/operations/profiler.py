"""Rules for torch.profiler's `with_flops` on a CPU, which counts events of six names.

It counts every event of `aten::conv2d`, of matrix products, additions and multiplications. These
include events inside a kernel, which no dispatch mode sees: the rules here are for those. Each was
tried against the profiler of torch 2.15 on several shapes.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from layerscope.operations.family import Invocation
from layerscope.operations.products import product_flops


def _elements(value: Any) -> int:
    return prod(value.shape) if hasattr(value, "shape") else 0


def _first_operand(call: Invocation) -> int:
    return _elements(call.arguments["self"])


_FORMULAS: dict[str, Callable[[Invocation], int]] = {
    **dict.fromkeys(("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"), product_flops),
    "aten::add": _first_operand,
    "aten::mul": _first_operand,
}
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})


def _of_input(call: Invocation) -> int:
    return _elements(call.inputs[0])


def _recurrent(call: Invocation) -> int:
    """Return the count of a fused recurrent layer, which adds both biases."""
    return _elements(call.arguments["weight3"]) if call.arguments["has_biases"] else 0


def _recurrent_backward(call: Invocation) -> int:
    return _elements(call.arguments["weight4"]) if call.arguments["has_biases"] else 0


def _euclidean(call: Invocation) -> int:
    """Return the count of cdist: two products by -2, and a product with two more columns."""
    first, second = call.inputs[0].shape, call.inputs[1].shape
    return 2 * prod(first) + 2 * prod(first[:-1]) * (first[-1] + 2) * second[-2]


def _affine_grid(call: Invocation) -> int:
    batch, _, *image = call.arguments["size"]
    scaled = 0 if call.arguments["align_corners"] else 2 * sum(image)
    return scaled + 2 * batch * prod(image) * (len(image) + 1) * len(image)


def _trilinear(call: Invocation) -> int:
    """Return the count of nn.Bilinear's products, forward or for a gradient."""
    first, weight, second = (call.arguments[name].shape for name in ("i1", "i2", "i3"))
    expand = tuple(tuple(call.arguments[f"expand{n}"]) for n in (1, 2, 3))
    if expand == ((1, 3), (0,), (1, 2)):  # forward
        (n, i), (o, _, j) = first, weight
        return 2 * n * i * j * o + 2 * n * j * o
    if expand == ((2, 3), (0,), (1, 2)):
        n, (o, i, j) = first[0], weight
        return 2 * n * i * j * o + n * o
    if expand == ((1, 3), (0,), (2, 3)):
        n, (o, i, j) = first[0], weight
        return 2 * n * i * j * o + n * j * o
    (n, i), o, j = first, weight[1], second[1]
    return 2 * n * i * j * o + n * i * o


def _determinant(call: Invocation) -> int:
    return 1 + prod(call.inputs[0].shape[:-2])


def _dropout(call: Invocation) -> int:
    drops = 0 < call.arguments["p"] < 1 and call.arguments["train"] is not False
    return _of_input(call) + 1 if drops else 0


# Counts inside the kernel, by the operation's name with its overload.
_INSIDE: dict[str, Callable[[Invocation], int]] = {
    "aten::add.Scalar": _of_input,  # It calls add.Tensor.
    "aten::mul.Scalar": _of_input,
    "aten::mul_.Scalar": lambda call: 1,
    "aten::repeat": lambda call: (
        2 * len(call.arguments["repeats"]) * all(call.arguments["repeats"])
    ),
    "aten::binary_cross_entropy_with_logits": lambda call: _elements(call.arguments["pos_weight"]),
    "aten::soft_margin_loss_backward": lambda call: 2 * _elements(call.inputs[1]) + 1,
    "aten::native_dropout": _dropout,
    "aten::native_dropout_backward": lambda call: 3 * _of_input(call),
    "aten::rrelu_with_noise": lambda call: 0 if call.arguments["training"] else 1,
    "aten::rrelu_with_noise_backward": lambda call: (
        _of_input(call) * bool(call.arguments["training"])
    ),
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::mkldnn_rnn_layer_backward": _recurrent_backward,
    "aten::_euclidean_dist": _euclidean,
    "aten::affine_grid_generator": _affine_grid,
    "aten::_trilinear": _trilinear,
    "aten::_linalg_det": _determinant,
    "aten::_linalg_slogdet": _determinant,
    "aten::linalg_eig": _of_input,
    "aten::deg2rad": _of_input,
    "aten::rad2deg": _of_input,
    "aten::renorm": _of_input,
}

# Under autocast the profiler sees a product twice where one of these functions calls it directly.
_DOUBLED = frozenset(
    {
        *("mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot", "chain_matmul"),
        *("multi_dot", "linalg_multi_dot", "cov", "corrcoef", "inner"),
    }
)


def counted_again_inside(name: str, call: Invocation) -> int:
    """Return the count that the profiler repeats inside a forward kernel under autocast."""
    if name == "aten::affine_grid_generator":
        batch, _, *image = call.arguments["size"]
        return 2 * batch * prod(image) * (len(image) + 1) * len(image)
    if name == "aten::_trilinear":
        (n, i), (o, _, j) = call.arguments["i1"].shape, call.arguments["i2"].shape
        return 2 * n * i * j * o + 2 * n * j * o
    return 0


def counts_inside(name: str, base_name: str) -> bool:
    """Tell whether the profiler counts anything of an operation."""
    return base_name in _FORMULAS or name in _INSIDE


def operation_count(name: str, call: Invocation) -> int:
    """Return the profiler's count of an operation and of the events inside it.

    Args:
        name: name with the overload, such as `aten::add.Tensor`.
    """
    formula, inside = _FORMULAS.get(call.name), _INSIDE.get(name)
    return (formula(call) if formula else 0) + (inside(call) if inside else 0)


def counts_first_operand(name: str) -> bool:
    """Tell whether a function or an operation is an addition or a product of two tensors."""
    return name in ("add", "mul", "aten::add", "aten::mul")


def is_conv2d(operation: Any) -> bool:
    """Tell whether `aten::convolution` is a two-dimensional one, not transposed."""
    if operation.base_name != "aten::convolution":
        return False
    arguments = operation.arguments
    return len(arguments["weight"].shape) == 4 and not arguments["transposed"]


def is_doubled_under_autocast(function: str) -> bool:
    """Tell whether the profiler sees the products of a function twice under autocast."""
    return function in _DOUBLED
