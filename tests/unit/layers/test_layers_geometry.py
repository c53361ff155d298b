import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerscope.layers import describe


class Network(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


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
        (lambda x: F.elu(x, 0.5), "alpha", 0.5),
        (nn.Hardtanh(-2.0, 2.0), "min_val", -2.0),
    ],
)
def test_what_an_operation_is_told_stands_in_its_geometry(function, setting, value):
    assert describe(Network(function), (2, 3)).layers[-1].geometry[setting] == value
