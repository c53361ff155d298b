"""What a step is seen to have done, against the same sums written out or autograd on its own."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerscope.base.errors import UserError
from layerscope.config.schema import CrossEntropyConfig, MSEConfig
from layerscope.explain.capture import capture_step
from layerscope.explain.families import operation_in
from layerscope.measure import Step
from layerscope.networks.layer_calls import calls_by_layer, network_calls

PLAIN = CrossEntropyConfig(name="cross_entropy", label_smoothing=0.0)


def captured(network, shape, loss=PLAIN, target=0, wanted=None):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(shape, generator=generator, dtype=torch.float64)
    step = Step(network.double(), (image,))
    specs = calls_by_layer(network_calls(network, shape, torch.float64).layers)
    operations = {key: tuple(map(operation_in, calls)) for key, calls in specs.items()}
    found = capture_step(step, loss, target, operations, wanted)
    arrays = {
        key: call.arrays(operations[key][0])
        for key, call in found.calls.items()
        if operations[key][0] is not None
    }
    return arrays, found


class Residual(nn.Module):
    """One summand is made of the other; the activation works in place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Linear(3, 3)

    def forward(self, x):
        x = self.first(x)
        return x + self.second(self.relu(x.clone()))


class Shared(nn.Module):
    """One layer, called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


def test_each_summand_gets_its_own_part():
    calls, _ = captured(Residual(), (4, 3))
    add = calls["add"]
    for part in add.gradients.values():
        np.testing.assert_array_equal(part, add.output_gradient)
    first = calls["first"]
    weight = first.output_gradient.T @ first.operands["x"]
    np.testing.assert_allclose(first.gradients["w"], weight, atol=1e-15)


def test_an_input_is_what_it_was_before_the_layer_overwrote_it():
    calls, _ = captured(Residual(), (4, 3))
    relu = calls["relu"]
    assert (relu.operands["x"] < 0).any()
    np.testing.assert_array_equal(relu.output, np.maximum(relu.operands["x"], 0))
    mask = relu.operands["x"] > 0
    np.testing.assert_array_equal(relu.gradients["x"], relu.output_gradient * mask)


def test_an_output_is_what_the_layer_returned_though_the_next_one_overwrites_it():
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    calls, _ = captured(network, (4, 3))
    assert (calls["0"].output < 0).any()
    np.testing.assert_array_equal(calls["0"].output, calls["1"].operands["x"])
    np.testing.assert_array_equal(calls["0"].output_gradient, calls["1"].gradients["x"])


def test_a_shared_layers_first_call_has_its_own_part_only():
    network = Shared()
    calls, step = captured(network, (4, 3))
    call = calls["layer"]
    own = call.output_gradient.T @ call.operands["x"]
    np.testing.assert_allclose(call.gradients["w"], own, atol=1e-15)
    whole = step.calls["layer"].whole_gradients["w"]
    assert not np.allclose(whole.numpy(), own)
    image = torch.tensor(call.operands["x"])
    F.cross_entropy(network(image), torch.zeros(4, dtype=torch.long)).backward()
    torch.testing.assert_close(whole, network.layer.weight.grad)


def test_what_passes_a_tensor_through_passes_its_gradient_through():
    network = nn.Sequential(nn.Dropout(), nn.Linear(3, 2), nn.Flatten()).eval()
    calls, _ = captured(network, (4, 3))
    for key in ("0", "2"):
        np.testing.assert_array_equal(calls[key].gradients["x"], calls[key].output_gradient)


def test_a_function_that_views_and_overwrites_is_still_captured():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(F.relu_(x.flatten(1) * 1))

    calls, step = captured(Net(), (2, 2, 2))
    np.testing.assert_array_equal(calls["relu"].output, np.maximum(calls["relu"].operands["x"], 0))
    assert not any(call.is_overwritten for call in step.calls.values())


def test_a_view_that_is_overwritten_has_no_gradient_and_says_so():
    network = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Flatten(), nn.ReLU(inplace=True))
    calls, step = captured(network, (3, 1, 2, 2))
    flatten = calls["1"]
    np.testing.assert_array_equal(flatten.output, flatten.operands["x"].reshape(3, 4))
    assert flatten.output_gradient is None
    assert {key for key, call in step.calls.items() if call.is_overwritten} == {"1"}
    np.testing.assert_array_equal(
        calls["0"].output_gradient[..., 0, 0],
        calls["2"].output_gradient * (calls["2"].operands["x"] > 0),
    )


def test_a_branch_without_influence_has_no_gradient():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x), self.unused(x)

    calls, _ = captured(Net(), (4, 3))
    assert calls["unused"].output_gradient is None
    assert calls["unused"].gradients == {}
    assert calls["used"].gradients.keys() == {"x", "w", "b"}


def test_batch_norms_numbers_on_the_way_are_the_frameworks():
    norm = nn.BatchNorm1d(3)
    norm.running_mean += 5
    calls, _ = captured(nn.Sequential(norm), (6, 3))
    call = calls["0"]
    x = call.operands["x"]
    np.testing.assert_allclose(call.statistics["mean"], x.mean(0), atol=1e-14)
    inverse = 1 / np.sqrt(x.var(0) + norm.eps)
    np.testing.assert_allclose(call.statistics["inverse_std"], inverse, rtol=1e-13)
    np.testing.assert_array_equal(call.operands["running_mean"], np.full(3, 5.0))
    np.testing.assert_array_equal(norm.running_mean, torch.full((3,), 5.0))


def test_the_network_is_left_as_it_was_also_after_an_error():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True)).double()
    network[0].weight.requires_grad_(False)
    network[1].weight.grad = torch.ones(3, dtype=torch.float64)
    before = copy.deepcopy(network.state_dict())
    captured(network, (4, 3))
    with pytest.raises(UserError, match="classes 0 to 2"):
        captured(network, (4, 3), target=3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network[0].weight.requires_grad
    assert network[1].weight.grad.tolist() == [1, 1, 1]
    assert all(not module._forward_hooks for module in network.modules())


def test_frozen_parameters_have_their_gradients_too():
    network = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False)
    calls, _ = captured(network, (4, 3))
    assert calls["0"].gradients.keys() == {"x", "w", "b"}


def test_only_what_is_wanted_is_kept():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    some, _ = captured(network, (4, 3), wanted=frozenset({"1"}))
    every, _ = captured(network, (4, 3))
    assert some.keys() == {"1"}
    np.testing.assert_array_equal(some["1"].gradients["x"], every["1"].gradients["x"])


@pytest.mark.parametrize("loss", [PLAIN, MSEConfig(name="mse")])
def test_the_loss_is_the_mean_against_the_target(loss):
    _, step = captured(nn.Sequential(nn.Linear(3, 2)), (4, 3), loss, target=1)
    outputs = torch.tensor(step.loss.outputs, requires_grad=True)
    if loss.name == "mse":
        value = ((outputs - torch.tensor([0.0, 1.0])) ** 2).mean()
    else:
        value = -outputs.log_softmax(1)[:, 1].mean()
    value.backward()
    assert step.loss.value == pytest.approx(value.item(), rel=1e-14)
    np.testing.assert_allclose(step.loss.gradient, outputs.grad, atol=1e-15)
    assert step.loss.target == (1, 1, 1, 1)


def test_outputs_that_no_loss_can_be_taken_of_are_refused():
    with pytest.raises(UserError, match=r"\(N, num_classes\)"):
        captured(nn.Sequential(nn.Conv2d(1, 2, 1)), (1, 1, 4, 4))

    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() * 1

    with pytest.raises(UserError, match="detached"):
        captured(Detached(), (4, 3))
