import csv

import pytest
import torch
import yaml
from helpers import TINY, read_json, same_weights

import layerscope
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.training.callbacks.end_of_epoch import EndOfEpoch

FILES = {
    "config.yaml",
    "run.json",
    "results.json",
    "metrics.csv",
    "timing.csv",
    "layers.json",
    "layers.csv",
    "activation_memory.json",
    "activation_memory.csv",
    "curves.svg",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "checkpoints/previous.ckpt",
}


def test_a_run_leaves_exactly_the_documented_files(finished):
    found = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert found == FILES


def test_metrics_have_fixed_columns_and_a_row_an_epoch(finished):
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch",
        "step",
        "train/loss",
        "train/acc",
        "val/loss",
        "val/acc",
        "lr",
    ]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "4"), ("1", "8")]


def test_results_are_those_of_the_best_epoch(finished):
    results = read_json(finished / "results.json")
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["val/acc"]))
    assert results["val/acc"] == float(best["val/acc"])
    assert results["val/loss"] == float(best["val/loss"])
    assert (results["epochs"], results["steps"]) == (2, 8)
    assert round(results["test/acc"] * 30) == pytest.approx(results["test/acc"] * 30, abs=1e-4)
    assert results["images_per_second"] > 0


def test_the_configuration_is_stored_resolved(finished):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["trainer"]["precision"] == "32-true"
    assert config["model"]["channels"] == [4, 8, 8]
    assert "hydra" not in config
    run = read_json(finished / "run.json")
    assert run["data"]["name"] == "synthetic"
    assert run["seed"] == 0
    assert run["threads"] == 1
    assert "data=synthetic" in run["command"]
    assert torch.__version__.startswith(run["versions"]["torch"])


def test_layers_json_holds_the_arithmetic(finished):
    layers = read_json(finished / "layers.json")
    by_key = {record["layer"]: record for record in layers["layers"]}
    assert by_key["block1.conv"]["macs"] == 32 * 32 * 4 * 3 * 9
    assert by_key["block1.conv"]["num_parameters"] == 4 * 3 * 9 + 4
    assert by_key["block1.pool"]["output_shape"] == [4, 16, 16]
    assert by_key["block1.relu"]["macs"] == 0
    assert layers["totals"]["macs"] == sum(record["macs"] for record in layers["layers"])
    assert layers["fvcore"]["mode"] == "eval"
    batch_norm = by_key["block1.bn"]
    assert batch_norm["fvcore_count"] == 2 * 4 * 32 * 32


def test_activation_memory_is_that_of_a_training_batch(finished):
    memory = read_json(finished / "activation_memory.json")
    assert memory["batch_size"] == 16
    assert memory["totals"]["input_bytes"] == 16 * 3 * 32 * 32 * 4
    assert memory["totals"]["peak_bytes"] is None
    layers = {record["layer"]: record for record in memory["layers"]}
    assert layers["block1.conv"]["output_bytes"] == 16 * 4 * 32 * 32 * 4
    assert memory["layers"][-1]["cumulative_saved_bytes"] == memory["totals"]["saved_bytes"]


def test_load_gives_the_network_in_eval_mode(finished):
    network = layerscope.load(finished / "checkpoints" / "best.ckpt")
    assert isinstance(network, CifarCNN)
    assert not network.training
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_checkpoints_hold_plain_data(finished):
    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["layerscope"]["batches_seen"] == 8
    assert checkpoint["layerscope"]["config"]["model"]["family"] == "cifar_cnn"


def test_the_same_command_gives_the_same_bits(run, finished, tmp_path):
    assert run("train", *TINY, f"hydra.run.dir={tmp_path}/again").code == 0
    for name in ("best.ckpt", "last.ckpt"):
        assert same_weights(finished / "checkpoints" / name, tmp_path / "again/checkpoints" / name)
    assert (finished / "metrics.csv").read_bytes() == (tmp_path / "again/metrics.csv").read_bytes()
    assert (finished / "curves.svg").read_bytes() == (tmp_path / "again/curves.svg").read_bytes()


class PowerCut(Exception):
    pass


def test_a_resumed_run_ends_as_an_uninterrupted_one(run, tmp_path, monkeypatch):
    # SqueezeNet has dropout, so the framework's own random numbers matter too.
    keys = [key for key in TINY if not key.startswith("model.")]
    keys[keys.index("data.num_train=64")] = "data.num_train=32"
    keys[keys.index("trainer.max_epochs=2")] = "trainer.max_epochs=4"
    keys += ["model=torchvision", "model.name=squeezenet1_1"]
    assert run("train", *keys, f"hydra.run.dir={tmp_path}/whole").code == 0

    def cut(self, trainer, module):
        if trainer.current_epoch == 2:
            raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(EndOfEpoch, "on_train_batch_start", lambda self, t, m, *_: cut(self, t, m))
        with pytest.raises(PowerCut):
            run("train", *keys, f"hydra.run.dir={tmp_path}/cut")
    last = tmp_path / "cut/checkpoints/last.ckpt"
    resumed = run("train", *keys, f"hydra.run.dir={tmp_path}/resumed", f"ckpt_path={last}")
    assert resumed.code == 0
    assert "epoch   3/4" in resumed.out
    assert "epoch   2/4" not in resumed.out
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert same_weights(tmp_path / "whole" / name, tmp_path / "resumed" / name)
    whole, again = (tmp_path / name / "metrics.csv" for name in ("whole", "resumed"))
    assert whole.read_bytes() == again.read_bytes()
