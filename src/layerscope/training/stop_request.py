"""SIGTERM and Ctrl-C as a wish to stop, granted where the run can go on from later."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from layerscope.base.errors import Interrupted, Terminated

_ERRORS: dict[int, type[Terminated | Interrupted]] = {
    signal.SIGTERM: Terminated,
    signal.SIGINT: Interrupted,
}


class StopRequest:
    """Notes the first signal; a second Ctrl-C ends the process where it is.

    Args:
        how_to_resume: for the messages of a run that ends early.
    """

    def __init__(self, how_to_resume: str) -> None:
        self.signal: int | None = None
        self.how_to_resume = how_to_resume

    def listen(self) -> None:
        """From now on; in a thread other than the main one signals do not arrive, and nothing is
        done."""
        if threading.current_thread() is threading.main_thread():
            for number in _ERRORS:
                signal.signal(number, self._note)

    @contextmanager
    def forgotten_afterwards(self) -> Iterator[None]:
        """The handlers from before are there again: what follows can be stopped where it is."""
        previous = {number: signal.getsignal(number) for number in _ERRORS}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def error(self, message: str) -> Terminated | Interrupted:
        """With the signal's exit code; that of SIGTERM where another process got the signal."""
        number = self.signal or signal.SIGTERM
        return _ERRORS[number](f"{signal.Signals(number).name}: {message}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
