import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.report.profile import budget as budgets
from layerscope.report.profile.budget import read_budget, show_budget
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import TextScreen
from profile_example import cifar_cnn_profile, profile_of, unmeasured

FROZEN = Path(__file__).parents[2] / "frozen" / "files"


def network(channels=4, extra=False):
    layers = [nn.Conv2d(3, channels, 3), nn.ReLU(), *([nn.Tanh()] if extra else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def small(**changes):
    built = network(**changes)
    built(torch.zeros(1, 3, 8, 8))
    return profile_of(built, (2, 3, 8, 8))


@pytest.fixture(scope="module")
def budget(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    ProfileReport(small()).save(folder)
    return folder / "profile.json"


def compare_with_budget(profile, path, tolerance=0.0):
    return budgets.compare_with_budget(profile, read_budget(path), tolerance)


def shown(changes, tolerance=0.0):
    screen = TextScreen()
    show_budget(screen, changes, tolerance)
    assert max(map(len, screen.text.split("\n"))) <= 100
    return screen.text


def test_the_same_network_is_within_its_budget(budget):
    changes = compare_with_budget(small(), budget)
    assert changes == ()
    assert "Within the budget" in shown(changes)


def test_a_layer_that_grew_is_named_with_both_figures(budget):
    changes = compare_with_budget(small(channels=5), budget)
    assert all(change.exceeds for change in changes)
    macs = next(c for c in changes if (c.layer, c.quantity) == ("0", "macs"))
    assert (macs.budget, macs.now) == (2 * 4 * 36 * 27, 2 * 5 * 36 * 27)
    assert macs.growth == 0.25
    assert {"0", "1", "3", "total"} <= {change.layer for change in changes}
    text = shown(changes)
    assert "BUDGET EXCEEDED" in text
    assert "+25.0 %" in text
    assert "7,776" in text


def test_tolerance_is_relative_and_inclusive(budget):
    changes = compare_with_budget(small(channels=5), budget, tolerance=0.25)
    assert ("0", "macs") not in {(change.layer, change.quantity) for change in changes}
    below = compare_with_budget(small(channels=5), budget, tolerance=0.2499)
    assert ("0", "macs") in {(change.layer, change.quantity) for change in below}


def test_savings_are_shown_largest_first_and_no_offence(budget):
    changes = compare_with_budget(small(channels=3), budget)
    assert {change.what for change in changes} == {"shrank"}
    assert not any(change.exceeds for change in changes)
    macs = next(c for c in changes if (c.layer, c.quantity) == ("0", "macs"))
    assert (macs.budget, macs.now, macs.growth) == (7_776, 5_832, -0.25)
    text = shown(changes)
    assert "Within the budget" in text
    shares = [float(found) for found in re.findall(r"-(\d+\.\d) %", text)]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) > 5


def test_what_grew_by_one_instrument_is_no_saving(budget):
    """Fewer bytes by one instrument do not hide more of them by another."""
    profile = small()
    rows = tuple(
        replace(row, measured=row.measured + (1 if row.instrument == "saved" else -99))
        if (row.layer, row.quantity) == ("0", "saved_bytes")
        else row
        for row in profile.rows
    )
    (change,) = compare_with_budget(replace(profile, rows=rows), budget)
    assert (change.what, change.instrument) == ("grew", "saved")


def test_new_layers_exceed_and_vanished_ones_are_mentioned(budget, tmp_path):
    changes = compare_with_budget(small(extra=True), budget)
    new = {change.layer for change in changes if change.what == "new"}
    assert new == {"4"}  # the linear layer moved there; the tanh took flatten's place
    ProfileReport(small(extra=True)).save(tmp_path)
    changes = compare_with_budget(small(), tmp_path / "profile.json")
    gone = [change for change in changes if change.what == "vanished"]
    assert [change.layer for change in gone] == ["4"]
    assert not gone[0].exceeds
    assert "- 4: in the budget, but no longer" in shown(changes)


def test_one_byte_of_peak_counts(budget):
    profile = small()
    *others, peak = profile.totals
    more = replace(peak, measured=peak.measured + 1)
    (change,) = compare_with_budget(replace(profile, totals=(*others, more)), budget)
    assert (change.layer, change.quantity) == ("total", "live_peak_bytes")


def test_seconds_are_not_compared(budget):
    profile = small()
    slower = tuple(
        replace(row, measured=9.0) if row.quantity == "forward_seconds" else row
        for row in profile.rows
    )
    assert slower != profile.rows
    assert compare_with_budget(replace(profile, rows=slower), budget) == ()


def test_theory_stands_in_where_only_one_side_measured(budget):
    profile = small(channels=5)
    rows = tuple(replace(row, measured=None) for row in profile.rows if row.instrument != "dry_run")
    changes = compare_with_budget(replace(profile, rows=rows), budget)
    kept = next(c for c in changes if (c.layer, c.quantity) == ("0", "saved_bytes"))
    assert (kept.budget, kept.now) == (4 * 2 * 4 * 36, 4 * 2 * 5 * 36)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dtype": "bfloat16"}, "dtype"),
        ({"input_shape": (4, 3, 8, 8)}, "input_shape"),
        ({"train": False}, "train"),
        ({"freeze": ("0",)}, "freeze"),
    ],
)
def test_other_settings_are_refused(budget, changes, named):
    profile = small()
    other = replace(profile, settings=replace(profile.settings, **changes))
    with pytest.raises(UserError, match=f"other settings: {named}=") as caught:
        compare_with_budget(other, budget)
    assert "\n" not in str(caught.value)


def test_what_an_instrument_does_not_count_is_compared_in_theory(budget):
    """No counter sees a ReLU's FLOPs."""
    changes = compare_with_budget(small(channels=5), budget)
    relu = next(c for c in changes if (c.layer, c.quantity) == ("1", "forward_flops"))
    assert (relu.budget, relu.now) == (2 * 4 * 36, 2 * 5 * 36)


def test_the_predicted_peak_stands_in_where_it_was_not_measured(budget):
    changes = compare_with_budget(unmeasured(small(channels=8)), budget)
    (peak,) = [change for change in changes if change.quantity == "live_peak_bytes"]
    assert peak.now == small(channels=8).peak.predicted_live_bytes


def test_the_textbook_stands_in_where_no_instrument_ran(budget):
    assert compare_with_budget(unmeasured(small()), budget) == ()
    changes = compare_with_budget(unmeasured(small(channels=5)), budget)
    macs = {c.layer: c for c in changes if c.quantity == "macs"}
    assert (macs["0"].instrument, macs["0"].now) == ("textbook", 2 * 5 * 36 * 27)
    assert macs["total"].now - macs["total"].budget == 2 * 36 * (27 + 10)


def test_a_profile_of_another_version_is_refused_in_one_line(budget, tmp_path):
    old = FROZEN / "profile.json"
    with pytest.raises(UserError, match=r"an older version \(format 1.*save a new one") as caught:
        read_budget(old)
    assert "\n" not in str(caught.value)
    newer = tmp_path / "profile.json"
    newer.write_text(json.dumps(json.loads(budget.read_text()) | {"format": 3}))
    with pytest.raises(UserError, match="a newer version"):
        read_budget(newer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"rows": 3, "totals": [], "peak": {}, "settings": {}, "format": 2}',
        "\xff",
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "profile.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"is no profile\.json") as caught:
        read_budget(path)
    assert "\n" not in str(caught.value)


def test_a_budget_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_budget(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="is no file"):
        read_budget(tmp_path)


def test_a_figure_that_is_no_number_is_refused(budget, tmp_path):
    record = json.loads(budget.read_text())
    record["rows"][0]["measured"] = "many"
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"is no profile\.json"):
        read_budget(path)


def test_a_negative_tolerance_is_refused(budget):
    with pytest.raises(UserError, match="tolerance=-1"):
        compare_with_budget(small(), budget, tolerance=-1)


def test_networks_of_other_names_can_be_compared(budget):
    profile = small()
    renamed = replace(profile, settings=replace(profile.settings, network="Other"))
    assert compare_with_budget(renamed, budget) == ()


def test_the_large_example_is_within_itself(tmp_path):
    profile = cifar_cnn_profile()
    ProfileReport(profile).save(tmp_path)
    assert compare_with_budget(profile, tmp_path / "profile.json") == ()
