"""trainer=ddp: this process trains beside others that run the same script."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning.fabric.plugins import ClusterEnvironment

# Lightning's launcher for scripts has no public base class. How it repeats the command line and
# shares the cores among processes is private too.
from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from layerscope.base.errors import Interrupted, NonFiniteLoss, RunFailed, Terminated
from layerscope.report.terminal import complain
from layerscope.training.processes.lifetime import (
    FOLLOW_SECONDS,
    POLL_SECONDS,
    blocked,
    describe_end,
    end_with,
)
from layerscope.training.stop_request import StopRequest

# For the processes that are started: the first process's id, and the pipe for their "ready".
STARTED_BY = "LAYERSCOPE_STARTED_BY"
_BLAME_SECONDS = 1.0  # A collective can fail this long before the other process has ended.


class Scripts(_SubprocessScriptLauncher):
    """Starts the script once more for each further process.

    Lightning's own launcher kills this process when another one has died, without a message.
    """

    def __init__(
        self, environment: ClusterEnvironment, num_processes: int, request: StopRequest
    ) -> None:
        super().__init__(environment, num_processes, num_nodes=1)
        self._request = request

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Return what the function returns in this process."""
        if STARTED_BY in os.environ:
            self._request.listen()
            _say_ready()
        if self.cluster_environment.creates_processes_externally:
            return super().launch(function, *args, trainer=trainer, **kwargs)
        is_over, is_done = threading.Event(), False
        try:
            self._start()
            _set_num_threads_if_needed(num_processes=self.num_processes)
            threading.Thread(target=self._watch, args=(is_over,), daemon=True).start()
            result = function(*args, **kwargs)
            is_done = True
            return result
        except RuntimeError as error:
            self._blame_another(error)
            raise
        finally:
            is_over.set()
            if not is_done:
                self.kill(signal.SIGKILL)

    def _start(self) -> None:
        """Start the other processes, and wait until they have imported and handle signals."""
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "LOCAL_RANK": str(environment.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        pipes = [self._start_one(process) for process in range(1, self.num_processes)]
        for started, pipe in zip(self.procs, pipes, strict=True):
            with os.fdopen(pipe, "rb") as ready:
                if not ready.read(1):
                    started.wait()
                    raise self._failure() or RunFailed("a process ended before it trained")

    def _start_one(self, process: int) -> int:
        """Start a process; return the pipe in which it says that it is ready."""
        ready, write = os.pipe()
        own = {"LOCAL_RANK": str(process), STARTED_BY: f"{os.getpid()} {write}"}
        try:
            with blocked(signal.SIGINT):
                command = _basic_subprocess_cmd()
                self.procs.append(
                    subprocess.Popen(command, env={**os.environ, **own}, pass_fds=(write,))
                )
        finally:
            os.close(write)
        return ready

    def _watch(self, is_over: threading.Event) -> None:
        """End this process if another one has died and a collective waits for it."""
        while not is_over.wait(POLL_SECONDS):
            failure = self._failure()
            if failure is not None and not is_over.wait(FOLLOW_SECONDS):
                self.kill(signal.SIGKILL)
                complain(f"error: {failure}")
                os._exit(failure.exit_code)

    def _blame_another(self, error: RuntimeError) -> None:
        """Raise a RunFailed if a collective failed here because another process has ended."""
        if isinstance(error, NonFiniteLoss | RunFailed | Terminated | Interrupted):
            return
        end = time.monotonic() + _BLAME_SECONDS
        while (failure := self._failure()) is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        if failure is not None:
            raise failure from error

    def _failure(self) -> RunFailed | None:
        """Return the error of the first other process that has failed; None if none has."""
        for process, started in enumerate(self.procs, start=1):
            if code := started.poll():
                hint = self._request.how_to_resume
                return RunFailed(f"{describe_end(process, code)}; {hint}")
        return None


def end_with_starter() -> None:
    """End this process with the one that started it, if `Scripts` started it."""
    if STARTED_BY in os.environ:
        end_with(int(os.environ[STARTED_BY].split()[0]))


def _say_ready() -> None:
    with os.fdopen(int(os.environ[STARTED_BY].split()[1]), "wb") as pipe:
        pipe.write(b"r")
