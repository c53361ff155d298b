"""Turn a command line into an exit code: compose, check everything, then make something.

Hydra's own `@hydra.main` creates the run's directory before the job can look at its configuration,
and ends in a traceback or an exit code 1. Here every job of the command is composed and checked
first, so that a user's mistake is one line, exit code 2 and nothing on the disk.
"""

import errno
import fcntl
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from layerscope.base.errors import (
    Interrupted,
    MarkedError,
    NonFiniteLoss,
    RunFailed,
    Terminated,
    UserError,
)
from layerscope.base.output import CLOSED_PIPE, safe_output
from layerscope.base.signals import RUN_DIRECTORY, Signals, Stopped
from layerscope.base.targets import Targets
from layerscope.config.command_line import Arguments, help_text, parse_arguments
from layerscope.config.compose import (
    CONFIG_DIR,
    Composed,
    Composer,
    EngineFailed,
    Values,
    job_in_errors,
    open_composer,
    without_places,
)
from layerscope.config.keys import refuse_unknown_keys
from layerscope.config.overrides import key_of, refuse_repeated_keys, value_of
from layerscope.config.problems import parse
from layerscope.config.schema import TrainConfig
from layerscope.report.sweep import forget_failure, save_failure
from layerscope.report.terminal import Screen, complain

Job = Callable[[Path], None]  # runs and writes into this directory
# What makes room for a file that could not be written.
_MENDS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "choose a file system that can be written to",
    errno.EFBIG: "raise the limit of a file's size",
}


@dataclass(frozen=True)
class Request:
    """One job as the user asked for it."""

    # The checked configuration, of the command's schema. Its groups that the command does not use
    # are left out.
    config: Any
    overrides: tuple[str, ...]  # as typed
    directory: Path = Path()  # where the job will write
    in_sweep: bool = False
    how_to_resume: str = ""  # for a message, should the job be stopped
    # Those of `overrides` that are no keys of the script but of the checkpoint it opens.
    foreign: tuple[str, ...] = ()
    # Of a sweep's job, whose `overrides` a file may have added to; None: all of them were typed.
    typed_keys: frozenset[str] | None = None
    file: Path | None = None  # that stood before the keys

    @property
    def targets(self) -> Targets:
        """What the command line itself says, by key, whatever any file says."""
        return {
            key: value_of(override)
            for override in self.overrides
            if (key := key_of(override)) and (self.typed_keys is None or key in self.typed_keys)
        }


@dataclass(frozen=True)
class Command:
    """A command: its configuration, what checks a job, and what ends a sweep."""

    name: str  # of its configuration's file too
    schema: type[BaseModel]  # of its own keys
    does: str  # for --help
    check: Callable[[Request], Job]  # raises UserError; leaves the disk alone
    config_dir: Path = CONFIG_DIR
    writes_files: bool = True  # False: the job is called without a directory being made for it
    finish_sweep: Callable[[Path], int] | None = None  # directory to exit code; None: no sweeps
    # Its own keys; all others override the checkpoint's configuration. None: every key is its own.
    own_keys: frozenset[str] | None = None
    # Groups that come along with a network's recipe and say nothing about what this command makes.
    unused: tuple[str, ...] = ()
    makes: str = ""  # "a profile": for the message about an unused group
    # `ckpt_path` says which network it is, so that its own class needs no `model=custom` beside it.
    network_of_checkpoint: bool = False
    takes_file: bool = False  # or a folder, before the keys
    # The overrides that such a file stands for; None: it is no configuration.
    overrides_of_file: Callable[[Path], Sequence[str]] | None = None

    def composed(self, overrides: Sequence[str], file: Path | None = None) -> list[str]:
        """Return the overrides of this command's configuration, not of a checkpoint's."""
        if self.overrides_of_file is not None and file is not None:
            names_network = any(key_of(o).split(".")[0] == "model" for o in overrides)
            return [*(() if names_network else self.overrides_of_file(file)), *overrides]
        if self.own_keys is None:
            keys = {key_of(override) for override in overrides}
            names_class = {"ckpt_path", "model._target_"} <= keys and "model" not in keys
            is_custom = self.network_of_checkpoint and names_class
            return [*(["model=custom"] if is_custom else ()), *overrides]
        return [
            o for o in overrides if key_of(o) in self.own_keys or key_of(o).startswith("hydra.")
        ]

    def parsed(self, values: Values, overrides: Sequence[str]) -> BaseModel:
        """Check the values of a configuration.

        Raises:
            UserError: a value is wrong, or an override is of a group that is not used.
        """
        for override in overrides:
            if re.split("[.@]", key_of(override))[0] in self.unused:
                raise UserError(f"{override} says nothing about {self.makes}: leave it out")
        own = without_places(values)
        return parse(self.schema, {k: v for k, v in own.items() if k not in self.unused})


def run_command(argv: Sequence[str], command: Command) -> int:
    """Return the exit code of docs/reference.md; errors stand in one line on stderr."""
    with safe_output() as output:
        code = _exit_code(argv, command)
    if output.lost is None or code != 0:
        return code
    if isinstance(output.lost, BrokenPipeError):
        return CLOSED_PIPE
    return _complain(RunFailed(f"standard output: {_of_system(output.lost)}"), RunFailed.exit_code)


def _exit_code(argv: Sequence[str], command: Command) -> int:
    signals = Signals()
    try:
        with signals.raised():
            return _run(argv, command, signals)
    except (UserError, RunFailed, NonFiniteLoss, Terminated, Interrupted) as error:
        return _complain(error, error.exit_code)
    except OSError as error:
        return _complain(RunFailed(_of_system(error)), RunFailed.exit_code)
    except (KeyboardInterrupt, Stopped):
        error = signals.error() or Interrupted("ended by Ctrl-C")
        return _complain(error, error.exit_code)


def one_line(error: BaseException) -> str:
    """Return the message without line breaks, Hydra's internals and links."""
    if isinstance(error, OSError):
        return _of_system(error)
    text = re.sub(r"(full_key|reference_type|object_type)[:=]\s*\S+", "", str(error))
    text = re.sub(r"See https?://\S+( for details)?", "", text)
    return " ".join(text.split()) or type(error).__name__


def _of_system(error: OSError, directory: Path | None = None) -> str:
    """Say which file or directory an error is about, what is wrong, and what mends it."""
    if error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    mend = _MENDS.get(error.errno or 0)
    where = error.filename or (directory if mend else None)
    return ": ".join(str(part) for part in (where, error.strerror, mend) if part is not None)


def _run(argv: Sequence[str], command: Command, signals: Signals) -> int:
    file, keys = _file_and_keys(argv, command)
    arguments = parse_arguments(keys)
    overrides = list(arguments.overrides)
    refuse_repeated_keys(overrides)
    name = arguments.config_name or command.name
    with open_composer(name, command.config_dir, arguments.config_dir) as composer:
        if arguments.wants_help or arguments.shown is not None:
            return _show(composer, command, arguments, file)
        if arguments.is_sweep:
            return _run_sweep(composer, command, signals, overrides)
        return _run_one(composer, command, signals, overrides, file)


def _file_and_keys(argv: Sequence[str], command: Command) -> tuple[Path | None, Sequence[str]]:
    """Tell a file that is given before the keys from these."""
    if not command.takes_file or not argv or "=" in argv[0] or argv[0].startswith("-"):
        return None, argv
    return Path(argv[0]).expanduser(), argv[1:]


def _show(composer: Composer, command: Command, arguments: Arguments, file: Path | None) -> int:
    """Answer --help, --cfg and --info, which make nothing."""
    overrides = command.composed(arguments.overrides, file)
    if arguments.shown is not None:
        composer.show(arguments.shown, overrides, arguments.parser)
    else:
        sweeps = command.finish_sweep is not None
        screen = Screen()
        screen.say(
            help_text(
                command.does,
                command.schema,
                composer,
                overrides,
                sweeps=sweeps,
                writes_files=command.writes_files,
                width=screen.width,
            )
        )
    return 0


def _run_one(
    composer: Composer,
    command: Command,
    signals: Signals,
    overrides: list[str],
    file: Path | None,
) -> int:
    if file is not None and command.overrides_of_file is not None:
        _say_start(command)  # reading the file imports torch
    own = command.composed(overrides, file)
    foreign = tuple(override for override in overrides if override not in own)
    refuse_unknown_keys(foreign, TrainConfig)
    composed = composer.run(own)
    values = composed.values
    request = Request(
        command.parsed(values, overrides), tuple(overrides), foreign=foreign, file=file
    )
    if not command.writes_files:
        _say_start(command)
        command.check(request)(Path())
        return 0
    directory = Path(os.environ.get(RUN_DIRECTORY) or composed.directory)
    resumes = _resumes(values, overrides, "hydra.run.dir")
    is_there = directory.is_dir()
    request = replace(
        request,
        directory=directory,
        how_to_resume=_how_to_resume(values, f"hydra.run.dir={directory}"),
    )
    with ExitStack() as held:
        if is_there:
            held.enter_context(_alone_in(directory))
        if RUN_DIRECTORY not in os.environ:
            _refuse_used(directory, None if resumes else "run.json", "hydra.run.dir")
        _say_start(command, directory)
        job = command.check(request)
        if not is_there:
            _make(directory, "hydra.run.dir")
            held.enter_context(_alone_in(directory))
            _refuse_used(directory, "run.json", "hydra.run.dir")  # made by another since
        held.enter_context(_environment(RUN_DIRECTORY, str(directory.resolve())))
        held.enter_context(_ended_from_outside(signals, directory, request.how_to_resume))
        job(directory)
    return 0


def _run_sweep(composer: Composer, command: Command, signals: Signals, overrides: list[str]) -> int:
    if command.finish_sweep is None:
        raise UserError("only train sweeps: leave out -m")
    sweep = composer.sweep(overrides)
    directory = sweep.directory
    resumes = _resumes(sweep.values, overrides, "hydra.sweep.dir")
    marker = None if resumes else "multirun.yaml"
    how_to_resume = _how_to_resume(sweep.values, f"hydra.sweep.dir={directory}")
    _refuse_used(directory, marker, "hydra.sweep.dir")
    typed_keys = frozenset(map(key_of, overrides))

    def request(job: Composed) -> Request:
        return Request(
            command.parsed(job.values, job.overrides),
            job.overrides,
            job.directory,
            in_sweep=True,
            how_to_resume=how_to_resume,
            typed_keys=typed_keys,
        )

    def checked(job: Composed) -> Request:
        with job_in_errors(job.directory.name, job.overrides):
            return request(job)

    requests = map(checked, sweep.jobs)
    first = next(requests)  # is found right or wrong before the wait for torch
    _say_start(command, directory)
    for asked in chain([first], requests):
        with job_in_errors(asked.directory.name, asked.overrides):
            command.check(asked)

    def run_job(job: Composed) -> None:
        _run_sweep_job(command, request(job))
        signals.check()

    _make(directory, "hydra.sweep.dir")
    with _alone_in(directory), _ended_from_outside(signals, directory, how_to_resume):
        _refuse_used(directory, marker, "hydra.sweep.dir")  # made by another since
        try:
            composer.run_sweep(overrides, directory, run_job)
        except _SweepEnded as end:
            raise end.error from end
        except EngineFailed as error:
            raise RunFailed(f"{one_line(error)}; {how_to_resume}") from error
        return command.finish_sweep(directory)


def _say_start(command: Command, directory: Path | None = None) -> None:
    """Say what begins, where torch is still to be imported, which takes seconds."""
    where = "" if directory is None else f", files in {directory}"
    is_first = RUN_DIRECTORY not in os.environ  # set in the processes that ddp starts
    if is_first and "torch" not in sys.modules:
        Screen().say(f"layerscope {command.name}{where}")
        sys.stdout.flush()


class _SweepEnded(BaseException):
    """Carries what ends a sweep past Hydra, which goes on after any Exception of a job."""

    def __init__(self, error: Terminated | Interrupted | RunFailed) -> None:
        super().__init__(error)  # which pickles: an engine's processes send it
        self.error = error


def _run_sweep_job(command: Command, request: Request) -> None:
    """Run a job; one that fails leaves its reason in a file and lets the others run."""
    folder = request.directory
    try:
        with _alone_in(folder):
            command.check(request)(folder)
        forget_failure(folder)
    except (Terminated, Interrupted) as end:
        raise _SweepEnded(end) from end
    except Exception as error:  # noqa: BLE001 - whatever ends one job must not end the sweep
        _note_failure(request, f"{type(error).__name__}: {one_line(error)}")


def _note_failure(request: Request, reason: str) -> None:
    """Write down why a job failed.

    Where not even that can be written, no other job could write anything: the sweep ends.
    """
    failed = f"job {request.directory.name} failed: {reason}"
    try:
        save_failure(request.directory, request.overrides, reason)
    except OSError as error:
        unnoted = f"nor can that be noted ({error.strerror})"
        raise _SweepEnded(RunFailed(f"{failed}; {unnoted}; {request.how_to_resume}")) from error
    complain(failed)


def _resumes(values: Values, overrides: Sequence[str], key: str) -> bool:
    """Tell whether the command resumes in a directory that an earlier one has made.

    Raises:
        UserError: it does not say in which one.
    """
    if values.get("resume") != "auto":
        return False
    if key not in map(key_of, overrides):
        raise UserError(f"resume=auto resumes the run in a directory: name it, {key}=DIR")
    return True


def _refuse_used(directory: Path, marker: str | None, key: str) -> None:
    if marker is not None and (directory / marker).exists():
        raise UserError(f"{directory} holds another run: set {key} to a new directory")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: set {key} to a directory")


def _make(directory: Path, key: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise UserError(
            f"{key}={directory} cannot be made, {error.strerror}: choose a directory that can"
        ) from error


def _how_to_resume(values: Values, where: str) -> str:
    """Return what to do after a stop; empty for commands that cannot be resumed."""
    if "resume" not in values:
        return ""
    without = " and without ckpt_path" if values.get("ckpt_path") else ""
    return f"to resume, run the same command with resume=auto {where}{without}"


@contextmanager
def _ended_from_outside(signals: Signals, directory: Path, how_to_resume: str) -> Iterator[None]:
    """Turn an end by the disk or a signal into a message that says what to do."""
    hint = f"; {how_to_resume}" if how_to_resume else ""
    try:
        yield
        signals.check()
    except (KeyboardInterrupt, Stopped) as end:
        raise signals.error(hint) or Interrupted(f"ended by Ctrl-C{hint}") from end
    except OSError as error:
        raise RunFailed(f"{_of_system(error, directory)}{hint}") from error


_held_locks: set[int] = set()


def _let_go_of_locks() -> None:
    """Close the locks in a forked process, such as a loader's: it may outlive this one."""
    while _held_locks:
        os.close(_held_locks.pop())


os.register_at_fork(after_in_child=_let_go_of_locks)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold a lock on the directory, which the system lets go of however the process ends."""
    if RUN_DIRECTORY in os.environ:  # a process that ddp has started: the first one holds it
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    _held_locks.add(descriptor)
    try:
        _lock(descriptor, directory)
        yield
    finally:
        if descriptor in _held_locks:
            _held_locks.remove(descriptor)
            os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another process is writing into {directory}: wait for its end") from error
    except OSError:  # a file system without locks, or without locks of directories: go on without
        pass


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    previous = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if previous is None:
            del os.environ[name]
        else:
            os.environ[name] = previous


def _complain(error: BaseException, exit_code: int) -> int:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    if RUN_DIRECTORY not in os.environ:  # set in the processes that ddp starts: the first complains
        text = str(error) if isinstance(error, MarkedError) else one_line(error)
        for line in f"error: {text}".split("\n"):
            complain(line)
    return exit_code
