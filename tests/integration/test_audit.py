"""scripts/audit.py: files of claims, and who says which network they are about."""

import json
from pathlib import Path

import pytest
from helpers import read_json

from layerscope.audit import walkthrough

CLAIMS = Path(__file__).parents[2] / "examples" / "claims"
WALKTHROUGH = Path(__file__).parents[2] / "src" / "layerscope" / "audit" / "walkthrough.json"
SLIDE = {
    "network": ["model=tiny_cnn", "model.channels=[2,4,2]"],
    "input_shape": [2, 1, 8, 8],
    "sections": [
        {
            "section": "a slide",
            "figures": [{"at": "conv1", "printed": "20", "formula": "conv1.num_parameters"}],
        }
    ],
}

OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv1(x).flatten(1)
"""


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "slide of mine=1.json"
    path.write_text(json.dumps(SLIDE))
    return path.rename(tmp_path / "slide of mine.json")


def test_a_slide_that_is_right(run, tmp_path):
    result = run("audit", CLAIMS / "lenet5.json", f"hydra.run.dir={tmp_path / 'a'}")
    assert (result.code, result.err) == (0, "")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"audit.json", "run.json"}
    cells = read_json(tmp_path / "a" / "audit.json")["cells"]
    assert len(cells) == 12
    assert {cell["verdict"] for cell in cells} == {"agrees"}


def test_a_paper_with_a_figure_that_is_not(run, tmp_path):
    result = run("audit", CLAIMS / "resnet50.json", f"hydra.run.dir={tmp_path / 'a'}")
    assert result.code == 1
    assert result.err == "error: 1 of 12 printed figures are wrong: see above\n"
    audit = read_json(tmp_path / "a" / "audit.json")
    (wrong,) = [cell for cell in audit["cells"] if cell["verdict"] == "wrong"]
    assert (wrong["printed"], wrong["right"], wrong["exact"]) == (
        "3.8×10^9",
        "4.1×10^9",
        4_089_184_256,
    )
    assert "4.09×10^9" in audit["findings"][0]["right"]
    assert "4.1×10^9" in result.out


def test_the_walkthrough_is_such_a_file(run, tmp_path):
    result = run("audit", WALKTHROUGH, f"hydra.run.dir={tmp_path / 'a'}")
    assert result.code == 1
    assert "22 of 744" in result.err
    cells = read_json(tmp_path / "a" / "audit.json")["cells"]
    assert len(cells) == len(walkthrough().figures) == 744
    assert sum(cell["place"] == "table" for cell in cells) == 296


def test_the_command_line_can_name_another_network(run, tmp_path, slide):
    assert run("audit", slide, f"hydra.run.dir={tmp_path / 'a'}").code == 0
    other = ("model=tiny_cnn", "model.width=2")
    result = run("audit", slide, *other, f"hydra.run.dir={tmp_path / 'b'}")
    assert result.code == 1
    (cell,) = read_json(tmp_path / "b" / "audit.json")["cells"]
    assert (cell["right"], cell["verdict"]) == ("40", "wrong")


def test_a_class_of_ones_own_is_named_on_the_command_line(run, tmp_path, slide, monkeypatch):
    (tmp_path / "ownaudited.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    keys = ("model=custom", "model._target_=ownaudited.Net", "model.num_classes=72")
    result = run("audit", slide, *keys, f"hydra.run.dir={tmp_path / 'a'}")
    assert (result.code, result.err) == (0, "")


BAD = {
    "no file": ((), "give a file of claims first"),
    "no such file": (("missing.json",), "missing.json cannot be read"),
    "a folder": (("{folder}",), "is no file"),
    "a file of something else": (("{script}",), "no JSON"),
    "a part of a recipe": (("{slide}", "optimizer=adam"), "says nothing about claims"),
    "a key that is none": (("{slide}", "batch_size=2"), "batch_size is not a key"),
    "a network that does not run": (("{slide}", "model=cifar_cnn"), "cannot run on this input"),
    "a network without the layer": (
        ("{slide}", "model=simple_cnn", "model.input_shape=[1,8,8]"),
        "a slide / conv1: no quantity",
    ),
    "two files": (("{slide}", "{slide}"), "slide"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_and_makes_nothing(run, tmp_path, slide, arguments, said):
    places = {"folder": tmp_path, "slide": slide, "script": Path(__file__)}
    given = [argument.format(**places) for argument in arguments]
    result = run("audit", *given, f"hydra.run.dir={tmp_path / 'a'}")
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "a").exists()
