"""Every instrument, including the dry run, leaves network, image and torch as they were."""

import copy
import gc
import logging
import os
import random
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch._decomp import decompositions
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import checkpoint

from layerscope.base.errors import UserError
from layerscope.dry_run import dry_run
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


def run_dry(step, **options):
    options = {"loss": step.loss_function, "autocast": step.autocast, **options}
    return dry_run(step.network, step.args, step.kwargs, **options)


INSTRUMENTS = {
    "dry run": run_dry,
    "dry run with an optimizer": partial(run_dry, optimizer=torch.optim.Adam),
    "dry run under autocast": partial(run_dry, autocast=torch.bfloat16),
    "dry run for a GPU": partial(run_dry, device=torch.device("cuda")),
    "dry run on real tensors": partial(run_dry, real=True),
    "outputs and saved": step_activations,
    "fvcore": fvcore_counts,
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
        self.plain = torch.ones(3)
        self.kept, self.table, self.nested = [torch.ones(2)], {"a": torch.ones(2)}, {"b": [[]]}
        self.fc.register_forward_hook(lambda *_: None)

    def forward(self, x):
        self.seen += 1
        self.last = x
        self.plain = x.sum()
        self.kept.append(x)
        self.table["c"] = self.plain
        self.nested["b"][0].append(x)
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
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cpu"),
        ),
        "torch's functions": (
            id(vars(torch.autograd.Function)["apply"]),
            id(torch.get_rng_state),
            dict(vars(checkpoint)),
            id(decompositions.select_one_layer_lstm_function),
        ),
        "collector": gc.isenabled(),
        "log": logging.getLogger("torch._subclasses.fake_tensor").level,
        "containers": [
            [(name, id(value), copy.copy(value)) for name, value in vars(module).items()]
            for module in network.modules()
        ],
        "nested": len(network.nested["b"][0]),
        "fakes": sum(isinstance(value, FakeTensor) for value in reachable(network, set())),
    }


def reachable(value, seen):
    """Return everything reachable from a module's attributes."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, nn.Module):
        value = vars(value)
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple | set):
        for item in inner:
            yield from reachable(item, seen)


def equal(before, after):
    if isinstance(before, torch.Tensor):
        return isinstance(after, torch.Tensor) and torch.equal(before, after)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(equal(before[k], after[k]) for k in before)
    if isinstance(before, list | tuple):
        pairs = zip(before, after, strict=False)
        return len(before) == len(after) and all(equal(old, new) for old, new in pairs)
    return before is after or before == after


def failing_loss(output):
    raise ValueError("this loss\nfails")


@pytest.mark.parametrize("fails", ["nowhere", "forward", "loss", "backward"])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_everything_is_as_it_was(instrument, fails):
    network = Restless(fails)
    network.dropout.eval()
    image = torch.randn(4, 3, requires_grad=True)
    for leaf in [network.fc.weight, network.bn.bias, image]:  # The others have no gradient.
        leaf.grad = torch.randn_like(leaf)
    before = state_of(network, image)
    fails_here = fails != "nowhere"
    if instrument == "fvcore":  # runs the forward alone
        fails_here = fails == "forward"
    if instrument == "dry run for a GPU":  # whose backward pass cannot run dry
        fails_here = fails in ("forward", "loss")
    loss = failing_loss if fails == "loss" else None
    refused = pytest.raises((UserError, FvcoreFailed), match=r"^[^\n]*$")
    with refused if fails_here else nullcontext():
        INSTRUMENTS[instrument](Step(network, (image,), loss_function=loss))
    after = state_of(network, image)
    assert [what for what, value in before.items() if not equal(value, after[what])] == []
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        pass  # the stack of these hooks is in order


@pytest.mark.parametrize("instrument", [name for name in INSTRUMENTS if "time" not in name])
def test_it_measures_the_same_again(instrument):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    step = Step(network, (torch.randn(2, 3, 8, 8),))
    first, second = (INSTRUMENTS[instrument](step) for _ in range(2))
    if instrument == "memory":
        first, second = first.blocks, second.blocks
    if instrument.startswith("dry run"):
        first, second = first.live_after, second.live_after
    if instrument == "profiler and memory":
        first, second = first.flops, second.flops
    assert first == second


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_a_compiled_network_is_refused(instrument):
    network = nn.Sequential(nn.Linear(2, 2))
    network._compiled_call_impl = network._call_impl
    with pytest.raises(UserError, match="compiled"):
        INSTRUMENTS[instrument](Step(network, (torch.randn(1, 2),)))


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_hooks_on_gradients_do_not_run_and_stay(instrument):
    """Such a hook may be an optimizer that steps during the backward pass to save memory."""
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    runs = []

    def step(parameter):
        runs.append(parameter)
        optimizer.step()

    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(step)
        parameter.register_hook(runs.append)
    before = [parameter.clone() for parameter in network.parameters()]
    image = torch.randn(2, 3)
    INSTRUMENTS[instrument](Step(network, (image,)))
    assert runs == []
    for parameter, value in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
    network(image).sum().backward()
    assert len(runs) == 8
