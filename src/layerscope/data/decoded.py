"""Folders of arrays that were decoded once: raw uint8 files, which runs map into memory.

A manifest beside them has the SHA-256 of each file, and what shows that a file is as it was written
(see store.py). Processes that need the same folder at once wait for the first of them.
"""

import errno
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from layerscope.base.errors import RunFailed, UserError
from layerscope.base.files import write_atomically, write_json
from layerscope.data.store import MANIFEST, exclusive, file_stats
from layerscope.data.transfer import Report

ByteParts = Iterable[bytes | memoryview]  # of an array, in order


@dataclass(frozen=True)
class Decoded:
    """What a folder holds: the SHA-256 of each array, and where they come from."""

    sha256: dict[str, str]
    source: str


@dataclass(frozen=True)
class DecodedFolder:
    """A folder of decoded arrays.

    Args:
        title: what they are, for messages.
        item_shapes: shape of one item of each array; an array (N, *item) is uint8.
        key: that sets the folder, for messages.
    """

    folder: Path
    title: str
    item_shapes: Mapping[str, tuple[int, ...]]
    key: str

    def prepare(
        self, make: Callable[[], tuple[str, Mapping[str, ByteParts]]], report: Report
    ) -> Decoded:
        """Return what the folder holds; fill it where it is missing or has changed.

        Args:
            make: returns the source and the content of each array. What it raises leaves nothing.

        Raises:
            UserError: the folder cannot be written.
            RunFailed: the disk is full or broken.
        """
        found = self.found()
        if found is not None:
            return found
        try:
            with exclusive(self.folder, self.title, report):
                return self.found() or self._fill(*make())
        except OSError as error:
            raise self._storage_error(error) from error

    def open(self, name: str) -> NDArray[np.uint8]:
        """Return an array (N, *item), mapped copy-on-write; `prepare` comes first."""
        path, item_shape = self._path(name), self.item_shapes[name]
        num_items = path.stat().st_size // math.prod(item_shape)
        if num_items == 0:
            return np.empty((0, *item_shape), np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "c", shape=(num_items, *item_shape)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def found(self) -> Decoded | None:
        """Return what the folder holds; None where that is not what its manifest says."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_bytes())
            sums = {name: str(manifest["sha256"][name]) for name in self.item_shapes}
            for name, sum_ in sums.items():
                path = self._path(name)
                if file_stats(path) == manifest["files"][name]:
                    continue
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sum_:
                        return None
            return Decoded(sums, str(manifest["source"]))
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return None

    def _fill(self, source: str, arrays: Mapping[str, ByteParts]) -> Decoded:
        sums: dict[str, str] = {}
        for name in self.item_shapes:
            path = self._path(name)
            for left in self.folder.glob(f".{path.name}.*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)
            digest = hashlib.sha256()

            def write(file: BinaryIO, name: str = name, digest: Any = digest) -> None:
                for part in arrays[name]:
                    digest.update(part)
                    file.write(part)

            write_atomically(path, write)
            sums[name] = digest.hexdigest()
        files = {name: file_stats(self._path(name)) for name in self.item_shapes}
        write_json(self.folder / MANIFEST, {"source": source, "sha256": sums, "files": files})
        return Decoded(sums, source)

    def _storage_error(self, error: OSError) -> UserError | RunFailed:
        reason = error.strerror or str(error)
        folder = str(self.folder).encode("utf-8", "backslashreplace").decode()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return RunFailed(f"{self.title} cannot be stored in {folder}: {reason}: make room")
        return UserError(
            f"{self.title} cannot be stored in {folder} ({reason}): set {self.key} to a directory "
            "that can be written"
        )
