"""A CIFAR-10 of a few images in every published form, with the sums to match."""

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from layerscope.data.cifar10 import (
    ARRAY_NAMES,
    BINARY_FORM,
    NPM_FORM,
    PYTHON_FORM,
    Cifar10Arrays,
    Form,
)
from layerscope.data.sources import Source

_PER_BATCH = 3
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def fake_arrays() -> Cifar10Arrays:
    random = np.random.default_rng(0)

    def images(count):
        return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    def labels(count):
        return random.integers(0, 10, count, dtype=np.uint8)

    return Cifar10Arrays(
        images(5 * _PER_BATCH), labels(5 * _PER_BATCH), images(_PER_BATCH), labels(_PER_BATCH)
    )


ARRAYS = fake_arrays()
SUMS = {name: hashlib.sha256(getattr(ARRAYS, name).tobytes()).hexdigest() for name in ARRAY_NAMES}


def assert_same(found: Cifar10Arrays, expected: Cifar10Arrays = ARRAYS) -> None:
    for name in ARRAY_NAMES:
        array = getattr(found, name)
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, getattr(expected, name))


def batches(arrays: Cifar10Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    images = [*np.split(arrays.train_images, 5), arrays.test_images]
    labels = [*np.split(arrays.train_labels, 5), arrays.test_labels]
    return dict(zip(_BATCHES, zip(images, labels, strict=True), strict=True))


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def binary_members(arrays: Cifar10Arrays) -> dict[str, bytes]:
    return {
        f"{name}.bin": np.hstack([labels[:, None], planes(images)]).tobytes()
        for name, (images, labels) in batches(arrays).items()
    }


def python_members(arrays: Cifar10Arrays) -> dict[str, bytes]:
    return {name: python2_pickle(*batch) for name, batch in batches(arrays).items()}


def python2_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Pickle as Python 2 and its NumPy wrote the official batches, operation by operation."""
    data = planes(images).tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x0bbatch_labelU\x15training batch 1 of 5U\x06labels](",
            b"".join(b"K" + bytes([label]) for label in labels),
            b"eU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01M" + struct.pack("<H", len(images)) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN",
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<i", len(data)) + data + b"tbu.",
        ]
    )


def npm_members(arrays: Cifar10Arrays) -> dict[str, bytes]:
    members = {
        f"{name}.png": png(images.reshape(len(images), 1024, 3))
        for name, (images, _) in batches(arrays).items()
    }
    members["train_lables.json"] = json.dumps(arrays.train_labels.tolist()).encode()
    members["test_lables.json"] = json.dumps(arrays.test_labels.tolist()).encode()
    return members


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def archive_bytes(folder: str, members: Mapping[str, bytes]) -> bytes:
    """Names are put into `folder` unless they say where they want to be."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name if "/" in name else f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@dataclass(frozen=True)
class FakeForm:
    form: Form
    members: Mapping[str, bytes]
    archive: bytes

    def put_archive(self, directory: Path) -> None:
        (directory / self.form.archive).write_bytes(self.archive)

    def put_members(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.members.items():
            (folder / name).write_bytes(content)


def fake_form(
    form: Form, members: Mapping[str, bytes], extra: Mapping[str, bytes] | None = None
) -> FakeForm:
    """`form` with the sums of these contents; `extra` comes first in the archive."""
    archive = archive_bytes(form.folder, {**(extra or {}), **members})
    algorithm = form.archive_sum.partition(":")[0]
    member_sums = {
        name: hashlib.md5(members[name]).hexdigest() if md5 else ""
        for name, md5 in form.members.items()
    }
    archive_sum = f"{algorithm}:{hashlib.new(algorithm, archive).hexdigest()}"
    return FakeForm(replace(form, archive_sum=archive_sum, members=member_sums), members, archive)


PYTHON = fake_form(PYTHON_FORM, python_members(ARRAYS))
BINARY = fake_form(BINARY_FORM, binary_members(ARRAYS))
NPM = fake_form(NPM_FORM, npm_members(ARRAYS))
FORMS = tuple(fake.form for fake in (PYTHON, BINARY, NPM))


def source_of(fetch: Callable[[], Mapping[str, bytes]], name: str = "a fake server") -> Source:
    return Source(name, BINARY.form, lambda _scratch, _report: fetch())


def only(*sources: Source) -> Callable[[Path], Sequence[Source]]:
    return lambda _directory: sources


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
