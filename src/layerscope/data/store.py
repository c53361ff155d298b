"""The cache: CIFAR-10 as four verified .npy files, and the proof that they are unchanged.

Hashing the files takes about 0.1 s, opening them a millisecond. So manifest.json records each
file's size, inode, mtime and ctime when its content was verified, and as long as these match the
content is not hashed again. ctime is included because a program can reset mtime but not ctime, so
that an edit in place always shows. Copied files do not match: they are hashed at each load until
`prepare_cifar10` can write a new manifest. What goes unnoticed: bytes that the disk itself changes,
and a manifest that somebody rewrites to match.
"""

import errno
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from filelock import FileLock, Timeout

from layerscope.base.errors import RunFailed, UserError
from layerscope.base.files import write_atomically, write_json
from layerscope.data import cifar10
from layerscope.data.cifar10 import ARRAY_NAMES, Cifar10Arrays, SourceError
from layerscope.data.sources import Source, find_sources
from layerscope.data.transfer import Report

MANIFEST = "manifest.json"
_LOCK = ".prepare.lock"
_HEADER_BYTES = 128  # in the .npy file of such an array
_SCRATCH_PREFIX = ".fetch-"


Stats = dict[str, dict[str, int]]


class Provenance(TypedDict):
    """The origin of the data, as in run.json."""

    name: str
    source: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class _Verified:
    arrays: Cifar10Arrays
    source: str
    stats: Stats
    manifest_is_current: bool


def default_directory() -> Path:
    """Return LAYERSCOPE_DATA_DIR, else a folder in the user's cache folder of this platform."""
    configured = os.environ.get("LAYERSCOPE_DATA_DIR")
    return Path(configured) if configured else _user_cache() / "cifar10"


def shared_directory(given: str | None = None) -> Path:
    """Return the directory of all other data: the given one, LAYERSCOPE_DATA_DIR, or the cache."""
    configured = given or os.environ.get("LAYERSCOPE_DATA_DIR")
    return _resolve(Path(configured) if configured else _user_cache())


def _user_cache() -> Path:
    import pooch  # here, since it takes 0.1 s and is seldom needed

    return Path(pooch.os_cache("layerscope"))


def load_cifar10(directory: Path | None = None) -> Cifar10Arrays:
    """Return the verified arrays, memory-mapped; write nothing.

    Copy-on-write, so that torch.from_numpy takes them without a warning: writing to an array
    changes neither the file nor another process's array.

    Raises:
        UserError: there are none; `prepare_cifar10` fetches them.
    """
    directory = _resolve(directory)
    try:
        return _open_verified(directory).arrays
    except (SourceError, OSError) as error:
        raise UserError(
            f"data.dir={directory} holds no verified CIFAR-10 ({_reason(error)}): "
            "let a training run fetch it, or use data=synthetic"
        ) from error


def prepare_cifar10(
    directory: Path | None,
    report: Report,
    find: Callable[[Path], Sequence[Source]] = find_sources,
) -> Provenance:
    """Make sure that `load_cifar10` finds verified arrays; fetch them where there are none.

    Raises:
        UserError: no source can be used, or the directory; nothing is left behind.
        RunFailed: the disk is full or broken.
    """
    directory, found = _resolve(directory), None
    try:
        found = _find_prepared(directory)
        was_left = (directory / _LOCK).exists()  # by a process that was killed, or still fetches
        if found is None or not found.manifest_is_current or was_left:
            with exclusive(directory, "CIFAR-10", report):
                found = _find_prepared(directory)
                if found is None:
                    return _fetch(directory, report, find)
                _remove_leftovers(directory)
                _write_manifest(directory, found.source, found.stats)
    except OSError as error:
        if found is None:
            raise _storage_error(directory, error) from error
        # Good arrays in a read-only directory stay usable; they are hashed at each load.
    return _provenance(found.source)


def _find_prepared(directory: Path) -> _Verified | None:
    try:
        return _open_verified(directory)
    except (SourceError, OSError):
        return None


def _open_verified(directory: Path) -> _Verified:
    stats = _file_stats(directory)  # before the content is read, so that later changes show
    arrays = Cifar10Arrays(*(_open_array(_array_path(directory, name)) for name in ARRAY_NAMES))
    manifest = _read_manifest(directory)
    is_current = (manifest.get("sha256"), manifest.get("files")) == (cifar10.DECODED_SHA256, stats)
    if not is_current:
        cifar10.verify(arrays)
    source = manifest.get("source")
    if not isinstance(source, str):
        source = "verified arrays of unknown origin"
    return _Verified(arrays, source, stats, is_current)


def _open_array(path: Path) -> cifar10.ByteArray:
    """Map an array whose header is exactly the one that np.save writes; no header is parsed."""
    item_shape = (32, 32, 3) if path.stem.endswith("images") else ()
    num_items = max(0, path.stat().st_size - _HEADER_BYTES) // math.prod(item_shape)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (num_items, *item_shape)}
    )
    with path.open("rb") as file:
        if num_items == 0 or file.read(_HEADER_BYTES) != header.getvalue():
            raise SourceError(f"{path.name} is torn")
        mapped = np.memmap(file, np.uint8, "c", _HEADER_BYTES, (num_items, *item_shape))
    return np.asarray(mapped)


def _array_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.npy"


def _file_stats(directory: Path) -> Stats:
    return {name: file_stats(_array_path(directory, name)) for name in ARRAY_NAMES}


def file_stats(path: Path) -> dict[str, int]:
    """Return what shows that a file has not been changed since."""
    stat = path.stat()
    return {
        "bytes": stat.st_size,
        "inode": stat.st_ino,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }


def _read_manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _write_manifest(directory: Path, source: str, stats: Stats) -> None:
    write_json(directory / MANIFEST, {**_provenance(source), "files": stats})


def _provenance(source: str) -> Provenance:
    return {"name": "cifar10", "source": source, "sha256": dict(cifar10.DECODED_SHA256)}


def _fetch(directory: Path, report: Report, find: Callable[[Path], Sequence[Source]]) -> Provenance:
    _remove_leftovers(directory)
    failures: list[str] = []
    for source in find(directory):
        report(f"CIFAR-10: trying {source.name}")
        try:
            with tempfile.TemporaryDirectory(
                dir=directory, prefix=_SCRATCH_PREFIX, ignore_cleanup_errors=True
            ) as scratch:
                arrays = source.arrays(Path(scratch), report)
        except SourceError as error:
            failures.append(f"{source.name}: {_reason(error)}")
            report(f"CIFAR-10: {failures[-1]}")
            continue
        _store(directory, arrays, source.form.origin)
        report(f"CIFAR-10: verified and stored in {directory}")
        return _provenance(source.form.origin)
    raise UserError(
        f"CIFAR-10 is not in {directory} and cannot be fetched ({'; '.join(failures)}): "
        "put cifar-10-python.tar.gz there, or use data=synthetic"
    )


def _store(directory: Path, arrays: Cifar10Arrays, source: str) -> None:
    for name in ARRAY_NAMES:
        array = getattr(arrays, name)
        write_atomically(
            _array_path(directory, name),
            lambda file, array=array: np.save(file, array, allow_pickle=False),
        )
    _write_manifest(directory, source, _file_stats(directory))


def _remove_leftovers(directory: Path) -> None:
    """Remove what killed processes left; nobody uses it, since the caller holds the lock."""
    for folder in directory.glob(f"{_SCRATCH_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for name in (*(f"{name}.npy" for name in ARRAY_NAMES), MANIFEST):
        for temporary in directory.glob(f".{name}.*.tmp"):
            temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(directory: Path, title: str, report: Report) -> Iterator[None]:
    """Hold the directory's lock; afterwards remove its file, and directories that stayed empty.

    Args:
        title: of what is prepared there, for the message of a process that waits.
    """
    lock = FileLock(directory / _LOCK)
    missing = _acquire(lock, directory, title, report)
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        with suppress(OSError):  # a folder that holds something stays
            for folder in missing:
                folder.rmdir()
        lock.release()


def _acquire(lock: FileLock, directory: Path, title: str, report: Report) -> list[Path]:
    """Take the lock; return the directories, deepest first, that had to be made for it."""
    timeout = 0.0
    while True:
        missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            report(f"{title}: waiting for another process that prepares {directory}")
            timeout = -1  # no limit: the lock ends with its process, whose own waits are bounded
        except FileNotFoundError:
            continue  # the other process failed and removed the directory again
        else:
            return missing


def _resolve(directory: Path | None) -> Path:
    return (directory or default_directory()).expanduser().absolute()


def _reason(error: SourceError | OSError) -> str:
    """Return one short line, whatever a server or a library put into the message."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _storage_error(directory: Path, error: OSError) -> UserError | RunFailed:
    reason = _reason(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return RunFailed(f"CIFAR-10 cannot be stored in {directory}: {reason}")
    return UserError(
        f"data.dir={directory} holds no verified CIFAR-10 and cannot be written ({reason}): "
        "set data.dir or LAYERSCOPE_DATA_DIR to a directory that can"
    )
