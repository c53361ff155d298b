"""What an operation allocates for itself and frees before it ends, by kind, on a CPU.

These are the ways of torch's own kernels and of oneDNN's convolutions in float32 (seen with torch
2.15, oneDNN 3.13, on a CPU with AVX-512): plain tensors go through copies in a format of channels
in blocks of 16; tensors in channels_last stay as they are, only their weights are reordered. Beside
the copies, a convolution has working memory of its own, which grows with the number of threads: see
`scratchpad`. Of a kind that is not here nothing is known, and it counts as 0: what a step really
needs in passing is measured, and shown as `scratch`.
"""

from layerscope.layers.spec import LayerSpec, TensorSpec
from layerscope.theory.kept import INDEX_BYTES
from layerscope.theory.scratchpad import (
    BLOCK,
    backward_data_scratchpad,
    backward_weights_scratchpad,
    filled,
    forward_scratchpad,
    is_channels_last,
    is_pointwise,
    is_small_block,
    reads_few,
)

_SMALL_BLOCK = 8


def forward_transient_bytes(spec: LayerSpec, num_threads: int) -> int:
    """The most beside the outputs and what autograd keeps."""
    if spec.kind != "conv2d":
        return 0
    image, result = spec.inputs[0], spec.outputs[0]
    scratchpad = forward_scratchpad(spec, num_threads)
    if is_channels_last(spec):
        return _weight_bytes(spec, block_out=BLOCK) + scratchpad
    reads_plain = image.shape[1] < BLOCK and not is_pointwise(spec)
    weight = _weight_bytes(spec, BLOCK, 1 if reads_plain else BLOCK)
    out = _blocked_bytes(result)
    before = out - result.num_bytes + weight + scratchpad
    if not reads_plain:
        before += _blocked_bytes(image)
    return max(before, out)  # at the end the blocked output stands beside its plain copy


def backward_transient_bytes(
    spec: LayerSpec, gradient_is_channels_last: bool, num_threads: int
) -> int:
    """The most beside the output's gradient and the gradients that it makes.

    Args:
        gradient_is_channels_last: the memory format of the output's gradient.
    """
    image = spec.inputs[0]
    if spec.kind == "batch_norm":
        return image.num_bytes
    if spec.kind == "conv2d":
        return max(
            _while_weight_gradient(spec, image, num_threads),
            _while_input_gradient(spec, image, num_threads) if image.requires_grad else 0,
        )
    if spec.kind == "max_pool" and image.is_channels_last and not gradient_is_channels_last:
        # indices and the input's gradient go through copies in the gradient's own format
        return spec.outputs[0].num_elements * INDEX_BYTES + image.num_bytes
    return 0


def _while_input_gradient(spec: LayerSpec, image: TensorSpec, num_threads: int) -> int:
    """It is made first, so the parameters' gradients do not exist yet."""
    parameters = sum(tensor.num_bytes for tensor in spec.parameters.values())
    if is_channels_last(spec):
        weight = _weight_bytes(spec, block_in=BLOCK)
        return weight + backward_data_scratchpad(spec, num_threads) - parameters
    gradient = _blocked_bytes(image)  # in blocked form from blocked operands, then copied
    weight = _weight_bytes(spec, BLOCK, BLOCK)
    before = _blocked_bytes(spec.outputs[0]) + weight + gradient - image.num_bytes
    return max(before, gradient) - parameters


def _while_weight_gradient(spec: LayerSpec, image: TensorSpec, num_threads: int) -> int:
    """It is made in blocked form, beside the bias's, and then copied."""
    block = _SMALL_BLOCK if is_small_block(spec) else BLOCK
    weight = _weight_bytes(spec, block, 1 if reads_few(spec) else block)
    plain = _weight_bytes(spec)
    before = weight + backward_weights_scratchpad(spec, num_threads) - plain
    if not is_channels_last(spec):
        operand = 0 if reads_few(spec) else _blocked_bytes(image, block)
        return before + _blocked_bytes(spec.outputs[0], block) + operand
    bias = spec.parameters.get("bias")
    # out of the blocked form into a plain one, and from there into channels_last
    return max(before, weight + plain + (0 if bias is None else bias.num_bytes))


def _blocked_bytes(tensor: TensorSpec, block: int = BLOCK) -> int:
    """Its size with the channels filled up to whole blocks."""
    channels = tensor.shape[1]
    return tensor.num_bytes // max(channels, 1) * filled(channels, block)


def _weight_bytes(spec: LayerSpec, block_out: int = 1, block_in: int = 1) -> int:
    """With its channels filled up to whole blocks, where it has no groups."""
    weight = spec.parameters.get("weight")
    if weight is None:
        return 0
    if spec.geometry.get("groups", 1) > 1:
        return weight.num_bytes
    channels_out, channels_in = weight.shape[:2]
    each = weight.num_bytes // max(channels_out * channels_in, 1)
    return filled(channels_out, block_out) * filled(channels_in, block_in) * each
