"""SIGTERM and Ctrl-C as a wish to stop, granted where the run can go on from later."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType

from layerscope.errors import Interrupted, Terminated

_ERRORS: dict[int, type[Terminated | Interrupted]] = {
    signal.SIGTERM: Terminated,
    signal.SIGINT: Interrupted,
}
GRACE_SECONDS = 20  # for the processes of ddp_spawn: batch systems give 30


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

    @contextmanager
    def passed_on(self, how_to_go_on: str) -> Iterator[None]:
        """To the processes that train while this one waits for them (ddp_spawn).

        As SIGTERM in any case: a Ctrl-C from the keyboard comes to them itself, and a second one
        would end them where they are. They are killed if they do not end in time.
        """

        def pass_on(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signal.alarm(GRACE_SECONDS)
            for child in active_children():
                child.terminate()

        def give_up(number: int, frame: FrameType | None) -> None:
            for child in active_children():
                child.kill()
            raise self.error(f"ended after {GRACE_SECONDS} s of waiting; {how_to_go_on}")

        handlers = {**dict.fromkeys(_ERRORS, pass_on), signal.SIGALRM: give_up}
        previous = {number: signal.signal(number, handlers[number]) for number in handlers}
        try:
            yield
        finally:
            if self.signal is not None:
                signal.alarm(0)
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
