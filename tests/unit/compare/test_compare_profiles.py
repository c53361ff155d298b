"""Where two real profiles differ: every figure, and every difference in reasons that sum to it."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import layerscope
from layerscope.compare import compare_profiles
from layerscope.measure.timing import Spread
from layerscope.report.profile.records import comparable
from layerscope.report.profile.report import ProfileReport
from profile_example import cifar_cnn_profile, profile_of, unmeasured

SHAPE = (2, 3, 8, 8)


def network(channels=4, inner=None, size=8):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        inner or nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(channels * (size // 2) ** 2, 10),
    )


def profiled(shape=SHAPE, *, train=True, channels=4, inner=None, **settings):
    built = network(channels, inner, shape[-1])
    return layerscope.profile(built, shape, train=train, **settings)


@pytest.fixture(scope="module")
def base():
    return profiled()


def figures(report):
    """The measured rows of a profile, by layer, quantity and instrument."""
    return {
        (row.layer, row.quantity, row.instrument): row.measured
        for row in report.rows
        if row.is_exact and row.measured is not None and row.layer != "input"
    }


def codes(report, layer, quantity, instrument):
    (found,) = (
        each
        for each in report.differences
        if (each.layer, each.quantity, each.instrument) == (layer, quantity, instrument)
    )
    return {reason.code: reason.amount for reason in found.reasons}


CASES = {
    "the same": {},
    "batch": {"shape": (6, 3, 8, 8)},
    "input": {"shape": (2, 3, 16, 16)},
    "channels": {"channels": 6},
    "batch and channels": {"shape": (4, 3, 8, 8), "channels": 2},
    "dtype": {"dtype": "bfloat16"},
    "batch and dtype": {"shape": (1, 3, 8, 8), "dtype": "float64", "train": False},
    "autocast": {"dtype": "bf16_autocast"},
    "frozen": {"freeze": ("0", "1")},
    "eval mode": {"train": False},
    "gradient of the input": {"input_requires_grad": True},
    "format": {"channels_last": True},
    "another type": {"inner": nn.Tanh()},
    "in place": {"inner": nn.ReLU(inplace=True)},
    "a nested layer": {"inner": nn.Sequential(nn.ReLU(), nn.Tanh())},
    "other instruments": {"instruments": ("outputs", "saved")},
}


@pytest.mark.parametrize("name", CASES)
def test_every_difference_is_the_sum_of_its_reasons(name, base):
    other = profiled(**CASES[name])
    for one, two in ((base, other), (other, base)):
        found = layerscope.compare(one, two)
        before, after = figures(one), figures(two)
        told = {(d.layer, d.quantity, d.instrument): d for d in found.differences}
        assert len(told) == len(found.differences)
        for difference in (*found.differences, *found.totals):
            if difference.difference is not None:
                assert difference.difference == sum(r.amount for r in difference.reasons)
            assert "unexplained" not in {reason.code for reason in difference.reasons}
        for key in before.keys() & after.keys():  # what differs is told, what is told differs
            change = after[key] - before[key]
            assert (told[key].difference if key in told else 0) == change, key
        for total in found.totals:
            layers = [
                each.difference
                for each in found.differences
                if (each.quantity, each.instrument) == (total.quantity, total.instrument)
            ]
            if layers and None not in layers:
                assert sum(layers) == total.difference, total
        assert not [d for d in found.differences if d.presence == "both" and d.a is d.b is None]
    assert bool(found.differences) == (
        name not in ("the same", "another type", "other instruments")
    )


def test_the_cause_is_named_and_its_amount_is_right(base):
    outputs = 4 * 2 * 4 * 64  # bytes of the convolution's output
    key = ("0", "output_bytes", "outputs")
    batch = layerscope.compare(base, profiled((6, 3, 8, 8)))
    assert codes(batch, *key) == {"batch_size": 2 * outputs}
    dtype = layerscope.compare(base, profiled(dtype="bfloat16"))
    assert codes(dtype, *key) == {"element_size": -outputs // 2}
    wide = layerscope.compare(base, profiled(channels=6))
    assert codes(wide, *key) == {"parameters": outputs // 2}
    assert codes(wide, "2", "output_bytes", "outputs") == {"input_shape": outputs // 2}
    large = layerscope.compare(base, profiled((2, 3, 16, 16)))
    assert codes(large, *key) == {"input_shape": 3 * outputs}
    both = layerscope.compare(base, profiled((4, 3, 8, 8), channels=2, dtype="bfloat16"))
    assert codes(both, *key) == {
        "batch_size": outputs,
        "element_size": -outputs,
        "parameters": -outputs // 2,
    }
    assert codes(both, "0", "num_parameters", "outputs") == {"parameters": -2 * 28}
    cancelled = layerscope.compare(base, profiled((4, 3, 8, 8), channels=2))
    assert codes(cancelled, *key) == {"batch_size": outputs, "parameters": -outputs}
    assert codes(layerscope.compare(base, profiled(dtype="bf16_autocast")), *key) == {
        "low_precision": -outputs // 2
    }
    flops = 2 * 2 * 4 * 64 * 27
    frozen = layerscope.compare(base, profiled(freeze=("0",)))
    assert codes(frozen, "0", "backward_flops", "flop_counter") == {
        "no_input_gradient": flops,  # had there been a gradient, it would not have been computed
        "no_gradient": -2 * flops,
    }
    tanh = layerscope.compare(base, profiled(inner=nn.Tanh()))
    assert tanh.differences == ()  # a tanh costs as much
    assert [(each.name, each.a, each.b) for each in tanh.retyped] == [("2", "ReLU", "Tanh")]
    assert "2 (ReLU → Tanh)" in str(tanh)


def test_layers_of_one_side_are_added_or_removed_and_never_0(base):
    other = profiled(inner=nn.Sequential(nn.ReLU(), nn.Tanh()))
    found = layerscope.compare(base, other)
    assert (found.added, found.removed) == (("2.0", "2.1"), ("2",))
    of_side = {d.layer: d for d in found.differences if d.quantity == "output_bytes"}
    outputs = 4 * 2 * 4 * 64
    assert (of_side["2.1"].a, of_side["2.1"].b, of_side["2.1"].difference) == (
        None, outputs, outputs,
    )  # fmt: skip
    assert (of_side["2"].a, of_side["2"].b, of_side["2"].difference) == (outputs, None, -outputs)
    total = next(
        d for d in found.totals if (d.quantity, d.instrument) == ("output_bytes", "outputs")
    )
    assert {r.code: r.amount for r in total.reasons} == {"added": 2 * outputs, "removed": -outputs}
    text = " ".join(str(found).split())
    assert "added layers: 2.0, 2.1" in text
    assert "matched by their paths" in text


def test_what_one_side_does_not_know_is_unknown(base):
    one = comparable(profile_of(network(), SHAPE), "a")
    layer = one.layers["0"]
    unknown = replace(layer, figures={**layer.figures, "macs": None})
    two = replace(one, layers={**one.layers, "0": unknown})
    found = compare_profiles(one, two)
    (of_layer,) = found.differences
    assert (of_layer.b, of_layer.difference, of_layer.reasons) == (None, None, ())
    total = next(d for d in found.totals if (d.quantity, d.instrument) == ("macs", "textbook"))
    assert (total.b, total.difference) == (None, None)
    assert found.num_unknown == 1
    forecast = compare_profiles(one, comparable(unmeasured(profile_of(network(), SHAPE)), "b"))
    assert forecast.only_in["b"] == ()
    assert {instrument for _, instrument in forecast.only_in["a"]} == {
        "outputs", "saved", "dry_run", "fvcore", "torchinfo", "flop_counter", "profiler",
    }  # fmt: skip
    assert forecast.differences == ()
    peak = forecast.totals[-1]
    assert (peak.instrument, peak.difference) == ("dry_run", 0)


def test_what_an_instrument_counts_on_one_side_only_is_unknown():
    one = comparable(profile_of(network(), SHAPE), "a")
    key, whole = (("5", "macs", "fvcore"), ("total", "macs", "fvcore"))
    uncounted = replace(one.rows[key], counted=False, measured=None)
    total = one.totals[whole]
    less = replace(total, measured=total.measured - one.rows[key].measured)
    two = replace(one, rows={**one.rows, key: uncounted}, totals={**one.totals, whole: less})
    for first, second, sign in ((one, two, -1), (two, one, 1)):
        found = compare_profiles(first, second)
        (of_layer,) = found.differences
        assert (of_layer.layer, of_layer.difference, of_layer.reasons) == ("5", None, ())
        assert None in (of_layer.a, of_layer.b)
        of_total = next(d for d in found.totals if (d.quantity, d.instrument) == key[1:])
        assert {reason.code: reason.amount for reason in of_total.reasons} == {
            "counted_on_one_side": sign * one.rows[key].measured
        }


def test_the_peak_differs_by_what_is_alive_then(base):
    found = layerscope.compare(base, profiled((4, 3, 8, 8)))
    peak = found.totals[-1]
    measured = [report.peak.measured_live_bytes for report in (base, profiled((4, 3, 8, 8)))]
    assert (peak.quantity, peak.instrument, [peak.a, peak.b]) == (
        "live_peak_bytes", "memory", measured,
    )  # fmt: skip
    assert "saved" in {reason.code for reason in peak.reasons}
    assert sum(reason.amount for reason in peak.reasons) == measured[1] - measured[0]


def test_something_unexplained_in_one_profile_is_told(base):
    profile = profile_of(network(), SHAPE)
    rows = tuple(
        replace(row, measured=row.measured + 7)
        if (row.layer, row.quantity, row.instrument) == ("0", "saved_bytes", "saved")
        else row
        for row in profile.rows
    )
    found = layerscope.compare(
        ProfileReport(profile),
        ProfileReport(replace(profile, rows=rows)),
    )
    assert codes(found, "0", "saved_bytes", "saved") == {"unexplained": 7}
    assert "nothing is left unexplained" not in " ".join(str(found).split())


def test_times_within_their_spread_are_no_difference():
    profile = cifar_cnn_profile()
    one = comparable(profile, "a")
    step = one.seconds["total", "step_seconds"]
    slow = Spread(step.median * 3, step.maximum * 2, step.maximum * 4)
    near = Spread(step.median * 1.05, step.minimum, step.maximum * 2)
    for spread, differs in ((slow, True), (near, False)):
        two = replace(one, seconds={**one.seconds, ("total", "step_seconds"): spread})
        found = compare_profiles(one, two)
        (whole,) = (each for each in found.clock if each.quantity == "step_seconds")
        assert whole.differs is differs
        assert found.differences == ()
    peak = next(each for each in found.clock if each.quantity == "peak_bytes")
    assert peak.differs is None


def test_what_differs_around_the_network_is_named(base):
    one = comparable(base.profile, "a")
    two = replace(one, torch_version="2.11.0", settings={**one.settings, "train": False})
    changes = {each.name: (each.a, each.b) for each in compare_profiles(one, two).changes}
    assert changes == {"train": (True, False), "torch_version": (torch.__version__, "2.11.0")}


def test_files_say_the_same_as_the_objects(base, tmp_path):
    other = profiled(channels=6)
    base.save(tmp_path / "a")
    other.save(tmp_path / "b")
    found = layerscope.compare(base, other)
    again = layerscope.compare(tmp_path / "a", str(tmp_path / "b/profile.json"))
    assert (again.differences, again.totals) == (found.differences, found.totals)
    paths = found.save(tmp_path / "out")
    assert [path.name for path in paths] == ["compare.json", "compare.md", "compare.html"]
    record = json.loads(paths[0].read_text())
    assert record["a"]["input_shape"] == list(SHAPE)
    assert {"layer", "quantity", "a", "b", "difference", "reasons"} <= set(record["differences"][0])
    assert len(record["differences"]) == len(found.differences)
    assert all(
        each["difference"] == sum(reason["amount"] for reason in each["reasons"])
        for each in (*record["differences"], *record["totals"])
    )
    assert max(map(len, str(found).split("\n"))) <= 100
    for text in (paths[1].read_text(), paths[2].read_text(), found._repr_html_()):
        assert "parameters" in text
    with pytest.raises(layerscope.UserError, match="b is a int: give what"):
        layerscope.compare(base, 3)
    with pytest.raises(layerscope.UserError, match=r"a=.* cannot be read"):
        layerscope.compare(tmp_path, base)
