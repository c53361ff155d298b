"""The memory of an optimizer: its state between steps, and its temporary tensors in a step."""

from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

from layerscope.measure.profiled_step import quiet_start


@dataclass(frozen=True)
class OptimizerState:
    """Bytes for all parameters together.

    Args:
        state_bytes: bytes of tensors in the shape of a parameter: momentum, Adam's moments.
        counter_bytes: bytes of the step counters, which some optimizers have for each parameter.
        temporary_bytes: the most that one step allocates on a CPU, without gradients.
    """

    state_bytes: int
    counter_bytes: int
    temporary_bytes: int


def optimizer_state(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """Take two steps and measure the second. Every parameter must have a gradient."""
    optimizer.step()  # The first step makes the state.
    states = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    profiler = profile(profile_memory=True, use_kineto=True)
    with quiet_start():
        profiler.__enter__()
    try:
        optimizer.step()
    finally:
        profiler.__exit__(None, None, None)
    assert profiler.kineto_results is not None
    alive = most = 0
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            most = max(most, alive)
    return OptimizerState(
        state_bytes=sum(tensor.nbytes for tensor in states if tensor.dim()),
        counter_bytes=sum(tensor.nbytes for tensor in states if not tensor.dim()),
        temporary_bytes=most,
    )
