"""Writing files so that a reader never sees half of one."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# What write_atomically and training/checkpoint_folder.py call a file that is not complete yet.
_TEMPORARY = re.compile(r"\..+\.\w+\.tmp")


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Let the system's errors name this file instead of a temporary one or none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The bytes and the new name are on the disk when this returns; after an exception `path` is as
    it was and no temporary file is left.
    """
    with named_in_errors(path):
        _write_atomically(path, write)


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # a signal may have come just after the rename
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with its key order; nan and infinity are refused, JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_leftovers(directory: Path) -> None:
    """Remove temporary files of a process that was killed while it wrote.

    Folders below are not searched, since they may be somebody else's.
    """
    for path in directory.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Let new names in a directory outlast a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
