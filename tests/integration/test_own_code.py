"""layerscope in one's own code: each snippet of docs/own_code.md, and each program of examples."""

import csv
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ONNX = ("onnx", "onnxscript", "onnxruntime")
# The stack's own, in a run on one process and one small data set.
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


def snippets(path):
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def example(name):
    """The program's module, as `python examples/NAME.py` has it, but in this process."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(name):
    return importlib.util.find_spec(name) is not None


def test_every_snippet_of_the_page_runs(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("RUN").symlink_to(finished)
    names = {"__name__": "own_code"}
    run, left_out = 0, 0
    for snippet in snippets(ROOT / "docs/own_code.md"):
        if "to_pandas" in snippet and not installed("pandas"):
            left_out += 1
            continue
        exec(compile(snippet, "own_code.md", "exec"), names)
        run += 1
    assert (run, left_out) == (7 - left_out, left_out)
    report, record = names["report"], names["record"]
    assert report.comparisons.num_unexplained == 0
    totals = {(row.quantity, row.instrument): row for row in report.totals}
    assert record.saved_bytes == totals["saved_bytes", "saved"].predicted
    assert names["run"].saved_bytes > 2**30
    assert names["logits"].shape == (4, 10)
    assert {path.name for path in tmp_path.iterdir()} == {
        "RUN", "profile", "explained", "memory", "network.pt2"
    }  # fmt: skip
    with open("memory/activation_memory.csv") as file:
        layers = {row["layer"]: int(row["saved_bytes"]) for row in csv.DictReader(file)}
    assert layers == {
        f"model.{row.layer}": row.saved_bytes // (1 if row.layer == "1" else 2)
        for row in record.layers
    }  # a batch of 16, not of 32; the statistics of the batch norm are as large
    assert "airplane" in capsys.readouterr().out


def test_an_own_trainer_saves_what_the_profile_says(tmp_path, capsys):
    assert example("own_trainer").main(str(tmp_path)) == 0
    saved = json.loads((tmp_path / "activation_memory.json").read_text())["totals"]["saved_bytes"]
    assert f"training: {saved:,} B\n" in (out := capsys.readouterr().out)
    assert f"reasons: {saved:,} B\n" in out


def exported(run, folder):
    assert example("export").main(str(run / "checkpoints/best.ckpt"), str(folder)) == 0


def test_an_exported_network_answers_the_same(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as where it is not installed
    exported(finished, tmp_path)
    out = capsys.readouterr().out
    assert f"{tmp_path / 'network.pt2'}: equal to the bit\n" in out
    assert "no ONNX: pip install onnx" in out


@pytest.mark.skipif(not all(map(installed, ONNX)), reason=f"needs {', '.join(ONNX)}")
def test_onnx_answers_the_same(finished, tmp_path, capsys):
    exported(finished, tmp_path)
    assert f"{tmp_path / 'network.onnx'}: equal up to rounding\n" in capsys.readouterr().out
