"""What a profile says first, and on the terminal."""

import re
import sys
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.reconcile import CallArguments, Reason, Row
from layerscope.report.document import cell_text
from layerscope.report.profile.content import input_text, profile_summary
from layerscope.report.profile.findings import (
    leaders,
    peak_lines,
    reason_groups,
    slowest_line,
    verdict,
)
from layerscope.report.profile.lines import fitting_depth, layer_lines, tree_depth
from layerscope.report.profile.report import ProfileReport
from layerscope.report.profile.rows import comparison_table
from layerscope.report.terminal import Screen, TextScreen
from profile_example import EVIL, cifar_cnn_profile, example_audit, profile_of, unmeasured


@pytest.fixture(scope="module")
def profile():
    return cifar_cnn_profile()


def shown(profile, width=100, depth=None):
    screen = TextScreen(width)
    screen.show(*profile_summary(profile, depth=depth))
    return screen.text


def nested(path, *layers):
    """A network whose layers stand below this module path."""
    inner = nn.Sequential(OrderedDict(layers))
    for name in reversed(path.split(".")):
        inner = nn.Sequential(OrderedDict([(name, inner)]))
    return inner


class UnknownCost(nn.Module):
    """torch has no closed form of what it computes, and nor have we."""

    def forward(self, x):
        return torch.linalg.svdvals(x)


def with_unknown():
    return profile_of(nn.Sequential(nn.Conv2d(3, 4, 3), UnknownCost()), (2, 3, 8, 8))


def test_the_printed_report(profile, golden):
    text = str(ProfileReport(profile, example_audit()))
    golden("profile cifar_cnn.txt", text + "\n")


def test_the_answer_comes_first_and_the_verdict_last_again(profile):
    lines = str(ProfileReport(profile)).split("\n")
    line = verdict(profile)
    assert lines.index(line) < 5
    assert lines[-1] == line
    order = ("Live peak", "most expensive", "layers:", "the whole network", "Why instruments")
    places = [next(n for n, text in enumerate(lines) if each in text) for each in order]
    assert places == sorted(places)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_it_fits_the_screen(profile, width):
    long = ("a_convolution_with_a_name", nn.Conv2d(3, 3, 1))
    network = nested("features_of_the_net.denseblock3.denselayer24", long, ("n", nn.ReLU()))
    large = profile_of(network, (64, 3, 1024, 1024))
    for each in (profile, large):
        lines = shown(each, width).split("\n")
        # A name in a sentence stays whole, so that it can be copied.
        assert max(len(line) for line in lines if "denselayer24.a_convolution" not in line) <= width
    # Narrow screens leave columns out, never digits of what is unexplained.
    assert re.search(r"saved_bytes +saved .* 0$", shown(profile, width), re.MULTILINE)


def test_a_wide_screen_has_every_digit(profile):
    text = shown(profile, 100)
    assert re.search(r"saved_bytes +saved +23,872,768 +– +19,941,120 +19,941,120 +0\n", text)
    assert re.search(r"backward_flops +flop_counter +1,321,369,600 +12,910,592 ", text)


def test_the_owner_of_layers_with_long_keys_stands_once_above_them():
    network = nested("denseblock3.denselayer24", ("conv2", nn.Conv2d(3, 3, 1)), ("n", nn.ReLU()))
    text = shown(unmeasured(profile_of(network, (2, 3, 8, 8))))
    lines = [line.rstrip() for line in text.split("\n")]
    place = lines.index(" denseblock3.")
    assert lines[place + 1] == "   denselayer24."
    assert lines[place + 2].startswith("   conv2 ")
    assert lines[place + 3].startswith("   n ")


def test_a_screen_shows_what_print_does(profile, capsys):
    ProfileReport(profile).show(screen=Screen())
    printed = [line.rstrip() for line in capsys.readouterr().out.split("\n")]
    assert "\n".join(printed).strip("\n") == str(ProfileReport(profile)).strip("\n")


class TestDepth:
    def test_a_fold_is_the_sum_of_its_layers(self, profile):
        whole = layer_lines(profile)
        folded = layer_lines(profile, 1)
        assert [line.name for line in folded] == [
            "block1", "block2", "block3", "gap", "flatten", "fc",
        ]  # fmt: skip
        for line in folded:
            mine = [each for each in whole if each.name in line.layers]
            assert line.saved_bytes == sum(each.saved_bytes for each in mine)
            assert line.num_parameters == sum(each.num_parameters for each in mine)
            assert line.flops.value == sum(each.flops.value for each in mine)
            assert line.seconds == pytest.approx(sum(each.seconds for each in mine))
        assert sorted(layer for line in folded for layer in line.layers) == sorted(
            line.name for line in whole
        )

    def test_any_depth_can_be_asked_for(self, profile, capsys):
        report = ProfileReport(profile)
        report.show(1)
        folded = capsys.readouterr().out
        assert re.search(r"block1 +4 layers ", folded)
        assert "block1.conv Conv2d" not in folded
        assert "show(depth=2)" in folded
        report.show(depth=99)
        assert re.search(r"block1\.conv +Conv2d ", capsys.readouterr().out)
        for wrong in (0, -1, 1.5):
            with pytest.raises(UserError, match=f"depth={wrong}"):
                report.show(wrong)

    def test_hundreds_of_layers_are_folded_and_the_way_to_all_is_said(self):
        block = lambda: nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(10)))  # noqa: E731
        deep = nn.Sequential(*(block() for _ in range(12)))
        profile = profile_of(deep, (1, 2, 2, 2))
        assert (tree_depth(profile), fitting_depth(profile, 40)) == (2, 1)
        text = shown(profile)
        assert text.count("10 layers") == 12
        assert "12 lines for 120 layers" in text
        assert "show(depth=2)" in text
        assert text.split("\n")[-1] == verdict(profile)

    def test_many_layers_in_a_row_are_cut_with_their_sum(self):
        profile = profile_of(nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(100))), (1, 2, 2, 2))
        text = shown(profile)
        assert re.search(r"\(61 more\) +61 layers ", text)
        assert re.search(r"^ 99 +Conv2d", shown(profile, depth=1), re.MULTILINE)


class TestVerdict:
    def test_it_counts_what_could_fail(self, profile):
        counts = profile.comparisons
        assert counts.num_compared > 100
        assert counts.num_trivial > 10
        assert verdict(profile) == (
            f"0 unexplained of {counts.num_compared} comparisons that could fail; "
            f"{counts.num_not_counted} not counted by their instrument."
        )

    def test_nothing_unexplained_is_hidden(self, profile):
        row = next(r for r in profile.rows if (r.layer, r.instrument) == ("block1.bn", "saved"))
        off = replace(row, measured=row.measured + 1)
        rows = tuple(off if old is row else old for old in profile.rows)
        broken = replace(profile, rows=rows)
        assert verdict(broken).startswith("1 unexplained of ")
        line = "UNEXPLAINED: block1.bn, saved_bytes by saved: +1 B"
        assert line in str(ProfileReport(broken))
        assert line in ProfileReport(broken)._repr_html_().replace("\u00a0", " ")
        assert "UNEXPLAINED" not in str(ProfileReport(profile))

    def test_unknown_is_neither_zero_nor_an_agreement(self):
        profile = with_unknown()
        stranger = row(quantity="forward_flops", theory=None, measured=7)
        more = replace(profile, rows=(*profile.rows, stranger))
        assert "; 1 unknown" in verdict(more)
        assert more.comparisons.num_compared == profile.comparisons.num_compared
        text = str(ProfileReport(profile))
        assert re.search(r"svdvals .* unknown +unknown ", text)
        assert re.search(r"^ total .*>= ", text, re.MULTILINE)

    def test_only_what_lacks_a_summand_is_marked(self, profile):
        assert ">=" not in str(ProfileReport(profile))


def row(layer="a", quantity="saved_bytes", instrument="x", theory=0, measured=0, **fields):
    return Row(layer, "Conv2d", quantity, instrument, theory, fields.pop("reasons", ()), measured,
               **fields)  # fmt: skip


@pytest.mark.parametrize(
    ("case", "texts"),
    [
        (row(theory=5, measured=7, reasons=(Reason("c", 2, "why"),)), ("5", "–", "7", "7", "0")),
        (row(theory=5, measured=9), ("5", "–", "5", "9", "+4")),
        (row(theory=0, measured=0), ("0", "–", "0", "0", "0")),
        (row(theory=None, measured=7), ("unknown", "–", "unknown", "7", "unknown")),
        (row(theory=5, measured=None), ("5", "–", "5", "not measured", "–")),
        (row(theory=0, measured=None, counted=False, theory_not_counted=8),
         ("–", "8", "–", "not counted", "–")),
        (row(theory=0, measured=None, counted=False, theory_not_counted=None),
         ("–", "unknown", "–", "not counted", "–")),
        (row(theory=9, measured=None, counted=False), ("9", "–", "9", "not compared", "–")),
        (row(theory=5, measured=9, lower_bound=True), (">= 5", "–", "unknown", "9", "unknown")),
        (row(theory=0, measured=9, lower_bound=True), ("unknown", "–", "unknown", "9", "unknown")),
        (row(quantity="forward_seconds", theory=None, measured=0.5),
         ("–", "–", "–", "500 ms", "–")),
    ],
)  # fmt: skip
def test_a_row_in_words(case, texts):
    names = ("theory", "theory_not_counted", "predicted", "measured", "unexplained")
    table = comparison_table([case], names)
    (cells,) = table.rows
    assert tuple(map(cell_text, cells, table.columns)) == texts


class TestReasons:
    def test_each_is_told_once_for_all_its_layers(self, profile):
        groups = reason_groups(profile)
        told = [(group.quantity, group.code) for group in groups]
        assert len(set(told)) == len(told)
        indices = next(group for group in groups if group.code == "indices")
        assert indices.layers == ("block1.pool", "block2.pool", "block3.pool")
        assert indices.instruments == ("saved", "dry_run")
        assert indices.amount == 2 * (1_048_576 + 524_288 + 262_144)

    def test_they_add_up_to_the_totals(self, profile):
        for each in profile.totals:
            mine = [
                group.amount
                for group in reason_groups(profile)
                if group.quantity == each.quantity and each.instrument in group.instruments
            ]
            assert sum(mine) == sum(reason.amount for reason in each.reasons)

    def test_units_are_ranked_by_their_share_of_the_network(self, profile):
        def of(layer, quantity, theory, amount):
            reason = Reason(f"{quantity} {layer}", amount, "why")
            return row(layer, quantity, theory=theory, measured=theory + amount, reasons=(reason,))

        rows = (
            of("a", "forward_flops", 10**9, -(10**6)),  # 0.1 % of the network's
            of("a", "saved_bytes", 1000, -500),  # a third
            of("b", "saved_bytes", 500, 0),
            of("c", "macs", 0, 8),  # all that the instrument counted
        )
        groups = reason_groups(replace(profile, rows=rows))
        assert [group.code for group in groups] == [
            "macs c", "saved_bytes a", "forward_flops a",
        ]  # fmt: skip
        assert [round(group.share, 3) for group in groups] == [1.0, 0.333, 0.001]


class TestLeaders:
    def test_the_most_expensive_layers_and_their_shares(self, profile):
        saved, flops, time = leaders(profile)
        assert [row[0] for row in saved.rows[:3]] == ["block1.conv", "block1.relu", "block1.pool"]
        assert [*map(cell_text, saved.rows[0][1:], saved.columns[1:])] == ["4.00 MiB", "21.0 %"]
        assert flops.rows[0][0] == "block2.conv"
        assert len(time.rows) == 5

    def test_without_a_clock_there_is_no_time(self, profile):
        titles = [each.title for each in leaders(unmeasured(profile))]
        assert titles == ["saved bytes", "FLOPs"]
        assert slowest_line(unmeasured(profile)) is None

    def test_shares_of_what_is_known_say_so(self):
        assert "FLOPs that are known" in [each.title for each in leaders(with_unknown())]

    def test_the_slowest_layer(self, profile):
        seconds = {t.layer: t.forward.median + (t.backward or t.forward).median
                   for t in profile.times}  # fmt: skip
        assert max(seconds, key=seconds.get) in slowest_line(profile)
        assert "bound by arithmetic" in slowest_line(profile)


class TestPeak:
    def test_predicted_and_measured_with_its_parts(self, profile):
        lines = dict(peak_lines(profile))
        assert lines["live peak"].startswith("predicted 21,502,768 B (20.5 MiB) in backward of ")
        assert lines["live peak"].endswith("measured the same")
        assert "saved" in lines["of it"]
        assert "momentum keeps 371 KiB" in lines["optimizer"]
        assert "1.00 KiB" in lines["scratch"]
        assert "in 8 GiB" in lines["largest batch"]

    def test_a_difference_is_signed(self, profile):
        peak = replace(profile.peak, measured_live_bytes=21_502_772)
        lines = dict(peak_lines(replace(profile, peak=peak)))
        assert lines["live peak"].endswith("measured 21,502,772 B (20.5 MiB), +4 B")

    def test_what_was_not_measured(self, profile):
        lines = dict(peak_lines(unmeasured(profile)))
        assert lines["live peak"].endswith("not measured")
        assert "scratch" not in lines

    def test_what_could_not_be_predicted_is_unknown(self, profile):
        peak = replace(
            unmeasured(profile).peak, predicted_live_bytes=None, predicted_layer=None,
            predicted_phase=None, parts={}, predicted_timeline=(), largest_batch=None,
        )  # fmt: skip
        lines = dict(peak_lines(replace(unmeasured(profile), peak=peak)))
        assert lines["live peak"].startswith("unknown")
        assert lines["largest batch"] == "not known"


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, x, extra=None):
        return {"sum": self.first(x) + self.second(extra["y"]), "x": x}


def test_any_call_can_be_shown():
    call = CallArguments(
        (torch.zeros(2, 8),), {"extra": {"y": torch.zeros(2, 6), "ids": torch.arange(2)}}
    )
    profile = profile_of(TwoInputs(), call.description, call)
    text = str(ProfileReport(profile))
    assert "TwoInputs, input 2x8 float32, extra={y: 2x6 float32, ids: 2 int64}" in text
    assert re.search(r"^ add +add +4 ", text, re.MULTILINE)


def test_the_input_in_words():
    described = CallArguments(
        (torch.zeros(()), [torch.zeros(2, 3), 5], "a"), {"flag": None}
    ).description
    assert input_text(described) == "scalar float32, [2x3 float32, 5], a, flag=None"
    assert input_text((2, 3)) == "2x3"


def test_a_notebook_gets_the_answer(profile):
    html = ProfileReport(profile)._repr_html_().replace("\u00a0", " ")
    assert verdict(profile) in html
    assert "21,502,768 B" in html
    assert html.count("<table>") == 3
    layers = {EVIL: nn.Conv2d(3, 4, 3)}
    evil = profile_of(nn.Sequential(OrderedDict(layers)), (2, 3, 8, 8))
    assert EVIL not in ProfileReport(evil)._repr_html_()


def test_without_pandas_the_mend_is_said(profile, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        ProfileReport(profile).to_pandas()


def test_pandas_gets_exact_integers(profile):
    pandas = pytest.importorskip("pandas")
    frame = ProfileReport(profile).to_pandas()
    assert len(frame) == len(profile.rows)
    saved = frame[(frame.instrument == "saved") & (frame.quantity == "saved_bytes")]
    assert saved.theory.dtype == "Int64"
    assert saved.predicted.sum() == saved.measured.sum() == 19_941_120
    assert frame[~frame.counted].measured.isna().all()
    assert isinstance(frame, pandas.DataFrame)
