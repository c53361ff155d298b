import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from layerscope.measure import Step, flop_counts
from layerscope.networks.cifar_cnn import CifarCNN


def total_of_torch(step):
    with step.preserve_state(), FlopCounterMode(display=False) as counter:
        step.run()
    return counter.get_total_flops()


def counted(network, image, autocast=None):
    """Return the counts that are not 0; check their sum against torch's own total."""
    step = Step(network, (image,), autocast=autocast)
    counts = flop_counts(step)
    forward, backward = (
        {key: count for key, count in part.items() if count}
        for part in (counts.forward, counts.backward)
    )
    assert sum(forward.values()) + sum(backward.values()) == counts.total == total_of_torch(step)
    return forward, backward


MACS = {  # of CifarCNN at batch 32
    "block1.conv": 32 * 32 * 32 * 32 * 27,
    "block2.conv": 32 * 64 * 16 * 16 * 288,
    "block3.conv": 32 * 128 * 8 * 8 * 576,
    "fc": 32 * 128 * 10,
}


class TestCifarCNN:
    @pytest.mark.parametrize("autocast", [None, torch.bfloat16])
    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_forward_and_backward(self, autocast, memory_format):
        network = CifarCNN().to(memory_format=memory_format)
        image = torch.randn(32, 3, 32, 32).to(memory_format=memory_format)
        forward, backward = counted(network, image, autocast)
        assert forward == {key: 2 * count for key, count in MACS.items()}
        assert backward == {
            key: (2 if key == "block1.conv" else 4) * count for key, count in MACS.items()
        }
        assert sum(forward.values()) == 660_684_800
        assert sum(backward.values()) == 1_264_746_496

    def test_an_input_that_requires_a_gradient(self):
        _, backward = counted(CifarCNN(), torch.randn(32, 3, 32, 32, requires_grad=True))
        assert backward["block1.conv"] == 4 * MACS["block1.conv"]

    def test_every_layer_has_a_count(self):
        counts = flop_counts(Step(CifarCNN(), (torch.randn(2, 3, 32, 32),)))
        assert list(counts.forward) == list(counts.backward)
        first = [f"block1.{name}" for name in ("conv", "bn", "relu", "pool")]
        assert list(counts.forward)[:4] == first
        assert counts.forward["gap"] == counts.backward["flatten"] == 0

    def test_a_frozen_backbone(self):
        network = CifarCNN().requires_grad_(False)
        network.fc.requires_grad_(True)
        _, backward = counted(network, torch.randn(32, 3, 32, 32))
        assert backward == {"fc": 2 * MACS["fc"]}

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, context):
        network, image = CifarCNN(), torch.randn(32, 3, 32, 32)
        with context():
            forward, backward = counted(network, image)
        assert sum(forward.values()) == 660_684_800
        assert backward == {}


@pytest.mark.parametrize(
    ("name", "size", "total"),
    [
        ("resnet18", 64, 1_744_158_720),
        ("googlenet", 64, None),
        ("mobilenet_v3_small", 64, None),
        ("shufflenet_v2_x0_5", 64, None),
        ("squeezenet1_1", 64, None),
    ],
)
def test_torchvision(name, size, total):
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    forward, backward = counted(network, torch.randn(2, 3, size, size))
    assert total is None or sum(forward.values()) + sum(backward.values()) == total
    convs = [key for key, module in network.named_modules() if hasattr(module, "weight")]
    assert forward.keys() == backward.keys() <= set(convs)
    first = next(iter(forward))
    assert backward[first] == forward[first]  # the image needs no gradient
    if name == "resnet18":  # every other convolution has both gradients
        rest = [key for key in forward if key != first]
        assert {key: backward[key] for key in rest} == {key: 2 * forward[key] for key in rest}


def test_groups_are_counted_too_often_in_the_weights_gradient():
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=8))
    forward, backward = counted(network, torch.randn(2, 4, 8, 8))
    assert forward == {"0": 2 * 2 * 8 * 36 * 9, "1": 2 * 2 * 8 * 16 * 9}
    assert backward == {"0": 4 * forward["0"], "1": (1 + 8) * forward["1"]}


def test_a_transposed_convolution():
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 6, 3, stride=2))
    forward, backward = counted(network, torch.randn(2, 4, 5, 5))
    assert forward["1"] == 2 * 2 * 25 * 4 * 6 * 9
    assert backward["1"] == 2 * forward["1"]


class Mixed(nn.Module):
    """Functional convolution and products, in-place operations, a module called twice."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = F.conv2d(x, self.weight)
        y = self.conv(self.relu(self.conv(x)))
        y += x
        y = self.relu(y)
        left, right = y.flatten(2).chunk(2, dim=1)
        return left @ right.transpose(1, 2), F.linear(y, torch.ones(3, 5), None)


def test_operations_and_a_module_called_twice():
    forward, backward = counted(Mixed(), torch.randn(2, 3, 5, 5))
    assert forward == {
        "conv2d": 2 * 2 * 25 * 12,
        "conv": 2 * (2 * 2 * 25 * 16 * 9),
        "matmul": 2 * 2 * 2 * 2 * 25,
        "linear": 2 * 2 * 4 * 5 * 5 * 3,
    }
    assert backward == {
        "conv2d": forward["conv2d"],  # the weight's gradient
        "conv": 2 * forward["conv"],
        "matmul": 2 * forward["matmul"],
        "linear": forward["linear"],  # the input's gradient
    }


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoints_second_forward_is_backward(use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh())

        def forward(self, x):
            return checkpoint(self.second, self.first(x), use_reentrant=use_reentrant)

    forward, backward = counted(Checkpointed(), torch.randn(2, 3))
    assert forward == {"first": 2 * 2 * 12, "second.0": 2 * 2 * 20}
    assert backward["first"] == forward["first"]
    assert sum(backward.values()) - backward["first"] == 3 * forward["second.0"]
