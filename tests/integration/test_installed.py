"""The wheel, installed in an environment outside the clone."""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from helpers import TINY

ROOT = Path(__file__).parents[2]
OWN_NETWORK = """
from torch import nn


class Own(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))
        import torch
        self(torch.zeros(1, 3, 32, 32))
"""


def call(*command, cwd):
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=110
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The bin folder of an environment that holds the wheel; what it needs lies beside it."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip")
    build = ("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    built = call(*pip, *build, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    environment = folder / "venv"
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # Looked into after the environment's own.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = environment / "bin/python"
    install = ("install", "-q", "--no-deps", "--no-index", wheel)
    installed = call(*pip, "--python", python, *install, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return environment / "bin"


def test_it_is_the_wheel_that_is_imported(programs, tmp_path):
    where = call(
        programs / "python", "-c", "import layerscope as l; print(l.__file__)", cwd=tmp_path
    )
    assert Path(where.stdout.strip()).is_relative_to(programs.parent)


def test_a_run_of_a_network_in_the_current_directory(programs, tmp_path):
    (tmp_path / "own.py").write_text(OWN_NETWORK)
    own = ("model=custom", "model._target_=own.Own", "hydra.run.dir=run", "profile=true")
    keys = [key for key in TINY if not key.startswith("model.")]
    trained = call(programs / "layerscope", "train", *keys, *own, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.startswith("layerscope train, files in run\n")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["command"][0] == "layerscope train"
    assert record["commit"] is None
    profile = json.loads((tmp_path / "run/profile.json").read_text())
    assert profile["comparisons"]["num_unexplained"] == 0


def test_the_walkthrough_is_in_the_wheel(programs, tmp_path):
    """Which a profile of cifar_cnn is audited with."""
    text = "from layerscope.audit import walkthrough; print(len(walkthrough().figures))"
    found = call(programs / "python", "-c", text, cwd=tmp_path)
    assert int(found.stdout) > 100


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"], ["help"]])
def test_it_says_what_there_is(programs, argv, tmp_path):
    said = call(programs / "layerscope", *argv, cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    assert "layerscope" in said.stdout


def test_a_command_that_does_not_exist(programs, tmp_path):
    said = call(programs / "layerscope", "trian", cwd=tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "error: trian is no command: did you mean train?\n"
    assert list(tmp_path.iterdir()) == []
