"""What a network's figures mean: every sentence from formulas, and measured on variants of it.

`predicted` is theory/ and the reasons that reconcile/ names; `measured` are the instruments of
measure/, on the variant itself, built and run.
"""

from collections.abc import Callable

import torch
from torch import nn

from layerscope.dry_run import Shape
from layerscope.errors import UserError
from layerscope.whatif.checkpoints import checkpointing
from layerscope.whatif.findings import Figure, Finding, Said, Subject
from layerscope.whatif.insights import (
    backward_against_forward,
    dominating_layers,
    one_step,
)
from layerscope.whatif.layers import (
    depthwise_separable,
    global_pooling,
    parameter_efficiency,
)
from layerscope.whatif.memory import half_precision, optimizers
from layerscope.whatif.resolution import double_resolution
from layerscope.whatif.scaling import double_channels, one_more_block

__all__ = ["Figure", "Finding", "analyse"]

_INSIGHTS: dict[str, Callable[[Subject], Said]] = {
    "This network": one_step,
    "Where the FLOPs, the memory and the parameters are": dominating_layers,
    "Backward against forward": backward_against_forward,
    "Parameters against a fully connected layer": parameter_efficiency,
    "Global average pooling against a flatten head": global_pooling,
    "Depthwise separable convolutions": depthwise_separable,
    "What the optimizer adds": optimizers,
    "Half precision": half_precision,
    "Checkpointing": checkpointing,
    "Twice the resolution": double_resolution,
    "Twice the channels": double_channels,
    "One more block": one_more_block,
}


def analyse(
    network: nn.Module, input_shape: Shape, dtype: torch.dtype = torch.float32
) -> tuple[Finding, ...]:
    """All findings, in the order of the document. The network is copied and left as it was.

    Where one does not apply, or its variant cannot be built, the finding says why and has no
    figures. A variant that would take too long is counted and not run.

    Args:
        input_shape: with the batch, (N, C, H, W).
        dtype: of network and input.

    Raises:
        UserError: the network does not run on this input, or cannot be copied.
    """
    with torch.inference_mode(False), torch.enable_grad():
        subject = Subject(network, input_shape, dtype)
        return tuple(_found(title, insight, subject) for title, insight in _INSIGHTS.items())


def _found(title: str, insight: Callable[[Subject], Said], subject: Subject) -> Finding:
    try:
        said = insight(subject)
    except UserError as error:
        return Finding(title, f"Does not apply: {error}.")
    return Finding(title, said.text, said.figures)
