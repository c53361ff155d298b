"""Operations that torch refuses on CUDA when only deterministic algorithms are allowed."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerscope.base.errors import UserError
from layerscope.config.schema import TorchvisionConfig
from layerscope.networks import check_deterministic
from layerscope.networks.registry import build_network
from layerscope.operations.determinism import REFUSED_ON_CUDA, is_refused_on_cuda

CPU = torch.device("cpu")


def test_the_table_has_every_entry_of_torchs_documentation():
    documentation = torch.use_deterministic_algorithms.__doc__
    refused = documentation.split("nondeterministic operations will throw")[1].split("In addition")[
        0
    ]
    entries = re.split(r"\n\s+\* ", refused)[1:]
    of_other_devices = ("MPS", "quantized")
    names = {
        re.match(r":\w+:`([\w.]+)`", entry)[1]
        for entry in entries
        if "CUDA" in entry or not any(word in entry for word in of_other_devices)
    }
    assert names >= REFUSED_ON_CUDA.keys()
    if torch.__version__ >= (2, 15):  # Earlier versions refused more.
        assert names == REFUSED_ON_CUDA.keys()


def test_every_operation_of_the_table_exists():
    for name in {name for names in REFUSED_ON_CUDA.values() for name in names}:
        operation = getattr(torch.ops.aten, name.removeprefix("aten::").partition(".")[0])
        assert operation.overloads()
        assert is_refused_on_cuda(name)
    assert not is_refused_on_cuda("aten::median")
    assert is_refused_on_cuda("aten::upsample_bicubic2d_backward.grad_input")


def torchvision(name: str, size: int) -> TorchvisionConfig:
    return TorchvisionConfig(
        family="torchvision", name=name, weights=None, num_classes=10, input_shape=(3, size, size)
    )


@pytest.mark.parametrize(("name", "layer"), [("alexnet", "avgpool"), ("vgg11", "avgpool")])
def test_a_network_with_another_adaptive_pooling_than_to_1x1_is_refused(name, layer):
    config = torchvision(name, 64)
    network = build_network(config)
    with pytest.raises(UserError, match=f"deterministic=true: {layer} runs _adaptive_avg_pool2d"):
        check_deterministic(network, config, CPU)
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_others_are_not(name):
    config = torchvision(name, 64)
    check_deterministic(build_network(config), config, CPU)


def test_the_algorithms_that_training_will_choose_are_judged():
    """Bilinear interpolation has another algorithm when deterministic ones are requested."""

    class Enlarging(nn.Module):
        def __init__(self, mode: str) -> None:
            super().__init__()
            self.conv, self.fc, self.mode = nn.Conv2d(3, 4, 3), nn.Linear(4, 10), mode

        def forward(self, x):
            x = F.interpolate(self.conv(x), scale_factor=2, mode=self.mode)
            return self.fc(x.mean((2, 3)))

    config = torchvision("resnet18", 16)
    check_deterministic(Enlarging("nearest"), config, CPU)
    with pytest.raises(UserError, match="upsample_bicubic2d_backward"):
        check_deterministic(Enlarging("bicubic"), config, CPU)
    if not torch.cuda.is_available():
        return
    check_deterministic(Enlarging("bilinear"), config, torch.device("cuda"))
