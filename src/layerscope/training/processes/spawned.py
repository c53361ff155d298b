"""trainer=ddp_spawn: new processes train, and this one waits for them."""

import atexit
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import active_children, get_context, get_start_method, set_start_method
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from lightning.pytorch.strategies import ParallelStrategy

# Lightning's launcher for spawned processes has no public base class, and no public copy of the
# global state that a spawned process needs.
from lightning.pytorch.strategies.launchers.multiprocessing import (
    _GlobalStateSnapshot,
    _MultiProcessingLauncher,
)
from torch.multiprocessing.spawn import ProcessRaisedException

from layerscope.base.errors import Interrupted, NonFiniteLoss, RunFailed, Terminated, UserError
from layerscope.training.processes.lifetime import (
    FOLLOW_SECONDS,
    POLL_SECONDS,
    STOP_SECONDS,
    blocked,
    describe_end,
    end_with,
)
from layerscope.training.silence import silence_lightning
from layerscope.training.stop_request import StopRequest

_OURS = (NonFiniteLoss, RunFailed, UserError, Terminated, Interrupted)
# What a collective raises when another process is gone.
_OF_COLLECTIVES = {"RuntimeError", "DistBackendError", "DistNetworkError", "DistStoreError"}
_MOST_CHARACTERS = 20_000  # of a traceback: a longer one could fill the pipe and block the sender


@dataclass(frozen=True)
class _Failure:
    """The failure of a process."""

    error: Exception  # for the user
    kind: str = ""  # name of the exception; empty if the process ended without one
    traceback: str = ""
    seconds: float = -math.inf  # time of the failure


@dataclass(frozen=True)
class _Started:
    """A process that trains, and the pipe for the failure that ends it."""

    process: BaseProcess
    report: Connection


class Spawned(_MultiProcessingLauncher):
    """Starts new processes that all train, and handles signals for them.

    Processes of Lightning's own launcher miss a signal, or answer it with a traceback.
    """

    def __init__(
        self,
        strategy: ParallelStrategy,
        start_method: Literal["spawn", "fork"],
        request: StopRequest,
    ) -> None:
        super().__init__(strategy, start_method)  # type: ignore[arg-type]
        self._request = request
        self._parent = os.getpid()
        self._method_of_workers = get_start_method()

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> None:
        """Train until all processes have ended; their results are in the run's directory."""
        environment = self._strategy.cluster_environment
        assert environment is not None
        os.environ["MASTER_PORT"] = str(environment.main_port)
        results = get_context(self._start_method).SimpleQueue()
        state = _GlobalStateSnapshot.capture() if self._start_method == "spawn" else None
        self._request.listen()
        try:
            with blocked(signal.SIGINT):
                all_ = [
                    self._start(process, (None, function, args, kwargs, results, state))
                    for process in range(self._strategy.num_processes)
                ]
            killed = _wait_for([started.process for started in all_], self._request)
            _raise_first(_failures(all_, killed, self._request), bool(killed), self._request)
        finally:
            for process in active_children():
                process.kill()
                process.join()

    def _start(self, number: int, arguments: tuple[Any, ...]) -> _Started:
        context = get_context(self._start_method)
        report, write = context.Pipe(duplex=False)
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=self._enter, args=(number, write, arguments)
        )
        process.start()
        write.close()
        return _Started(process, report)

    def _enter(self, number: int, report: Connection, arguments: tuple[Any, ...]) -> None:
        """Train in a new process, and report the error that ends it."""
        code = 1
        # Exit before the interpreter is taken down: torch's threads sometimes abort in that.
        atexit.register(lambda: os._exit(code))
        end_with(self._parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until training listens
        set_start_method(self._method_of_workers, force=True)  # not that of this process
        silence_lightning()
        try:
            self._wrapping_function(number, *arguments)
            code = 0
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told to the process that waits
            report.send(_failure(number, error))
        sys.exit(code)


def _wait_for(processes: Sequence[BaseProcess], request: StopRequest) -> list[int]:
    """Wait until all have ended; return the indices of those that had to be killed.

    A signal to this process is passed on to them, always as SIGTERM.
    """
    deadline, is_told = math.inf, False
    while alive := [i for i, process in enumerate(processes) if process.exitcode is None]:
        wait([processes[i].sentinel for i in alive], POLL_SECONDS)
        now = time.monotonic()
        if any(process.exitcode for process in processes):
            deadline = min(deadline, now + FOLLOW_SECONDS)
        if request.signal is not None and not is_told:
            is_told, deadline = True, min(deadline, now + STOP_SECONDS)
            for i in alive:
                processes[i].terminate()
        if now > deadline:
            for i in alive:
                processes[i].kill()
                processes[i].join()
            return alive
    return []


def _failure(number: int, error: BaseException) -> _Failure:
    kind = type(error).__name__
    text, seconds = traceback.format_exc()[-_MOST_CHARACTERS:], time.monotonic()
    if isinstance(error, _OURS):
        return _Failure(error, kind, text, seconds)
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        return _Failure(error, kind, text, seconds)
    line = " ".join(str(error).split())
    return _Failure(RunFailed(f"process {number} failed: {kind}: {line}"), kind, text, seconds)


def _failures(
    all_: Sequence[_Started], killed: Sequence[int], request: StopRequest
) -> list[_Failure]:
    """Return the failures by time; collectives that failed because of another come last."""
    failures = []
    for number, started in enumerate(all_):
        exit_code = started.process.exitcode
        if (failure := _read(started.report)) is not None:
            text = failure.traceback
            failure.error.__cause__ = ProcessRaisedException(text, number, started.process.pid or 0)
            failures.append(failure)
        elif exit_code and number not in killed:
            text = f"{describe_end(number, exit_code)}; {request.how_to_resume}"
            failures.append(_Failure(RunFailed(text)))
    return sorted(failures, key=lambda f: (f.kind in _OF_COLLECTIVES, f.seconds))


def _read(report: Connection) -> _Failure | None:
    """Return the failure that an ended process has reported; None if it reported nothing."""
    with report:
        try:
            return report.recv()
        except (EOFError, OSError):  # The pipe is empty, or has half a message.
            return None


def _raise_first(failures: list[_Failure], some_killed: bool, request: StopRequest) -> None:
    """Raise the failure to report, if there is one; after a signal, with the signal's exit code."""
    if not failures and not some_killed:
        return
    if request.signal is None:
        raise failures[0].error
    said = [f.error for f in failures if f.kind not in ("", *_OF_COLLECTIVES)]
    if not said:
        late = f" after {STOP_SECONDS:.0f} s of waiting" if some_killed else ""
        raise request.error(f"ended{late}; {request.how_to_resume}")
    if isinstance(said[0], Terminated):
        raise request.error(str(said[0]).removeprefix("SIGTERM: "))
    raise said[0]
