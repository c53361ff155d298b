"""End a command where it is on SIGTERM and Ctrl-C, also while it still imports and while it ends.

A training loop notes them itself (training.stop_request), and ends at a step.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType
from typing import Any, NoReturn

from layerscope.base.errors import Interrupted, Terminated

_ERRORS: dict[int, Callable[[str], Terminated | Interrupted]] = {
    signal.SIGTERM: lambda hint: Terminated(f"ended by SIGTERM{hint}"),
    signal.SIGINT: lambda hint: Interrupted(f"ended by Ctrl-C{hint}"),
}
_AGAIN_SECONDS = 0.02


class Stopped(BaseException):
    """Raised wherever the program is; no Exception, so that no `except Exception` catches it."""


class Signals:
    """Turns the first signal into an exception.

    An exception that is raised in a `__del__`, or in what C calls, is discarded. Python tells of
    that; then it is raised again.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._process = os.getpid()
        self._again: threading.Timer | None = None

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise Stopped at a signal within this; signals do not arrive in other threads."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._raise) for number in _ERRORS}
        complain, sys.unraisablehook = sys.unraisablehook, self._hook(sys.unraisablehook)
        try:
            yield
        finally:
            sys.unraisablehook = complain
            if self._again is not None:
                self._again.cancel()
                self._again.join()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped if a library has discarded it without a word."""
        if self.first is not None:
            raise Stopped

    def error(self, hint: str = "") -> Terminated | Interrupted | None:
        """Return what the first signal asked for."""
        return None if self.first is None else _ERRORS[self.first](hint)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # of a loader's worker, which is about to have its own
            if number == signal.SIGTERM:
                os._exit(Terminated.exit_code)
            return
        self.first = self.first or number
        raise Stopped

    def _hook(self, complain: Callable[[Any], object]) -> Callable[[Any], object]:
        """Replace Python's hook, which prints a traceback of what is discarded."""

        def hook(discarded: Any) -> None:
            if self.first is None or not issubclass(discarded.exc_type, Stopped):
                complain(discarded)
                return
            main = threading.main_thread().ident
            assert main is not None
            self._again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main, self.first))
            self._again.daemon = True
            self._again.start()

        return hook


# Where the run writes, for the processes that Lightning starts by running the command again (ddp).
RUN_DIRECTORY = "LAYERSCOPE_RUN_DIRECTORY"


@contextmanager
def one_line_on_signals() -> Iterator[None]:
    """End the process at once at a signal, with 128 and the signal's number.

    For imports, which take seconds: what is being imported could catch an exception.
    """
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    previous = {number: signal.signal(number, _end) for number in _ERRORS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave(exit_code: int) -> NoReturn:
    """End the process with the command's own exit code, whatever signal comes now.

    Taking the interpreter down takes tenths of a second, in which nothing is left to stop.
    """
    for number in _ERRORS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(exit_code)


def _end(number: int, frame: FrameType | None) -> None:
    # No file is open yet. Of several processes the first one complains.
    if parent_process() is None and RUN_DIRECTORY not in os.environ:
        name = signal.Signals(number).name
        os.write(2, f"error: {name}: ended before anything was done\n".encode())
    os._exit(128 + number)
