import time

import pytest
import torch
from torch import nn

from layerscope.measure import Spread, Step, layer_times, profile_step
from layerscope.networks.cifar_cnn import CifarCNN


def test_spread():
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)


def test_every_layer_has_its_time():
    record = layer_times(Step(CifarCNN(), (torch.randn(8, 3, 32, 32),)), repeats=3, warmup=1)
    assert (record.repeats, record.warmup) == (3, 1)
    assert list(record.layers)[:2] == ["block1.conv", "block1.bn"]
    spreads = [time.forward for time in record.layers.values()]
    spreads += [time.backward for time in record.layers.values() if time.backward]
    assert len(spreads) == 2 * len(record.layers)
    for spread in [*spreads, record.step_seconds, record.profiled_step_seconds]:
        assert 0 < spread.minimum <= spread.median <= spread.maximum
    convs = sum(record.layers[f"block{number}.conv"].forward.median for number in (1, 2, 3))
    views = record.layers["flatten"].forward.median
    assert views < convs / 10
    assert sum(spread.minimum for spread in spreads) < record.profiled_step_seconds.maximum


def test_without_a_gradient_there_is_no_time():
    network = CifarCNN().requires_grad_(False)
    network.fc.requires_grad_(True)
    record = layer_times(Step(network, (torch.randn(2, 3, 32, 32),)), repeats=1, warmup=0)
    assert [layer for layer, time in record.layers.items() if time.backward] == ["fc"]


def test_the_time_between_operations_is_no_layers():
    class Slow(nn.Sequential):
        def forward(self, x):
            time.sleep(0.05)
            return super().forward(x)

    record = layer_times(Step(Slow(nn.Linear(3, 3)), (torch.randn(2, 3),)), repeats=1, warmup=0)
    assert record.step_seconds.median > 0.05
    assert record.profiled_step_seconds.median > 0.05
    assert record.layers["0"].forward.median < 0.05


def test_a_layer_inside_an_autograd_function_is_counted_once():
    class Exponential(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.linalg.matrix_exp(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Network(nn.Module):
        def forward(self, x):
            return Exponential.apply(x)

    step = Step(Network(), (torch.randn(300, 300, requires_grad=True),))
    profile_step(step)
    profiled = profile_step(step)
    nanoseconds = profiled.operation_nanoseconds
    assert nanoseconds["linalg_matrix_exp", "forward"] > 0.5 * profiled.step_nanoseconds
    assert nanoseconds.total() <= profiled.step_nanoseconds


@pytest.mark.parametrize("repeats", [0, -1])
def test_no_repeats_are_refused(repeats):
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        layer_times(Step(nn.ReLU(), (torch.randn(2),)), repeats=repeats)


@pytest.mark.gpu
def test_on_a_gpu():
    step = Step(CifarCNN().cuda(), (torch.randn(256, 3, 32, 32).cuda(),))
    record = layer_times(step, repeats=3)
    conv = record.layers["block2.conv"]
    assert conv.forward.median > 0
    assert conv.backward is not None
    assert conv.backward.median > conv.forward.median / 2
    total = sum(
        time.forward.median + (time.backward.median if time.backward else 0)
        for time in record.layers.values()
    )
    assert 0 < total < record.profiled_step_seconds.maximum
