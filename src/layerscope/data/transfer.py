"""Fetch one file from a server, or through npm, that may be absent, slow or hostile."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from layerscope.data.cifar10 import SourceError

Report = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """Limits below which a transfer is given up; the slowest one accepted takes 45 minutes."""

    connect_seconds: float = 5.0
    # At least `window_bytes` must arrive in every `window_seconds`, name look-up, connection and
    # answer included: a socket's own timeout never ends a slow drip.
    window_seconds: float = 8.0
    window_bytes: int = 512 * 1024
    report_seconds: float = 2.0


def download(url: str, target: Path, num_bytes: int, limits: Limits, report: Report) -> None:
    """Fetch the file of `num_bytes` at `url` into `target`, alone in its folder.

    Raises:
        SourceError: the server is absent, too slow, or sends something else.
        OSError: the disk does not take the file.
    """
    fetched = _Download(url, target, num_bytes, limits)
    # A thread, since a name look-up cannot be interrupted; a daemon, since a download that was
    # given up must not delay the end of the program.
    thread = threading.Thread(target=fetched.run, daemon=True)
    thread.start()

    def has_ended(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    try:
        _watch(target.parent, has_ended, num_bytes, limits, report)
    finally:
        fetched.is_given_up = True
    if fetched.failure is not None:
        raise fetched.failure
    size = target.stat().st_size
    if size != num_bytes:
        raise SourceError(f"ended after {size} of {num_bytes} bytes")


class _Download:
    """A download by pooch that can be given up and never exceeds the expected size.

    It is pooch's `progressbar`: pooch calls `update` after each chunk, and an exception there ends
    the download.
    """

    def __init__(self, url: str, target: Path, num_bytes: int, limits: Limits) -> None:
        self._url = url
        self._target = target
        self._num_bytes = num_bytes
        self._limits = limits
        self._responses: list[Any] = []
        self.total = 0  # pooch sets it to the Content-Length, 0 where the server sends none
        self.is_given_up = False
        self.failure: Exception | None = None

    def run(self) -> None:
        """Download, or set `failure`."""
        import pooch  # here, since most runs find the data and fetch nothing

        downloader = pooch.HTTPDownloader(
            progressbar=self,  # type: ignore[arg-type] # pooch annotates `bool`, documents objects
            chunk_size=2**13,
            timeout=(self._limits.connect_seconds, self._limits.window_seconds),
            headers={"Accept-Encoding": "identity"},  # the checksum is of the archive's own bytes
            hooks={"response": self._check_response},
        )
        try:
            downloader(self._url, str(self._target), None)
        except SourceError as error:
            self.failure = error
        except (OSError, ValueError) as error:
            # The errors of requests are OSErrors without a number; those of the disk have one.
            is_of_disk = isinstance(error, OSError) and error.errno is not None
            self.failure = error if is_of_disk else SourceError(_root_cause(error))
        finally:
            for response in self._responses:  # pooch leaves them open when it is interrupted
                response.close()

    def update(self, _num_bytes: int) -> None:
        """Raise `SourceError` where the download must not go on."""
        if self.is_given_up:
            raise SourceError("given up")
        if self.total not in (0, self._num_bytes):
            raise SourceError(f"offers {self.total} bytes instead of {self._num_bytes}")
        if self._target.stat().st_size > self._num_bytes:
            raise SourceError(f"larger than the expected {self._num_bytes} bytes")

    def reset(self) -> None:
        """Called by pooch at the end."""

    def close(self) -> None:
        """Called by pooch at the end."""

    def _check_response(self, response: Any, *_: Any, **__: Any) -> None:
        """Called by requests with the headers of every response, redirects included."""
        self._responses.append(response)
        if response.is_redirect:
            target = urljoin(response.url, response.headers["location"])
            if urlsplit(target).scheme != "https":
                raise SourceError("redirects to an address that is not https")


def _root_cause(error: BaseException) -> str:
    """Return `Connection refused` rather than the four exceptions wrapped around it."""
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
            cwd=scratch,  # the .npmrc and package.json of the user's own folder must not count
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # a process group, so that its children are ended with it
        )

    def has_ended(seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    try:
        # npm fetches into its cache, which is in `scratch` too, and then makes the tarball.
        _watch(scratch, has_ended, num_bytes, limits, report, max_copies=3)
    finally:
        _kill_group(process)
    if process.returncode != 0:
        raise SourceError(_npm_failure(errors, process.returncode))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # not yet reaped, so that the number is still this group's
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _npm_failure(errors: Path, status: int) -> str:
    lines = errors.read_text(errors="replace").splitlines()
    codes = [line.split()[-1] for line in lines if line.startswith("npm error code ")]
    return f"npm failed with {codes[0] if codes else f'exit status {status}'}"


def _watch(
    folder: Path,
    has_ended: Callable[[float], bool],
    num_bytes: int,
    limits: Limits,
    report: Report,
    max_copies: int = 1,
) -> None:
    """Wait until `has_ended`; raise `SourceError` when `folder` grows too slowly or too large."""
    window_start = reported = time.monotonic()
    window_base = 0
    while not has_ended(0.05):
        now, count = time.monotonic(), _tree_bytes(folder)
        if count > num_bytes * max_copies + 2**20:
            raise SourceError(f"larger than the expected {num_bytes} bytes")
        if count - window_base >= limits.window_bytes:
            window_start, window_base = now, count
        elif now - window_start > limits.window_seconds:
            raise SourceError(f"only {count - window_base} bytes in {limits.window_seconds:g} s")
        if count and now - reported >= limits.report_seconds:
            reported = now
            report(f"CIFAR-10: {min(100, 100 * count // num_bytes)} % fetched")


def _tree_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
    return total
