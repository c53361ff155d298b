"""The order of a network's layers in one line, repeated runs written once."""

from collections.abc import Sequence
from itertools import pairwise

from layerscope.networks.layer_calls import DescribedCall

NAMES = {
    "conv1d": "Conv",
    "conv2d": "Conv",
    "conv3d": "Conv",
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
_LONGEST_RUN = 24  # layers of one repeated part


def pattern_line(specs: Sequence[DescribedCall]) -> str:
    """`Input → (Conv → ReLU → MaxPool) × 2 → FC`, in the order in which the layers run."""
    return " → ".join(["Input", *_folded([_name(spec) for spec in specs])])


def is_in_a_row(specs: Sequence[DescribedCall]) -> bool:
    """Tell whether each layer reads what the one before it has made, and nothing else."""
    return all(
        len(after.inputs) == 1 and after.inputs[0].is_same_memory(before.outputs[0])
        for before, after in pairwise(specs)
    )


def _name(spec: DescribedCall) -> str:
    if spec.kind == "adaptive_avg_pool" and set(spec.output_shape[2:]) == {1}:
        return "GlobalAvgPool"
    return NAMES.get(spec.kind, spec.type)


def _folded(names: Sequence[str]) -> list[str]:
    """Left to right; at each place the repetition that covers most is taken."""
    parts = []
    start = 0
    while start < len(names):
        length, times = _best_run(names, start)
        run = list(names[start : start + length])
        parts += [f"({' → '.join(_folded(run))}) × {times}"] if times > 1 else run
        start += length * times
    return parts


def _best_run(names: Sequence[str], start: int) -> tuple[int, int]:
    """(length, times) of the run from `start` that covers most; the shortest among equals."""
    best = (1, 1)
    for length in range(1, min(_LONGEST_RUN, (len(names) - start) // 2) + 1):
        run = names[start : start + length]
        times = 1
        while names[start + length * times : start + length * (times + 1)] == run:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best
