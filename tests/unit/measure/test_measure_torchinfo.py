"""torchinfo's own figures, held against what is predicted of them, and beside ours."""

import gc
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

import layerscope
from layerscope.measure import Step, torchinfo_counts
from layerscope.reconcile.measurements import Measurements
from layerscope.reconcile.other_tools import other_tools
from layerscope.reconcile.peak import MemoryStage

torchinfo = pytest.importorskip("torchinfo")


def rows_of(report, quantity):
    return {row.layer: row for row in report.rows if row.quantity == quantity and row.counted}


class Branches(nn.Module):
    """What torchinfo counts differently, each once, for a batch of 2."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, groups=1)  # 8x8
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False)  # 16x16
        self.rows = nn.Linear(16, 5)  # of (2, 32, 16)
        self.shared = nn.Linear(5, 5, bias=False)
        self.recurrent = nn.LSTM(5, 3, batch_first=True)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x):
        x = self.up(self.norm(self.conv(x))).flatten(1, 2)
        x = self.shared(self.shared(self.rows(x)))
        x, _ = self.recurrent(x)
        return self.attention(x, x, x)[0] @ torch.ones(3, 1)


def test_what_it_counts_is_predicted_and_worked_out_by_hand():
    report = layerscope.profile(Branches(), (2, 3, 8, 8), instruments=("torchinfo",))
    assert report.comparisons.num_unexplained == 0
    macs = rows_of(report, "macs")
    positions, recurrent = 2 * 8 * 8, 4 * 3 * (5 + 3 + 2)
    by_hand = {
        "conv": (108 + 4) * positions,
        "norm": 2 * (4 + 4),
        "up": 32 * 4 * positions,
        "rows": 2 * (80 + 5),
        "shared": 2 * 2 * 25,
        "recurrent": 2 * 32 * recurrent,
    }
    assert {layer: row.measured for layer, row in macs.items()} == by_hand
    codes = {layer: {r.code: r.amount for r in row.reasons} for layer, row in macs.items()}
    assert codes["conv"] == {"bias": 4 * positions}
    assert codes["norm"] == {"parameters": 16}
    assert codes["up"] == {"positions": 3 * 32 * positions}
    assert codes["rows"] == {"bias": 10, "positions": 2 * 80 * (1 - 32)}
    outputs = rows_of(report, "output_bytes")
    assert outputs["conv"].measured == 2 * 4 * 4 * positions
    assert outputs["shared"].measured == 2 * 2 * (4 * 2 * 32 * 5)
    assert "attention" not in macs  # torchinfo counts nothing of it but its inner linear layer


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(),
    "vit": lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_way_from_our_figure_to_each_tools_is_whole(name):
    network = NETWORKS[name]()
    report = layerscope.profile(network, (2, 3, 64, 64), instruments=("torchinfo", "fvcore"))
    assert report.comparisons.num_unexplained == 0
    figures = {each.name: each for each in report.profile.other_tools}
    summary = torchinfo.summary(network, input_size=(2, 3, 64, 64), verbose=0, mode="train")
    torchinfo.torchinfo.clear_cached_forward_pass()
    assert figures["Total mult-adds"].value == summary.total_mult_adds
    assert figures["Total params"].value == summary.total_params
    assert figures["Forward/backward pass size"].value == summary.total_output_bytes
    assert len(figures) == 4
    for figure in figures.values():
        assert figure.value == figure.ours + sum(reason.amount for reason in figure.reasons)
        assert "unexplained" not in {reason.code for reason in figure.reasons}
        assert figure.text
    for text in (str(report), report._repr_html_()):
        assert text
    assert "Total mult-adds" in str(report)


def test_nvidia_smi_shows_the_sum_of_the_stages():
    peak = layerscope.profile(nn.Conv2d(3, 4, 3), (2, 3, 8, 8), instruments=("memory",)).peak
    live = peak.predicted_live_bytes
    stages = (MemoryStage("live", live, "alive"), MemoryStage("cached", 512, "kept for later"))
    (figure,) = other_tools(Measurements(), (), replace(peak, device_stages=stages))
    assert (figure.tool, figure.value, figure.ours) == ("nvidia-smi", live + 512, live)
    assert [(reason.code, reason.amount) for reason in figure.reasons] == [("cached", 512)]
    assert other_tools(Measurements(), (), peak) == ()


class TakesMode(nn.Module):
    def forward(self, x, mode):
        return x * mode


def test_what_it_cannot_summarize_is_a_note_and_no_0():
    x = torch.ones(2, 3)
    kwargs = {"mode": torch.ones(())}
    report = layerscope.profile(TakesMode(), args=(x,), kwargs=kwargs, instruments=("torchinfo",))
    assert report.profile.other_tools == ()
    assert not rows_of(report, "macs")
    (note,) = report.profile.notes
    assert "torchinfo cannot summarize TakesMode: its own parameter mode" in note


def test_it_keeps_no_network_alive():
    network = nn.Sequential(nn.Linear(3, 3))
    alive = weakref.ref(network)
    torchinfo_counts(Step(network, (torch.ones(2, 3),)))
    del network
    gc.collect()
    assert alive() is None


def test_without_the_package_it_is_no_instrument():
    program = """
import sys
sys.modules["torchinfo"] = None  # as if it were not installed
import layerscope
from torch import nn
assert "torchinfo" not in layerscope.INSTRUMENTS
report = layerscope.profile(nn.ReLU(), (2, 3))
assert "torchinfo" not in {row.instrument for row in report.rows}
try:
    layerscope.profile(nn.ReLU(), (2, 3), instruments=["torchinfo"])
except layerscope.UserError as error:
    assert str(error) == "instruments: torchinfo is not installed: pip install torchinfo", error
else:
    raise SystemExit("it was taken")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
