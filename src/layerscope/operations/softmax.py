"""Softmax and the losses that contain one."""

from math import prod

from layerscope.operations.family import (
    Cost,
    Family,
    Invocation,
    Number,
    SizesByName,
    on_input,
    on_output,
)


def softmax_flops(**shape: Number) -> Number:
    """Return 3 FLOPs per element: an exponential, an addition to the sum and a division."""
    return 3 * prod(shape.values())


def softmax_gradient_flops(**shape: Number) -> Number:
    """Return 4 FLOPs per element of y (g - sum of g y).

    They are two products, an addition and a subtraction.
    """
    return 4 * prod(shape.values())


def cross_entropy_flops(N: Number, C: Number) -> Number:
    """Return the FLOPs of cross-entropy: 3 of log-softmax per score, and an addition per image."""
    return 3 * N * C + N


def cross_entropy_gradient_flops(N: Number, C: Number) -> Number:
    """Return the FLOPs of the gradient: per score, subtract the label and divide by N."""
    return 2 * N * C


def _score_sizes(call: Invocation) -> SizesByName:
    """Return the sizes N and C of scores (N, C, ...), or (C,) for a single image."""
    shape = call.input_shape
    num_classes = shape[min(1, len(shape) - 1)]
    return {"N": prod(shape) // num_classes, "C": num_classes}


def _softmax(name: str, function: str, operation: str) -> Family:
    return Family(
        name=name,
        functions=(function,),
        operations=(operation,),
        parameters=("input", "dim"),
        forward=on_output(softmax_flops),
        input_gradient=on_input(softmax_gradient_flops),
        settings=("dim",),
    )


FAMILIES = (
    _softmax("softmax", "softmax", "aten::_softmax"),
    _softmax("softmin", "softmin", ""),
    _softmax("log_softmax", "log_softmax", "aten::_log_softmax"),
    Family(
        name="cross_entropy",
        functions=("cross_entropy",),
        parameters=("input", "target", "weight"),
        forward=Cost(cross_entropy_flops, _score_sizes),
        input_gradient=Cost(cross_entropy_gradient_flops, _score_sizes),
    ),
)
