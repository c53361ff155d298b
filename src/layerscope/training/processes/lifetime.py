"""Keep processes that train together from outliving one another."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# torch has no public name for Linux's prctl(PR_SET_PDEATHSIG), and Python has none at all.
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

STOP_SECONDS = 20.0  # until the end after a signal; batch systems allow 30
FOLLOW_SECONDS = 5.0  # until the end after another process has failed
POLL_SECONDS = 0.1


def end_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, however the parent ends."""
    _prctl_pr_set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:  # The parent ended before the call.
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def blocked(number: int) -> Iterator[None]:
    """Block a signal for this thread and for all processes started inside.

    Ctrl-C reaches every process of a terminal. One that is still importing would print a traceback.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def describe_end(process: int, exit_code: int) -> str:
    """Return the end of a process in words.

    Args:
        exit_code: minus the number of the signal that ended it.
    """
    if exit_code < 0:
        return f"process {process} was killed by {signal.Signals(-exit_code).name}"
    return f"process {process} ended with exit code {exit_code}"
