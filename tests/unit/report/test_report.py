import json
from collections import OrderedDict
from datetime import date
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from layerscope.base.formatting import percent
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile.layer_table import layer_table
from layerscope.report.layer_table import save_layer_table
from layerscope.report.plots import save_confusion, save_curves, save_examples
from layerscope.report.tables import GrowingTable, parse_rows, write_table
from layerscope.report.terminal import Screen

ROWS = [
    {"epoch": "0", "train/loss": "1.5", "train/acc": "0.4", "val/loss": "1.2", "val/acc": "0.5"},
    {"epoch": "1", "train/loss": "1.1", "train/acc": "0.6", "val/loss": "", "val/acc": ""},
]


def test_a_growing_table_can_be_put_back(tmp_path):
    table = GrowingTable(tmp_path / "a.csv", ("a", "b"))
    table.start([])
    table.append({"a": 1, "b": None})
    kept = list(table.lines)
    table.append({"a": 'x,"y"\n', "b": 2.5})
    assert (tmp_path / "a.csv").read_text() == 'a,b\n1,\n"x,""y""\n",2.5\n'
    assert parse_rows(("a", "b"), table.lines)[1] == {"a": 'x,"y"\n', "b": "2.5"}
    table.start(kept)
    assert (tmp_path / "a.csv").read_text() == "a,b\n1,\n"
    with pytest.raises(AssertionError):
        table.append({"a": 1})


def test_a_table_keeps_the_order_of_its_columns(tmp_path):
    write_table(tmp_path / "a.csv", ("b", "a"), [{"a": 1, "b": 2}])
    assert (tmp_path / "a.csv").read_text() == "b,a\n2,1\n"


def test_pictures_are_the_same_bytes_each_time(tmp_path):
    counts = np.array([[5, 1], [0, 0]])
    for name in ("first", "second"):
        save_curves(tmp_path / f"{name}.svg", ROWS)
        save_confusion(tmp_path / f"{name} confusion.svg", counts, ("a<b", "c & d"))
    for end in (".svg", " confusion.svg"):
        assert (tmp_path / f"first{end}").read_bytes() == (tmp_path / f"second{end}").read_bytes()
        assert str(date.today().year) not in (tmp_path / f"first{end}").read_text()[:2000]


def test_examples_are_one_sheet_also_when_there_are_none(tmp_path):
    images = np.zeros((9, 8, 8, 1), dtype=np.uint8)
    save_examples(tmp_path / "nine.png", images, [("a", "b")] * 9)
    save_examples(tmp_path / "none.png", images[:0], [])
    nine, none = (
        Image.open(BytesIO((tmp_path / n).read_bytes())) for n in ("nine.png", "none.png")
    )
    assert nine.size[1] > 2 * 96
    assert none.size[1] > 10


def test_numbers_carry_their_units_and_unknown_is_not_zero():
    assert percent(0.8365) == "83.65 %"
    assert percent(None) == "unknown"


def test_the_layer_table_of_the_default_network():
    table = layer_table(CifarCNN(), (3, 32, 32))
    assert table.num_parameters == 94_986
    assert table.macs == 330_342_400 // 32
    assert table.fvcore_count == 334_077_952 // 32
    assert [row.layer for row in table.rows][:4] == [
        "block1.conv", "block1.bn", "block1.relu", "block1.pool",
    ]  # fmt: skip


def test_output_without_a_terminal_is_plain(capsys):
    screen = Screen()
    screen.panel("title", [("label", "value"), ("longer label", "x [y] z")])
    screen.table("table", ("a", "b"), [("x", "[red]1[/red]")])
    printed = capsys.readouterr().out
    assert "label         value\nlonger label  x [y] z\n" in printed
    assert "[red]1[/red]" in printed  # what a user named is not markup
    assert "\x1b" not in printed


def test_parameters_of_what_does_not_run_are_in_the_total():
    network = nn.Sequential(OrderedDict(used=nn.Linear(4, 2)))
    network.idle = nn.Linear(3, 5)
    network.forward = lambda images: network.used(images.flatten(1))
    table = layer_table(network, (1, 2, 2))
    assert table.num_parameters == 10 + 20
    assert (table.rows[-1].num_parameters, table.rows[-1].num_calls) == (20, 0)


def test_products_of_attention_are_macs():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, images):
            tokens = self.fc(images.flatten(2))
            return self.attention(tokens, tokens, tokens)[0].mean(1)

    table = layer_table(Attention(), (3, 2, 2))
    assert not table.is_lower_bound
    linear = 3 * 4 * 4  # of three tokens, 4 features to 4
    assert table.macs == 5 * linear + 2 * 3 * 3 * 4  # fc, four projections, scores and their sums


def test_unknown_macs_make_the_total_a_lower_bound(tmp_path):
    class Factorised(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 4)

        def forward(self, images):
            return self.fc(torch.linalg.qr(images.flatten(1)).R)

    save_layer_table(tmp_path, layer_table(Factorised(), (3, 2, 2)))
    written = json.loads((tmp_path / "layers.json").read_text())
    assert written["format"] == 2
    assert {row["layer"]: row["type"] for row in written["layers"]}["fc"] == "Linear"
    assert written["totals"]["lower_bound"] is True
    assert written["totals"]["macs"] == 12 * 4
