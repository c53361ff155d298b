"""Every kind of layer that can be explained, by the words of networks/layer_calls.py.

EXPLAINERS["my_op"] = Explainer(formulas=..., output=..., input_gradient=..., first_input=...)
"""

from layerscope.explain.explainer import Explainer
from layerscope.explain.kinds.activations import CURVES
from layerscope.explain.kinds.branches import ADD, CAT, MUL, SUB
from layerscope.explain.kinds.convolution import CONVOLUTION
from layerscope.explain.kinds.elementwise import RELU
from layerscope.explain.kinds.linear import LINEAR
from layerscope.explain.kinds.normalization import BATCH_NORM, GROUP_NORM, LAYER_NORM
from layerscope.explain.kinds.permutations import MOVEDIM, PERMUTE, TRANSPOSE
from layerscope.explain.kinds.pooling import (
    ADAPTIVE_AVG_POOL,
    ADAPTIVE_MAX_POOL,
    AVG_POOL,
    MAX_POOL,
)
from layerscope.explain.kinds.reduction import MEAN, SUM
from layerscope.explain.kinds.softmax import LOG_SOFTMAX, SOFTMAX
from layerscope.explain.kinds.transposed_convolution import TRANSPOSED_CONVOLUTION
from layerscope.explain.kinds.views import DROPOUT, VIEW
from layerscope.networks.layer_calls import DescribedCall

EXPLAINERS: dict[str, Explainer] = {
    **{f"conv{dims}d": CONVOLUTION for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": TRANSPOSED_CONVOLUTION for dims in (1, 2, 3)},
    "linear": LINEAR,
    "relu": RELU,
    **CURVES,
    "batch_norm": BATCH_NORM,
    "layer_norm": LAYER_NORM,
    "group_norm": GROUP_NORM,
    "max_pool": MAX_POOL,
    "avg_pool": AVG_POOL,
    "adaptive_avg_pool": ADAPTIVE_AVG_POOL,
    "adaptive_max_pool": ADAPTIVE_MAX_POOL,
    "softmax": SOFTMAX,
    "log_softmax": LOG_SOFTMAX,
    **dict.fromkeys(
        (
            *("identity", "flatten", "unflatten", "view", "view_as", "reshape", "reshape_as"),
            *("squeeze", "unsqueeze", "contiguous", "clone"),
        ),
        VIEW,
    ),
    "permute": PERMUTE,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), TRANSPOSE),
    **dict.fromkeys(("movedim", "moveaxis"), MOVEDIM),
    "dropout": DROPOUT,
    "feature_dropout": DROPOUT,
    "add": ADD,
    "sub": SUB,
    "mul": MUL,
    "cat": CAT,
    "mean": MEAN,
    "sum": SUM,
}


_HAVE_WEIGHTS = frozenset(
    {"linear", *(f"{name}{dims}d" for name in ("conv", "conv_transpose") for dims in (1, 2, 3))}
)


def refusal(spec: DescribedCall) -> str | None:
    """Return why there is no explanation of this call; None where there is one."""
    explainer = EXPLAINERS.get(spec.kind)
    if explainer is None:
        return f"no explanation is written for a layer of type {spec.type}"
    if spec.kind in _HAVE_WEIGHTS and "weight" not in spec.parameters:
        return "its weight is computed from others, which is not recorded"
    return explainer.refuses(spec)
