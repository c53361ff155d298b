"""Against the updates written out with torch's formulas."""

import math

import pytest
import torch

from layerscope.explain.capture import CapturedCall
from layerscope.explain.updates import updates_of

RATE = 0.05


@pytest.fixture
def call():
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    made = CapturedCall("fc", {}, {"w": weight, "b": bias})
    made.whole_gradients = {"w": torch.randn(2, 3).double(), "b": torch.randn(2).double()}
    return made


def test_each_parameter_gets_one_step_of_each_optimizer(call):
    updates = updates_of(call, (1, 2), (0,), RATE)
    named = [(update.parameter, update.optimizer, update.position) for update in updates]
    assert named == [
        ("weight", "sgd", (1, 2)),
        ("weight", "adam", (1, 2)),
        ("bias", "sgd", (0,)),
        ("bias", "adam", (0,)),
    ]
    assert updates_of(call, None, None, RATE) == ()
    call.whole_gradients = {}
    assert updates_of(call, (1, 2), (0,), RATE) == ()


def test_the_numbers_are_the_formulas_and_torchs(call):
    sgd, adam, *_ = updates_of(call, (1, 2), (0,), RATE)
    w = call.operands["w"][1, 2].item()
    g = call.whole_gradients["w"][1, 2].item()
    (after,) = sgd.values
    assert after.name == "w_new[1,2]"
    assert after.computed == pytest.approx(w - RATE * g, rel=1e-15)
    expected = {
        "m[1,2]": 0.1 * g,
        "v[1,2]": 0.001 * g**2,
        "m_hat[1,2]": g,
        "v_hat[1,2]": g**2,
        "w_new[1,2]": w - RATE * g / (math.sqrt(g**2) + 1e-8),
    }
    assert {value.name: value.computed for value in adam.values} == pytest.approx(
        expected, rel=1e-13
    )
    for value in (*sgd.values, *adam.values):
        if value.actual is not None:
            assert value.actual == pytest.approx(value.computed, rel=1e-13)
    assert adam.values[-1].actual is not None


def test_float32_is_off_by_few_units_in_the_last_place(call):
    single = CapturedCall("fc", {}, {n: t.float() for n, t in call.operands.items()})
    single.whole_gradients = {n: t.float() for n, t in call.whole_gradients.items()}
    for update in updates_of(single, (0, 0), (1,), RATE):
        assert all(value.ulps is None or value.ulps < 8 for value in update.values)
        assert {formula.quantity for formula in update.formulas} == {
            value.name.partition("[")[0] for value in update.values
        }


def test_the_parameters_are_copies(call):
    before = call.operands["w"].clone()
    updates_of(call, (0, 0), (1,), RATE)
    assert torch.equal(call.operands["w"], before)
