"""Whole processes: several that train together, a GPU, the real data."""

import pytest
import torch
from helpers import SCRIPTS, SHORT, read_json, start


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_processes_train_together(strategy, tmp_path):
    keys = [*SHORT, f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.devices=2"]
    keys += ["trainer.threads=1", "trainer.precision=32-true", "hydra.run.dir=run"]
    done = start(SCRIPTS / "train.py", *keys, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    results = read_json(tmp_path / "run/results.json")
    assert results["steps"] == 4
    memory = read_json(tmp_path / "run/activation_memory.json")
    assert memory["batch_size"] == 8  # rank 0's half
    assert done.stdout.count("epoch   1/1") == 1


@pytest.mark.gpu
def test_a_gpu_trains(tmp_path):
    keys = [*SHORT, "trainer=gpu", "hydra.run.dir=run"]
    done = start(SCRIPTS / "train.py", *keys, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    memory = read_json(tmp_path / "run/activation_memory.json")
    assert memory["totals"]["peak_bytes"] > memory["totals"]["saved_bytes"]
    assert torch.cuda.get_device_name() == read_json(tmp_path / "run/run.json")["hardware"]["gpu"]


@pytest.mark.real_data
def test_real_cifar10_is_learned(run, tmp_path):
    """A few batches of the real thing: better than guessing, and the source is named."""
    keys = ["optimizer=adam", "trainer.max_epochs=1", "trainer.limit_train_batches=100"]
    keys += ["optimizer.lr=0.003", f"hydra.run.dir={tmp_path / 'run'}"]
    done = run("train", *keys)
    assert done.code == 0, done.err
    assert read_json(tmp_path / "run/results.json")["test/acc"] > 0.3
    assert read_json(tmp_path / "run/run.json")["data"]["sha256"]["test_labels"].startswith("cec8")
