"""What layers compute and how much of it, as plain functions of their geometry.

FLOPs count a multiplication and an addition as one each; one MAC is both. The conventions are the
textbook's: a convolution or linear layer 2 per MAC, its bias not counted; batch norm 5 per element;
an activation 1 per element; max pooling one comparison per kernel position; average pooling 1 per
input. Each function takes integers, which gives the count, and sympy symbols, which gives the
formula; nothing here asks for a maximum or branches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

# An int, or a sympy expression.
Number = Any


@dataclass(frozen=True, slots=True)
class Formula:
    """One quantity of one call of a layer: the function and this layer's numbers for it.

    Args:
        quantity: `macs`, `forward_flops`, `input_gradient_flops`, `weight_gradient_flops`,
            `bias_gradient_flops`.
        arguments: by the parameters' names: N, C_in, H_out, k_h, ...
    """

    quantity: str
    function: Callable[..., Number]
    arguments: Mapping[str, int]

    @property
    def value(self) -> int:
        """The count."""
        return self.function(**self.arguments)


def conv_macs(
    N: Number,
    C_out: Number,
    C_in_per_group: Number,
    W_out: Number,
    k_w: Number,
    H_out: Number = 1,
    k_h: Number = 1,
    D_out: Number = 1,
    k_d: Number = 1,
) -> Number:
    """Each output element is a sum over one kernel's weights.

    Stride, padding and dilation act through the output size alone; positions of the kernel that
    lie on padding count.

    Args:
        C_in_per_group: C_in / groups; 1 for a depthwise convolution.
    """
    return N * D_out * H_out * W_out * C_out * C_in_per_group * k_d * k_h * k_w


def conv_flops(**geometry: Number) -> Number:
    """Forward, input gradient and weight gradient alike: 2 per MAC."""
    return 2 * conv_macs(**geometry)


def conv_transpose_macs(
    N: Number,
    C_in: Number,
    C_out_per_group: Number,
    W_in: Number,
    k_w: Number,
    H_in: Number = 1,
    k_h: Number = 1,
    D_in: Number = 1,
    k_d: Number = 1,
) -> Number:
    """Each input element is spread over one kernel's weights; what the padding cuts off counts."""
    return N * D_in * H_in * W_in * C_in * C_out_per_group * k_d * k_h * k_w


def conv_transpose_flops(**geometry: Number) -> Number:
    """Forward, input gradient and weight gradient alike: 2 per MAC."""
    return 2 * conv_transpose_macs(**geometry)


def linear_macs(rows: Number, in_features: Number, out_features: Number) -> Number:
    """Each of the `rows` (N, or N times every further dimension) meets each weight once."""
    return rows * in_features * out_features


def linear_flops(rows: Number, in_features: Number, out_features: Number) -> Number:
    """Forward, input gradient and weight gradient alike: 2 per MAC."""
    return 2 * linear_macs(rows, in_features, out_features)


def bias_sum_flops(**output: Number) -> Number:
    """A bias's gradient is the sum of the output's, over everything but the channels."""
    return prod(output.values())


def norm_flops(**shape: Number) -> Number:
    """Mean 1, variance 1, normalisation 1, scale and shift 2; backward is counted alike."""
    return 5 * prod(shape.values())


def elementwise_flops(**shape: Number) -> Number:
    """One per element."""
    return prod(shape.values())


def two_per_element_flops(**shape: Number) -> Number:
    """Two per element: a product's gradient goes to both factors."""
    return 2 * prod(shape.values())


def softmax_flops(**shape: Number) -> Number:
    """An exponential, an addition to the sum and a division per element."""
    return 3 * prod(shape.values())


def softmax_gradient_flops(**shape: Number) -> Number:
    """y (g - sum of g y): two products, an addition and a subtraction per element."""
    return 4 * prod(shape.values())


def max_pool_flops(
    N: Number,
    C: Number,
    W_out: Number,
    k_w: Number,
    H_out: Number = 1,
    k_h: Number = 1,
    D_out: Number = 1,
    k_d: Number = 1,
) -> Number:
    """Each output looks at every position of its window."""
    return N * C * D_out * H_out * W_out * k_d * k_h * k_w


def cross_entropy_flops(N: Number, C: Number) -> Number:
    """log-softmax's 3 per score, and an addition per image."""
    return 3 * N * C + N


def cross_entropy_gradient_flops(N: Number, C: Number) -> Number:
    """Softmax minus the label, and the division by N, per score."""
    return 2 * N * C
