"""The working memory of oneDNN's convolutions, which grows with the number of threads.

oneDNN adds up the buffers that one call needs and asks torch for one block: the scratchpad. Every
buffer takes its alignment on top of its size. Written down here for oneDNN 3.13 on a CPU with
AVX-512, in float32, with one group and kernels up to 14 wide. What is not known counts as 0: 1x1
with a stride or padding; with any stride, the input's gradient in channels_last; the weight's
gradient of a plain image of 4 to 15 channels. On other CPUs oneDNN runs other code.
"""

from collections.abc import Callable
from math import prod

import torch

from layerscope.layers.spec import LayerSpec

BLOCK = 16  # channels that oneDNN handles together: floats in one AVX-512 register
_ELEMENT = 4  # bytes
_ALIGNMENT = 128  # beside every buffer, where the code does not ask for a page
_PAGE = 4096  # also what threads wait for each other with: one page, and one for its alignment
_BARRIER = 2 * _PAGE
_ADDRESSES = 40  # bytes of an entry in the list of tiles that one small product goes through
_WIDEST = 14
_FEW = 4  # plain images of fewer channels are read as they are
_MIN_ROWS = 9  # plain tensors with more output rows than this are divided by rows too


def forward_scratchpad(spec: LayerSpec, num_threads: int) -> int:
    """For the outputs."""
    if not _is_known(spec, num_threads):
        return 0
    if not is_channels_last(spec):
        return _padded_bias(spec)
    *_, height, width = _kernel(spec)
    if spec.input_shape[1] == 1 and height * width > 1:
        return _lowered(spec, num_threads)
    return _PAGE + num_threads * _list_of_tiles(height * width)


def backward_data_scratchpad(spec: LayerSpec, num_threads: int) -> int:
    """For the input's gradient: the forward's code, called by another."""
    if not _is_known(spec, num_threads) or not is_channels_last(spec) or _stride(spec) != (1, 1):
        return 0
    return _ALIGNMENT + _PAGE + num_threads * _list_of_tiles(prod(_kernel(spec)[2:]))


def backward_weights_scratchpad(spec: LayerSpec, num_threads: int) -> int:
    """For the gradients of weight and bias: each thread's own sums, but for the first's."""
    if not _is_known(spec, num_threads) or is_small_block(spec):
        return 0
    num_images, num_others = _division(spec, num_threads)
    total = _padded_bias(spec)
    if num_images > 1:
        channels_out, channels_in, *kernel = _kernel(spec)
        if not reads_few(spec):
            channels_in = filled(channels_in)
        copy = filled(channels_out) * channels_in * prod(kernel)
        if not is_pointwise(spec):
            copy += filled(channels_out)
        total += (num_images - 1) * copy * _ELEMENT + _ALIGNMENT + _BARRIER
    if "bias" in spec.parameters:
        total += _bias_sums(spec, num_images * num_others)
    return total


def filled(channels: int, block: int = BLOCK) -> int:
    """Up to whole blocks."""
    return _ceil(channels, block) * block


def is_channels_last(spec: LayerSpec) -> bool:
    """Whether it runs so: one that is tells, where another's strides leave it open."""
    weight = spec.parameters.get("weight")
    tensors = (spec.outputs[0], spec.inputs[0], *([] if weight is None else [weight]))
    return any(tensor.is_channels_last for tensor in tensors)


def is_pointwise(spec: LayerSpec) -> bool:
    """Whether it is a product of matrices: 1x1, without stride and padding."""
    weight = spec.parameters.get("weight")
    is_one = weight is not None and weight.shape[2:] == (1, 1)
    return is_one and spec.input_shape[2:] == spec.output_shape[2:]


def reads_few(spec: LayerSpec) -> bool:
    """Whether the weight's gradient is made from an image of few channels as it is, not blocked."""
    limit = BLOCK if is_channels_last(spec) else _FEW
    return spec.input_shape[1] < limit and not is_pointwise(spec)


def is_small_block(spec: LayerSpec) -> bool:
    """Whether the weight's gradient is made by code for AVX2, in blocks of 8."""
    is_plain = not is_channels_last(spec) and not is_pointwise(spec)
    return is_plain and _FEW <= spec.input_shape[1] < BLOCK


def _is_known(spec: LayerSpec, num_threads: int) -> bool:
    """Whether it is one of the convolutions above, and torch gives it to oneDNN at all."""
    weight, image = spec.parameters.get("weight"), spec.inputs[0]
    if weight is None or spec.outputs[0].dtype != torch.float32:
        return False
    if len(image.shape) != 4 or spec.geometry.get("groups", 1) > 1 or weight.shape[3] > _WIDEST:
        return False
    kernel, num_images = weight.shape[2:], image.shape[0]
    if kernel == (1, 1) and (not is_pointwise(spec) or (num_images < 16 and num_threads == 1)):
        return False  # of one thread torch's own code is faster
    is_small = num_images == 1 and min(kernel) <= 3 and image.num_elements <= 20_480
    return image.num_elements > 0 and not is_small


def _padded_bias(spec: LayerSpec) -> int:
    """A copy of the bias, or of its gradient, with whole blocks."""
    channels = _kernel(spec)[0]
    if "bias" not in spec.parameters or channels % BLOCK == 0:
        return 0
    return filled(channels) * _ELEMENT + _ALIGNMENT


def _list_of_tiles(num_taps: int) -> int:
    """Of one thread: an entry per tap of the kernel, filled up to pages, in whole entries."""
    pages = _ceil(num_taps * _ADDRESSES, _PAGE) * _PAGE
    return _ceil(pages, _ADDRESSES) * _ADDRESSES


def _lowered(spec: LayerSpec, num_threads: int) -> int:
    """Of a single input channel: the taps take the place of the channels that it has not.

    Every thread copies an image, with a page for what it has copied. The copy is told in units of
    4096 elements: one for kernels up to 3x3 and images up to 64x64; for larger ones the least.
    """
    channels_out, _, height, width = _kernel(spec)
    weight = _ceil(filled(channels_out) * height * width, 1024) * 1024 * _ELEMENT
    image = 4096 * _ELEMENT
    each = _list_of_tiles(1) + image + _PAGE
    return 4 * _PAGE + weight + num_threads * each


def _division(spec: LayerSpec, num_threads: int) -> tuple[int, int]:
    """Among how many threads a weight gradient divides the images; and channels, each of these.

    Every division of images times blocks of output channels times blocks of input channels has a
    cost in memory: what one thread reads of both images, and 8 (1x1: 12) times the part of the
    weight that it makes. The least is taken; unless 1x1, then one with less to compute whose
    memory is within 10 %, or one with a quarter less to compute.
    """
    channels_out, channels_in, *kernel = _kernel(spec)
    block_in = channels_in if reads_few(spec) else BLOCK
    blocks_out, blocks_in = _ceil(channels_out, BLOCK), _ceil(channels_in, block_in)
    batch, most = spec.input_shape[0], spec.input_shape[0] * _most_pieces(spec)
    (pieces_in, pixels_in), (pieces_out, pixels_out) = _pieces(spec)
    weight_cost = 12 if is_pointwise(spec) else 8

    def memory(division: tuple[int, int, int]) -> int:
        images, out, into = division
        each_out, each_in = _ceil(blocks_out, out), _ceil(blocks_in, into)
        image = _ceil(batch * pieces_in, images) * each_in * block_in * pixels_in
        gradient = _ceil(batch * pieces_out, images) * each_out * BLOCK * pixels_out
        weight = each_out * each_in * prod(kernel) * block_in * BLOCK
        return image // prod(_stride(spec)) + gradient + weight_cost * weight

    def work(division: tuple[int, int, int]) -> int:
        images, out, into = division
        return _ceil(batch * pieces_out, images) * _ceil(blocks_out, out) * _ceil(blocks_in, into)

    divisions = [
        (images, out, min(num_threads // images // out, blocks_in))
        for images in range(1, min(num_threads, most) + 1)
        for out in range(1, min(num_threads // images, blocks_out) + 1)
    ]
    best = min(reversed(divisions), key=memory)
    if not is_pointwise(spec):
        best = _with_less_work(divisions, best, memory, work)
    images, out, into = best
    if num_threads // 2 < images < num_threads:
        images = min(batch if is_pointwise(spec) else most, num_threads)
    return images, out * into


def _with_less_work(
    divisions: list[tuple[int, int, int]],
    best: tuple[int, int, int],
    memory: Callable[[tuple[int, int, int]], int],
    work: Callable[[tuple[int, int, int]], int],
) -> tuple[int, int, int]:
    least = memory(best)
    for division in divisions:
        is_near = memory(division) < 1.1 * least and work(division) <= work(best)
        if is_near or 4 * work(division) <= 3 * work(best):
            best = division
    return best


def _bias_sums(spec: LayerSpec, num_threads: int) -> int:
    """Blocks of channels are divided among groups of threads; the sums of all but one each."""
    blocks, batch = _ceil(_kernel(spec)[0], BLOCK), spec.input_shape[0]
    fewest = max(1, blocks // num_threads)

    def group(size: int) -> tuple[int, int, int]:
        groups = min(blocks // size, num_threads)
        return groups, min(num_threads // groups, batch), _ceil(blocks, groups)

    def work(size: int) -> int:
        _, threads, size = group(size)
        return size * (_ceil(batch, threads) + (threads > 1))

    groups, threads, size = group(min(range(fewest, max(blocks, fewest + 1)), key=work))
    if threads == 1:
        return 0
    sums = groups * (threads - 1) * size * BLOCK * _ELEMENT
    return sums + _PAGE + groups * _PAGE + _PAGE


def _pieces(spec: LayerSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """In how many pieces an image and its gradient are divided with the batch, of how many pixels.

    1x1: some pixels; of plain tensors, rows; otherwise none are divided.
    """
    (rows_in, width_in), (rows_out, width_out) = spec.input_shape[2:], spec.output_shape[2:]
    if is_pointwise(spec):
        pixels = _divisor(rows_in * width_in)
        pieces = rows_in * width_in // pixels
        return (pieces, pixels), (pieces, pixels)
    if _divides_rows(spec):
        return (rows_in, width_in), (rows_out, width_out)
    return (1, rows_in * width_in), (1, rows_out * width_out)


def _most_pieces(spec: LayerSpec) -> int:
    """Rows go to threads only several together."""
    pieces = _pieces(spec)[1][0]
    return pieces // _MIN_ROWS if _divides_rows(spec) else pieces


def _divides_rows(spec: LayerSpec) -> bool:
    is_plain = not is_channels_last(spec) and not is_pointwise(spec)
    return is_plain and _dilation(spec)[0] == 1 and spec.output_shape[2] > _MIN_ROWS


def _divisor(size: int) -> int:
    """The largest of 7 to 16 that divides it, or nearly: pixels that are summed at a time."""
    candidates = range(min(size, 16), min(size, 7) - 1, -1)
    return min(candidates, key=lambda part: (-size % part) / (size + -size % part))


def _kernel(spec: LayerSpec) -> tuple[int, ...]:
    return spec.parameters["weight"].shape


def _stride(spec: LayerSpec) -> tuple[int, ...]:
    return tuple(spec.geometry.get("stride", (1, 1)))


def _dilation(spec: LayerSpec) -> tuple[int, ...]:
    return tuple(spec.geometry.get("dilation", (1, 1)))


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
