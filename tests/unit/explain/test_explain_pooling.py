import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captures import Network, assert_explained, captured, explainer
from torch import nn

from layerscope.explain.families import refusal
from layerscope.networks.layer_calls import network_calls

MAXIMA = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGES = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
SIZES = (9, 8, 7)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 2, "stride": 1, "dilation": 2},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_maxima(dims, settings):
    assert_explained(captured(MAXIMA[dims](**settings), (2, 3, *SIZES[:dims])))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 3, "padding": 1, "count_include_pad": False, "ceil_mode": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_averages(dims, settings):
    assert_explained(captured(AVERAGES[dims](**settings), (2, 3, *SIZES[:dims])))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.AdaptiveAvgPool2d(1), (2, 3, 5, 4)),
        (nn.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 4)),
        (nn.AdaptiveAvgPool1d(3), (2, 3, 8)),
        (nn.AdaptiveMaxPool2d((2, 3)), (2, 3, 5, 7)),
        (nn.MaxPool2d((2, 3)), (3, 5, 6)),
        (nn.AvgPool2d(2), (3, 4, 6)),
        (nn.AvgPool2d(2, divisor_override=3), (2, 3, 4, 6)),
        (nn.AvgPool3d(3, 2, 1, divisor_override=5), (2, 3, 4, 6, 5)),
    ],
    ids=str,
)
def test_adaptive_windows_single_images_and_divisors(layer, shape):
    assert_explained(captured(layer, shape))


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_one_of_equal_inputs_wins(kernel_size):
    image = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    image[0, 1] = torch.randint(2, (6, 6), generator=torch.Generator().manual_seed(0))
    layer = nn.MaxPool2d(kernel_size, stride=2, padding=1)
    call = captured(layer, tuple(image.shape), image=image)
    for position in np.ndindex(*image.shape):
        (value,) = explainer(call).gradient(call, "x", position)
        assert value.computed == pytest.approx(value.actual, rel=1e-15)


def test_not_a_number_wins():
    image = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    image[0, 0, 1, 1] = image[0, 0, 0, 1] = torch.nan
    call = captured(nn.MaxPool2d(2), (1, 1, 4, 4), image=image)
    for position in np.ndindex(1, 1, 4, 4):
        (value,) = explainer(call).gradient(call, "x", position)
        np.testing.assert_equal(value.computed, value.actual)


def test_functions_as_layers():
    assert_explained(captured(lambda x: F.max_pool2d(x, 3, 2, 1), (2, 3, 7, 7)))
    assert_explained(captured(lambda x: F.avg_pool2d(x, 2), (2, 3, 6, 6)))
    assert_explained(captured(lambda x: F.adaptive_avg_pool2d(x, (2, 2)), (2, 3, 5, 5)))


def test_a_window_of_padding_only_is_refused():
    layer = nn.MaxPool2d(2, stride=1, padding=1, dilation=3)
    spec = network_calls(Network(layer), (1, 1, 2, 2)).layers[0]
    assert "wholly in the padding" in refusal(spec)
