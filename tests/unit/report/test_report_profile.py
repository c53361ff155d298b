import re
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace

import pytest
from torch import nn

from layerscope.reconcile import Reason, Row
from layerscope.report.profile.findings import bottleneck, gaps, peak_lines, verdict
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import Screen
from profile_example import cifar_cnn_profile, example_audit, profile_of


@pytest.fixture(scope="module")
def profile():
    return cifar_cnn_profile()


def test_the_printed_report(profile, golden):
    text = str(ProfileReport(profile, example_audit()))
    assert max(map(len, text.split("\n"))) <= 100
    golden("profile cifar_cnn.txt", text + "\n")


def nested(path, *layers):
    """A network whose layers stand below this module path."""
    inner = nn.Sequential(OrderedDict(layers))
    for name in reversed(path.split(".")):
        inner = nn.Sequential(OrderedDict([(name, inner)]))
    return inner


def test_the_owner_of_layers_with_long_keys_stands_once_above_them():
    network = nested("denseblock3.denselayer24", ("conv2", nn.Conv2d(3, 3, 1)), ("n", nn.ReLU()))
    text = str(ProfileReport(profile_of(network, (2, 3, 8, 8), rows=(), totals=())))
    lines = [line.rstrip() for line in text.split("\n")]
    place = lines.index(" denseblock3.")
    assert lines[place + 1] == "   denselayer24."
    assert lines[place + 2].startswith("   conv2 ")
    assert lines[place + 3].startswith("   n ")


def test_the_longest_keys_and_largest_figures_fit_and_stay_whole():
    long = ("a_convolution_with_a_name", nn.Conv2d(3, 3, 1))
    network = nested("features_of_the_net.denseblock3.denselayer24", long, ("n", nn.ReLU()))
    text = str(ProfileReport(profile_of(network, (64, 3, 1024, 1024))))
    assert max(map(len, text.split("\n"))) <= 100
    lines = [line.split()[0] for line in text.split("\n") if line.strip()]
    place = lines.index("features_of_the_net.")
    whole = "".join(lines[place : place + 4])
    assert whole == "features_of_the_net.denseblock3.denselayer24.a_convolution_with_a_name"
    assert " 768 MiB " in text


def test_a_screen_shows_what_print_does(profile, capsys):
    ProfileReport(profile).show(Screen())
    shown = [line.rstrip() for line in capsys.readouterr().out.split("\n")]
    assert "\n".join(shown).strip("\n") == str(ProfileReport(profile)).strip("\n")


def test_unknown_is_not_zero():
    class Odd(nn.Module):
        def forward(self, x):
            return nn.functional.unfold(x, 2)

    profile = profile_of(nn.Sequential(nn.Conv2d(3, 4, 3), Odd()), (2, 3, 8, 8), rows=(), totals=())
    text = str(ProfileReport(profile))
    assert re.search(r"unfold .* \? +\? ", text)
    assert re.search(r"total .*>= ", text)


def test_nothing_unexplained_is_hidden(profile):
    row = profile.rows[5]
    off = replace(row, measured=row.measured + 1)
    rows = tuple(off if old is row else old for old in profile.rows)
    broken = replace(profile, rows=rows)
    assert "1 of 160 comparisons leave something UNEXPLAINED" in verdict(broken)
    text = str(ProfileReport(broken))
    assert f"UNEXPLAINED: {row.layer}, {row.quantity} by {row.instrument}: +1 B" in text
    assert "All 160 exact comparisons hold" in verdict(profile)


def test_a_row_without_theory_is_no_agreement(profile):
    stranger = Row("elsewhere", "forward_flops", "profiler", None, (), 7)
    text = verdict(replace(profile, rows=(*profile.rows, stranger)))
    assert "All 160 exact comparisons hold" in text
    assert "1 have no theory" in text


def test_gaps_of_different_units_are_ranked_by_their_share(profile):
    def row(layer, quantity, theory, measured):
        reason = Reason("a", measured - theory, "why")
        return Row(layer, quantity, "x", theory, (reason,), measured)

    rows = (
        row("a", "forward_flops", 10**9, 10**9 - 10**6),  # 0.1 % of the network's
        row("a", "saved_bytes", 1000, 500),  # 25 %
        row("b", "saved_bytes", 1000, 1000),
        row("c", "macs", 0, 8),  # all that the instrument counted
        row("a", "bias_gradient_flops", 40, 0),  # of backward's total, not of its own
        row("a", "backward_flops", 10**9, 10**9),
    )
    found = gaps(replace(profile, rows=rows))
    assert [(gap.row.layer, gap.row.quantity) for gap in found] == [
        ("c", "macs"), ("a", "saved_bytes"), ("a", "forward_flops"),
        ("a", "bias_gradient_flops"),
    ]  # fmt: skip
    assert [round(gap.share, 4) for gap in found] == [1.0, 0.25, 0.001, 0.0]


def test_the_bottleneck_with_and_without_a_clock(profile):
    slowest = max(profile.times, key=lambda t: t.forward.median + (t.backward or t.forward).median)
    sentence = bottleneck(profile)
    assert slowest.layer in sentence
    assert "bound by arithmetic" in sentence
    assert "of the roofline" in sentence
    sentence = bottleneck(replace(profile, times=None, step=None, machine=None))
    assert "block2.conv spends most arithmetic (906 MFLOP, 45.1 %)" in sentence
    assert "block1.conv keeps most for backward (4.00 MiB" in sentence


def test_the_peak_in_words(profile):
    first, *_ = peak_lines(profile)
    peak = profile.peak
    assert f"predicted {peak.predicted_bytes:,} B" in first
    assert "+4 B (+0.00 % of the prediction)" in first
    unmeasured = replace(peak, measured_bytes=None, timeline=(), largest_batch=None)
    lines = peak_lines(replace(profile, peak=unmeasured))
    assert "not measured" in lines[0]
    assert lines[-1] == "Largest batch that fits: not known."


def test_printing_needs_neither_sympy_nor_jinja():
    code = (
        "import sys, layerscope.report.profile.report;"
        "print({'sympy', 'jinja2', 'matplotlib', 'lightning', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
