"""What one call of a layer read, returned and passed back, as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from layerscope.explain.values import Floats
from layerscope.networks.layer_calls import DescribedCall


@dataclass(frozen=True, eq=False)
class Captured:
    """One call of a layer in one training step. Arrays hold the network's own numbers exactly.

    Args:
        dtype: of the layer's output: in which it was computed.
        inputs: what it read, in the order of `spec.inputs`; taken before an in-place layer ran.
        output: what it returned (the first tensor).
        output_gradient: dL/d(output), of everything that uses it; None where L does not depend on
            it.
        input_gradients: the part of dL/d(input) that goes through this call, as autograd gives it;
            None where autograd gives none.
        parameters: `weight`, `bias`: those that the call has.
        parameter_gradients: the part that goes through this call; missing where there is none.
        buffers: `running_mean`, `running_var` before the call.
        statistics: what the framework computes on the way, by the names of the values in
            explain/normalization.py: batch norm's `mean` and `inverse_std` of a batch.
    """

    spec: DescribedCall
    dtype: torch.dtype
    inputs: tuple[Floats, ...]
    output: Floats
    output_gradient: Floats | None
    input_gradients: tuple[Floats | None, ...]
    parameters: Mapping[str, Floats]
    parameter_gradients: Mapping[str, Floats]
    buffers: Mapping[str, Floats]
    statistics: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class CapturedLoss:
    """The loss of a step, the mean over the batch.

    Args:
        kind: `cross_entropy` or `mse`.
        outputs: (N, num_classes), the network's.
        target: (N,), the class of each image.
        label_smoothing: of cross_entropy; 0 for none.
        value: L.
        gradient: dL/d(outputs), as autograd gives it.
        probabilities: (N, num_classes), the framework's softmax of the outputs in their dtype; None
            where it is not known.
    """

    kind: str
    dtype: torch.dtype
    outputs: Floats
    target: tuple[int, ...]
    label_smoothing: float
    value: float
    gradient: Floats
    probabilities: Floats | None = None
