"""Files that an earlier version wrote: tests/frozen/files, whose README says how they were made.

Their figures are equal to the bit with the torch and the CPU instructions that made them. Elsewhere
sums may be rounded otherwise, and figures are compared with a tolerance.
"""

import csv
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import read_json

import layerscope

FILES = Path(__file__).parents[1] / "frozen" / "files"
EXPECTED = read_json(FILES / "expected" / "expected.json")
CHECKPOINT = FILES / "stopped_after_epoch" / "checkpoints" / "best.ckpt"
STOPPED = {
    "stopped_after_epoch": (),
    "stopped_within_epoch": ("checkpoint_every_n_steps=7",),
}
RELATIVE, ABSOLUTE = 1e-3, 1e-5


def is_same_machine():
    made = EXPECTED["made_with"]
    here = (torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability())
    return here == (made["torch"], made["cpu_capability"])


def assert_same(found, expected, where=""):
    """Compare nested values: numbers to the bit, or with a tolerance on another machine."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}/{number}")
    elif isinstance(expected, float) and not is_same_machine():
        assert found == pytest.approx(expected, rel=RELATIVE, abs=ABSOLUTE), where
    else:
        assert found == expected, where


def rows_of(path):
    with path.open(newline="") as file:
        return [[_number(cell) for cell in row] for row in csv.reader(file)]


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return cell


def test_a_checkpoint_loads(tmp_path):
    shutil.copy(CHECKPOINT, tmp_path / "best.ckpt")
    image = (torch.arange(2 * 64).reshape(2, 1, 8, 8) % 17 - 8) / 8
    logits = layerscope.load(tmp_path / "best.ckpt")(image)
    assert_same(logits.tolist(), EXPECTED["logits"])


def test_a_checkpoint_is_evaluated(run, tmp_path):
    result = run("evaluate", f"ckpt_path={CHECKPOINT}", f"hydra.run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    found = read_json(tmp_path / "run" / "evaluation.json")
    assert_same({key: found[key] for key in EXPECTED["evaluation"]}, EXPECTED["evaluation"])
    predictions = rows_of(tmp_path / "run" / "predictions.csv")
    assert_same(predictions, rows_of(FILES / "expected" / "predictions.csv"))


def test_a_checkpoint_is_explained_by_the_same_numbers(run, tmp_path):
    keys = (f"ckpt_path={CHECKPOINT}", "analysis=false", f"hydra.run.dir={tmp_path / 'run'}")
    result = run("explain", *keys)
    assert result.code == 0, result.err
    found = read_json(tmp_path / "run" / "explain.json")
    expected = json.loads(gzip.decompress((FILES / "expected" / "explain.json.gz").read_bytes()))
    assert (found.pop("format"), expected.pop("format")) == (2, 1)
    assert found.pop("refused_types") == expected.pop("refused_kinds") == []
    types = {layer["layer"]: layer.pop("type") for layer in found["layers"]}
    kinds = {layer["layer"]: layer.pop("kind") for layer in expected["layers"]}
    assert {kinds[layer]: name for layer, name in types.items()} == {
        "conv2d": "Conv2d",
        "relu": "ReLU",
        "max_pool": "MaxPool2d",
        "avg_pool": "AvgPool2d",
        "flatten": "Flatten",
    }
    for record in (found, expected):
        record["settings"].pop("origin")  # names the path of the checkpoint
    if not is_same_machine():
        for record in (found, expected):
            for value in record["values"]:
                value.pop("ulps")
    assert_same(found, expected)


@pytest.mark.parametrize("folder", STOPPED)
def test_a_stopped_run_is_resumed(run, tmp_path, folder):
    directory = tmp_path / "run"
    shutil.copytree(FILES / folder, directory)
    keys = (*EXPECTED["train"], *STOPPED[folder], f"hydra.run.dir={directory}", "resume=auto")
    result = run("train", *keys)
    assert result.code == 0, result.err
    assert_same(rows_of(directory / "metrics.csv"), rows_of(FILES / "expected" / "metrics.csv"))
    found = read_json(directory / "results.json")
    assert_same({key: found[key] for key in EXPECTED["results"]}, EXPECTED["results"])
    last = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["state_dict"].keys() == EXPECTED["weights"].keys()
    for name, tensor in last["state_dict"].items():
        expected = EXPECTED["weights"][name]
        assert_same(tensor.flatten().tolist(), expected["values"], name)
        if is_same_machine():
            digest = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
            assert digest == expected["sha256"], name
