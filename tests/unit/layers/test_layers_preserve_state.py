import random

import numpy as np
import pytest
import torch
from torch import nn

from layerscope.layers import preserve_state


class Restless(nn.Module):
    """Changes everything that a forward can change."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout()
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        self.last = x
        self.bn.eval()
        self.bn.register_forward_hook(lambda *_: None)
        random.random(), np.random.rand()
        self.register_buffer("extra", torch.ones(1))
        self.bn.train()
        return self.dropout(self.bn(x))


def state_of(network):
    return (
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        [sorted(vars(module)) for module in network.modules()],
        [module.training for module in network.modules()],
        [list(module._forward_hooks) for module in network.modules()],
        [id(buffer) for buffer in network.buffers()],
        [buffer._version for buffer in network.buffers()],
        network.seen,
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was(fails):
    network = Restless()
    network.dropout.eval()
    before = state_of(network)
    try:
        with preserve_state(network):
            network.train()
            network(torch.randn(4, 2))
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    after = state_of(network)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


def test_a_graph_recorded_before_still_runs_backward():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    loss = network(torch.randn(4, 2)).sum()
    with preserve_state(network):
        network.train()
        network(torch.randn(4, 2))
    loss.backward()


def test_a_buffer_that_two_modules_share_is_shared_inside():
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    second.running_mean = first.running_mean
    with preserve_state(nn.Sequential(first, second)):
        assert second.running_mean is first.running_mean
    assert second.running_mean is first.running_mean


@pytest.mark.parametrize("fails", [False, True])
def test_gradients_are_set_aside_and_put_back(fails):
    network, image = nn.Linear(2, 2), torch.randn(4, 2, requires_grad=True)
    network.weight.grad = gradient = torch.ones(2, 2)
    image.grad = of_image = torch.ones(4, 2)
    try:
        with preserve_state(network, image):
            assert network.weight.grad is image.grad is None
            network(image).sum().backward()
            assert network.bias.grad is not None
            network.bias.requires_grad_(False)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert network.weight.grad is gradient
    assert image.grad is of_image
    assert network.bias.grad is None
    assert network.bias.requires_grad
    assert torch.equal(gradient, torch.ones(2, 2))
    assert torch.equal(of_image, torch.ones(4, 2))


def test_an_input_that_is_no_leaf_is_left_alone():
    base = torch.randn(4, 2, requires_grad=True)
    image = base * 2
    with preserve_state(nn.Linear(2, 2), image):
        pass
    image.sum().backward()
    assert base.grad is not None


def test_lists_and_sets_of_a_module():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.sizes = [1], {2}

        def forward(self, x):
            self.seen.append(x)
            self.sizes.add(x.shape)
            return x

    network = Remembering()
    seen, sizes = network.seen, network.sizes
    with preserve_state(network):
        network(torch.ones(3))
        assert len(seen) == len(sizes) == 2
    assert (network.seen, network.sizes) == ([1], {2})
    assert network.seen is seen
    assert network.sizes is sizes
