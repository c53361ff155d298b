import pytest
import torch
from torch import nn

from layerscope.operations.shapes import (
    ceil_pool_output_size,
    conv_output_size,
    conv_transpose_output_size,
)


@pytest.mark.parametrize("size", range(5, 12))
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 2, 1), (2, 3, 0), (5, 1, 2)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_output_sizes_are_torchs(size, kernel_size, stride, padding, dilation):
    image = torch.zeros(1, 1, size)
    settings = (kernel_size, stride, padding)
    if size + 2 * padding > dilation * (kernel_size - 1):
        conv = nn.Conv1d(1, 1, *settings, dilation=dilation)
        assert conv(image).shape[-1] == conv_output_size(size, *settings, dilation)
        pool = nn.MaxPool1d(*settings, dilation=dilation, ceil_mode=True)
        assert pool(image).shape[-1] == ceil_pool_output_size(size, *settings, dilation)
    transpose = nn.ConvTranspose1d(1, 1, *settings, dilation=dilation)
    if (wanted := conv_transpose_output_size(size, *settings, dilation=dilation)) > 0:
        assert transpose(image).shape[-1] == wanted
