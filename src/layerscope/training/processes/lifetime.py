"""How processes that train together are kept from outliving one another."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

STOP_SECONDS = 20.0  # to end after a signal: batch systems give 30
FOLLOW_SECONDS = 5.0  # to end after another process has failed
POLL_SECONDS = 0.1


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends, however that ends; on Linux."""
    _prctl_pr_set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def blocked(number: int) -> Iterator[None]:
    """What is started meanwhile never gets the signal.

    Ctrl-C comes to every process of a terminal, and to one that imports it is a traceback.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def describe_end(process: int, exit_code: int) -> str:
    """For a message; minus its number where it was a signal."""
    if exit_code < 0:
        return f"process {process} was killed by {signal.Signals(-exit_code).name}"
    return f"process {process} ended with exit code {exit_code}"
