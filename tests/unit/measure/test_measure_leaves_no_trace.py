"""Every instrument leaves the network, the image and torch itself as they were."""

import os
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from layerscope.errors import UserError
from layerscope.measure import (
    FvcoreFailed,
    Step,
    activations_and_flops,
    flop_counts,
    fvcore_counts,
    layer_times,
    memory_timeline,
    profile_step,
    profiler_flops,
    step_activations,
)
from layerscope.measure.timing import step_seconds

INSTRUMENTS = {
    "outputs and saved": step_activations,
    "fvcore": lambda step: fvcore_counts(step.network, tuple(step.image.shape)),
    "flop_counter": flop_counts,
    "outputs, saved and flop_counter": activations_and_flops,
    "profiler": profiler_flops,
    "memory": memory_timeline,
    "profiler and memory": profile_step,
    "time": lambda step: layer_times(step, repeats=1, warmup=0),
    "step time": step_seconds,
}


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("this backward\nfails")


class Restless(nn.Module):
    """Changes whatever a forward can change."""

    def __init__(self, fails):
        super().__init__()
        self.fc, self.bn, self.dropout = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.fails, self.seen = fails, 0
        self.fc.register_forward_hook(lambda *_: None)

    def forward(self, x):
        self.seen += 1
        self.last = x
        self.bn.eval()
        self.bn.register_forward_hook(lambda *_: None)
        self.register_buffer("extra", torch.ones(1))
        random.random(), np.random.rand()
        self.bn.train()
        self.frozen.requires_grad_(True)
        y = self.dropout(self.bn(self.fc(x))) * self.frozen
        if self.fails == "backward":
            y = Failing.apply(y)
        return y.view(7) if self.fails == "forward" else y


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(network, image):
    leaves = [*network.parameters(), image]
    return {
        "state": {name: tensor.clone() for name, tensor in network.state_dict().items()},
        "tensors": [id(tensor) for tensor in [*network.parameters(), *network.buffers()]],
        "versions": [tensor._version for tensor in [*network.parameters(), *network.buffers()]],
        "gradients": [id(leaf.grad) for leaf in leaves],
        "gradient values": {
            str(number): leaf.grad.clone()
            for number, leaf in enumerate(leaves)
            if leaf.grad is not None
        },
        "requires_grad": [leaf.requires_grad for leaf in leaves],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "seen": network.seen,
        "modes": [module.training for module in network.modules()],
        "hooks": [[list(getattr(module, name)) for name in HOOKS] for module in network.modules()],
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "log level": os.environ.get("KINETO_LOG_LEVEL"),
        "torch's stacks": (
            torch._C._len_torch_function_stack(),
            torch._C._len_torch_dispatch_stack(),
            torch._C._autograd._profiler_enabled(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
    }


def equal(before, after):
    if isinstance(before, dict) and any(isinstance(v, torch.Tensor) for v in before.values()):
        return before.keys() == after.keys() and all(
            torch.equal(tensor, after[name]) for name, tensor in before.items()
        )
    return before == after


@pytest.mark.parametrize("fails", ["nowhere", "forward", "backward"])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_everything_is_as_it_was(instrument, fails):
    network = Restless(fails)
    network.dropout.eval()
    image = torch.randn(4, 3, requires_grad=True)
    for leaf in [network.fc.weight, network.bn.bias, image]:  # the others have no gradient
        leaf.grad = torch.randn_like(leaf)
    before = state_of(network, image)
    fails_here = fails == "forward" or (fails == "backward" and instrument != "fvcore")
    refused = pytest.raises((UserError, FvcoreFailed), match=r"^[^\n]*$")
    with refused if fails_here else nullcontext():
        INSTRUMENTS[instrument](Step(network, image))
    after = state_of(network, image)
    assert [what for what, value in before.items() if not equal(value, after[what])] == []
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        pass  # the stack of these hooks is in order


@pytest.mark.parametrize("instrument", [name for name in INSTRUMENTS if "time" not in name])
def test_it_measures_the_same_again(instrument):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    step = Step(network, torch.randn(2, 3, 8, 8))
    first, second = (INSTRUMENTS[instrument](step) for _ in range(2))
    if instrument == "memory":
        first, second = first.blocks, second.blocks
    if instrument == "profiler and memory":
        first, second = first.flops, second.flops
    assert first == second


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_a_compiled_network_is_refused(instrument):
    network = nn.Sequential(nn.Linear(2, 2))
    network._compiled_call_impl = network._call_impl
    with pytest.raises(UserError, match="compiled"):
        INSTRUMENTS[instrument](Step(network, torch.randn(1, 2)))
