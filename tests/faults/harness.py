"""Training runs in forked processes that die where a test wants them to.

The parent has imported everything, so a run costs what it computes. Children use one thread.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/integration"))
from helpers import load_script  # noqa: E402

# A network with dropout, batch norm and momentum; three epochs of five steps, checkpoints inside.
KEYS = (
    "data=synthetic",
    "data.num_train=80",
    "data.num_val=20",
    "data.num_test=20",
    "data.batch_size=16",
    "model=custom",
    "model._target_=faulty_network.Small",
    "trainer.max_epochs=3",
    "trainer.precision=32-true",
    "trainer=cpu",
    "trainer.threads=1",
    "checkpoint_every_n_steps=2",
    "profile=false",
)
KILLED = -signal.SIGKILL


def main(argv, prepare: Callable[[], None] | None = None) -> int:
    """What the script does, in this process."""
    if prepare is not None:
        prepare()
    return load_script("train").main([str(argument) for argument in argv])


def forked(argv, prepare=None, log: Path | None = None) -> int:
    """The process number of a child that runs the script with everything printed into `log`."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        code = main(argv, prepare)
    except BaseException:  # noqa: BLE001 - a traceback in the log, whatever it is
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """The exit code; minus the signal's number where one killed it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run(argv, prepare=None, log=None) -> int:
    return wait(forked(argv, prepare, log))


def run_and_signal(argv, number: int, seconds: float, prepare=None, log=None) -> int:
    """Send the signal after so long, if the run has not ended by then."""
    child = forked(argv, prepare, log)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, number)
    return wait(child)


def die_at(function: Callable, call: int) -> Callable:
    """The function, but at its call of this number (from 0) the process is killed first."""
    count = -1

    def dying(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return dying


def outcome(directory: Path) -> dict[str, object]:
    """All that must be equal to the bit: weights, optimizer, progress, metrics.csv."""
    checkpoint = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    best = torch.load(directory / "checkpoints/best.ckpt", weights_only=True)
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "epoch": (checkpoint["epoch"], checkpoint["global_step"]),
        "best": best["state_dict"],
        "metrics": (directory / "metrics.csv").read_bytes(),
    }


def differences(one: object, two: object, path: str = "") -> list[str]:
    """Where two outcomes differ; empty where they are the same to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and torch.equal(one, two)
        return [] if same else [path]
    if isinstance(one, dict) and isinstance(two, dict):
        keys = [f"{path}.{key} (only one)" for key in one.keys() ^ two.keys()]
        return keys + [
            found
            for key in one.keys() & two.keys()
            for found in differences(one[key], two[key], f"{path}.{key}")
        ]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [
            found
            for number, (a, b) in enumerate(zip(one, two, strict=True))
            for found in differences(a, b, f"{path}[{number}]")
        ]
    return [] if one == two else [path]
