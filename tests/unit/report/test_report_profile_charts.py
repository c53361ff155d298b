import re
from dataclasses import replace
from math import log10
from xml.etree import ElementTree

import pytest

from layerscope.dry_run import Moment
from layerscope.measure import MemoryPoint, Spread
from layerscope.report.profile.charts import layer_bars, memory_chart, roofline
from layerscope.report.svg import AxisScale, log_scale, plain_tick, rising_scale, staircase
from profile_example import cifar_cnn_profile


@pytest.fixture(scope="module")
def profile():
    return cifar_cnn_profile()


def heights(drawing, name):
    """The values of a curve, as shares of the chart's top value, in the order of its steps."""
    path = next(
        p for p in ElementTree.fromstring(drawing).iter("path") if p.get("class") == f"{name} curve"
    )
    ys = [float(y) for y in re.findall(r"V([\d.]+)", path.get("d"))]
    # 0 is where the line of the horizontal axis runs, the top value on the highest grid line.
    drawn = list(ElementTree.fromstring(drawing).iter("line"))
    grid = [float(e.get("y1")) for e in drawn if e.get("class") == "grid"]
    bottom, top = max(grid), min(grid)
    return [(bottom - y) / (bottom - top) for y in ys]


def timeline(*points, moments=()):
    peak = cifar_cnn_profile().peak
    return memory_chart(
        replace(
            peak,
            predicted_timeline=tuple(Moment(*each) for each in moments),
            timeline=tuple(MemoryPoint(0.0, *point) for point in points),
        )
    )


MOMENTS = (
    ("a", "forward", 300, 200), ("b", "forward", 500, 400), ("a", "forward", 600, 600),
    ("loss", "loss", 604, 604), ("a", "backward", 800, 100),
)  # fmt: skip


def test_the_prediction_is_drawn_to_scale():
    drawing = timeline(moments=MOMENTS)
    assert heights(drawing, "predicted") == pytest.approx(
        [0.375, 0.25, 0.625, 0.5, 0.75, 0.75, 0.755, 0.755, 1.0, 0.125], abs=1e-3
    )
    assert "predicted, peak 800 B" in drawing
    assert "measured" not in drawing


def test_a_measurement_goes_where_its_layer_was_predicted():
    drawing = timeline(
        (100, "a", "forward"), (300, "a", "forward"), (200, "a", "forward"),  # the most: 300
        (400, "a", "backward"), (100, "a", "backward"),
        moments=MOMENTS,
    )  # fmt: skip
    assert heights(drawing, "measured") == pytest.approx([0.375, 0.25, 0.5, 0.125], abs=1e-3)
    path = re.search(r'd="([^"]+)" class="measured curve"', drawing).group(1)
    # Of five slots the first and the last; nothing moves between.
    left = float(re.search(r"M([\d.]+) ", path).group(1))
    xs = [float(x) for x in re.findall(r"H([\d.]+)", path)]
    slots = [(x - left) / (xs[-1] - left) * 5 for x in xs]
    assert slots == pytest.approx([0.15, 0.85, 4.15, 4.85, 5.0], abs=2e-3)


def test_the_loss_and_places_of_no_layer_find_their_slot(profile):
    points = ((10, "a", "forward"), (14, None, "loss"), (3, None, "backward"))
    drawing = timeline(*points)
    assert heights(drawing, "measured")[2] == pytest.approx(14 / 15, abs=1e-3)


def test_the_optimizers_step_has_no_part_in_the_peak():
    drawing = timeline(moments=(*MOMENTS, ("optimizer", "optimizer", 1000, 900)))
    assert "predicted, peak 800 B" in drawing
    assert heights(drawing, "predicted")[-2] == pytest.approx(1.0, abs=1e-3)


def test_a_step_of_which_nothing_is_known_has_no_chart():
    assert timeline() is None


def bars(drawing, panel):
    """Left end and width of forward and backward, by layer; panel 0 or 1."""
    groups = [g for g in ElementTree.fromstring(drawing).iter("g") if g.find("rect") is not None]
    half = groups[panel * 15 : panel * 15 + 15]
    return {
        g.find("title").text.split(":")[0]: [
            (float(r.get("x")), float(r.get("width"))) for r in g.findall("rect")
        ]
        for g in half
    }


def test_bars_are_as_long_as_what_they_stand_for(profile):
    drawing = layer_bars(profile)
    flops = bars(drawing, 0)
    (start, forward), (middle, backward) = flops["block2.conv"]
    assert middle == pytest.approx(start + forward)
    assert backward == pytest.approx(2 * forward, abs=0.2)
    assert flops["block1.conv"][0][1] / forward == pytest.approx(56_623_104 / 301_989_888, abs=1e-3)
    times = bars(drawing, 1)
    seconds = {timing.layer: timing.forward.median for timing in profile.times}
    ratio = times["block1.bn"][0][1] / times["block2.conv"][0][1]
    assert ratio == pytest.approx(seconds["block1.bn"] / seconds["block2.conv"], abs=5e-3)
    right = max(x + w for panel in (0, 1) for bar in bars(drawing, panel).values() for x, w in bar)
    assert right < float(ElementTree.fromstring(drawing).get("viewBox").split()[2])


def test_without_times_there_is_one_panel(profile):
    drawing = layer_bars(replace(profile, times=None))
    assert "time, measured" not in drawing
    assert len(list(ElementTree.fromstring(drawing).iter("g"))) == 30


def test_an_unknown_bar_says_so(profile):
    costs = profile.costs
    unknown = replace(costs.layers[0], forward_flops=None)
    layers = (unknown, *costs.layers[1:])
    account = replace(profile.account, costs=replace(costs, layers=layers))
    drawing = layer_bars(replace(profile, account=account))
    assert "block1.conv: forward unknown" in drawing


def test_a_layer_at_the_roofline_is_drawn_on_the_line(profile):
    bandwidth = profile.machine.copy_bytes_per_second.median
    timing = replace(profile.times[1], intensity=0.5, flops_per_second=0.5 * bandwidth)
    drawing = ElementTree.fromstring(roofline(replace(profile, times=(timing,))))
    slope = next(e for e in drawing.iter("line") if e.get("class") == "ceiling")
    (mark,) = drawing.iter("circle")
    x1, y1, x2, y2 = (float(slope.get(name)) for name in ("x1", "y1", "x2", "y2"))
    x, y = float(mark.get("cx")), float(mark.get("cy"))
    assert y == pytest.approx(y1 + (x - x1) / (x2 - x1) * (y2 - y1), abs=0.3)


def test_layers_without_arithmetic_are_not_on_the_roofline(profile):
    drawing = ElementTree.fromstring(roofline(profile))
    assert (
        len([*drawing.iter("circle")])
        + len([r for r in drawing.iter("rect") if r.get("width") == "10"])
        == len(profile.times) - 1
    )
    still = replace(profile.times[13], flops_per_second=0.0)
    assert roofline(replace(profile, times=(still,))) is None
    assert roofline(replace(profile, machine=None)) is None
    assert roofline(replace(profile, times=None)) is None


def test_names_cannot_break_out_of_a_drawing(profile):
    evil = replace(profile.times[0], layer='"/><script>', forward=Spread(9.0, 9.0, 9.0))
    drawing = roofline(replace(profile, times=(evil,)))
    assert "<script" not in drawing
    ElementTree.fromstring(drawing)


def test_scales_put_values_where_they_belong():
    assert AxisScale(0, 10, 100, 200)(5) == 150
    assert AxisScale(1, 100, 0, 10, is_log=True)(10) == 5
    assert AxisScale(0, 10, 0, 1)(99) == 1
    assert rising_scale(23.1, 0, 1).high == 25
    assert rising_scale(0, 0, 1).high == 1
    assert rising_scale(20, 0, 1).ticks() == [0, 5, 10, 15, 20]
    scale = log_scale([2.0, 300.0], 0, 1, room=2)
    assert (scale.low, scale.high) == (1.0, 600.0)
    assert scale.ticks() == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert [log10(tick) for tick in log_scale([1e-3, 1e3], 0, 1).ticks()] == [
        -3,
        -2,
        -1,
        0,
        1,
        2,
        3,
    ]


def test_a_staircase_keeps_each_value_until_the_next():
    assert staircase([(0, 5), (2, 7.04), (3, 1)], 9) == "M0 5H2V7H3V1H9"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("10.0 ms", "10 ms"), ("0.100", "0.1"), ("100 GFLOP/s", "100 GFLOP/s"), ("1.00 G", "1 G"),
        ("2.50 ms", "2.5 ms"), ("0 s", "0 s"), ("10", "10"), ("1.05 k", "1.05 k"),
    ],
)  # fmt: skip
def test_ticks_lose_zeros_and_nothing_else(text, short):
    assert plain_tick(text) == short
