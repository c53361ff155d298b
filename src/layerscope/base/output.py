"""Standard output and error that never make a command fail."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

CLOSED_PIPE = 141  # the exit code of what SIGPIPE ends


class SafeStream:
    """A text stream that replaces what it cannot encode and survives a reader that goes away.

    `lost` is the error that kept something from being written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write the text; once that has failed, to nowhere."""
        with self._lossy():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                encoding = self._stream.encoding
                self._stream.write(text.encode(error.encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream; once that has failed, to nowhere."""
        with self._lossy():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _lossy(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            self._lead_nowhere()

    def _lead_nowhere(self) -> None:
        """Let what is still buffered go to the null device: Python flushes again when it ends."""
        with suppress(OSError):  # a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def safe_output() -> Iterator[SafeStream]:
    """Make standard output and error safe within this; yields the former."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nothing:
        # A stream is None where the shell has closed it, `>&-`.
        out, err = (SafeStream(nothing if stream is None else stream) for stream in before)
        sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
        try:
            yield out
            out.flush()
        finally:
            sys.stdout, sys.stderr = before
