"""Forward and backward of a CNN's layers as their formulas say: loops where they have sums.

Float64 throughout, and slow: for reading beside the formulas, and as the referee of what the
framework and the explanations give. x is a layer's input, y its output, L the loss; `dy` stands for
dL/dy, which has the shape of y. Arrays are (N, C, *spatial) with any number of spatial dimensions:
i, k and m are positions with one index per dimension, and so are the settings.
"""

from layerscope.reference.layers import (
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    conv_backward,
    conv_forward,
    linear_backward,
    linear_forward,
    relu_backward,
    relu_forward,
)
from layerscope.reference.losses import (
    cross_entropy_backward,
    cross_entropy_forward,
    mse_backward,
    mse_forward,
    softmax_backward,
    softmax_forward,
)
from layerscope.reference.pooling import (
    adaptive_avg_pool_backward,
    adaptive_avg_pool_forward,
    avg_pool_backward,
    avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from layerscope.reference.updates import AdamState, adam_step, sgd_step
from layerscope.reference.windows import (
    count_transposed,
    count_windows,
)

__all__ = [
    "AdamState",
    "BatchNormGradients",
    "adam_step",
    "adaptive_avg_pool_backward",
    "adaptive_avg_pool_forward",
    "avg_pool_backward",
    "avg_pool_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "conv_backward",
    "conv_forward",
    "count_transposed",
    "count_windows",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "linear_backward",
    "linear_forward",
    "max_pool_backward",
    "max_pool_forward",
    "mse_backward",
    "mse_forward",
    "relu_backward",
    "relu_forward",
    "sgd_step",
    "softmax_backward",
    "softmax_forward",
]
