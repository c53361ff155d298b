"""scripts/explain.py as a user runs it."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import SCRIPTS, read_json
from PIL import Image

FILES = {"explain.json", "explain.md", "explain.html", "explain.svg", "run.json"}
ODD = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Softsign(), nn.Linear(12, 2))
"""


def explained(run, directory, *keys):
    result = run("explain", *keys, "analysis=false", f"hydra.run.dir={directory}")
    assert result.code == 0, result.err
    assert result.err == ""
    ours = [
        line for line in result.out.splitlines() if "/" not in line
    ]  # a path is as long as it is
    assert max(map(len, ours)) <= 100
    return result, read_json(directory / "explain.json")


def value_of(record, layer, name):
    (found,) = [v for v in record["values"] if (v["layer"], v["name"]) == (layer, name)]
    return found


def test_the_analysis_is_in_the_record_and_in_the_document(run, tmp_path):
    result = run("explain", "model=tiny_cnn", "layer=conv1", f"hydra.run.dir={tmp_path / 'a'}")
    assert (result.code, result.err) == (0, "")
    analysis = read_json(tmp_path / "a" / "explain.json")["analysis"]
    markdown = (tmp_path / "a" / "explain.md").read_text()
    shipped = (SCRIPTS.parent / "docs/examples/tiny_cnn/explain.md").read_text()
    assert len(analysis) == 12
    for finding in analysis:
        assert finding.keys() == {"title", "text", "figures"}
        assert f"### {finding['title']}" in markdown
        assert finding["text"] in markdown
        assert finding["text"] in shipped, "write docs/examples again, see its README.md"
        for figure in finding["figures"]:
            assert figure.keys() == {"name", "unit", "predicted", "measured"}
    counts = [f for finding in analysis for f in finding["figures"] if f["unit"] not in ("×", "%")]
    measured = [figure for figure in counts if figure["measured"] is not None]
    assert len(measured) > 40
    assert [figure for figure in measured if figure["measured"] != figure["predicted"]] == []


def test_every_term_is_there_and_they_add_up(run, tmp_path):
    result, record = explained(run, tmp_path / "a", "model=tiny_cnn", "batch_size=2")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    assert record["settings"]["input_shape"] == [2, 1, 8, 8]
    assert {v["layer"] for v in record["values"]} == {
        *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv_out"),
        *("flatten", "loss"),
    }
    values = [*record["values"], *(v for update in record["updates"] for v in update["values"])]
    for value in values:
        products = [term["product"] for term in value["terms"]]
        assert len(products) == value["num_terms"]
        together = math.fsum(products) if value["reduction"] == "sum" else max(products)
        assert together == value["computed"]
        for term in value["terms"]:
            assert term["product"] == pytest.approx(math.prod(term["factors"]), rel=1e-15)
    y = value_of(record, "conv1", "y[0,0,1,1]")
    assert len(y["terms"]) == 10
    assert len(y["terms"][-1]["factors"]) == 1
    assert y["actual"] == float(np.float32(y["actual"]))
    assert value_of(record, "conv1", "dL/dw[0,0,0,0]")["num_terms"] == 2 * 64
    assert "y[0,0,1,1]" in result.out
    assert {(u["parameter"], u["optimizer"]) for u in record["updates"]} == {
        (parameter, optimizer) for parameter in ("weight", "bias") for optimizer in ("sgd", "adam")
    }


def test_the_worked_example(run, tmp_path):
    _, record = explained(run, tmp_path / "a", "model=tiny_cnn", "instance=seed")
    assert value_of(record, "conv1", "y[0,0,1,1]")["computed"] == pytest.approx(0.58, abs=5e-7)
    pool = value_of(record, "pool1", "y[0,0,1,1]")
    assert (pool["reduction"], pool["computed"]) == ("max", pytest.approx(1.864286, abs=5e-7))
    conv2 = value_of(record, "conv2", "y[0,0,1,1]")
    assert conv2["computed"] == pytest.approx(0.820055, abs=1e-4)
    average = value_of(record, "pool2", "y[0,0,1,1]")
    assert average["computed"] == pytest.approx(0.547938, abs=3e-4)
    assert all(0.25 in term["factors"] for term in average["terms"])
    conv3 = value_of(record, "conv3", "y[0,0,1,1]")
    assert conv3["computed"] == pytest.approx(-0.526049, abs=3e-4)
    assert value_of(record, "relu3", "y[0,0,1,1]")["computed"] == 0


def test_the_same_seed_gives_the_same_file_and_simple_cnn_its_own_loss(run, tmp_path):
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        explained(run, tmp_path / name, "model=simple_cnn", f"seed={seed}")
    texts = {name: (tmp_path / name / "explain.json").read_text() for name in "abc"}
    assert texts["a"] == texts["b"]
    assert texts["a"] != texts["c"]
    assert json.loads(texts["a"])["loss"]["kind"] == "mse"


def test_a_chosen_place(run, tmp_path):
    keys = ("layer=block1.conv", "position=[1,2,0,0]", "input_position=[1,0,3,3]")
    keys += ("weight_position=[2,1,1,1]", "model.channels=[4]", "dtype=bfloat16", "target=7")
    _, record = explained(run, tmp_path / "a", "model=cifar_cnn", "batch_size=2", *keys)
    names = [v["name"] for v in record["values"] if v["layer"] != "loss"]
    assert names == ["y[1,2,0,0]", "dL/dx[1,0,3,3]", "dL/dw[2,1,1,1]", "dL/db[2]"]
    assert record["loss"]["target"] == [7, 7]
    padded = [
        t for t in value_of(record, "block1.conv", "y[1,2,0,0]")["terms"] if "is_padding" in t
    ]
    assert len(padded) == 3 * 5
    assert all(term["product"] == 0 for term in padded)


def test_a_trained_checkpoint_and_a_real_image(run, finished, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    checkpoint = f"ckpt_path={finished / 'checkpoints/last.ckpt'}"
    keys = (checkpoint, f"image={tmp_path / 'photo.png'}", "target=3")
    _, record = explained(run, tmp_path / "a", *keys)
    assert record["settings"]["train"] is False
    assert record["loss"]["label_smoothing"] == 0.05
    fc = [v for v in record["values"] if v["layer"] == "fc" and v["name"] == "y[0,0]"]
    weights = torch.load(finished / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert fc[0]["terms"][0]["factors"][1] == weights["network.fc.weight"][0, 0].item()
    _, plain = explained(run, tmp_path / "b", checkpoint, "loss=cross_entropy_plain")
    assert plain["loss"]["label_smoothing"] == 0
    assert value_of(plain, "fc", "y[0,0]")["computed"] != fc[0]["computed"]
    assert record["settings"]["class_names"][3] == "cat"
    with Image.open(tmp_path / "a" / "explain.png") as shown:
        assert shown.size == (32, 32)
    assert "![The input](explain.png)" in (tmp_path / "a" / "explain.md").read_text()
    assert 'src="data:image/png;base64,' in (tmp_path / "a" / "explain.html").read_text()
    assert not (tmp_path / "b" / "explain.png").exists()


def test_a_type_without_explanation_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "explained_odd.py").write_text(ODD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = ("model=custom", "model._target_=explained_odd.Net", "model.input_shape=[3,2,2]")
    result, record = explained(run, tmp_path / "a", *keys, "model.num_classes=2")
    assert record["refused_types"] == ["Softsign"]
    assert "not explained: Softsign" in result.out
    assert "Softsign" in (tmp_path / "a" / "explain.md").read_text()
    assert value_of(record, "2", "y[0,0]")
