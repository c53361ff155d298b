"""What a child does to itself before it runs: die, fail, or be the program with a mistake in it."""

import functools
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

from lightning.pytorch.callbacks import EarlyStopping

from layerscope.base import files
from layerscope.commands import train as run
from layerscope.report import tables
from layerscope.training import checkpoint_files, checkpoint_folder, module, trainer
from layerscope.training.callbacks.activation_memory import ActivationMemory
from layerscope.training.callbacks.end_of_epoch import EndOfEpoch
from layerscope.training.callbacks.within_epoch import WithinEpoch
from layerscope.training.module import Classifier, Scores
from layerscope.training.processes import strategy

HOOKED = (Classifier, EndOfEpoch, WithinEpoch, ActivationMemory, EarlyStopping)
STEPS = ("training_step", "validation_step", "test_step", "state_dict", "load_state_dict")


def sites() -> Iterator[tuple[object, str, str]]:
    """Where a run may be watched: owner, name, label."""
    for name in ("replace", "link", "fsync"):
        yield os, name, f"os.{name}"
    yield tables.GrowingTable, "append", "GrowingTable.append"
    yield tables.GrowingTable, "start", "GrowingTable.start"
    yield trainer, "save_sealed", "save_sealed"
    yield checkpoint_folder, "copy_file", "copy_file"
    yield run, "write_json", "write_json"
    for kind in HOOKED:
        for name in vars(kind):
            if name.startswith("on_") or name in STEPS:
                yield kind, name, f"{kind.__name__}.{name}"


def watch(note: Callable[[str], None]) -> None:
    """Call `note` with `before LABEL` and `after LABEL` around each call of each site."""
    for owner, name, label in list(sites()):
        setattr(owner, name, _watched(getattr(owner, name), label, note))


def _watched(function: Callable, label: str, note: Callable[[str], None]) -> Callable:
    @functools.wraps(function)
    def watched(*args, **kwargs):
        note(f"before {label}")
        result = function(*args, **kwargs)
        note(f"after {label}")
        return result

    return watched


def without_picture() -> None:
    """Half of a short run's time."""
    run.save_curves = lambda path, rows: files.write_text(path, "")


def record(log: Path) -> None:
    """Each event of the run, a line."""
    without_picture()
    file = log.open("w", buffering=1)
    watch(lambda event: file.write(f"{event}\n"))


def die_at(event: str, occurrence: int) -> None:
    """kill -9, at the event's n-th time, from 0."""
    without_picture()
    seen = Counter()

    def note(label: str) -> None:
        if label == event and seen[label] == occurrence:
            die()
        seen[label] += 1

    watch(note)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_inside_checkpoint(number: int, share: float, temporary: str | None = None) -> None:
    """When this share of the n-th checkpoint's bytes is written."""
    without_picture()
    if temporary is not None:
        os.environ["TMPDIR"], tempfile.tempdir = temporary, None
    original, seen = checkpoint_files.write_atomically, Counter()

    def write_atomically(path, write):
        seen["calls"] += 1
        if seen["calls"] <= number:
            return original(path, write)
        return original(path, lambda file: write(_Torn(file, share)))

    checkpoint_files.write_atomically = write_atomically


class _Torn:
    def __init__(self, file, share: float) -> None:
        self._file, self._share = file, share

    def write(self, content: bytes) -> None:
        self._file.write(content[: round(len(content) * self._share)])
        self._file.flush()
        die()


def die_inside_row(name: str, number: int, share: float) -> None:
    """When this share of the file's n-th appended row is on the disk."""
    without_picture()
    original, seen = tables.GrowingTable.append, Counter()

    def append(self, row):
        if self._path.name == name:
            seen["rows"] += 1
            if seen["rows"] > number:
                line = tables._line([tables._text(row[column]) for column in self._columns])
                with self._path.open("a") as file:
                    file.write(line[: round(len(line) * share)])
                die()
        original(self, row)

    tables.GrowingTable.append = append


# A kind of write, by the name of the file and the step that fails.
STAGES = ("create", "write", "fsync", "replace")
KINDS = (
    *((name, stage) for name in ("config.yaml", "run.json", "layers.csv") for stage in STAGES),
    *(("metrics.csv", stage) for stage in (*STAGES, "append", "append fsync")),
    *(("timing.csv", stage) for stage in ("append", "append fsync")),
    *(("activation_memory.json", stage) for stage in STAGES),
    *((name, stage) for name in ("best.ckpt", "last.ckpt") for stage in STAGES),
    *(("previous.ckpt", stage) for stage in ("replace",)),
    *((name, stage) for name in ("curves.svg", "results.json") for stage in STAGES),
)


def fail_at(name: str, stage: str, number: int) -> None:
    """That write fails with this error, and so does every later one of the file, as on a full disk.

    Below Python's own functions, so that the program's way of writing is not touched.
    """
    if name != "curves.svg":
        without_picture()

    def fail(*_args, **_keys):
        raise OSError(number, os.strerror(number), name)

    if stage.startswith("append"):
        _fail_in_append(name, stage, fail)
        return
    descriptors: set[int] = set()
    mkstemp, fdopen, fsync, replace = tempfile.mkstemp, os.fdopen, os.fsync, os.replace

    def failing_mkstemp(*args, **keys):
        if keys.get("prefix") != f".{name}.":
            return mkstemp(*args, **keys)
        if stage == "create":
            fail()
        descriptor, path = mkstemp(*args, **keys)
        descriptors.add(descriptor)
        return descriptor, path

    def failing_fdopen(descriptor, *args, **keys):
        file = fdopen(descriptor, *args, **keys)
        return _NoWrite(file, fail) if stage == "write" and descriptor in descriptors else file

    def failing_fsync(descriptor):
        return fail() if stage == "fsync" and descriptor in descriptors else fsync(descriptor)

    def failing_replace(source, target):
        if stage == "replace" and Path(target).name == name:
            fail()
        descriptors.clear()
        return replace(source, target)

    tempfile.mkstemp, os.fdopen = failing_mkstemp, failing_fdopen
    os.fsync, os.replace = failing_fsync, failing_replace


class _NoWrite:
    """A file that takes some bytes and no more."""

    def __init__(self, file, fail: Callable) -> None:
        self._file, self._fail = file, fail

    def write(self, content) -> None:
        self._file.write(content[:100])
        self._file.flush()
        self._fail()

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        self._file.close()


def _fail_in_append(name: str, stage: str, fail: Callable) -> None:
    path_open, fsync = Path.open, os.fsync
    descriptors: set[int] = set()

    def failing_open(self, mode="r", *args, **keys):
        file = path_open(self, mode, *args, **keys)
        if self.name != name or mode != "a":
            return file
        descriptors.add(file.fileno())
        return _NoWrite(file, fail) if stage == "append" else file

    def failing_fsync(descriptor):
        return fail() if descriptor in descriptors else fsync(descriptor)

    Path.open = failing_open
    if stage == "append fsync":
        os.fsync = failing_fsync


def limit_file_size(num_bytes: int) -> None:
    """As `ulimit -f` does."""
    without_picture()
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def loss_is_nan_at(step: int) -> None:
    """In that training step, counted from 1; an update of it ends the process."""
    without_picture()
    original, update = Classifier.training_step, Classifier._update

    def checked_update(self):
        if self.batches_seen + 1 == step:
            os._exit(99)
        update(self)

    Classifier._update = checked_update

    def training_step(self, batch, batch_idx):
        if self.batches_seen + 1 == step:
            batch = (batch[0] * float("nan"), batch[1])
        return original(self, batch, batch_idx)

    Classifier.training_step = training_step


def validation_loss_is_nan() -> None:
    """Of a network whose training is finite."""
    without_picture()
    original = Classifier.validation_step

    def validation_step(self, batch, batch_idx):
        original(self, (batch[0] * float("nan"), batch[1]), batch_idx)

    Classifier.validation_step = validation_step  # type: ignore[method-assign]


def never_better_after(epoch: int) -> None:
    """So that early stopping has something to stop."""
    without_picture()
    original = EndOfEpoch._note_best

    def note_best(self, current, scores):
        return current <= epoch and original(self, current, scores)

    EndOfEpoch._note_best = note_best


def no_step_seed() -> None:
    """A mutant: dropout draws on from wherever the generator is."""
    without_picture()
    Classifier._seed = lambda self, seed: None


def sums_not_persistent() -> None:
    """A mutant: the sums of the running epoch are not in the checkpoint."""
    without_picture()
    original = Scores.__init__

    def init(self, num_classes):
        original(self, num_classes)
        self.accuracy.persistent(False)
        self.loss.persistent(False)

    Scores.__init__ = init


def table_not_truncated() -> None:
    """A mutant: a resumed run goes on behind whatever rows there are."""
    without_picture()
    original = tables.GrowingTable.start

    def start(self, lines):
        if not self._path.exists():
            original(self, lines)
        self.lines = list(lines)

    tables.GrowingTable.start = start


def saved_before_validation() -> None:
    """A mutant: the epoch's checkpoint comes as validation begins."""
    without_picture()

    def on_validation_start(self, trainer, pl_module):
        self._folder.save(trainer)

    WithinEpoch.on_validation_start = on_validation_start


def sums_of_the_first_process() -> None:
    """A mutant: every process goes on with the sums that the first one had."""
    forked_processes()
    module.sums_of_process = lambda sums, *_: {name: each[0] for name, each in sums.items()}


def statistics_of_each_process() -> None:
    """A mutant: each process validates with its own statistics of batch norm."""
    forked_processes()
    del strategy._SharingBuffers.on_after_outer_forward


def sums_by_the_bucket() -> None:
    """A mutant: gradients are added up in whatever order DDP's buckets bring about."""
    forked_processes()
    strategy.Processes._register_ddp_hooks = lambda self: None


def forked_processes() -> None:
    """For `trainer=ddp_spawn`: what is done to this process is done to those that train."""
    without_picture()
    strategy.START_METHODS["ddp_spawn"] = "fork"


def in_process(number: int, step: int, act: Callable[[], None]) -> None:
    """There, at the end of that training step, counted from 1."""
    original = Classifier.training_step

    def training_step(self, batch, batch_idx):
        result = original(self, batch, batch_idx)
        if self.global_rank == number and self.batches_seen == step:
            act()
        return result

    Classifier.training_step = training_step


def signal_parent(number: int) -> None:
    """And wait for what it does to this process."""
    heard = signal.getsignal(signal.SIGTERM).__self__
    os.kill(os.getppid(), number)
    end = time.monotonic() + 10
    while heard.signal is None and time.monotonic() < end:
        time.sleep(0.01)


def signal_all_at(step: int, number: int) -> None:
    """Also the loader's workers, by another process, as a batch system does it."""
    without_picture()

    def act() -> None:
        group = [*(worker.pid for worker in active_children()), os.getpid()]
        assert len(group) > 1
        sender = os.fork()
        if not sender:
            for process in group:
                os.kill(process, number)
            os._exit(0)
        os.waitpid(sender, 0)
        time.sleep(0.2)

    in_process(0, step, act)


def both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


def fork_and_die_in_step(step: int, seconds: float) -> None:
    """Leave a process behind that goes on for so long."""
    without_picture()
    original = Classifier.training_step

    def training_step(self, batch, batch_idx):
        if self.batches_seen + 1 == step:
            if not os.fork():
                time.sleep(seconds)
                os._exit(0)
            die()
        return original(self, batch, batch_idx)

    Classifier.training_step = training_step


def weights_are_infinite_after(step: int) -> None:
    """As after an update that was too large."""
    without_picture()
    original = Classifier._update

    def update(self):
        original(self)
        if self.batches_seen + 1 == step:
            next(self.network.parameters()).data.fill_(float("inf"))

    Classifier._update = update


def die_at_training_in(directory: Path) -> None:
    """When all is checked and the run's directory is made; the default one, below this one."""
    os.chdir(directory)
    run.train = lambda *_: die()


def fail_seed_1_and_stop_seed_2(step: int) -> None:
    """In a sweep over the seed: one job fails in that step, the next is told to end."""
    without_picture()
    original = Classifier.training_step

    def training_step(self, batch, batch_idx):
        if self.batches_seen + 1 == step:
            if self._config.seed == 1:
                batch = (batch[0] * float("nan"), batch[1])
            if self._config.seed == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    Classifier.training_step = training_step


def exit_in_step() -> None:
    """A network that ends the program in its first step."""
    from layerscope.training.module import Classifier

    def training_step(self, batch, batch_idx):
        sys.exit(0)

    Classifier.training_step = training_step  # type: ignore[method-assign]


def signal_in_validation(number: int) -> None:
    """In the first batch of the first validation."""
    from layerscope.training.module import Classifier

    original = Classifier.validation_step

    def validation_step(self, batch, batch_idx):
        if self.trainer.current_epoch == 0 and batch_idx == 0:
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    Classifier.validation_step = validation_step  # type: ignore[method-assign]


def signal_in_test(number: int) -> None:
    """At the first batch of the test set."""
    without_picture()
    original = Classifier.test_step

    def test_step(self, batch, batch_idx):
        os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    Classifier.test_step = test_step
