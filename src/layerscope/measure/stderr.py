"""Keep messages of torch's C++ code off stderr."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def without_lines(*texts: str) -> Iterator[None]:
    """Leave out the lines that contain one of the texts; the others are written at the end.

    torch's C++ warnings go to the file descriptor, past Python's warnings and `sys.stderr`.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as written:
        terminal = os.dup(_STDERR)
        os.dup2(written.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if not any(text.encode() in line for text in texts):
                    os.write(_STDERR, line)
