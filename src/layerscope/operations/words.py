"""Operations in words: what autograd saves of them, and the short names of what layers compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from layerscope.operations.views import CONVERSIONS


@dataclass(frozen=True)
class SavedRole:
    """Name and description of memory that is saved beside a layer's outputs."""

    code: str
    text: str


_INDICES = SavedRole("indices", "where each maximum was: an int64 per output")
_STATISTICS = SavedRole("statistics", "mean and inverse deviation of what it normalized")
_MASK = SavedRole("mask", "which values were dropped")
_NOISE = SavedRole("noise", "which rows were dropped")
_PADDED = SavedRole("padded_input", "the input with its padding, made by an operation of its own")
_COPY = SavedRole("input_copy", "a copy of its input")
_REPEATED = SavedRole("repeated_weight", "a copy of its weight for every image")
_AUTOCAST = SavedRole("autocast_copy", "the copy in the precision that autocast chose")
_LOG = SavedRole("log_probabilities", "the logarithms of the probabilities")
_SUM = SavedRole("weight_sum", "the sum of the labels' weights")

# To whole numbers too, which have no gradient.
_CONVERSIONS = frozenset({*CONVERSIONS, "long", "int", "bool"})


def saved_role(operation: str, result: int, function: str | None) -> SavedRole | None:
    """Return the role of an operation's result that autograd saves; None if it has no name.

    Args:
        operation: base name of the operation that made it (`aten::native_batch_norm`).
        result: position among the operation's results.
        function: name of the function of torch that ran the operation.
    """
    name = operation.removeprefix("aten::").rstrip("_")
    if name == "_to_copy" and function not in _CONVERSIONS:
        return _AUTOCAST
    for applies, role in _ROLES:
        if applies(name, result, function or ""):
            return role
    return None


_Applies = Callable[[str, int, str], bool]
_ROLES: tuple[tuple[_Applies, SavedRole], ...] = (
    (
        lambda name, result, _: (
            "norm" in name
            and name.startswith(("native", "_native", "_batch", "_fused"))
            and result > 0
        ),
        _STATISTICS,
    ),
    (lambda name, result, _: "pool" in name and result == 1, _INDICES),
    (lambda name, _, function: function == "stochastic_depth", _NOISE),
    (lambda name, _, function: "dropout" in function or name == "native_dropout", _MASK),
    (lambda name, _, __: "pad" in name, _PADDED),
    (
        lambda name, _, function: function == "instance_norm" and name in ("repeat", "clone"),
        _REPEATED,
    ),
    (lambda name, result, function: function == "cross_entropy" and name == "_log_softmax", _LOG),
    (lambda name, result, function: function == "cross_entropy" and result == 1, _SUM),
    (lambda name, _, __: name in ("clone", "contiguous", "_unsafe_view"), _COPY),
)


LayerGroup = Literal["weights", "norm", "activation", "pool", "other"]

_SHORT_NAMES = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "Conv"),
    "batch_norm": "BatchNorm",
    "relu": "ReLU",
    "max_pool": "MaxPool",
    "avg_pool": "AvgPool",
    "adaptive_avg_pool": "AdaptiveAvgPool",
    "adaptive_max_pool": "AdaptiveMaxPool",
    "linear": "FC",
    "flatten": "Flatten",
    "dropout": "Dropout",
    "softmax": "Softmax",
}
_ACTIVATIONS = frozenset({"relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "softmax"})


def short_name(kind: str, output_shape: Sequence[int]) -> str | None:
    """Return what the walkthrough's patterns call a layer; None where they have no word.

    Args:
        kind: what the layer computes (`conv2d`, `batch_norm`).
        output_shape: with batch and channels.
    """
    if kind == "adaptive_avg_pool" and set(output_shape[2:]) == {1}:
        return "GlobalAvgPool"
    return _SHORT_NAMES.get(kind)


def pooled_value(kind: str) -> str | None:
    """Return what pooling takes of each window; None of other kinds of layers."""
    return {"avg": "mean", "max": "maximum"}.get(kind.removesuffix("_pool").split("_")[-1])


def group_of(kind: str) -> LayerGroup:
    """Return the group of layers that a drawing of a network shows alike."""
    if kind.startswith("conv") or kind == "linear":
        return "weights"
    if kind in ("batch_norm", "layer_norm", "group_norm"):
        return "norm"
    if kind.endswith("_pool"):
        return "pool"
    return "activation" if kind in _ACTIVATIONS else "other"
