"""The shortcuts say what the dispatcher says: the same specs with them and without."""

import pytest
import torch
import torchvision
from torch import nn

from layerscope.layers import describe, shortcuts
from layerscope.layers.shapes import (
    ceil_pool_output_size,
    conv_output_size,
    conv_transpose_output_size,
)
from layerscope.networks.cifar_cnn import CifarCNN


def build(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, **options)


def both_ways(monkeypatch, network, shape, **options):
    quick = describe(network, shape, **options)
    with monkeypatch.context() as patch:
        patch.setattr(shortcuts, "_RULES", {})
        slow = describe(network, shape, **options)
    return quick, slow


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "densenet121",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "shufflenet_v2_x0_5",
        "convnext_tiny",
        "squeezenet1_0",
        "googlenet",
        "vgg11",
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_classifier(monkeypatch, name, training):
    quick, slow = both_ways(monkeypatch, build(name).train(training), (2, 3, 64, 64))
    assert quick == slow


def test_channels_last_and_autocast_take_the_long_way(monkeypatch):
    network = CifarCNN().to(memory_format=torch.channels_last)
    quick, slow = both_ways(monkeypatch, network, (2, 3, 32, 32), channels_last=True)
    assert quick == slow
    assert quick.layers[0].outputs[0].strides[1] == 1
    quick, slow = both_ways(monkeypatch, CifarCNN(), (2, 3, 32, 32), autocast=torch.bfloat16)
    assert quick == slow
    assert quick.layers[0].outputs[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 8, 8)),
        (nn.Conv2d(4, 4, (3, 1), (2, 1), (1, 0), (1, 2), 2), (2, 4, 9, 8)),
        (nn.Conv2d(3, 4, 3), (3, 8, 8)),
        (nn.Conv2d(1, 4, 3), (2, 1, 8, 8)),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 8, 7)),
        (nn.MaxPool2d(2, return_indices=True), (2, 3, 8, 8)),
        (nn.AvgPool2d(3, 2, ceil_mode=True), (2, 3, 8, 8)),
        (nn.AdaptiveAvgPool2d((None, 3)), (2, 3, 8, 8)),
        (nn.BatchNorm2d(3, track_running_stats=False).eval(), (2, 3, 8, 8)),
        (nn.BatchNorm1d(3), (2, 3)),
        (nn.LayerNorm((4, 5)), (2, 3, 4, 5)),
        (nn.Dropout(0.0), (2, 3)),
        (nn.Dropout(0.5, inplace=True), (2, 3)),
        (nn.ReLU(inplace=True), (2, 3)),
        (nn.Hardtanh(0.0, 6.0, inplace=True), (2, 3)),
        (nn.GELU(approximate="tanh"), (2, 3)),
        (nn.Linear(5, 2, bias=False), (2, 3, 5)),
        (nn.Linear(5, 2), (5,)),
    ],
)
def test_a_layer(monkeypatch, network, shape):
    quick, slow = both_ways(monkeypatch, network, shape)
    assert quick == slow


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
