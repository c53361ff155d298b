"""Losses of two tensors of one shape, with a fixed number of FLOPs per element."""

from collections.abc import Callable
from math import prod

from layerscope.operations.family import (
    Cost,
    Family,
    Invocation,
    Number,
    SizesByName,
    elementwise_flops,
    on_input,
)


def _per_element(count: int) -> Callable[..., Number]:
    def flops(**shape: Number) -> Number:
        return count * prod(shape.values())

    flops.__doc__ = f"Return {count} FLOPs per element, including the addition to the mean."
    return flops


# FLOPs per element, forward and backward.
_LOSSES = {
    "l1_loss": (3, 1),
    "mse_loss": (3, 2),
    "smooth_l1_loss": (4, 2),
    "huber_loss": (4, 2),
    "soft_margin_loss": (4, 3),
    "kl_div": (3, 1),
    "poisson_nll_loss": (4, 2),
    "gaussian_nll_loss": (6, 4),
    "binary_cross_entropy": (5, 4),
    "binary_cross_entropy_with_logits": (6, 3),
    "hinge_embedding_loss": (3, 1),
    "multilabel_margin_loss": (3, 1),
    "multi_margin_loss": (3, 1),
    "margin_ranking_loss": (4, 2),
    "cosine_embedding_loss": (7, 6),
}


def _target_sizes(call: Invocation) -> SizesByName:
    return {"targets": prod(call.inputs[1].shape)}


_NLL = Family(
    name="nll_loss",
    functions=("nll_loss", "nll_loss_nd"),
    operations=("aten::nll_loss_forward", "aten::nll_loss2d_forward"),
    parameters=("input", "target"),
    # For each target one score is added; its gradient is one number.
    forward=Cost(elementwise_flops, _target_sizes),
    input_gradient=Cost(elementwise_flops, _target_sizes),
)

FAMILIES = (
    _NLL,
    *(
        Family(
            name=name,
            functions=(name,),
            operations=(f"aten::{name}",),
            parameters=("input", "target"),
            forward=on_input(_per_element(forward)),
            input_gradient=on_input(_per_element(backward)),
        )
        for name, (forward, backward) in _LOSSES.items()
    ),
)
