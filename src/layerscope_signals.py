"""Ctrl-C and SIGTERM where no command runs: while a script still imports, which takes seconds, and
while Python ends.

Beside the package, not in it: to import anything of that is to import torch.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType
from typing import NoReturn

# Where the run writes, for the processes that Lightning starts by running the script again (ddp).
RUN_DIRECTORY = "LAYERSCOPE_RUN_DIRECTORY"
_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def one_line_on_signals() -> Iterator[None]:
    """The process ends at once, with 128 and the signal's number."""
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    previous = {number: signal.signal(number, _end) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave(exit_code: int) -> NoReturn:
    """With the command's own exit code: to take the interpreter down takes long enough to be hit by
    a signal, which has nothing left to stop."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(exit_code)


def _end(number: int, frame: FrameType | None) -> None:
    """An exception could be caught by whatever is being imported; no file is open yet."""
    if parent_process() is None and RUN_DIRECTORY not in os.environ:  # else the first one complains
        name = signal.Signals(number).name
        os.write(2, f"error: {name}: ended before anything was done\n".encode())
    os._exit(128 + number)
