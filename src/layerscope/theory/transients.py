"""What an operation allocates for itself and frees before it ends, by kind, on a CPU.

These are the ways of torch's own kernels and of oneDNN's convolutions in float32 (seen with torch
2.15 on a CPU with AVX-512): plain tensors go through copies in a format of channels in blocks of
16; tensors in channels_last stay as they are. oneDNN's own buffers (some KiB a thread) are not
among them. Of a kind that is not here nothing is known, and it counts as 0: what a step really
needs in passing is measured, and shown as `scratch`.
"""

from math import prod

from layerscope.layers.spec import LayerSpec, TensorSpec
from layerscope.theory.kept import INDEX_BYTES

_BLOCK = 16
_NARROW = 4  # images of fewer channels are read as they are


def forward_transient_bytes(spec: LayerSpec) -> int:
    """The most beside the outputs and what autograd keeps."""
    if spec.kind != "conv2d":
        return 0
    weight = _blocked_weight_bytes(spec)
    if spec.outputs[0].is_channels_last:
        return weight
    out = _blocked_bytes(spec.outputs[0])
    before = _operand_bytes(spec.inputs[0]) + weight + out - spec.outputs[0].num_bytes
    return max(before, out)  # at the end the blocked output stands beside its plain copy


def backward_transient_bytes(spec: LayerSpec, gradient_is_channels_last: bool) -> int:
    """The most beside the output's gradient and the gradients that it makes.

    Args:
        gradient_is_channels_last: the memory format of the output's gradient.
    """
    image = spec.inputs[0]
    if spec.kind == "batch_norm":
        return image.num_bytes
    if spec.kind == "conv2d":
        return _conv_backward(spec, image)
    if spec.kind == "max_pool" and image.is_channels_last and not gradient_is_channels_last:
        # indices and the input's gradient go through copies in the gradient's own format
        return spec.outputs[0].num_elements * INDEX_BYTES + image.num_bytes
    return 0


def _conv_backward(spec: LayerSpec, image: TensorSpec) -> int:
    weight = _blocked_weight_bytes(spec)
    if spec.outputs[0].is_channels_last:
        return 2 * weight
    out = _blocked_bytes(spec.outputs[0])
    weight_gradient = out + _operand_bytes(image) + weight - _weight_bytes(spec)
    if not image.requires_grad:
        return weight_gradient
    # the input's gradient is made first, in blocked form from blocked operands, then copied
    gradient = _blocked_bytes(image)
    parameters = sum(tensor.num_bytes for tensor in spec.parameters.values())
    input_gradient = max(out + weight + gradient - image.num_bytes, gradient) - parameters
    return max(input_gradient, weight_gradient)


def _operand_bytes(image: TensorSpec) -> int:
    return _blocked_bytes(image) if image.shape[1] >= _NARROW else 0


def _blocked_bytes(tensor: TensorSpec) -> int:
    """Its size with the channels filled up to whole blocks."""
    channels = tensor.shape[1]
    return tensor.num_bytes // max(channels, 1) * _filled(channels)


def _blocked_weight_bytes(spec: LayerSpec) -> int:
    weight = spec.parameters.get("weight")
    if weight is None or spec.geometry.get("groups", 1) > 1:
        return _weight_bytes(spec)
    channels_out, channels_in, *kernel = weight.shape
    if channels_in >= _NARROW:
        channels_in = _filled(channels_in)
    return _filled(channels_out) * channels_in * prod(kernel) * weight.dtype.itemsize


def _weight_bytes(spec: LayerSpec) -> int:
    weight = spec.parameters.get("weight")
    return 0 if weight is None else weight.num_bytes


def _filled(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK
