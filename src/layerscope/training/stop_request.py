"""SIGTERM and Ctrl-C as a request to stop, met at a point from which the run can resume."""

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
    """Remembers the first signal; a second Ctrl-C ends the process at once.

    Args:
        how_to_resume: a hint for the messages of a run that ends early.
    """

    def __init__(self, how_to_resume: str) -> None:
        self.signal: int | None = None
        self.how_to_resume = how_to_resume

    def listen(self) -> None:
        """Handle signals from now on; do nothing outside the main thread, which alone gets them."""
        if threading.current_thread() is threading.main_thread():
            for number in _ERRORS:
                signal.signal(number, self._note)

    @contextmanager
    def forgotten_afterwards(self) -> Iterator[None]:
        """Restore the previous handlers at the end: what follows can be stopped at any point."""
        previous = {number: signal.getsignal(number) for number in _ERRORS}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def error(self, message: str) -> Terminated | Interrupted:
        """Return an error with the signal's exit code; SIGTERM's if another process got it."""
        number = self.signal or signal.SIGTERM
        return _ERRORS[number](f"{signal.Signals(number).name}: {message}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
