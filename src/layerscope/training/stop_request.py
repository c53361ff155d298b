"""SIGTERM and Ctrl-C as a wish to stop, granted where the run can go on from later."""

import signal
import threading
from types import FrameType

from layerscope.errors import Interrupted, Terminated

_ERRORS: dict[int, type[Terminated | Interrupted]] = {
    signal.SIGTERM: Terminated,
    signal.SIGINT: Interrupted,
}


class StopRequest:
    """Notes the first signal; a second Ctrl-C ends the process where it is."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def listen(self) -> None:
        """From now on; in a thread other than the main one signals do not arrive, and nothing is
        done."""
        if threading.current_thread() is threading.main_thread():
            for number in _ERRORS:
                signal.signal(number, self._note)

    def error(self, message: str) -> Terminated | Interrupted:
        """With the signal's exit code."""
        assert self.signal is not None
        return _ERRORS[self.signal](f"{signal.Signals(self.signal).name}: {message}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
