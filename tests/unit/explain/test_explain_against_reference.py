"""The explanations beside the formulas in plain NumPy: at every position, not only some."""

import time

import numpy as np
import pytest
import torch
from captures import captured, explainer
from torch import nn

from layerscope import reference


def every(explain, call, shape):
    """The last value at every position."""
    found = np.zeros(shape)
    for position in np.ndindex(shape):
        *_, value = explain(call, position)
        found[position] = value.computed
    return found


def of(kind, symbol):
    return lambda call, position: kind.gradient(call, symbol, position)


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 1)]
)
def test_a_convolution(stride, padding, dilation, groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, (2, 3), stride, padding, dilation, groups)
    call = captured(layer, (2, 2, 5, 6))
    x, w, b = (call.operands[symbol] for symbol in "xwb")
    settings = [(number,) * 2 for number in (stride, padding, dilation)]
    y = reference.conv_forward(x, w, b, *settings, groups)
    gradients = reference.conv_backward(call.output_gradient, x, w, *settings, groups)
    kind = explainer(call)
    assert_same(every(kind.output, call, y.shape), y)
    for symbol, expected in zip("xwb", gradients, strict=True):
        assert_same(every(of(kind, symbol), call, expected.shape), expected)


def test_max_pooling_of_many_equal_inputs():
    image = torch.randint(3, (1, 2, 6, 5), generator=torch.Generator().manual_seed(1)).double()
    call = captured(nn.MaxPool2d(3, 2, 1), tuple(image.shape), image=image)
    y, winner = reference.max_pool_forward(call.operands["x"], (3, 3), (2, 2), (1, 1), (1, 1))
    dx = reference.max_pool_backward(call.output_gradient, winner, call.operands["x"].shape)
    assert_same(every(explainer(call).output, call, y.shape), y)
    assert_same(every(of(explainer(call), "x"), call, dx.shape), dx)


def test_a_weight_gradient_has_all_its_terms_at_once():
    layer = nn.Conv2d(3, 32, 3, padding=1)
    call = captured(layer, (32, 3, 32, 32))
    start = time.perf_counter()
    (value,) = explainer(call).gradient(call, "w", (0, 0, 0, 0))
    assert time.perf_counter() - start < 0.5
    assert value.num_terms == 32 * 32 * 32
    assert int(value.groups[0].is_padding.sum()) == 32 * (32 + 31)
    assert value.computed == pytest.approx(value.actual, rel=1e-9)


def test_receptive_field_keeps_padding_as_cells():
    call = captured(nn.Conv2d(2, 1, 3, padding=1), (1, 2, 4, 4))
    (value,) = explainer(call).output(call, (0, 0, 0, 3))
    products, bias = value.groups
    x, w = products.factors
    assert products.num_terms == 18
    assert bias.num_terms == 1
    assert x.places[:3].tolist() == [[0, 0, -1, 2], [0, 0, -1, 3], [0, 0, -1, 4]]
    assert w.places[:3].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]
    assert products.is_padding[:3].tolist() == [True, True, True]
    assert int(products.is_padding.sum()) == 2 * 5
    assert explainer(call).first(call.operation, "x", (0, 0, 0, 3)) == (0, 0, 0, 2)
