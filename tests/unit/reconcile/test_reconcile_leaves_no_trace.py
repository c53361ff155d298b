"""A profile changes nothing around the network: caches, other networks, inputs, weights."""

import functools

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

import layerscope
from layerscope.base.errors import UserError

CACHE = {}


@functools.lru_cache
def table(size):
    return torch.arange(float(size))


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        if "table" not in CACHE:
            CACHE["table"] = torch.arange(8.0)
        return self.conv(image) * CACHE["table"]


class Memoised(Cached):
    def forward(self, image):
        return self.conv(image) * table(8)


class Holder:
    last = None


class Keeping(Cached):
    """Keeps results in an object, a nested list and plain attributes."""

    def __init__(self):
        super().__init__()
        self.holder = Holder()
        self.history = {"all": []}
        self.positions = torch.randn(100, 8)
        self.scale = torch.randn(8, requires_grad=True)

    def forward(self, image):
        self.holder.last = self.conv(image)
        self.history["all"].append(self.holder.last)
        positions = self.positions[:8] + self.positions.t()[:8, :8]
        return self.holder.last + positions * self.scale


def explained(profile):
    assert profile.comparisons.num_unexplained == 0
    assert profile.comparisons.num_compared > 0


@pytest.mark.parametrize("make", [Cached, Memoised])
def test_a_cache_outside_of_modules_holds_real_tensors(make):
    CACHE.clear()
    table.cache_clear()
    explained(layerscope.profile(make(), (2, 3, 8, 8)))
    assert not isinstance(table(8) if make is Memoised else CACHE["table"], FakeTensor)


def test_what_attributes_hold_is_put_back():
    network = Keeping()
    explained(layerscope.profile(network, (2, 3, 8, 8)))
    assert network.holder.last is None
    assert network.history == {"all": []}
    assert network.scale.grad is None


def test_a_tensor_that_cannot_be_put_back_is_refused():
    kept = set()

    class Hiding(Cached):
        def forward(self, image):
            kept.add(self.conv(image))
            return self.conv(image)

    with pytest.raises(UserError, match="outside of its modules"):
        layerscope.dry_run(Hiding(), (2, 3, 8, 8))


def test_a_second_network_in_the_loss_keeps_its_gradients():
    critic = nn.Linear(4, 1)
    critic.bias.grad = before = torch.ones(1)

    def loss(made):
        return F.softplus(-critic(made)).mean()

    network = nn.Linear(4, 4)
    layerscope.dry_run(network, (2, 4), loss=loss)
    assert critic.weight.grad is None
    explained(layerscope.profile(network, (2, 4), loss=loss))
    assert critic.weight.grad is None
    assert critic.bias.grad is before
    assert before == 1


def test_weights_and_inputs_that_the_forward_overwrites_stay():
    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.fast, self.slow = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)

        def forward(self, image):
            with torch.no_grad():
                self.slow.weight.mul_(0.9).add_(self.fast.weight, alpha=0.1)
            return self.fast(image.mul_(2)) + self.slow(image)

    network, image = Averaging(), torch.randn(2, 4)
    weight, before = network.slow.weight.clone(), image.clone()
    explained(layerscope.profile(network, args=(image,)))
    assert torch.equal(network.slow.weight, weight)
    assert torch.equal(image, before)


class Branches(nn.Module):
    """Returns more than a loss needs: an unused branch, and the index of a maximum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())

    def forward(self, image):
        return self.a(image * 2), self.b(image), self.a(image).argmax(1)


@pytest.mark.parametrize(
    "loss", [lambda made: made[0].sum(), lambda made: made[0].sum().detach(), None]
)
def test_only_what_the_loss_needs_is_saved(loss):
    explained(layerscope.profile(Branches(), (4, 8), loss=loss))


@pytest.mark.parametrize("optimizer", [object(), lambda parameters: 1 / 0, lambda parameters: None])
def test_a_broken_optimizer_is_named(optimizer):
    with pytest.raises(UserError, match="optimizer"):
        layerscope.profile(nn.Linear(4, 4), (2, 4), optimizer=optimizer)


def test_autocast_within_and_around_the_network():
    class Within(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image):
            with torch.autocast("cpu", torch.bfloat16):
                return self.conv(image)

    explained(layerscope.profile(Within(), (2, 3, 8, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        explained(layerscope.profile(nn.Conv2d(3, 4, 3), (2, 3, 8, 8)))


def test_a_loss_that_calls_the_network_again():
    network = nn.Linear(4, 4)
    explained(layerscope.profile(network, (2, 4), loss=lambda made: network(made).sum()))
