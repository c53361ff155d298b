"""What is done to runs, and whether they end as if nothing had happened.

Each returns a Figure; the short tests call them with small counts, full.py with large ones. The
last argument is a folder to work in.
"""

import errno
import fnmatch
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import fake_cifar10 as fake
import injections as inject
import torch
from harness import (
    KEYS,
    KILLED,
    Child,
    Ended,
    differences,
    leftovers,
    outcome,
    run,
    run_and_signal,
)

from layerscope.base.errors import UserError
from layerscope.config.problems import parse
from layerscope.config.schema import TrainConfig
from layerscope.data import cifar10
from layerscope.data.sources import read_archive
from layerscope.data.store import load_cifar10, prepare_cifar10
from layerscope.training import resume
from layerscope.training.checkpoints import RunFacts, read_checkpoint

RESULTS = ("test/acc", "test/loss", "val/acc", "val/loss", "epochs", "steps")


@dataclass
class Figure:
    """How many were tried, and what was lost of them."""

    what: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""

    def count(self, problems: Sequence[str], case: object) -> None:
        self.tried += 1
        if problems:
            self.lost.append(f"{case}: {'; '.join(problems)}")


@dataclass(frozen=True)
class Whole:
    """A run that nothing happened to."""

    directory: Path
    outcome: dict
    seconds: float  # of training and what follows it


def command(directory: Path, *keys: str) -> list[str]:
    names = {key.partition("=")[0] for key in keys}
    others = [key for key in KEYS if key.partition("=")[0] not in names]
    return [*others, *keys, "resume=auto", f"hydra.run.dir={directory}"]


@cache
def whole(root: Path, *keys: str, prepare=None) -> Whole:
    directory = root / f"whole {len(list(root.glob('whole *')))}"
    child = Child(command(directory, *keys), prepare)
    assert child.wait_for_training(), child.wait()
    started = time.monotonic()
    ended = child.wait()
    assert ended.code == 0, ended
    return Whole(directory, outcome(directory), time.monotonic() - started)


@cache
def events(root: Path, *keys: str) -> tuple[str, ...]:
    """Return the events of a run in their order."""
    log = root / "events.txt"
    ended = run(command(root / "recorded", *keys), partial(inject.record, log))
    assert ended.code == 0, ended
    return tuple(log.read_text().splitlines())


def ends_alike(directory: Path, root: Path, *keys: str, prepare=None, warning: str = ""):
    """Resume to the end: what differs from the run that nothing happened to.

    A warning that is not expected is a problem: every checkpoint that has its name is whole.
    """
    ended = run(command(directory, *keys), prepare)
    if ended.code != 0 or (ended.err != "" if not warning else warning not in ended.err):
        return [f"resumed, ended with {ended.code}: {ended.err[-300:]}"]
    return compare(directory, whole(root, *keys, prepare=prepare))


def broken_and_resumed(
    what: str, cases: Iterable[tuple], prepare: Callable, end: Callable, root: Path
) -> Figure:
    """Run each case after `prepare(*case)`, which ends it as `end(*case)` says; then resume.

    `end` returns the exit code, and what the line on stderr says of a failure.
    """
    figure = Figure(what)
    for case in cases:
        directory = root / "broken"
        ended = run(command(directory), partial(prepare, *case))
        problems = wrong_end(ended, *end(*case))
        if ended.code > 0:
            problems += [f"left {name}" for name in leftovers(directory)]
            rows = {path.name: path.read_text() for path in directory.glob("*.csv")}
            problems += [f"half a row in {name}" for name in rows if rows[name][-1:] != "\n"]
        figure.count(problems + ends_alike(directory, root), case)
        shutil.rmtree(directory)
    return figure


def compare(directory: Path, reference: Whole) -> list[str]:
    found = differences(reference.outcome, outcome(directory))
    results, wanted = (
        json.loads((path / "results.json").read_text()) for path in (directory, reference.directory)
    )
    found += [f"results {name}" for name in RESULTS if results[name] != wanted[name]]
    return found + [f"left {name}" for name in leftovers(directory)]


def wrong_end(ended: Ended, code: int, *parts: str) -> list[str]:
    """Return what is wrong with how a run ended: its exit code, or its line on stderr."""
    problems = [] if ended.code == code else [f"ended with {ended}"]
    return problems + (one_line(ended.err, *parts) if parts else [])


def one_line(text: str, *parts: str) -> list[str]:
    """Return what is wrong with a text that must be one line with these parts."""
    problems = [] if text.count("\n") == 1 and "Traceback" not in text else [f"stderr {text!r}"]
    return problems + [f"no {part!r} in {text!r}" for part in parts if part not in text]


# The order of what is asked of the disk


def careless_writes(mutant, root: Path) -> list[str]:
    """What a loss of power could take although it had its name already, or half of it."""
    log = root / f"disk of {mutant.__name__}.txt"
    watch = partial(inject.both, partial(inject.record, log), mutant)
    ended = run(command(log.with_suffix("")), watch)
    assert ended.code == 0, ended
    return careless(log.read_text().splitlines())


def careless(events: Sequence[str]) -> list[str]:
    """A file's bytes are synced before it gets its name, and then its folder; a row at once."""
    problems: list[str] = []
    unsynced: set[str] = set()
    renamed = ""
    for when, *words in map(str.split, events):
        operation, name = " ".join(words[:-1]), words[-1]
        if when == "before":
            continue
        if words == ["fsync"]:  # of the folder
            renamed = ""
        elif operation.endswith("fsync"):
            unsynced.discard(name)
        elif operation in ("create", "write", "append", "link", "replace"):
            if renamed:
                problems.append(f"the folder of {renamed} is not synced")
            if operation in ("append", "replace") and name in unsynced:
                problems.append(f"{name} is not synced")
            if operation in ("write", "append"):
                unsynced.add(name)
            renamed = name if operation == "replace" else ""
    return problems + [f"{name} is not synced" for name in sorted(unsynced)]


def disk_calls(root: Path) -> list[tuple[str, str]]:
    """Each kind of call on each file that a run writes; a link that fails is no failure."""
    calls = {tuple(event.split(" ", 1)[1].rsplit(" ", 1)) for event in events(root)}
    return sorted(call for call in calls if len(call) == 2 and call[0] != "link")


# kill -9


def killed_and_resumed(event: str, occurrence: int, mutant, root: Path):
    """Killed at that event and resumed, by the program or by a mutant of it: what differs."""
    directory = root / "runs" / f"{len(list(root.glob('runs/*')))}"
    die = partial(inject.die_at, event, occurrence)
    ended = run(command(directory), partial(inject.both, mutant, die) if mutant else die)
    if ended.code != KILLED:
        return [f"was not killed: {ended}"]
    return ends_alike(directory, root, prepare=mutant)


def random_kills(count: int, seed: int, keys: Sequence[tuple[str, ...]], root: Path) -> Figure:
    """Each run killed one to three times; the n-th time with the n-th of `keys`, in turn."""
    figure, draw, kills = Figure("random kills, chained resumes"), random.Random(seed), 0
    reference = whole(root, *keys[0])
    for number in range(count):
        directory = root / f"killed {number}"
        for turn in range(draw.randint(1, 3)):
            argv = command(directory, *keys[turn % len(keys)])
            seconds = draw.uniform(0, reference.seconds)
            ended, _ = run_and_signal(argv, signal.SIGKILL, seconds)
            kills += ended.code == KILLED
            if ended.code not in (KILLED, 0):
                figure.lost.append(f"{number}: {ended}")
        figure.count(ends_alike(directory, root, *keys[0]), number)
        shutil.rmtree(directory)
    figure.note = f"{kills} kills"
    return figure


def kills_at_events(chosen: Sequence[tuple[str, int]], root: Path) -> Figure:
    what = "kills before and after each hook and call of the disk"
    figure = broken_and_resumed(what, chosen, inject.die_at, _killed, root)
    figure.note = f"{len({event for event, _ in chosen})} places"
    return figure


def _killed(*_: object) -> tuple[int]:
    return (KILLED,)


def all_events(root: Path) -> list[tuple[str, int]]:
    """Each place at its first, middle and last time."""
    times = {event: events(root).count(event) for event in events(root)}
    return [(event, n) for event, count in times.items() for n in {0, count // 2, count - 1}]


def kills_inside_checkpoints(count: int, seed: int, temporary: str, root: Path) -> Figure:
    draw, num_writes = random.Random(seed), len(fnmatch.filter(events(root), "before write *.ckpt"))
    cases = [("*.ckpt", draw.randrange(num_writes), draw.random()) for _ in range(count)]

    def prepare(*case) -> None:
        inject.use_temporary_directory(temporary)
        inject.die_inside("write", *case)

    what = f"kills inside a checkpoint's write, TMPDIR={temporary}"
    return broken_and_resumed(what, cases, prepare, _killed, root)


def kills_inside_rows(count: int, seed: int, root: Path) -> Figure:
    draw, names = random.Random(seed), ("metrics.csv", "metrics.csv", "timing.csv")
    cases = [(draw.choice(names), draw.randrange(2), draw.random()) for _ in range(count)]
    prepare = partial(inject.die_inside, "append")
    return broken_and_resumed("kills inside a row of a log", cases, prepare, _killed, root)


# Signals


def signals(number: int, count: int, seed: int, root: Path) -> Figure:
    figure, draw = Figure(f"{signal.Signals(number).name}"), random.Random(seed)
    reference = whole(root)
    late = 0
    while figure.tried < count:
        directory = root / f"stopped {figure.tried}"
        seconds = draw.uniform(0, reference.seconds)
        ended, sent = run_and_signal(command(directory), number, seconds)
        if not sent or ended.code == -number:  # it was done before, or was ending
            late += 1
        else:
            problems = wrong_end(ended, 128 + number, f"resume=auto hydra.run.dir={directory}")
            figure.count(problems + ends_alike(directory, root), f"{seconds:.3f} s")
        shutil.rmtree(directory)
    figure.note = f"and {late} after the end"
    return figure


# Several processes

# Of three numbers the sum depends on the order.
THREE = (
    *("trainer=ddp_spawn", "trainer.accelerator=cpu", "trainer.devices=3"),
    *("data.batch_size=15", "trainer.max_epochs=1"),
)


def stopped_among_three(directory: Path, number: int, act, prepare) -> Ended:
    """Call `act` in the third step of that process; there is a checkpoint after the second."""
    stop = partial(inject.both, prepare, partial(inject.after_step, number, 3, act))
    return run(command(directory, *THREE), stop)


def three_resume(ended: Ended, directory: Path, code: int, seen: int, prepare, root, like=None):
    """Resume a run that was stopped after `seen` steps: what is wrong, or differs from a run of
    `like`, by default the same program."""
    if problems := wrong_end(ended, code):
        return problems
    saved = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    found = saved["layerscope"]["batches_seen"]
    problems = [] if found == seen else [f"saved after step {found}"]
    again = run(command(directory, *THREE), prepare)
    if again.code != 0:
        return [*problems, f"resumed, ended with {again}"]
    return problems + compare(directory, whole(root, *THREE, prepare=like or prepare))


# Damaged files


def damaged_checkpoints(count: int, seed: int, root: Path) -> Figure:
    """A bit flipped, or the file cut: `ckpt_path` refuses it, `resume=auto` takes the previous."""
    figure, draw = Figure("checkpoints with a flipped bit, or cut"), random.Random(seed)
    directory = root / "damaged"
    die = partial(inject.die_at, "before write *.ckpt", 3)
    ended = run(command(directory), die)
    assert ended.code == KILLED, ended
    last = directory / "checkpoints/last.ckpt"
    content = last.read_bytes()
    config = parse(TrainConfig, RunFacts.of(read_checkpoint(last)).config)
    for number in range(count):
        place = draw.randrange(len(content))
        cut = number % 4 == 3
        if cut:
            damaged = content[:place]
        else:
            damaged = bytearray(content)
            damaged[place] ^= 1 << draw.randrange(8)
        last.unlink()  # of which there may be other names
        last.write_bytes(damaged)
        figure.count(_damage_problems(config, directory), (place, "cut" if cut else "flipped"))
    problems = ends_alike(directory, root, warning="last.ckpt")
    figure.count(problems, "resumed from the previous one")
    return figure


def _damage_problems(config, directory: Path) -> list[str]:
    last = directory / "checkpoints/last.ckpt"
    start = resume.start_of(config, directory)
    problems = []
    if start.checkpoint != last.with_name("previous.ckpt") or str(last) not in start.warning:
        problems.append(f"resume=auto: {start}")
    named = config.model_copy(update={"resume": None, "ckpt_path": str(last)})
    try:
        resume.start_of(named, directory)
    except UserError as error:
        return problems + one_line(f"{error}\n", str(last))
    return [*problems, "ckpt_path: not refused"]


# Disks


def failing_writes(cases: Sequence[tuple[str, str, int]], root: Path) -> Figure:
    """That call on that file fails with that number; the run resumes where there is room again."""
    what = "failing writes: " + ", ".join(sorted({errno.errorcode[n] for *_, n in cases}))

    def end(_operation, _name, number):
        return 1, os.strerror(number)

    return broken_and_resumed(what, cases, inject.fail_at, end, root)


def file_size_limits(sizes: Sequence[int], root: Path) -> Figure:
    what, cases = "a real limit of the file's size (EFBIG)", [(size,) for size in sizes]
    prepare = inject.limit_file_size
    return broken_and_resumed(what, cases, prepare, lambda _: (1, "File too large"), root)


def full_disks(sizes: Sequence[int], root: Path) -> Figure:
    """File systems of so many bytes, which are full before the run ends; then made larger."""
    figure = Figure("a really full disk (ENOSPC)")
    for size in sizes:
        disk = root / f"disk {size}"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            figure.note = "not possible here: no file system can be mounted"
            return figure
        try:
            ended = run(command(disk / "run"))
            problems = wrong_end(ended, 1, "No space left on device")
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            figure.count(problems + ends_alike(disk / "run", root), size)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return figure


# Data


def killed_fetches(rounds: int, seed: int, root: Path) -> Figure:
    """Eight processes fetch into one directory; all but one are killed, then eight more fetch."""
    figure, draw = Figure("rounds of 8 concurrent fetches killed at random"), random.Random(seed)
    kills = 0
    for number in range(rounds):
        directory = root / f"data {number}"
        children = [Child(call=partial(_fetch, directory, draw.random())) for _ in range(8)]
        for child in draw.sample(children, 7):
            if not child.has_ended_after(draw.uniform(0, 0.1)):
                child.signal(signal.SIGKILL)
        ended = [child.wait() for child in children]
        kills += sum(e.code == KILLED for e in ended)
        problems = [f"{e}" for e in ended if e.code not in (0, KILLED)]
        again = [Child(call=partial(_fetch, directory, draw.random())) for _ in range(8)]
        problems += [f"again: {e}" for child in again if (e := child.wait()).code != 0]
        problems += [f"left {name}" for name in leftovers(directory)]
        loaded = Child(call=partial(_load, directory)).wait()
        problems += [] if loaded.code == 0 else [f"not loaded: {loaded}"]
        figure.count(problems, number)
    figure.note = f"{kills} kills"
    return figure


def _fetch(directory: Path, share: float) -> None:
    """Fetch from a server that gives a piece at a time; its file has to be unpacked."""
    cifar10.DECODED_SHA256 = fake.SUMS

    def fetch(scratch: Path, report) -> dict[str, bytes]:
        target = scratch / fake.BINARY.form.archive
        content = fake.BINARY.archive
        with target.open("wb", buffering=0) as file:
            for start in range(0, len(content), 1024):
                file.write(content[start : start + 1024])
                time.sleep(0.004 * share)
        return read_archive(target, fake.BINARY.form)

    source = fake.Source("a slow server", fake.BINARY.form, fetch)
    prepare_cifar10(directory, lambda line: None, fake.only(source))


def _load(directory: Path) -> None:
    cifar10.DECODED_SHA256 = fake.SUMS
    fake.assert_same(load_cifar10(directory))
