"""Every number of a small network's step, so that any position can be worked out by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from layerscope.explain.capture import CapturedCall, exact
from layerscope.explain.values import Floats
from layerscope.networks.layer_calls import NetworkCalls

MOST_NUMBERS = 2000


@dataclass(frozen=True, eq=False)
class Numbers:
    """One tensor.

    Args:
        layer: its key; empty for the image.
        name: `x` of the image, `w`, `b`, a buffer's name, `y`, `dL/dy`.
        array: of `x`, `y` and `dL/dy` one image's, (1, ...).
        image: the index of that image in the batch; None for what has no batch.
    """

    layer: str
    name: str
    array: Floats
    image: int | None = None


def all_numbers(
    image: Tensor, calls: Mapping[str, CapturedCall], network: NetworkCalls, number: int
) -> tuple[Numbers, ...]:
    """The image, and of each layer's first call weights, output and dL/dy; empty if they are many.

    Args:
        number: of the image in the batch.
    """
    specs = {spec.key: spec for spec in reversed(network.layers)}
    tensors = [_of_image("", "x", image, number)]
    for key, call in calls.items():
        if not specs[key].returns_input:
            tensors += _of_call(key, call, number)
    small = sum(shown.numel() for _, _, shown, _ in tensors) <= MOST_NUMBERS
    return tuple(Numbers(k, n, exact(t), i) for k, n, t, i in tensors) if small else ()


_ShownTensor = tuple[str, str, Tensor, int | None]
_SYMBOLS = {"weight": "w", "bias": "b"}


def _of_call(key: str, call: CapturedCall, number: int) -> list[_ShownTensor]:
    shown: list[_ShownTensor] = [
        (key, _SYMBOLS.get(name, name), tensor, None)
        for name, tensor in call.state.items()
        if tensor.is_floating_point() and tensor.dim()
    ]
    shown.append(_of_image(key, "y", call.output, number))
    if call.output_gradient is not None:
        shown.append(_of_image(key, "dL/dy", call.output_gradient, number))
    return shown


def _of_image(key: str, name: str, tensor: Tensor, number: int) -> _ShownTensor:
    """All of a tensor that has no such image."""
    has_image = tensor.dim() > 1 and number < len(tensor)
    return (
        (key, name, tensor[number : number + 1], number) if has_image else (key, name, tensor, None)
    )
