"""A convolution as the matrix of the equivalent fully connected layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.dry_run import Shape
from layerscope.networks.common import image_shape
from layerscope.operations.shapes import conv_output_size

MAX_ENTRIES = 2**26  # half a GiB of indices alone


class ConvMatrix(NamedTuple):
    """The matrix of a convolution.

    Args:
        matrix: sparse, (C_out·H_out·W_out, C_in·H·W). It multiplies the flattened image and leaves
            out the bias. Its values are differentiable with respect to the convolution's weight.
        weight_index: for each entry, in the order of `matrix.values()`, the index of its weight in
            `conv.weight.flatten()`. Entries that share a weight have the same index.
    """

    matrix: Tensor
    weight_index: Tensor


def conv_as_matrix(conv: nn.Conv2d, input_shape: Shape) -> ConvMatrix:
    """Return the convolution as a matrix: mostly zeros, with each weight used many times.

    `(matrix @ image.flatten()).view(C_out, H_out, W_out) + bias[:, None, None]` is the output.

    Args:
        input_shape: (C, H, W) of one image, or with N.

    Raises:
        UserError: it is no plain 2-d convolution, it takes another number of channels, its kernel
            does not fit, or the matrix would be too large.
    """
    channels, height, width = image_shape(input_shape)
    _check_plain(conv, channels)
    rows, num_rows = _taps(conv, 0, height)  # (H_out, k_h)
    columns, num_columns = _taps(conv, 1, width)  # (W_out, k_w)
    out_channels, in_group, k_h, k_w = conv.weight.shape
    num_entries = num_rows * num_columns * conv.weight.numel()
    if num_entries > MAX_ENTRIES:
        raise UserError(
            f"the matrix would have {num_entries:,} entries, at most {MAX_ENTRIES:,} are made: "
            "give a smaller convolution or image"
        )
    device = conv.weight.device
    # Each index broadcast over (C_out, H_out, W_out, C_in per group, k_h, k_w).
    out = torch.arange(out_channels, device=device).view(-1, 1, 1, 1, 1, 1)
    c = torch.arange(in_group, device=device).view(-1, 1, 1)
    i, j = torch.arange(k_h, device=device).view(-1, 1), torch.arange(k_w, device=device)
    y = torch.arange(num_rows, device=device).view(-1, 1, 1, 1, 1)
    x = torch.arange(num_columns, device=device).view(-1, 1, 1, 1)
    at_y = rows.to(device).view(num_rows, 1, 1, k_h, 1)
    at_x = columns.to(device).view(num_columns, 1, 1, k_w)
    group = out // (out_channels // conv.groups)
    to = (out * num_rows + y) * num_columns + x
    of = ((group * in_group + c) * height + at_y) * width + at_x
    weight = ((out * in_group + c) * k_h + i) * k_w + j
    inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
    to, of, weight, inside = torch.broadcast_tensors(to, of, weight, inside)
    index = weight[inside]
    size = (out_channels * num_rows * num_columns, channels * height * width)
    places = torch.stack([to[inside], of[inside]])  # row by row, in the order of the columns
    values = conv.weight.flatten()[index]
    matrix = torch.sparse_coo_tensor(places, values, size, is_coalesced=True, check_invariants=True)
    return ConvMatrix(matrix, index)


def _check_plain(conv: nn.Module, channels: int) -> None:
    if not isinstance(conv, nn.Conv2d):
        raise UserError(f"{type(conv).__name__} is not supported: give an nn.Conv2d")
    if conv.padding_mode != "zeros":
        raise UserError(
            f"padding_mode={conv.padding_mode}: only convolutions with zero padding have a matrix"
        )
    if conv.in_channels != channels:
        raise UserError(f"the convolution takes {conv.in_channels} channels, not {channels}")


def _taps(conv: nn.Conv2d, dimension: int, size: int) -> tuple[Tensor, int]:
    """Return the input index under each tap of the kernel, and the number of outputs.

    The indices have the shape (outputs, k). On padding they lie outside of the image.
    """
    k, s, d = (s[dimension] for s in (conv.kernel_size, conv.stride, conv.dilation))
    if conv.padding == "same":
        before, count = d * (k - 1) // 2, size
    else:
        before = 0 if isinstance(conv.padding, str) else conv.padding[dimension]
        count = conv_output_size(size, k, s, before, d)
    if count < 1:
        raise UserError(f"the kernel does not fit into {size} pixels with padding {before}")
    first = torch.arange(count) * s - before
    return first[:, None] + torch.arange(k) * d, count
