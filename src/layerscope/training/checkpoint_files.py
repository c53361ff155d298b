"""Checkpoint files: sealed by a checksum, written whole or not at all, opened without running them.

A file is the zip archive that torch.save makes. The archive's comment holds the checksum of all
bytes before it, so that one flipped bit is noticed and torch.load still opens the file.
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layerscope.base.errors import UserError
from layerscope.base.files import write_atomically

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

# Larger files are not opened. A billion parameters with two optimizer states fit.
MAX_FILE_BYTES = 16 * 2**30
# The pickle that describes the content; the tensors are members of their own.
MAX_STRUCTURE_BYTES = 64 * 2**20

# Limits for nested containers and their members; a run's are 8 levels deep.
MAX_LEVELS = 50
MAX_MEMBERS = 2_000_000

_MEND = "give a .ckpt file that a run has written"
_SEAL = b"layerscope sha256 "
_DIGEST_BYTES = 64
_END_OF_ARCHIVE = b"PK\x05\x06"
_END_BYTES = 22  # the record that ends a zip archive, without its comment


@dataclass(frozen=True)
class NamedFile:
    """A file as the user named it.

    Args:
        key: that named it.
        mend: what to give in its place.
    """

    path: Path
    key: str = "ckpt_path"
    mend: str = _MEND

    def __str__(self) -> str:
        return f"{self.key}={self.path}"


class DamagedCheckpoint(UserError):
    """The file is torn, cut or has a wrong bit. An older one may be whole."""


class UnreadCheckpoint(DamagedCheckpoint):
    """The disk cannot read the file now; another time it may."""


def save_sealed(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write the checkpoint; it gets its name once every byte is on the disk."""
    archive = io.BytesIO()
    torch.save(checkpoint, archive)  # in memory, where a full disk is no reader's error
    content = _sealed(archive.getvalue())
    write_atomically(path, lambda file: file.write(content))


def open_plain(path: str | Path) -> dict[str, Any]:
    """Return the plain data and tensors of a local file, on the CPU; nothing in it can run.

    Raises:
        DamagedCheckpoint: the file is not as it was written.
        UserError: it is missing, too large, or no checkpoint.
    """
    if "://" in str(path):  # Path would write it otherwise
        raise UserError(f"ckpt_path={path}: only local files are opened; download it first")
    file = NamedFile(Path(path))
    with _reading(file):
        content = _content(file)
        _refuse_wrong_seal(file, content)
        _refuse_bombs(file, content)
        return _opened(file, content)


def open_state_dict(file: NamedFile) -> tuple[dict[str, Any], str]:
    """Return what a file of other people's weights holds, and its SHA-256; nothing in it can run.

    It may be of torch's older format too, which is no archive.

    Raises:
        UserError: the file is missing, too large, damaged, or holds something else.
    """
    with _reading(file):
        content = _content(file)
        if zipfile.is_zipfile(io.BytesIO(content)):
            _refuse_bombs(file, content)
        return _opened(file, content), hashlib.sha256(content).hexdigest()


def is_sealed(path: str | Path) -> bool:
    """Tell whether the file ends in a checksum, right or wrong."""
    with _reading(NamedFile(Path(path))), Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(_SEAL) - _DIGEST_BYTES))
        return file.read().startswith(_SEAL)


@contextmanager
def _reading(file: NamedFile) -> Iterator[None]:
    """Turn errors of the disk into user errors.

    An I/O error means that the file is unreadable: try the previous one. A permission error does
    not.
    """
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}: give yourself the permission"
        ) from error
    except OSError as error:
        raise UnreadCheckpoint(
            f"{file} cannot be read: {error.strerror}: give a copy of it"
        ) from error
    except MemoryError as error:
        raise UserError(f"{file} is larger than the memory: open it where there is more") from error


def _sealed(archive: bytes) -> bytes:
    end = len(archive) - _END_BYTES
    assert archive[end : end + 4] == _END_OF_ARCHIVE, "torch.save wrote no plain zip archive"
    size = (len(_SEAL) + _DIGEST_BYTES).to_bytes(2, "little")
    body = archive[:-2] + size
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode()


def _content(file: NamedFile) -> bytes:
    if not os.path.isfile(file.path):  # False too for a name that no file system accepts
        problem = "is a directory" if os.path.isdir(file.path) else "does not exist"
        raise UserError(f"{file} {problem}: {file.mend}")
    num_bytes = file.path.stat().st_size
    if num_bytes > MAX_FILE_BYTES:
        raise UserError(
            f"{file} has {num_bytes:,} bytes, none above {MAX_FILE_BYTES:,} is opened: {file.mend}"
        )
    return file.path.read_bytes()


def _refuse_wrong_seal(file: NamedFile, content: bytes) -> None:
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if body.endswith(_SEAL):
        right = hashlib.sha256(body.removesuffix(_SEAL)).hexdigest().encode()
        if digest != right:
            raise DamagedCheckpoint(
                f"{file} is damaged, its checksum is wrong: give another copy of it, or "
                f"the {PREVIOUS} beside it"
            )


def _opened(file: NamedFile, content: bytes) -> dict[str, Any]:
    checkpoint = _loaded(file, content)
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise UserError(f"{file} holds a {kind}, not a checkpoint: {file.mend}")
    _refuse_odd_members(file, checkpoint, len(content))
    return checkpoint


def _loaded(file: NamedFile, content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is something else makes the reader raise anything
        first = str(error).split("\n", 1)[0].split(". ", 1)[0]
        reason = type(error).__name__ if first.isdigit() or not first else first
        raise DamagedCheckpoint(
            f"{file} is no readable checkpoint ({_without_advice(reason)}): {file.mend}"
        ) from error


def _without_advice(reason: str) -> str:
    """Return torch's message without its hint to load the file as a program."""
    return re.sub(r"\(?[^.(]*weights_only=False.*", "", reason).strip() or "unsafe content"


def _refuse_bombs(file: NamedFile, content: bytes) -> None:
    """Refuse an archive that is compressed or unpacks to more: torch.save writes no such."""
    try:
        members = zipfile.ZipFile(io.BytesIO(content)).infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise DamagedCheckpoint(
            f"{file} is no readable checkpoint ({error}): {file.mend}"
        ) from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise UserError(f"{file} is compressed, which no run's is: {file.mend}")
    if sum(member.file_size for member in members) > len(content):
        raise UserError(f"{file} unpacks to more than it has: {file.mend}")
    structure = sum(m.file_size for m in members if m.filename.endswith("data.pkl"))
    if structure > MAX_STRUCTURE_BYTES:
        raise UserError(f"{file} describes too much ({structure:,} bytes): {file.mend}")


def _refuse_odd_members(file: NamedFile, checkpoint: dict[str, Any], num_bytes: int) -> None:
    """Refuse what no run writes: endless containers, tensors larger than the file, odd tensors."""
    for tensor in _Walk(file).tensors(checkpoint):
        size = tensor.numel() * tensor.element_size()
        if size > num_bytes:
            raise UserError(
                f"{file} describes a tensor of {size:,} bytes in a file of "
                f"{num_bytes:,}: {file.mend}"
            )
        is_plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if not is_plain or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(
                f"{file} holds a tensor of another kind than a run writes "
                f"({type(tensor).__name__}, {tensor.layout}): {file.mend}"
            )


class _Walk:
    """A walk through all members that visits each container once.

    A container that is referred to several times counts as often, since a reader of the checkpoint
    follows every reference.
    """

    def __init__(self, file: NamedFile) -> None:
        self._file = file
        self._known: dict[int, tuple[int, int]] = {}  # by container: members and levels below

    def tensors(self, value: Any) -> list[torch.Tensor]:
        """Return all tensors.

        Raises:
            UserError: too many members, or levels, or a container in itself.
        """
        found: list[torch.Tensor] = []
        self._visit(value, 1, found)
        return found

    def _visit(self, value: Any, level: int, found: list[torch.Tensor]) -> tuple[int, int]:
        if isinstance(value, torch.Tensor):
            found.append(value)
        if not isinstance(value, dict | list | tuple | set | frozenset):
            return 1, 0
        if id(value) not in self._known:
            self._known[id(value)] = (0, MAX_LEVELS)  # a container in itself is too deep
            self._check(len(value), level)
            inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            below = [self._visit(member, level + 1, found) for member in inner]
            counts, heights = [count for count, _ in below], [height for _, height in below]
            self._known[id(value)] = (1 + sum(counts), 1 + max(heights, default=0))
        count, height = self._known[id(value)]
        self._check(count, level + height - 1)
        return count, height

    def _check(self, count: int, level: int) -> None:
        if level > MAX_LEVELS:
            problem = f"nests more than {MAX_LEVELS} levels deep"
        elif count > MAX_MEMBERS:
            problem = f"has more than {MAX_MEMBERS:,} members"
        else:
            return
        raise UserError(f"{self._file} {problem}: {self._file.mend}")
