import pytest
import torch

from layerscope.measure.optimizer_state import optimizer_state


def parameters() -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(torch.ones(size)) for size in (50, 1000)]
    for parameter in made:
        parameter.grad = torch.ones_like(parameter)
    return made


@pytest.mark.parametrize(("momentum", "state_bytes"), [(0.0, 0), (0.9, 4 * 1050)])
def test_sgd(momentum, state_bytes):
    record = optimizer_state(torch.optim.SGD(parameters(), 0.1, momentum, foreach=False))
    assert (record.state_bytes, record.counter_bytes) == (state_bytes, 0)
    assert record.temporary_bytes < 64


def test_adam_has_two_moments_and_a_counter_for_each_parameter():
    record = optimizer_state(torch.optim.Adam(parameters(), foreach=False))
    assert (record.state_bytes, record.counter_bytes) == (2 * 4 * 1050, 2 * 4)
    # Two copies of the larger parameter, and the last copy of the smaller one.
    assert 0 <= record.temporary_bytes - (2 * 4000 + 200) < 64
