import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.config.schema import ConstantConfig, StepsConfig, WarmupConfig
from layerscope.training.schedules import rate_at

LINEAR = WarmupConfig(name="linear", warmup=0.1, final=0.0)


def test_linear_rises_over_the_warm_up_and_falls_to_nothing():
    rates = [rate_at(LINEAR, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 0.5) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([(99.5 - step) / 90 for step in range(10, 100)])


@given(
    name=st.sampled_from(["linear", "cosine"]),
    warmup=st.floats(0, 0.9),
    final=st.floats(0, 0.9),
    steps=st.integers(1, 300),
)
def test_rates_stay_between_nothing_and_all_and_never_rise_after_the_warm_up(
    name, warmup, final, steps
):
    config = WarmupConfig(name=name, warmup=warmup, final=final)
    rates = [rate_at(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert all(a >= b - 1e-12 for a, b in zip(rates[top:], rates[top + 1 :], strict=False))


def test_constant_and_milestones():
    assert rate_at(ConstantConfig(name="constant"), 7, 10) == 1
    config = StepsConfig(name="milestones", milestones=(0.5, 0.75), factor=0.1)
    rates = [rate_at(config, step, 4) for step in range(4)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_past_its_end_a_schedule_stays_there(name):
    """The rate is never negative when a run resumes with fewer batches in an epoch."""
    config = WarmupConfig(name=name, warmup=0.1, final=0.25)
    assert rate_at(config, 10, 10) == rate_at(config, 30, 10) == pytest.approx(0.25)
