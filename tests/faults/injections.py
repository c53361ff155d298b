"""What a child does to itself before it runs: die, fail, or be the program with a mistake in it.

Faults come from below or from outside the program: the system's `open`, `write`, `fsync`, `link`
and `replace`, Lightning's hooks, torch's optimizers, signals. Only the mutants, which are the
program with a mistake in it, name what they change.
"""

import builtins
import fcntl
import functools
import io
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim import optimizer as torch_optimizer

from layerscope.report import tables
from layerscope.training import callbacks, module
from layerscope.training.callbacks.within_epoch import WithinEpoch
from layerscope.training.module import Classifier, Scores
from layerscope.training.processes import strategy

Step = Callable[[], None]


def both(first: Step, second: Step) -> None:
    first()
    second()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# The disk


@dataclass(frozen=True)
class DiskCall:
    """Something that the program asks of the disk; called, it is done.

    `name` is the file that it is for, also where that still has a temporary name; "" is a folder.
    """

    operation: str  # create, write, fsync; append, append fsync; link, replace
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self) -> Any:
        return self.function(*self.arguments)

    @property
    def label(self) -> str:
        return f"{self.operation} {self.name}".strip()


def intercept(act: Callable[[DiskCall], Any]) -> None:
    """Let `act` do, or not do, everything that is asked of the disk from now on."""
    system_open, fsync, link, replace, stream_open = os.open, os.fsync, os.link, os.replace, io.open

    def intercepted_open(path, flags, *args, **keys):
        function = functools.partial(system_open, **keys)
        call = DiskCall("create", _final_name(path), function, (path, flags, *args))
        return act(call) if flags & os.O_CREAT else call()

    def intercepted_fsync(descriptor):
        appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        operation = "append fsync" if appends else "fsync"
        return act(DiskCall(operation, _name_of(descriptor), fsync, (descriptor,)))

    def intercepted_link(source, target):
        return act(DiskCall("link", _final_name(target), link, (source, target)))

    def intercepted_replace(source, target):
        return act(DiskCall("replace", _final_name(target), replace, (source, target)))

    def intercepted_stream(file, mode="r", *args, **keys):
        stream = stream_open(file, mode, *args, **keys)
        return stream if set(mode) <= set("rbt") else _Stream(stream, "a" in mode, act)

    os.open, os.fsync = intercepted_open, intercepted_fsync
    os.link, os.replace = intercepted_link, intercepted_replace
    io.open = builtins.open = intercepted_stream


class _Stream:
    """A file whose writes are intercepted."""

    def __init__(self, stream: Any, appends: bool, act: Callable[[DiskCall], Any]) -> None:
        self._stream, self._act = stream, act
        self._operation, self._name = "append" if appends else "write", _name_of(stream.fileno())

    def write(self, content) -> Any:
        return self._act(DiskCall(self._operation, self._name, self._write, (content,)))

    def _write(self, content) -> Any:
        written = self._stream.write(content)
        self._stream.flush()  # what follows may be a kill
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()


def _name_of(descriptor: int) -> str:
    return _final_name(os.readlink(f"/proc/self/fd/{descriptor}"))


def _final_name(path: Any) -> str:
    if isinstance(path, int):
        return _name_of(path)
    path = Path(os.fsdecode(path))
    if path.is_dir():
        return ""
    name = path.name
    is_temporary = name.startswith(".") and name.endswith(".tmp")
    return name[1:].rsplit(".", 2)[0] if is_temporary else name


def _write_some(call: DiskCall, num: int) -> None:
    (content,) = call.arguments
    call.function(content[:num])


def die_inside(operation: str, name: str, number: int, share: float) -> None:
    """Die when this share of the n-th such write, from 0, is on the disk; `name` may hold a *."""
    seen = Counter()

    def act(call: DiskCall) -> Any:
        if call.operation == operation and fnmatch(call.name, name):
            seen["calls"] += 1
            if seen["calls"] > number:
                _write_some(call, round(len(call.arguments[0]) * share))
                die()
        return call()

    intercept(act)


def fail_at(operation: str, name: str, number: int) -> None:
    """Let this be answered with the error; every time, as on a full disk."""

    def act(call: DiskCall) -> Any:
        if (call.operation, call.name) != (operation, name):
            return call()
        if operation in ("write", "append"):
            _write_some(call, min(100, len(call.arguments[0]) // 2))
        raise OSError(number, os.strerror(number))

    intercept(act)


def limit_file_size(num_bytes: int) -> None:
    """Limit the size of files, as `ulimit -f` does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def use_temporary_directory(path: str) -> None:
    os.environ["TMPDIR"], tempfile.tempdir = path, None


# Events: what is asked of the disk, and Lightning's hooks


def watch(note: Callable[[str], None]) -> None:
    """Call `note` with `before LABEL` and `after LABEL` around each of them."""

    def act(call: DiskCall) -> Any:
        note(f"before {call.label}")
        result = call()
        note(f"after {call.label}")
        return result

    for kind, name, label in list(_hooks()):
        setattr(kind, name, _watched(getattr(kind, name), label, note))
    intercept(act)


def _hooks() -> Iterator[tuple[type, str, str]]:
    """Yield class, name and label of every hook that the program, or early stopping, has."""
    for found in pkgutil.iter_modules(callbacks.__path__, f"{callbacks.__name__}."):
        import_module(found.name)
    kinds = [kind for kind in _subclasses(L.Callback) if kind.__module__.startswith("layerscope.")]
    for kind in (Classifier, EarlyStopping, *kinds):
        for name in vars(kind):
            if name.endswith("_step") and kind is Classifier:
                yield kind, name, name
            elif name.startswith("on_") or name in ("state_dict", "load_state_dict"):
                yield kind, name, f"{kind.__name__}.{name}"


def _subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def _watched(function: Callable, label: str, note: Callable[[str], None]) -> Callable:
    @functools.wraps(function)
    def watched(*args, **kwargs):
        note(f"before {label}")
        result = function(*args, **kwargs)
        note(f"after {label}")
        return result

    return watched


def record(log: Path) -> None:
    """Each event of the run, a line."""
    file = log.open("w", buffering=1)
    watch(lambda event: file.write(f"{event}\n"))


def die_at(event: str, occurrence: int) -> None:
    """kill -9, at the event's n-th time, from 0; the event may hold a *."""
    seen = Counter()

    def note(label: str) -> None:
        if fnmatch(label, event):
            if seen["times"] == occurrence:
                die()
            seen["times"] += 1

    watch(note)


# Steps


def before_step(kind: str, act: Callable[[L.LightningModule, Any], Any]) -> None:
    """Let `act` choose the batch of each `training_step`, `validation_step` or `test_step`."""
    original = getattr(Classifier, kind)

    def step(self, batch, batch_idx):
        return original(self, act(self, batch), batch_idx)

    setattr(Classifier, kind, step)


def after_step(process: int, number: int, act: Step) -> None:
    """Call `act` in that process, at the end of that training step, counted from 1."""
    original = Classifier.training_step

    def training_step(self, batch, batch_idx):
        result = original(self, batch, batch_idx)
        if (self.global_rank, _number(self)) == (process, number):
            act()
        return result

    Classifier.training_step = training_step


def _number(classifier: L.LightningModule) -> int:
    """Return the number of the running training step, from 1, over all epochs and resumes."""
    return classifier.trainer.fit_loop.total_batch_idx + 1


def _nan(batch: Any) -> Any:
    return batch[0] * float("nan"), batch[1]


def loss_is_nan_at(number: int) -> None:
    """Spoil the loss of that training step, from 1; an update with it ends the process."""
    running = {}

    def act(classifier, batch):
        running["step"] = _number(classifier)
        return _nan(batch) if running["step"] == number else batch

    def check_update(*_):
        if running["step"] == number:
            os._exit(99)

    torch_optimizer.register_optimizer_step_pre_hook(check_update)
    before_step("training_step", act)


def validation_loss_is_nan() -> None:
    """Spoil the validation of a network whose training is finite."""
    before_step("validation_step", lambda _, batch: _nan(batch))


def weights_are_infinite_after(number: int) -> None:
    """Spoil a weight, as an update does that is too large."""
    seen = Counter()

    def spoil(optimizer, *_):
        seen["updates"] += 1
        if seen["updates"] == number:
            optimizer.param_groups[0]["params"][0].data.fill_(float("inf"))

    torch_optimizer.register_optimizer_step_post_hook(spoil)


def exit_in_step() -> None:
    """End the program in the first step, as a network's code can."""
    before_step("training_step", lambda *_: sys.exit(0))


def fail_job_1_and_stop_job_2(number: int) -> None:
    """Spoil that step's loss in one job of a sweep, and tell the next job to end there."""

    def act(classifier, batch):
        job = Path(classifier.trainer.default_root_dir).name
        if _number(classifier) == number and job == "2":
            os.kill(os.getpid(), signal.SIGTERM)
        return _nan(batch) if _number(classifier) == number and job == "1" else batch

    before_step("training_step", act)


# Signals


def signal_in(kind: str, number: int) -> None:
    """Send the signal at the first batch of the validation, or of the test."""
    sent = []

    def act(_, batch):
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return batch

    before_step(kind, act)


def signal_parent(number: int) -> None:
    """Send the signal, and wait for what it does to this process."""
    heard, handler = [], signal.getsignal(signal.SIGTERM)

    def hear(*arguments):
        heard.append(number)
        handler(*arguments)

    signal.signal(signal.SIGTERM, hear)
    os.kill(os.getppid(), number)
    end = time.monotonic() + 10
    while not heard and time.monotonic() < end:
        time.sleep(0.01)


def signal_all_after(step: int, number: int) -> None:
    """Let another process signal this one and the loader's workers, as a batch system does."""

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

    after_step(0, step, act)


def fork_and_die_after(step: int, seconds: float) -> None:
    """Leave a process behind that goes on for so long."""

    def act() -> None:
        if not os.fork():
            time.sleep(seconds)
            os._exit(0)
        die()

    after_step(0, step, act)


# Mutants: the program with a mistake in it


def no_step_seed() -> None:
    """Dropout draws on from wherever the generator is."""
    Classifier._seed = lambda self, seed: None


def sums_not_persistent() -> None:
    """The sums of the running epoch are not in the checkpoint."""
    original = Scores.__init__

    def init(self, num_classes):
        original(self, num_classes)
        self.accuracy.persistent(False)
        self.loss.persistent(False)

    Scores.__init__ = init


def table_not_truncated() -> None:
    """A resumed run goes on behind whatever rows there are."""
    original = tables.GrowingTable.start

    def start(self, lines):
        if not self._path.exists():
            original(self, lines)
        self.lines = list(lines)

    tables.GrowingTable.start = start


def saved_before_validation() -> None:
    """The epoch's checkpoint comes as validation begins."""

    def on_validation_start(self, trainer, pl_module):
        self._folder.save(trainer)

    WithinEpoch.on_validation_start = on_validation_start


def not_renamed() -> None:
    """A checkpoint is written under its own name."""
    replace = os.replace

    def copied(source, target):
        if not str(target).endswith(".ckpt"):
            return replace(source, target)
        content = Path(source).read_bytes()
        Path(source).unlink()
        Path(target).unlink(missing_ok=True)
        return Path(target).write_bytes(content)

    os.replace = copied


def rows_not_synced() -> None:
    """An appended row is left to the system."""
    fsync = os.fsync

    def fsync_of_whole_files(descriptor):
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            fsync(descriptor)

    os.fsync = fsync_of_whole_files


def files_not_synced() -> None:
    """A file gets its name whether or not its bytes are on the disk."""
    fsync = os.fsync

    def fsync_of_folders_and_rows(descriptor):
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        if is_folder or fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            fsync(descriptor)

    os.fsync = fsync_of_folders_and_rows


def folders_not_synced() -> None:
    """A file's new name is left to the system."""
    fsync = os.fsync

    def fsync_of_files(descriptor):
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            fsync(descriptor)

    os.fsync = fsync_of_files


def sums_of_the_first_process() -> None:
    """Every process goes on with the sums that the first one had."""
    forked_processes()
    module.sums_of_process = lambda sums, *_: {name: each[0] for name, each in sums.items()}


def statistics_of_each_process() -> None:
    """Each process validates with its own statistics of batch norm."""
    forked_processes()
    del strategy._SharingBuffers.on_after_outer_forward


def sums_by_the_bucket() -> None:
    """Gradients are added up in whatever order DDP's buckets bring about."""
    forked_processes()
    strategy.Processes._register_ddp_hooks = lambda self: None


def forked_processes() -> None:
    """Fork for `trainer=ddp_spawn`: what is done to this process is done to those that train."""
    strategy.START_METHODS["ddp_spawn"] = "fork"
