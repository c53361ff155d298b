"""Windows that were put down one by one and counted, against the size formulas and the specs."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from layerscope.networks.layer_calls import network_calls
from layerscope.operations.shapes import (
    ceil_pool_output_size,
    conv_output_size,
    conv_transpose_output_size,
)
from layerscope.reference import count_transposed, count_windows

sizes, kernels, strides = st.integers(1, 40), st.integers(1, 7), st.integers(1, 5)
paddings, dilations = st.integers(0, 6), st.integers(1, 4)
many = settings(deadline=None, derandomize=True, max_examples=150)
few = settings(deadline=None, derandomize=True, max_examples=8)


@many
@given(sizes, kernels, strides, paddings, dilations)
def test_conv_size(size, kernel, stride, padding, dilation):
    """Where no window fits the formula gives less than 1."""
    counted = count_windows(size, kernel, stride, padding, dilation)
    assert counted == max(0, conv_output_size(size, kernel, stride, padding, dilation))


@many
@given(sizes, kernels, strides, dilations, st.data())
def test_ceil_mode_size(size, kernel, stride, dilation, data):
    """Pooling's padding is at most half the kernel."""
    padding = data.draw(st.integers(0, (dilation * (kernel - 1) + 1) // 2))
    counted = count_windows(size, kernel, stride, padding, dilation, ceil_mode=True)
    assert counted == max(0, ceil_pool_output_size(size, kernel, stride, padding, dilation))


@many
@given(st.integers(1, 12), kernels, strides, paddings, dilations, st.data())
def test_transposed_size(size, kernel, stride, padding, dilation, data):
    """It is also a size of which a convolution with these settings makes `size`."""
    extra = data.draw(st.integers(0, stride - 1))
    counted = count_transposed(size, kernel, stride, padding, extra, dilation)
    formula = conv_transpose_output_size(size, kernel, stride, padding, extra, dilation)
    assume(formula > extra)
    assert counted == formula
    assert count_windows(counted, kernel, stride, padding, dilation) == size


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_half_padding_keeps_the_size_of_odd_kernels(kernel):
    """And an even kernel's makes it one smaller."""
    assert count_windows(9, kernel, 1, (kernel - 1) // 2) == 9
    assert count_windows(9, kernel + 1, 1, kernel // 2) == 8


pairs = lambda low, high: st.tuples(*[st.integers(low, high)] * 2)  # noqa: E731


def spatial(network, size):
    return network_calls(network, (2, 2, *size)).layers[-1].output_shape[2:]


def counted(size, *settings, ceil_mode=False):
    columns = zip(size, *settings, strict=True)
    return tuple(count_windows(*column, ceil_mode=ceil_mode) for column in columns)


@few
@given(pairs(9, 16), pairs(1, 4), pairs(1, 3), pairs(0, 3), pairs(1, 3))
def test_described_conv(size, kernel, stride, padding, dilation):
    network = nn.Conv2d(2, 3, kernel, stride, padding, dilation)
    assert spatial(network, size) == counted(size, kernel, stride, padding, dilation)


@few
@given(pairs(4, 9), pairs(1, 4), pairs(2, 3), pairs(0, 1), pairs(0, 1), pairs(1, 2))
def test_described_transposed_conv(size, kernel, stride, padding, extra, dilation):
    network = nn.ConvTranspose2d(2, 3, kernel, stride, padding, extra, dilation=dilation)
    columns = zip(size, kernel, stride, padding, extra, dilation, strict=True)
    assert spatial(network, size) == tuple(count_transposed(*column) for column in columns)


@few
@given(pairs(9, 16), pairs(2, 4), pairs(1, 4), pairs(0, 1), pairs(1, 3), st.booleans())
def test_described_max_pool(size, kernel, stride, padding, dilation, ceil_mode):
    network = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    expected = counted(size, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    assert spatial(network, size) == expected == network(torch.zeros(2, 2, *size)).shape[2:]


@few
@given(pairs(9, 16), pairs(2, 4), pairs(1, 4), pairs(0, 1), st.booleans())
def test_described_avg_pool(size, kernel, stride, padding, ceil_mode):
    network = nn.AvgPool2d(kernel, stride, padding, ceil_mode)
    expected = counted(size, kernel, stride, padding, (1, 1), ceil_mode=ceil_mode)
    assert spatial(network, size) == expected == network(torch.zeros(2, 2, *size)).shape[2:]
