import os

import pytest
import torch
import torchvision
from torch import nn
from torch.autograd.profiler import profile
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from layerscope.base.errors import UserError
from layerscope.measure import Step, flop_counts, profile_step, profiler_flops
from layerscope.networks.cifar_cnn import CifarCNN

IMAGE = (2, 4, 8, 8)
ELEMENTS = 2 * 4 * 8 * 8
CONV = 2 * 2 * 8 * 8 * 4 * 4 * 9  # FLOPs of a 3x3 convolution that preserves size and channels


def counted(network, image, autocast=None):
    """Return the counts that are not 0."""
    counts = profiler_flops(Step(network, (image,), autocast=autocast))
    assert counts.total == sum(counts.forward.values()) + sum(counts.backward.values())
    return tuple(
        {key: count for key, count in part.items() if count}
        for part in (counts.forward, counts.backward)
    )


class Applied(nn.Module):
    """An operation between two others, which make its input and its output's gradient."""

    def __init__(self, operation):
        super().__init__()
        self.pre, self.operation, self.post = nn.PReLU(), operation, nn.ReLU()

    def forward(self, x):
        return self.post(self.operation(self.pre(x)))


def test_cifar_cnn():
    convs = {"block1.conv": 56_623_104, "block2.conv": 301_989_888, "block3.conv": 301_989_888}
    assert sum(convs.values()) == 660_602_880
    forward, backward = counted(CifarCNN(), torch.randn(32, 3, 32, 32))
    assert forward == {**convs, "fc": 81_920}
    assert backward == {"fc": 163_840}


def test_every_layer_has_a_count():
    counts = profiler_flops(Step(CifarCNN(), (torch.randn(2, 3, 32, 32),)))
    assert list(counts.forward) == list(counts.backward)
    assert (counts.forward["gap"], counts.backward["block1.conv"]) == (0, 0)


def test_it_is_the_profilers_own_total():
    network = torchvision.models.densenet121(weights=None)
    step = Step(network, (torch.randn(2, 3, 32, 32),))
    with step.preserve_state(), profile(use_kineto=True, with_flops=True) as profiler:
        step.run()
    assert profiler_flops(step).total == sum(
        event.flops for event in profiler.function_events if event.flops
    )


@pytest.mark.parametrize(
    ("network", "flops"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), CONV),
        (nn.Conv2d(4, 4, 3, padding=1).to(memory_format=torch.channels_last), CONV),
        (nn.Conv2d(4, 4, 3, padding=1).eval(), CONV),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), CONV // 4),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, stride=2), CONV // 4),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), CONV),
        (nn.Conv2d(4, 4, 3, padding="same"), 0),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), 0),
    ],
)
def test_convolutions(network, flops):
    assert counted(network, torch.randn(IMAGE, requires_grad=True)) == (
        {type(network).__name__: flops} if flops else {},
        {},
    )


def test_autocast_counts_a_convolution_twice_and_a_linear_layer_once():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 5))
    forward, backward = counted(network, torch.randn(IMAGE), torch.bfloat16)
    linear = 2 * 2 * 4 * 8 * 8 * 5
    assert forward == {"0": 2 * CONV, "1": linear}
    assert backward == {"1": 2 * linear}
    assert counted(network.bfloat16(), torch.randn(IMAGE).bfloat16()) == (
        {"0": CONV, "1": linear},
        {"1": 2 * linear},
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 8), (2, 3, 8), (2, 3, 5, 8)])
def test_linear_layers_of_any_shape(shape, bias):
    network, image = nn.Linear(8, 5, bias=bias), torch.randn(shape)
    flops = 2 * image.numel() * 5
    assert counted(nn.Sequential(network), image) == ({"0": flops}, {"0": flops})
    both = counted(nn.Sequential(network), image.requires_grad_())
    assert both == ({"0": flops}, {"0": 2 * flops})


@pytest.mark.parametrize(
    ("operation", "forward", "backward"),
    [
        (lambda x: x + x.detach(), ELEMENTS, 0),
        (lambda x: x.mean((2, 3), keepdim=True) + x.detach(), 8, 0),
        (lambda x: x + 1, ELEMENTS, 0),
        (lambda x: x.add_(1), 0, 0),
        (lambda x: x - x.detach(), 0, 0),
        (lambda x: x * 2, ELEMENTS, ELEMENTS),
        (lambda x: x.mean((2, 3), keepdim=True) * x, 8, 2 * ELEMENTS),
        (lambda x: x * x.mean((2, 3), keepdim=True).detach(), ELEMENTS, ELEMENTS),
        (lambda x: x.clone().mul_(2), 0, ELEMENTS),
        (lambda x: x / 2, 0, 0),
        (lambda x: torchvision.ops.stochastic_depth(x, 0.5, "row", True), ELEMENTS, ELEMENTS),
        (lambda x: torchvision.ops.stochastic_depth(x, 0.5, "row", False), 0, 0),
        (lambda x: F.dropout(x, 0.5), ELEMENTS, ELEMENTS),
        (lambda x: F.dropout(x, 0.5, training=False), 0, 0),
        (lambda x: F.dropout(x.clone(), 0.5, inplace=True), 0, ELEMENTS),
        (lambda x: F.batch_norm(x, None, None, training=True), 0, 0),
        (lambda x: F.hardswish(F.silu(F.gelu(F.relu6(x)))), 0, 0),
        (lambda x: F.max_pool2d(F.avg_pool2d(F.softmax(x, 1), 2), 2), 0, 0),
        # Two products, and the sum of the two gradients of x, of which the earlier is a view.
        (lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2), 4096, 2 * 4096 + ELEMENTS),
    ],
)
def test_operations(operation, forward, backward):
    counts = counted(Applied(operation), torch.randn(IMAGE))
    assert [sum(part.values()) for part in counts] == [forward, backward]


class Residual(nn.Module):
    def __init__(self, tail):
        super().__init__()
        self.pre, self.body, self.tail = nn.PReLU(), nn.PReLU(), tail

    def forward(self, x):
        x = self.pre(x)
        y = self.body(x)
        y += x
        return self.tail(y)


@pytest.mark.parametrize(
    ("tail", "flops"),
    [(nn.ReLU(), 0), (nn.Sequential(nn.Flatten(), nn.ReLU()), ELEMENTS), (nn.Identity(), ELEMENTS)],
)
def test_two_gradients_of_one_tensor_are_added_in_place_unless_the_earlier_is_a_view(tail, flops):
    _, backward = counted(Residual(tail), torch.randn(IMAGE))
    assert backward == ({"body": flops} if flops else {})


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


def test_an_operation_outside_of_any_layer_is_its_modules():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(x)
            with torch._C.DisableTorchFunction():
                return x @ x.transpose(-1, -2)

    network = nn.Sequential(Block())
    flops = 2 * ELEMENTS * 8
    counts = profiler_flops(Step(network, (torch.randn(IMAGE),)))
    assert list(counts.forward.items()) == [("0.relu", 0), ("0", flops)]
    assert flop_counts(Step(network, (torch.randn(IMAGE),))).forward == counts.forward


def test_the_losses_own_addition_is_no_layers():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.prelu = nn.ReLU(), nn.PReLU()

        def forward(self, x):
            y = self.prelu(x)
            return self.relu(y), self.relu(2 - y)

    assert counted(Two(), torch.randn(IMAGE)) == ({}, {})


def test_one_profiler_at_a_time():
    with profile(use_kineto=True), pytest.raises(UserError, match="running already"):
        profiler_flops(Step(nn.ReLU(), (torch.randn(IMAGE),)))


def test_padding_by_name_writes_nothing_to_stderr(capfd):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), Complaining())
    profile_step(Step(network, (torch.randn(1, 3, 8, 8),)))
    assert capfd.readouterr().err == "something else\n"


class Complaining(nn.Module):
    def forward(self, image):
        os.write(2, b"something else\n")
        return image * 2
