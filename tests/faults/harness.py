"""Training runs in forked processes that die where a test wants them to.

Whoever forks has imported everything, so that a run costs what it computes, and has computed no
gradient, which torch refuses in a process that was forked afterwards. Under pytest that is one
process more (`Forker`), made before the first test.
"""

import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("integration", "unit/data", "faults")]
from helpers import load_script  # noqa: E402

from layerscope.commands import train as training_run  # noqa: E402

# A network with dropout, batch norm and momentum; two epochs of five steps, checkpoints inside.
KEYS = (
    "data=synthetic",
    "data.num_train=80",
    "data.num_val=20",
    "data.num_test=20",
    "data.batch_size=16",
    "model=custom",
    "model._target_=faulty_network.Small",
    "trainer.max_epochs=2",
    "trainer.precision=32-true",
    "trainer=cpu",
    "trainer.threads=1",
    "checkpoint_every_n_steps=2",
    "profile=false",
)
KILLED = -signal.SIGKILL
Prepare = Callable[[], None]  # called in the child before the run


@dataclass(frozen=True)
class Ended:
    """A process that is no more; `code` is minus the signal's number where one killed it."""

    code: int
    out: str
    err: str
    at: float = math.inf  # when the script's main returned, on the monotonic clock


class Child:
    """A forked process that runs the script, or a function."""

    def __init__(self, argv=(), prepare: Prepare | None = None, call: Callable | None = None):
        files = [os.memfd_create(name) for name in ("out", "err")]
        self._started, started = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forks beside threads, none of which are used
            self._process = os.fork()
        if not self._process:
            os.close(self._started)
            _become(files, lambda: _run([str(a) for a in argv], prepare, call, started))
        os.close(started)
        self._files = files

    def wait_for_training(self) -> bool:
        """Wait until the checks are done; return False if it ended before."""
        return os.read(self._started, 1) != b""

    def signal(self, number: int) -> None:
        os.kill(self._process, number)

    def has_ended_after(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if os.waitid(os.P_PID, self._process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            time.sleep(0.002)
        return False

    def wait(self) -> Ended:
        _, status = os.waitpid(self._process, 0)
        texts = []
        for file in self._files:
            with os.fdopen(file, "rb") as reader:
                reader.seek(0)
                texts.append(reader.read().decode())
        with os.fdopen(self._started, "rb") as reader:
            ended_at = reader.read().lstrip(b"t")
        return Ended(os.waitstatus_to_exitcode(status), *texts, float(ended_at or math.inf))


def run(argv, prepare: Prepare | None = None) -> Ended:
    return Child(argv, prepare).wait()


def run_and_signal(
    argv, number: int, seconds: float, prepare: Prepare | None = None
) -> tuple[Ended, bool]:
    """Send the signal so long after training has begun; False where the run had ended by then.

    A process that ends is there for some milliseconds more, and takes signals.
    """
    child = Child(argv, prepare)
    sent_at = None
    if child.wait_for_training() and not child.has_ended_after(seconds):
        child.signal(number)
        sent_at = time.monotonic()
    ended = child.wait()
    return ended, sent_at is not None and sent_at < ended.at


def _become(files: list[int], work: Callable[[], int]) -> None:
    """What a new process is: own output, signals and warnings as they are at a start."""
    code = 70
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.resetwarnings()
        warnings.simplefilter("ignore", ResourceWarning)  # as Python does by itself
        torch.set_num_threads(1)
        code = work()
    except BaseException:  # noqa: BLE001 - a traceback on stderr, whatever it is
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(argv: list[str], prepare: Prepare | None, call: Callable | None, started: int) -> int:
    train = training_run.train

    def noted(*arguments):
        os.write(started, b"t")
        train(*arguments)

    training_run.train = noted
    Figure.savefig = lambda *_, **__: None  # a picture takes half of a short run's time
    if prepare is not None:
        prepare()
    code = int(call() or 0) if call is not None else load_script("train").main(argv)
    os.write(started, repr(time.monotonic()).encode())
    return code


class Forker:
    """A process that forks for another one that must not: see the top of this file."""

    def __init__(self) -> None:
        self._here, there = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._process = os.fork()
        if not self._process:
            self._here.close()
            _serve(there)
        there.close()

    def __call__(self, function: Callable, *arguments):
        """What the function returns there; its failure fails the test."""
        self._here.send((function, arguments))
        failure, value = self._here.recv()
        if failure is not None:
            raise AssertionError(failure)
        return value

    def close(self) -> None:
        self._here.close()
        os.waitpid(self._process, 0)


def _serve(connection) -> None:
    try:
        while True:
            function, arguments = connection.recv()
            try:
                answer = (None, function(*arguments))
            except Exception:  # noqa: BLE001 - told to the test
                answer = (traceback.format_exc(), None)
            connection.send(answer)
    except EOFError:  # the other process has ended
        pass
    finally:
        os._exit(0)


def outcome(directory: Path) -> dict[str, object]:
    """All that must be equal to the bit: weights, optimizer, progress, metrics.csv."""
    checkpoint = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    best = torch.load(directory / "checkpoints/best.ckpt", weights_only=True)
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "progress": (checkpoint["epoch"], checkpoint["global_step"], checkpoint["loops"]),
        "seen": checkpoint["layerscope"]["batches_seen"],
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


def leftovers(directory: Path) -> list[str]:
    """Temporary files, which a finished run has none of."""
    return [str(path.relative_to(directory)) for path in directory.rglob(".*")]
