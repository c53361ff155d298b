"""What an optimizer keeps between its steps, and takes while it steps."""

from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

from layerscope.measure.profiled_step import quiet_start


@dataclass(frozen=True)
class OptimizerState:
    """Of all parameters.

    Args:
        state_bytes: of what has the shape of a parameter: momentum, Adam's moments.
        counter_bytes: of the steps' numbers, one per parameter tensor where there are some.
        temporary_bytes: the most that one step allocates, on a CPU; gradients are there before.
    """

    state_bytes: int
    counter_bytes: int
    temporary_bytes: int


def optimizer_state(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """Two steps, the second of them watched. Every parameter must have a gradient."""
    optimizer.step()  # makes the state
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
