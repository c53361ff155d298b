"""Whole processes, as a user starts them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import SCRIPTS, TINY, read_json

ROOT = Path(__file__).parents[2]
SHORT = [key for key in TINY if not key.startswith("trainer")] + ["trainer.max_epochs=1"]


def start(*arguments, cwd, **environment):
    command = [sys.executable, *map(str, arguments)]
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    return subprocess.run(
        command, cwd=cwd, env=env | environment, capture_output=True, text=True, timeout=100
    )


def test_train_writes_plain_lines_into_a_pipe_and_a_directory_of_its_own(tmp_path):
    done = start(SCRIPTS / "train.py", *SHORT, "trainer=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "test accuracy" in done.stdout
    (directory,) = (tmp_path / "outputs/train").iterdir()
    assert str(Path("outputs/train") / directory.name) in done.stdout
    assert (directory / "results.json").exists()


def test_a_mistake_is_one_line_and_tracebacks_are_there_on_demand(tmp_path):
    done = start(SCRIPTS / "train.py", "optimizer.lr=-1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: optimizer.lr=-1: input should be greater than 0\n"
    done = start(SCRIPTS / "train.py", "optimizer.lr=-1", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr
    assert list(tmp_path.iterdir()) == []


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


def test_sigterm_ends_with_143(tmp_path):
    keys = [*SHORT, "trainer=cpu", "trainer.max_epochs=100000", "hydra.run.dir=run"]
    keys.remove("trainer.max_epochs=1")
    command = [sys.executable, str(SCRIPTS / "train.py"), *keys]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        while not (tmp_path / "run/checkpoints/last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.count("\n") == 1
    assert err.startswith("error: SIGTERM: ended after ")
    assert err.endswith("to go on, give the same command with resume=auto hydra.run.dir=run\n")


def test_help_lists_the_keys(tmp_path):
    done = start(SCRIPTS / "train.py", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0
    assert "max_epochs: 10" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_loading_a_network_imports_no_lightning(finished, tmp_path):
    code = (
        "import sys, layerscope\n"
        f"network = layerscope.load({str(finished / 'checkpoints/best.ckpt')!r})\n"
        "assert not network.training\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('lightning', 'hydra')])"
    )
    done = start("-c", code, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.gpu
def test_a_gpu_trains(tmp_path):
    keys = [*SHORT, "trainer=gpu", "hydra.run.dir=run"]
    done = start(SCRIPTS / "train.py", *keys, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    memory = read_json(tmp_path / "run/activation_memory.json")
    assert memory["totals"]["peak_bytes"] > memory["totals"]["saved_bytes"]
    assert torch.cuda.get_device_name() == read_json(tmp_path / "run/run.json")["hardware"]["gpu"]


@pytest.mark.real_data
def test_real_cifar10_is_learned(tmp_path):
    """A few batches of the real thing: better than guessing, and the source is named."""
    keys = ["optimizer=adam", "trainer.max_epochs=1", "trainer.limit_train_batches=100"]
    keys += ["optimizer.lr=0.003", "hydra.run.dir=run"]
    done = start(SCRIPTS / "train.py", *keys, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run/results.json")["test/acc"] > 0.3
    assert read_json(tmp_path / "run/run.json")["data"]["sha256"]["test_labels"].startswith("cec8")
