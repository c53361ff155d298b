"""Signals while a script is still importing, and behind its last line."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import SCRIPTS

COMMANDS = {
    "train": [],
    "evaluate": ["ckpt_path=a"],
    "predict": ["ckpt_path=a", "image=b"],
    "profile_model": [],
    "explain": [],
}
# In the place of the first of the large packages.
TORCH = """
import os
os.kill(os.getpid(), {number})
raise AssertionError("the signal was not heard")
"""


def searched_first(folder):
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_one_line(name, number, tmp_path):
    (tmp_path / "torch.py").write_text(TORCH.format(number=int(number)))
    ended = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", *COMMANDS[name]],
        env={**os.environ, "PYTHONPATH": searched_first(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 128 + number
    assert ended.stderr == f"error: {number.name}: ended before anything was done\n"
    # What was said before torch was imported.
    assert ended.stdout.startswith(f"layerscope {name.removesuffix('_model')}")
    assert ended.stdout.count("\n") == 1


def test_of_several_processes_the_first_one_complains(tmp_path):
    (tmp_path / "torch.py").write_text(TORCH.format(number=int(signal.SIGTERM)))
    ended = subprocess.run(
        [sys.executable, SCRIPTS / "train.py"],
        env={**os.environ, "PYTHONPATH": searched_first(tmp_path), "LAYERSCOPE_RUN_DIRECTORY": "x"},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (143, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_has_ended_keeps_its_exit_code(number):
    """While Python ends, which takes torch some tenths of a second."""
    text = f"""
import atexit, os
from layerscope.base.signals import leave
atexit.register(os.kill, os.getpid(), {int(number)})
leave(3)
"""
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (3, b"")
