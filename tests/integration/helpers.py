import csv
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Small enough for a second: 64 training images of the made-up set, two epochs, one thread.
TINY = (
    "data=synthetic",
    "data.num_train=64",
    "data.num_val=20",
    "data.num_test=30",
    "data.batch_size=16",
    "model.channels=[4,8,8]",
    "optimizer.lr=0.02",
    "optimizer.sgd_lr=0.1",
    "trainer.max_epochs=2",
    "trainer.precision=32-true",
    "trainer=cpu",
    "trainer.threads=1",
)
# The same on whatever device, threads and precision the machine has.
SHORT = [key for key in TINY if not key.startswith("trainer")] + ["trainer.max_epochs=1"]


def load_script(name):
    """A script's module, as `python scripts/NAME.py` has it, but in this process."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def replaced(keys, *new):
    """`keys` with those of the same name taken out, and `new` added."""
    names = {key.partition("=")[0] for key in new}
    return [*(key for key in keys if key.partition("=")[0] not in names), *new]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def read_json(path):
    return json.loads(Path(path).read_text())


def same_weights(first, second):
    """Bit for bit."""
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def start(*arguments, cwd, **environment):
    """A Python process."""
    command = [sys.executable, *map(str, arguments)]
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    return subprocess.run(
        command, cwd=cwd, env=env | environment, capture_output=True, text=True, timeout=100
    )
