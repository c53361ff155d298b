import operator

import pytest
import torch
from torch import nn

from layerscope.layers.names import module_kind, operation_kind, operation_name


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (operator.add, "add"),
        (operator.iadd, "add"),
        (torch.Tensor.__iadd__, "add"),
        (torch.Tensor.__radd__, "add"),
        (torch.Tensor.add_, "add"),
        (torch.add, "add"),
        (torch.ops.aten.add.Tensor, "add"),
        ("add_", "add"),
        (torch.Tensor.__rsub__, "sub"),
        (operator.truediv, "div"),
        (torch.Tensor.__itruediv__, "div"),
        (torch.Tensor.__getitem__, "getitem"),
        (torch.rand, "rand"),
        (torch.nn.functional.relu_, "relu"),
        (torch.concat, "cat"),
        (torch.flatten, "flatten"),
        (torch.Tensor.T.__get__, "T"),
    ],
)
def test_every_spelling_of_an_operation_has_one_name(function, name):
    assert operation_name(function) == name


def test_a_module_and_the_function_it_wraps_are_of_one_kind():
    assert module_kind(nn.AdaptiveAvgPool2d(1)) == operation_kind("adaptive_avg_pool2d")
    assert module_kind(nn.ReLU()) == operation_kind("relu")
    assert module_kind(nn.Conv2d(1, 1, 1)) == operation_kind("conv2d") == "conv2d"


def test_an_unknown_kind_keeps_its_name():
    assert module_kind(nn.MultiheadAttention(4, 2)) == "MultiheadAttention"
    assert operation_kind("cdist") == "cdist"


def test_a_parametrised_layer_is_of_its_layers_kind():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
    assert module_kind(layer) == "conv2d"
