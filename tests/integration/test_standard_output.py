"""Terminals that cannot show everything, and readers that go away: `| head`."""

import os
import subprocess
import sys

import pytest
from helpers import SCRIPTS, TINY, start

EXPLAIN = ("explain.py", "analysis=false")
PROFILE = (
    "profile_model.py",
    "model=tiny_cnn",
    *(f"instruments.{name}=false" for name in ("time", "machine", "profiler", "memory", "fvcore")),
)
TRAIN = ("train.py", *TINY, "trainer.limit_train_batches=1")
FILES = {
    "explain.py": {"explain.json", "explain.md", "explain.html", "explain.svg", "run.json"},
    "profile_model.py": {
        "profile.json",
        "profile.csv",
        "profile.md",
        "profile.html",
        "run.json",
    },
    "train.py": {"results.json", "metrics.csv", "layers.json", "curves.svg", "run.json"},
}


def started(command, directory, **streams):
    name, *overrides = command
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *overrides, f"hydra.run.dir={directory}"],
        cwd=directory.parent,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=100,
        **streams,
    )


def written(directory):
    return {path.name for path in directory.iterdir()}


# The commands share what writes to a terminal.
SLOW_PROFILE = pytest.param(PROFILE, marks=pytest.mark.slow)
SCRIPT = """
import sys
from runpy import run_path

code = run_path(sys.argv[1])["main"](sys.argv[2:])
print({"lightning", "pytorch_lightning", "matplotlib"} & set(sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize("command", [EXPLAIN, PROFILE], ids=lambda command: command[0])
def test_an_ascii_terminal_shows_a_question_mark(command, tmp_path):
    """And neither command waits for what it does not need."""
    name, *overrides = command
    done = start(
        *("-c", SCRIPT, SCRIPTS / name, *overrides, "hydra.run.dir=run"),
        cwd=tmp_path,
        PYTHONIOENCODING="ascii",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout
    assert done.stdout.endswith("set()\n")
    assert written(tmp_path / "run") >= FILES[name]


@pytest.mark.parametrize("command", [EXPLAIN, SLOW_PROFILE, TRAIN], ids=lambda command: command[0])
def test_a_reader_that_has_gone_costs_no_file(command, tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = started(command, tmp_path / "run", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
    assert written(tmp_path / "run") >= FILES[command[0]]


def test_neither_stream_is_there(tmp_path):
    """`>&- 2>&-`."""
    command = [sys.executable, str(SCRIPTS / EXPLAIN[0]), EXPLAIN[1], "hydra.run.dir=run"]
    line = " ".join(f"'{part}'" for part in command) + " >&- 2>&-"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, check=False, timeout=100)
    assert done.returncode == 0
    assert written(tmp_path / "run") >= FILES["explain.py"]
