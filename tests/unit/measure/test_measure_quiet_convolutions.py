"""Convolutions that torch runs group by group, profiled without the single groups."""

import gc

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile
from torch.utils.checkpoint import checkpoint

from layerscope.base.errors import UserError
from layerscope.measure import Step, memory_record, profile_step, profiler_flops

CHANNELS = 12


def grouped(**options):
    return nn.Conv2d(CHANNELS, CHANNELS, 1, groups=CHANNELS, **options)


class Branches(nn.Module):
    """Branches whose gradients are summed in the node of a grouped convolution."""

    def __init__(self, run):
        super().__init__()
        self.bn, self.relu = nn.BatchNorm2d(CHANNELS), nn.ReLU()
        self.first, self.second = grouped(), grouped(bias=False)
        self.run = run

    def forward(self, x):
        x = self.relu(self.bn(x))
        x = self.run(self.first, x) + self.second(x) + x.flatten(2).view_as(x)
        return self.relu(self.second(x) * self.first(x))


RUNS = {
    "plainly": lambda layer, x: layer(x),
    "in a checkpoint": lambda layer, x: checkpoint(layer, x, use_reentrant=False),
    "in a reentrant checkpoint": lambda layer, x: checkpoint(layer, x, use_reentrant=True),
    "saving on the CPU": lambda layer, x: saved_elsewhere(layer, x),
    "without gradients": lambda layer, x: torch.no_grad()(layer)(x),
}


def saved_elsewhere(layer, x):
    with torch.autograd.graph.save_on_cpu():
        return layer(x)


@pytest.mark.parametrize(
    ("run", "dtype"),
    [
        *((run, torch.float32) for run in RUNS),
        ("plainly", torch.float64),
        *(
            pytest.param(run, torch.float64, marks=pytest.mark.slow)
            for run in RUNS
            if run != "plainly"
        ),
    ],
)
def test_flops_and_allocations_are_the_profilers_own(run, dtype):
    network = Branches(RUNS[run]).to(dtype)
    step = Step(network, (torch.randn(1, CHANNELS, 6, 6, dtype=dtype, requires_grad=True),))
    for _ in range(2):  # A library may allocate at its first use.
        gc.collect()  # No garbage may be released in the compared steps.
        with (
            step.preserve_state(),
            profile(use_kineto=True, with_flops=True, profile_memory=True) as it,
        ):
            loss = step.run()
        del loss
    plain = [event.nbytes() for event in it.kineto_results.events() if event.name() == "[memory]"]
    gc.collect()
    profiled = profile_step(step)
    assert [event.allocated_bytes for event in profiled.memory_events] == plain
    assert sum(profiled.flops.values()) == sum(e.flops for e in it.function_events if e.flops)
    assert profiled.flops == profile_step(step, with_memory=False).flops


def test_an_allocation_inside_belongs_to_the_convolution():
    step = Step(Branches(RUNS["plainly"]), (torch.randn(1, CHANNELS, 6, 6),))
    blocks = memory_record(profile_step(step)).blocks
    seen = {(block.layer, block.phase, block.operation) for block in blocks}
    for layer in ("first", "second"):
        assert (layer, "forward", "aten::conv2d") in seen
        assert (layer, "backward", "aten::convolution_backward") in seen
    scratch = [block for block in blocks if block.layer == "first" and block.is_scratch]
    assert {block.phase for block in scratch} == {"forward", "backward"}


def test_recording_goes_on_afterwards():
    step = Step(Branches(RUNS["plainly"]), (torch.randn(1, CHANNELS, 6, 6),))
    profiler_flops(step)
    with profile(use_kineto=True) as it:
        torch.ones(2) + 1
        step.network(*step.args).sum().backward()
    names = [event.name for event in it.function_events]
    assert "aten::add" in names
    assert names.count("aten::_slow_conv2d_forward") == 4 * CHANNELS
    assert names.count("aten::_slow_conv2d_backward") == 4 * CHANNELS


def test_a_convolution_that_fails_leaves_nothing_active():
    step = Step(nn.Sequential(grouped()), (torch.randn(1, CHANNELS + 1, 6, 6),))
    with pytest.raises(UserError, match="cannot run on"):
        profile_step(step)
    assert torch._C._len_torch_dispatch_stack() == 0
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        pass  # the stack of these hooks is in order


def test_a_graph_that_outlives_the_step_can_still_be_used():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = grouped()

        def forward(self, x):
            kept.append(self.layer(x))
            return kept[-1].detach()

    kept = []
    network = Keeping()
    x = torch.randn(1, CHANNELS, 6, 6)
    assert profile_step(Step(network, (x,))).flops["layer", "forward"] > 0
    with profile(use_kineto=True) as it:
        kept[0].sum().backward()
        torch.ones(2) + 1
    assert "aten::add" in [event.name for event in it.function_events]
    assert torch.equal(network.layer.bias.grad, torch.full((CHANNELS,), 36.0))
