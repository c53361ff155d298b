"""What each layer computes, and its settings: the same for a module and for its function."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from layerscope.base.errors import UserError
from layerscope.networks.layer_calls import calls_by_layer, network_calls


class Network(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def only_call(network, shape):
    (call,) = network_calls(network, shape).layers
    return call


@pytest.mark.parametrize(
    ("module", "kind", "shape"),
    [
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "conv2d", (2, 2, 6, 6)),
        (nn.ConvTranspose1d(2, 2, 3), "conv_transpose1d", (2, 2, 6)),
        (nn.BatchNorm2d(2), "batch_norm", (2, 2, 6, 6)),
        (nn.MaxPool2d(2), "max_pool", (2, 2, 6, 6)),
        (nn.MaxPool2d(2, return_indices=True), "max_pool", (2, 2, 6, 6)),
        (nn.AdaptiveMaxPool2d(2), "adaptive_max_pool", (2, 2, 6, 6)),
        (nn.AdaptiveAvgPool1d(2), "adaptive_avg_pool", (2, 2, 6)),
        (nn.ReLU6(), "relu6", (2, 2)),
        (nn.Dropout2d(), "feature_dropout", (2, 2, 6, 6)),
        (nn.Dropout2d().eval(), "feature_dropout", (2, 2, 6, 6)),
        (nn.Flatten(), "flatten", (2, 2, 6, 6)),
        (nn.Unflatten(1, (2, 2)), "unflatten", (2, 4)),
        (nn.Identity(), "identity", (2, 2)),
        (nn.Softmax2d(), "softmax", (2, 2, 6, 6)),
        (StochasticDepth(0.5, "row"), "stochastic_depth", (2, 2, 6, 6)),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), "conv2d", (2, 2, 6, 6)),
        (nn.LSTM(2, 2), "LSTM", (2, 2, 2)),
        (nn.TransformerEncoderLayer(4, 2, 8), "TransformerEncoderLayer", (2, 2, 4)),
        (nn.FeatureAlphaDropout(), "feature_alpha_dropout", (2, 2, 6, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_what_a_module_computes(module, kind, shape):
    assert only_call(nn.Sequential(module), shape).kind == kind


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: F.max_pool2d(x, 2), "max_pool"),
        (lambda x: F.dropout2d(x, 0.5), "feature_dropout"),
        (lambda x: x + x.shape[0], "add"),
        (lambda x: x.relu_(), "relu"),
        (lambda x: torch.cdist(x, x), "cdist"),
    ],
)
def test_what_a_function_computes(function, kind):
    assert only_call(Network(function), (2, 2, 4, 4)).kind == kind


@pytest.mark.parametrize(
    ("function", "setting", "value"),
    [
        (lambda x: F.leaky_relu(x, 0.3), "negative_slope", 0.3),
        (lambda x: F.gelu(x, approximate="tanh"), "approximate", "tanh"),
        (lambda x: torch.add(x, x.relu(), alpha=2), "alpha", 2),
        (lambda x: x + 1, "other", 1),
        (lambda x: x.permute(1, 0), "dims", (1, 0)),
        (lambda x: torch.permute(x, (1, 0)), "dims", (1, 0)),
        (lambda x: x.transpose(0, -1), "dim1", -1),
        (lambda x: x.mean(-1), "dim", -1),
        (lambda x: F.elu(x, 0.5), "alpha", 0.5),
        (lambda x: F.dropout1d(x[None], 0.3), "p", 0.3),
        (nn.Hardtanh(-2.0, 2.0), "min_val", -2.0),
    ],
)
def test_what_a_layer_is_told_stands_in_its_geometry(function, setting, value):
    assert network_calls(Network(function), (2, 3)).layers[-1].geometry[setting] == value


def test_a_setting_that_the_module_gives_its_function():
    assert only_call(nn.Softmax2d(), (2, 3, 4, 4)).geometry["dim"] == -3


def test_geometry_of_a_function_is_that_of_the_module():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 2, 3, 3))

        def forward(self, x):
            return F.conv2d(x, self.weight, None, 2, groups=2, padding=1)

    functional = only_call(Functional(), (2, 4, 9, 9))
    module = only_call(nn.Conv2d(4, 8, 3, 2, 1, groups=2, bias=False), (2, 4, 9, 9))
    assert functional.output_shape == module.output_shape == (2, 8, 5, 5)
    assert dict(functional.geometry) == {
        name: value for name, value in module.geometry.items() if name != "padding_mode"
    }


@pytest.mark.parametrize("training", [True, False])
def test_the_present_mode_counts(training):
    dropout = only_call(nn.Sequential(nn.Dropout()).train(training), (2, 3))
    assert dropout.geometry["training"] is training
    assert dropout.returns_input is not training


def test_calls_of_a_shared_layer_stand_together():
    shared = nn.ReLU()
    calls = calls_by_layer(network_calls(nn.Sequential(shared, nn.Tanh(), shared), (2, 3)).layers)
    assert {key: len(own) for key, own in calls.items()} == {"0": 2, "1": 1}


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Network(lambda x: [int(size) for size in x.shape]), "no tensor"),
        (Network(lambda x: x), "no layer"),
    ],
)
def test_a_forward_without_layers_is_refused(network, says):
    with pytest.raises(UserError, match=says):
        network_calls(network, (2, 3))
