from fractions import Fraction

import pytest
import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.whatif.runs import skeleton
from layerscope.whatif.surgery import (
    checkpointed,
    deepened,
    enlarged,
    flattened,
    separable,
    widened,
)
from profile_example import account_of

CIFAR_SHAPE = (2, 3, 32, 32)


def shapes(network: nn.Module) -> list[torch.Size]:
    return [tensor.shape for tensor in network.state_dict().values()]


@pytest.mark.parametrize(
    ("network", "wide", "shape"),
    [
        (CifarCNN(), CifarCNN(width=2), CIFAR_SHAPE),
        (TinyCNN(), TinyCNN(width=2), (2, 1, 8, 8)),
        (SimpleCNN(), SimpleCNN(width=2), (2, 1, 4, 4)),
    ],
)
def test_widening_is_building_with_twice_the_width(network, wide, shape):
    changed = widened(network, account_of(network, shape), Fraction(2))
    assert shapes(changed.network) == shapes(wide)


def test_one_more_block_is_building_with_more_channels():
    changed = deepened(CifarCNN(), account_of(CifarCNN(), CIFAR_SHAPE))
    assert changed.parts == (("block3",),)
    assert shapes(changed.network) == shapes(CifarCNN(channels=(32, 64, 128, 256)))


def test_a_block_of_a_flat_sequence():
    layers = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(8 * 8 * 8, 10)),
    ]
    network = nn.Sequential(*layers)
    changed = deepened(network, account_of(network, CIFAR_SHAPE))
    assert changed.parts == (("3", "4", "5"),)
    kinds = [type(module).__name__ for module in changed.network.children()]
    assert kinds == [*["Conv2d", "ReLU", "MaxPool2d"] * 3, "Flatten", "Linear"]
    assert list(changed.network.children())[-1].in_features == 8 * 4 * 4


def test_a_block_too_many_is_refused():
    complaint = (
        r"^with a copy of `block3` behind it, called `block3_more`, "
        r"`block3_more.pool` would be given an input of shape \(2, 256, 1, 1\), and cannot take it$"
    )
    network = CifarCNN(input_shape=(3, 8, 8))
    with pytest.raises(UserError, match=complaint):
        deepened(network, account_of(network, (2, 3, 8, 8)))


def test_twice_the_resolution_is_building_for_it():
    changed = enlarged(SimpleCNN(), account_of(SimpleCNN(), (2, 1, 4, 4)), 2)
    assert changed.input_shape == (2, 1, 8, 8)
    assert shapes(changed.network) == shapes(SimpleCNN(input_shape=(1, 8, 8)))


def test_a_flatten_head_reads_the_maps():
    changed = flattened(CifarCNN(), account_of(CifarCNN(), CIFAR_SHAPE))
    assert changed.parts == (("gap",),)
    assert changed.network.get_submodule("fc").weight.shape == (10, 128 * 4 * 4)


def test_separable_convolutions_compute_the_same_shapes():
    network = nn.Sequential(
        nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(6, 6, 3, groups=2),
        nn.Conv2d(6, 8, 1),
    )
    changed = separable(network, account_of(network, (2, 4, 20, 24)))
    variant = changed.network
    assert changed.parts == (("0",),)
    image = torch.empty(2, 4, 20, 24, device="meta")
    assert variant(image).shape == network.to("meta")(image).shape
    depthwise, pointwise = variant.get_submodule("0").children()
    assert depthwise.weight.shape == (4, 1, 3, 5)
    assert depthwise.bias is None
    assert pointwise.weight.shape == (6, 4, 1, 1)
    assert pointwise.bias is not None


def test_without_such_convolutions_there_is_no_variant():
    conv = nn.Conv2d(3, 4, 1)
    with pytest.raises(UserError, match="no convolution with a window larger than 1"):
        separable(nn.Sequential(conv), account_of(conv, (1, 3, 4, 4)))


def test_checkpoints_around_blocks_and_around_runs_of_layers():
    known = account_of(CifarCNN(), CIFAR_SHAPE)
    assert checkpointed(CifarCNN(), known).parts == (("block1",), ("block2",), ("block3",))
    changed = checkpointed(TinyCNN(), account_of(TinyCNN(), (2, 1, 8, 8)))
    assert changed.parts == (
        ("conv1", "relu1", "pool1"),
        ("conv2", "relu2", "pool2"),
        ("conv3", "relu3", "conv_out"),
        ("flatten",),
    )
    for run, names in zip(changed.network.children(), changed.parts, strict=True):
        assert tuple(name for name, _ in run.named_children()) == names
    short = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(UserError, match="neither blocks nor a sequence"):
        checkpointed(short, account_of(short, CIFAR_SHAPE))


def test_shared_parameters_stay_shared_and_flags_stay():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    network[0].bias.requires_grad_(False)
    copied = skeleton(network.eval(), torch.bfloat16)
    first, second = copied.children()
    assert first.weight is second.weight
    assert first.weight.is_meta
    assert first.weight.dtype is torch.bfloat16
    assert not first.bias.requires_grad
    assert not copied.training
    assert network[0].weight.dtype is torch.float32


def test_a_module_that_cannot_be_copied_is_a_users_error():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("I am\nunique")

    with pytest.raises(UserError, match="Stubborn cannot be copied: I am unique"):
        skeleton(Stubborn(2, 2))
