"""What autograd keeps of a call for its backward pass, by kind.

Each rule names tensors (a storage that two calls keep counts once, for the call that allocated it)
and memory of the call's own. The rules are those of torch 2.11 to 2.15.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch

from layerscope.layers.spec import LayerSpec, TensorSpec

INDEX_BYTES = 8  # of pooling: int64


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What decides, beside the layer itself, what is kept.

    Args:
        autocast: the dtype that autocast lowers to; None where it is off.
    """

    device: str
    autocast: torch.dtype | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing that autograd holds.

    Args:
        code: `input`, `output`, `weight`; or, of the call's own memory, `indices`, `statistics`,
            `mask`, `noise`, `autocast_copy`, `input_copy`.
        tensor: the one held; None for memory of the call's own, of `num_bytes`.
        parameter: the name of the parameter that the memory is a copy of.
    """

    code: str
    tensor: TensorSpec | None = None
    num_bytes: int = 0
    parameter: str | None = None


# None: for this very call it is not known.
KeptRule = Callable[[LayerSpec, Surroundings], "tuple[Kept, ...] | None"]


def nothing(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The gradient needs no values of the forward pass."""
    return ()


def its_input(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """Before it is overwritten, where the call is in place: then a copy."""
    if spec.in_place:
        return (Kept("input_copy", num_bytes=spec.inputs[0].num_bytes),)
    return (_seen_input(spec, around),)


def _seen_input(spec: LayerSpec, around: Surroundings) -> Kept:
    """The input; its copy where autocast has the operation compute in float32."""
    image = spec.inputs[0]
    widened = image.dtype == around.autocast and spec.outputs[0].dtype is torch.float32
    if widened:
        return Kept("autocast_copy", num_bytes=image.num_elements * torch.float32.itemsize)
    return Kept("input", image)


def its_output(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """In place or not."""
    return (Kept("output", spec.outputs[0]),)


def input_or_its_result(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The input; in place, the result, from which the gradient can be told as well."""
    return its_output(spec, around) if spec.in_place else its_input(spec, around)


def conv_operands(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...] | None:
    """Input and weight, whichever of the gradients is asked for."""
    weight = weight_of(spec)
    if weight is None:
        return None
    image, padded = spec.inputs[0], _padded_elements(spec)
    if padded == image.num_elements:
        return (*_operand(image, around), *_weight(spec, weight, around))
    size = (around.autocast or image.dtype).itemsize
    padding = Kept("padded_input", num_bytes=padded * size)
    return (*_mirrored(spec, around), padding, *_weight(spec, weight, around))


def _mirrored(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """What padding by reflection or replication keeps; autocast has it compute in float32."""
    image = spec.inputs[0]
    if spec.geometry.get("padding_mode") not in ("reflect", "replicate"):
        return ()
    if around.autocast is not None and image.dtype is not torch.float32:
        size = torch.float32.itemsize
        return (Kept("autocast_copy", num_bytes=image.num_elements * size),)
    return (Kept("input", image),)


def _padded_elements(spec: LayerSpec) -> int:
    """Of what a convolution's kernel really reads, where it pads in a step of its own.

    So it does where the padding is not zeros, and where the same size needs more on one side.
    """
    geometry, shape = spec.geometry, spec.input_shape
    kernel, padding = geometry["kernel_size"], geometry["padding"]
    spans = [d * (k - 1) for k, d in zip(kernel, geometry["dilation"], strict=True)]
    extra = [0] * len(kernel)
    if geometry.get("padding_mode", "zeros") != "zeros":
        extra = [2 * p for p in padding] if isinstance(padding, tuple) else spans
        extra = [0] * len(kernel) if padding == "valid" else extra
    elif padding == "same":
        extra = [span % 2 for span in spans]
    sizes = shape[len(shape) - len(kernel) :]
    leading = prod(shape[: len(shape) - len(kernel)])
    return leading * prod(size + more for size, more in zip(sizes, extra, strict=True))


def linear_operands(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...] | None:
    """The input if the weight learns, the weight if the input needs a gradient."""
    weight = weight_of(spec)
    if weight is None:
        return None
    kept: tuple[Kept, ...] = ()
    if weight.requires_grad:
        kept += _rows(spec.inputs[0], around)
    if spec.inputs[0].requires_grad:
        kept += _weight(spec, weight, around)
    return kept


def _rows(tensor: TensorSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The input as a matrix: a copy where its strides allow no such view."""
    shape, strides = tensor.shape, tensor.strides
    is_view = all(strides[d] == strides[d + 1] * shape[d + 1] for d in range(len(shape) - 2))
    if is_view or around.autocast not in (None, tensor.dtype):
        return _operand(tensor, around)
    return (Kept("input_copy", num_bytes=tensor.num_bytes),)


def weight_of(spec: LayerSpec) -> TensorSpec | None:
    """Of a convolution or linear layer: a parameter, or whatever the operation was given.

    None where the layer computes its weight from other parameters (weight norm).
    """
    if "weight" in spec.parameters:
        return spec.parameters["weight"]
    return spec.arguments[1] if len(spec.arguments) > 1 else None


def weight_learns(spec: LayerSpec) -> bool:
    """Whether a gradient of the weight is asked for."""
    weight = weight_of(spec)
    if weight is None:
        return any(tensor.requires_grad for tensor in spec.parameters.values())
    return weight.requires_grad


def _operand(tensor: TensorSpec, around: Surroundings) -> tuple[Kept, ...]:
    if around.autocast is None or tensor.dtype in (around.autocast, torch.float64):
        return (Kept("input", tensor),)
    return (Kept("autocast_copy", num_bytes=tensor.num_elements * around.autocast.itemsize),)


def _weight(spec: LayerSpec, weight: TensorSpec, around: Surroundings) -> tuple[Kept, ...]:
    if "weight" not in spec.parameters:
        return _operand(weight, around)
    if around.autocast in (None, weight.dtype):
        return ()  # a parameter's own memory is never counted
    num_bytes = weight.num_elements * around.autocast.itemsize  # type: ignore[union-attr]
    return (Kept("autocast_copy", num_bytes=num_bytes, parameter="weight"),)


def batch_norm(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The input and, where it used the batch's, each channel's mean and inverse deviation."""
    uses_batch = spec.geometry.get("training") or not _tracks(spec)
    channels = spec.inputs[0].shape[1]
    dtype = _statistics_dtype(spec)
    if around.autocast is not None and _tracks(spec):
        dtype = torch.float32  # as are the running ones
    statistics = 2 * channels * dtype.itemsize if uses_batch else 0
    return (Kept("input", spec.inputs[0]), Kept("statistics", num_bytes=statistics))


def instance_norm(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """Batch norm over N C channels, of a contiguous input, with N copies of the weight."""
    image = spec.inputs[0]
    channels = prod(image.shape[:2])
    kept = [Kept("statistics", num_bytes=2 * channels * _statistics_dtype(spec).itemsize)]
    if "weight" in spec.parameters:
        size = spec.parameters["weight"].dtype.itemsize
        kept.append(Kept("repeated_weight", num_bytes=channels * size))
    if image.is_channels_last:
        return (Kept("input_copy", num_bytes=image.num_bytes), *kept)
    return (Kept("input", image), *kept)


def _tracks(spec: LayerSpec) -> bool:
    return bool(spec.geometry.get("track_running_stats", True))


def _statistics_dtype(spec: LayerSpec) -> torch.dtype:
    """The parameters' where there are some: of bfloat16 inputs often float32."""
    weight = spec.parameters.get("weight")
    return spec.inputs[0].dtype if weight is None else weight.dtype


def layer_norm(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The input and each normalised row's mean and inverse deviation."""
    normalized = spec.geometry["normalized_shape"]
    num_normalized = 1 if isinstance(normalized, int) else len(normalized)
    rows = prod(spec.inputs[0].shape[:-num_normalized])
    statistics = 2 * rows * _statistics_dtype(spec).itemsize
    return (Kept("input", spec.inputs[0]), Kept("statistics", num_bytes=statistics))


def group_norm(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The input and each image's and group's mean and inverse deviation."""
    rows = spec.inputs[0].shape[0] * spec.geometry["num_groups"]
    statistics = 2 * rows * _statistics_dtype(spec).itemsize
    return (Kept("input", spec.inputs[0]), Kept("statistics", num_bytes=statistics))


def max_pool(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The input, and for each output where its maximum was."""
    pooled, *indices = spec.outputs
    if indices:  # they were asked for and are an output
        return (_seen_input(spec, around), Kept("output", indices[0]))
    num_bytes = pooled.num_elements * INDEX_BYTES
    return (_seen_input(spec, around), Kept("indices", num_bytes=num_bytes))


def adaptive_avg_pool(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The input, for its shape; nothing where each map becomes one value: that is a mean."""
    return () if prod(spec.output_shape[2:]) == 1 else its_input(spec, around)


def dropout(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The mask: on a CPU in the input's dtype, on a GPU one byte an element."""
    rate = spec.geometry.get("p", 0.5)
    if spec.is_view or rate == 0:
        return ()
    size = spec.inputs[0].dtype.itemsize
    if rate == 1:
        return (Kept("mask", num_bytes=size),)
    if around.device != "cpu" and not spec.in_place:
        size = 1
    return (Kept("mask", num_bytes=spec.inputs[0].num_elements * size),)


def feature_dropout(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """A value per image and channel."""
    if spec.is_view or spec.geometry.get("p", 0.5) == 0:
        return ()
    size = spec.inputs[0].dtype.itemsize
    return (Kept("mask", num_bytes=prod(spec.inputs[0].shape[:2]) * size),)


def stochastic_depth(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """A value per image, or one for the batch."""
    if spec.is_view:
        return ()
    rows = spec.inputs[0].shape[0] if spec.geometry.get("mode", "row") == "row" else 1
    return (Kept("noise", num_bytes=rows * spec.inputs[0].dtype.itemsize),)


def factors(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """Of a product, each factor whose partner needs a gradient."""
    first, *others = _operands(spec)
    if not others:
        return ()
    second = others[0]
    kept: tuple[Kept, ...] = ()
    if second.requires_grad:
        kept += (_before(spec, first),)
    if first.requires_grad:
        kept += (Kept("input", second),)
    return kept


def _before(spec: LayerSpec, first: TensorSpec) -> Kept:
    """The first operand as it was; in place, a copy of it."""
    if spec.in_place:
        return Kept("input_copy", num_bytes=first.num_bytes)
    return Kept("input", first)


def dividend_and_divisor(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The divisor if either needs a gradient, the dividend if the divisor does."""
    first, *others = _operands(spec)
    if not others:
        return ()
    kept = (Kept("input", others[0]),)
    return (*kept, _before(spec, first)) if others[0].requires_grad else kept


def both(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """Every input that is a tensor."""
    return tuple(Kept("input", tensor) for tensor in _operands(spec))


def _operands(spec: LayerSpec) -> tuple[TensorSpec, ...]:
    return (*spec.inputs, *spec.parameters.values())


def cross_entropy(spec: LayerSpec, around: Surroundings) -> tuple[Kept, ...]:
    """The logarithms of the probabilities, the sum of the labels' weights, and the labels."""
    scores, *labels = spec.inputs
    size = scores.dtype.itemsize if around.autocast is None else torch.float32.itemsize
    return (
        Kept("log_probabilities", num_bytes=scores.num_elements * size),
        Kept("weight_sum", num_bytes=size),
        *(Kept("input", label) for label in labels),
    )
