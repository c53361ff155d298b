"""A signal that comes while a script is still importing."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import SCRIPTS

NAMES = ("train", "evaluate", "predict", "profile_model", "explain")
# In the place of the first of the large packages.
TORCH = """
import os
os.kill(os.getpid(), {number})
raise AssertionError("the signal was not heard")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", NAMES)
def test_one_line(name, number, tmp_path):
    (tmp_path / "torch.py").write_text(TORCH.format(number=int(number)))
    ended = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 128 + number
    assert ended.stderr == f"error: {number.name}: ended before anything was done\n"
    assert ended.stdout == ""


def test_of_several_processes_the_first_one_complains(tmp_path):
    (tmp_path / "torch.py").write_text(TORCH.format(number=int(signal.SIGTERM)))
    ended = subprocess.run(
        [sys.executable, SCRIPTS / "train.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "LAYERSCOPE_RUN_DIRECTORY": "x"},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (143, b"")
