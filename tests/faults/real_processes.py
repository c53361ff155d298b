"""What is done to `trainer=ddp` and `ddp_spawn` as a user starts them: processes that import first.

Used by full.py; each case takes a quarter of a minute.
"""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness import KEYS, KILLED, ROOT, differences, leftovers, outcome
from scenarios import RESULTS, Figure, one_line

TWO = (
    *(key for key in KEYS if not key.startswith(("trainer=", "data.num_train", "trainer.max_"))),
    *("trainer.accelerator=cpu", "trainer.devices=2", "data.num_train=800", "trainer.max_epochs=4"),
    "resume=auto",
)
HANGS = 60.0  # seconds
OUTLIVES = 20.0  # which one that still imports, when the first one is killed, does for some
KILLS = ("all", "the first", "another")


@dataclass(frozen=True)
class Run:
    """A run and all processes that it has started, which are its session."""

    process: subprocess.Popen
    err: Path

    @classmethod
    def of(cls, strategy: str, directory: Path) -> "Run":
        argv = [*TWO, f"trainer={strategy}", f"hydra.run.dir={directory}"]
        err = directory.with_name(f"{directory.name} err")
        paths = f"{ROOT / 'tests/faults'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        with err.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, ROOT / "scripts/train.py", *argv],
                env=os.environ | {"PYTHONPATH": paths},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        return cls(process, err)

    def others(self) -> list[int]:
        """Processes of the session that train, or will, beside the one that was started."""
        return [
            number
            for number, command in self._session()
            if number != self.process.pid and "resource_tracker" not in command
        ]

    def end(self) -> list[str]:
        """Wait for it: what is wrong with how it left."""
        try:
            self.process.wait(HANGS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return [f"hung for {HANGS} s"]
        end = time.monotonic() + OUTLIVES
        while (left := list(self._session())) and time.monotonic() < end:
            time.sleep(0.05)
        if left:
            os.killpg(self.process.pid, signal.SIGKILL)
        return [f"left behind: {command}" for _, command in left]

    def _session(self) -> Iterator[tuple[int, str]]:
        listed = subprocess.run(
            ["ps", "-o", "pid=,stat=,args=", "-s", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        for line in listed.stdout.splitlines():
            number, state, command = line.split(None, 2)
            if not state.startswith("Z"):
                yield int(number), command


@dataclass(frozen=True)
class Reference:
    outcome: dict
    results: dict
    seconds: float


@cache
def reference(strategy: str, root: Path) -> Reference:
    """A run that nothing happens to."""
    directory, started = root / f"whole {strategy}", time.monotonic()
    run = Run.of(strategy, directory)
    assert run.end() == []
    seconds = time.monotonic() - started
    assert (run.process.returncode, run.err.read_text()) == (0, "")
    return Reference(outcome(directory), _results(directory), seconds)


def random_kills(strategy: str, count: int, seed: int, root: Path) -> Figure:
    """Kill all processes, the one that was started, or another one, in turn."""
    figure, draw = Figure(f"kills of trainer={strategy}'s processes"), random.Random(seed)
    whole = reference(strategy, root)
    for number, kind in zip(range(count), itertools.cycle(KILLS), strict=False):
        directory, seconds = root / f"{strategy} {number}", draw.uniform(0, whole.seconds)
        run = Run.of(strategy, directory)
        problems = _killed(run, kind, seconds, draw)
        figure.count(problems + _ends_alike(strategy, directory, whole), (kind, seconds))
        shutil.rmtree(directory)
    return figure


def _killed(run: Run, kind: str, seconds: float, draw: random.Random) -> list[str]:
    time.sleep(seconds)
    others = run.others()
    if kind == "another" and others:
        os.kill(draw.choice(others), signal.SIGKILL)
        problems = run.end()
        if run.process.returncode == 0:  # it had done its part
            return problems
        problems += [] if run.process.returncode == 1 else [f"ended with {run.process.returncode}"]
        return problems + one_line(run.err.read_text(), "was killed by SIGKILL", "resume=auto")
    if kind == "the first":
        run.process.kill()
    elif run.process.poll() is None:
        os.killpg(run.process.pid, signal.SIGKILL)
    problems = run.end()
    return problems + ([] if run.process.returncode in (KILLED, 0) else ["was not killed"])


def signals(strategy: str, number: int, count: int, seed: int, root: Path) -> Figure:
    """Signal the process that was started, or all, as a terminal does, in turn."""
    name = signal.Signals(number).name
    figure, draw, late = Figure(f"{name} to trainer={strategy}"), random.Random(seed), 0
    whole, slowest = reference(strategy, root), 0.0
    for case in range(count):
        directory, seconds = root / f"{strategy} {name} {case}", draw.uniform(0, whole.seconds)
        run = Run.of(strategy, directory)
        time.sleep(seconds)
        started = time.monotonic()
        if run.process.poll() is None:
            (os.killpg if case % 2 else os.kill)(run.process.pid, number)
        problems = run.end()
        if run.process.returncode == 0:
            late += 1
        else:
            slowest = max(slowest, time.monotonic() - started)
            code = run.process.returncode
            problems += [] if code == 128 + number else [f"ended with {code}"]
            problems += one_line(run.err.read_text(), "error: ")
        to = "all" if case % 2 else "the first"
        figure.count(problems + _ends_alike(strategy, directory, whole), (to, seconds))
        shutil.rmtree(directory)
    figure.note = f"{late} after the end; the slowest ended in {slowest:.1f} s"
    return figure


def _ends_alike(strategy: str, directory: Path, whole: Reference) -> list[str]:
    run = Run.of(strategy, directory)
    problems, err = run.end(), run.err.read_text()
    if (run.process.returncode, err) != (0, ""):
        return [*problems, f"resumed, ended with {run.process.returncode}: {err[-300:]}"]
    problems += differences(whole.outcome, outcome(directory))
    problems += [f"left {name}" for name in leftovers(directory)]
    return problems if _results(directory) == whole.results else [*problems, "results"]


def _results(directory: Path) -> dict:
    results = json.loads((directory / "results.json").read_text())
    return {name: results[name] for name in RESULTS}
