"""Whole processes, as a user starts them."""

import subprocess
import sys
import time
from pathlib import Path

from helpers import SCRIPTS, SHORT, start


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
    assert err.endswith("to resume, run the same command with resume=auto hydra.run.dir=run\n")


def test_help_lists_the_keys(tmp_path):
    done = start(SCRIPTS / "train.py", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0
    assert "max_epochs: 10" in done.stdout
    assert list(tmp_path.iterdir()) == []


IMPORTS = """
import sys
import layerscope.report.profile.report, layerscope.report.html

def refuse(*names):
    loaded = set(names) & set(sys.modules)
    assert not loaded, loaded

refuse("sympy", "latex2mathml", "pandas")
import torch, layerscope
print(layerscope.profile(torch.nn.Conv2d(3, 4, 3), input_shape=(2, 3, 8, 8)))
network = layerscope.load({checkpoint!r})
assert not network.training
layerscope.with_preprocessing(network), layerscope.record_activations(network)
refuse("lightning", "pytorch_lightning", "hydra", "omegaconf", "matplotlib", "jinja2")
"""


def test_the_library_imports_what_it_needs(finished, tmp_path):
    code = IMPORTS.format(checkpoint=str(finished / "checkpoints/best.ckpt"))
    done = start("-W", "error", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Conv2d" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
