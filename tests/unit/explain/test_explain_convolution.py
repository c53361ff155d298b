from dataclasses import replace

import pytest
import torch
from captures import assert_explained, captured, explainer
from torch import nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": 3, "padding": 2, "dilation": 2},
        {"padding": 1, "groups": 2, "bias": False},
        {"padding": "same", "dilation": 3},
        {"padding": "valid", "stride": 2, "groups": 4},
        {"padding": 2, "padding_mode": "circular"},
        {"padding": 2, "padding_mode": "reflect", "stride": 2},
        {"padding": 1, "padding_mode": "replicate"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_all_settings(dims, settings):
    torch.manual_seed(dims)
    layer = CONVOLUTIONS[dims](4, 8, 3 if dims < 3 else 2, **settings)
    shape = (2, 4, *(9, 8, 7)[:dims])
    assert_explained(captured(layer, shape), count=4)


def test_sizes_that_differ_per_dimension():
    layer = nn.Conv2d(2, 3, (2, 4), stride=(3, 1), padding=(0, 2), dilation=(2, 1))
    assert_explained(captured(layer, (2, 2, 9, 6)))


def test_a_single_image_without_batch():
    assert_explained(captured(nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": 3, "padding": 2, "dilation": 2, "groups": 2},
        {"groups": 4, "bias": False},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_transposed(dims, settings):
    torch.manual_seed(dims)
    transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    layer = transposed[dims](4, 8, 3, **settings)
    assert_explained(captured(layer, (2, 4, *(5, 4, 3)[:dims])), count=4)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_linear(shape):
    assert_explained(captured(nn.Linear(5, 4), shape))
    assert_explained(captured(nn.Linear(5, 4, bias=False), shape))


def test_nothing_of_a_loss_that_does_not_depend_on_the_layer():
    call = captured(nn.Linear(5, 4), (3, 5))
    unused = replace(call, output_gradient=None, gradients={})
    for symbol in "xw":
        (value,) = explainer(call).gradient(unused, symbol, (0, 0))
        assert (value.num_terms, value.computed, value.actual) == (0, 0.0, None)
