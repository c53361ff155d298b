"""Names from outside in what is written for people: only ever names."""

import csv
import json
import os
import re
import xml.etree.ElementTree as ET
from collections import OrderedDict
from pathlib import Path

import pytest
from hostile import call, plain_checkpoint
from torch import nn

import layerscope
from layerscope.commands.report_sweep import finish_sweep
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.report.tables import write_table
from layerscope.training.checkpoint_files import save_sealed
from layerscope.training.checkpoints import FACTS_KEY
from sweep_example import make_job

NAMES = ["<script>alert(1)</script>", "a|b", "=cmd()", "+1", "-1+1", "@x", "[red]x[/blue]", "$\\x$",
         "\tx", "![x](http://127.0.0.1)", "`x`", "\"><img src=x onerror=alert(1)>"]  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cells(path):
    """Return the cells of a CSV file that are no numbers."""
    rows = csv.reader(path.read_text().splitlines())
    return [cell for row in rows for cell in row if not re.fullmatch(r"-?[\d.e+-]*", cell)]


@pytest.fixture(scope="module")
def network():
    layers = OrderedDict((name.replace(".", "_"), nn.Conv2d(3, 3, 1)) for name in NAMES)
    return nn.Sequential(layers)


def test_a_profile(network, tmp_path):
    report = layerscope.profile(network, input_shape=(1, 3, 4, 4))
    report.save(tmp_path)
    assert "[red]x[/blue]" in str(report)  # markup of the terminal is none either
    page = (tmp_path / "profile.html").read_text()
    for forbidden in ("<script>alert", "<img src=x", "src=x onerror=alert(1)>"):
        assert forbidden not in page
    text = (tmp_path / "profile.md").read_text()
    assert "<script>" not in text
    assert "| a|b |" not in text
    assert "![x](http" not in text
    assert not [cell for cell in cells(tmp_path / "profile.csv") if cell.startswith(FORMULA)]


def test_an_evaluation_of_classes_with_such_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = plain_checkpoint()
    preprocessing = checkpoint[FACTS_KEY]["preprocessing"]
    names = [name for name in NAMES if name.isprintable()][:10]
    preprocessing["groups"] = {name: [index] for index, name in enumerate(names)}
    groups = {name: [of] for name, of in zip(names, CLASS_NAMES, strict=True)}
    checkpoint[FACTS_KEY]["config"]["data"]["groups"] = groups
    save_sealed(Path("a.ckpt"), checkpoint)
    code, err = call("evaluate", "ckpt_path=a.ckpt", "hydra.run.dir=out")
    assert code == 0, err
    for name in ("per_class", "confusion", "predictions"):
        assert not [cell for cell in cells(Path(f"out/{name}.csv")) if cell.startswith(FORMULA)]
    assert "<script>alert" not in Path("out/confusion.svg").read_text()


def test_a_class_of_control_characters_is_refused(tmp_path):
    checkpoint = plain_checkpoint()
    groups = checkpoint[FACTS_KEY]["preprocessing"]["groups"]
    groups["\x1b]0;owned\x07"] = groups.pop("cat")
    save_sealed(tmp_path / "a.ckpt", checkpoint)
    code, err = call("evaluate", f"ckpt_path='{tmp_path}/a.ckpt'")
    assert code == 2
    assert "\x1b" not in err


def test_numbers_stay_numbers(tmp_path):
    write_table(tmp_path / "a.csv", ("a", "=b"), [{"a": -1.5, "=b": "-1"}])
    assert (tmp_path / "a.csv").read_text() == "a,'=b\n-1.5,'-1\n"


def test_a_sweep_that_somebody_else_made(tmp_path, capsys):
    """Its folders, overrides and reasons are a stranger's, and so is what lies where files do."""
    names = [*NAMES, "\x1b]0;owned\x07", "\ud800", "](javascript:alert(1))", "a\n# b", "</svg>"]
    for number, name in enumerate(names):
        folder = tmp_path / name.encode("utf-8", "replace").decode().replace("/", "_").strip("\n")
        folder.mkdir()
        if number % 2:
            reason = {"overrides": [f"a={name}", name], "reason": name}
            (folder / "failure.json").write_text(json.dumps(reason))
            continue
        make_job(folder / "job", [f"{name}={name}", f"job={name}"], number / 20)
    os.mkfifo(folder / "job/profile.json")  # nobody ever writes into it
    (folder / "job/loop").symlink_to(tmp_path)
    assert finish_sweep(tmp_path) == 1
    page, text, drawing = ((tmp_path / f"sweep.{end}").read_text() for end in ("html", "md", "svg"))
    for forbidden in ("<script>alert", "<img src=x", "src=x onerror=alert(1)>", "\x1b"):
        assert forbidden not in page
        assert forbidden not in text
        assert forbidden not in drawing
    assert not re.search(r'href="(?!\./|#|data:,)', page)
    assert not re.search(r"(?<!\\)\]\((?!\./|sweep\.svg)", text)
    assert "\n# b" not in text
    ET.fromstring(drawing)
    assert "\x1b" not in capsys.readouterr().out
    assert not [cell for cell in cells(tmp_path / "sweep.csv") if cell.startswith(FORMULA)]
    assert len(json.loads((tmp_path / "sweep.json").read_text())) == len(names)
