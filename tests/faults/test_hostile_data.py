"""Archives and arrays of strangers, beside what tests/unit/data says of sums, names and sizes."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerscope.base.errors import UserError
from layerscope.data.cifar10 import BINARY_FORM, PYTHON_FORM, SourceError, decode_python
from layerscope.data.sources import read_archive, read_folder
from layerscope.data.store import load_cifar10

NAME = "cifar-10-batches-bin/data_batch_1.bin"


def member(name, kind=tarfile.REGTYPE, target="", content=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def archive_of(folder, *members):
    """Write an archive, and a form that says its sum is right: the sum alone does not protect."""
    path = folder / BINARY_FORM.archive
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if content else None)
    right = hashlib.md5(path.read_bytes()).hexdigest()
    return path, replace(BINARY_FORM, archive_sum=f"md5:{right}")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"mine")
    return path


def assert_untouched(folder, secret):
    assert secret.read_bytes() == b"mine"
    assert {path.name for path in folder.iterdir()} == {"secret", "in"}
    assert [path.name for path in (folder / "in").iterdir()] == [BINARY_FORM.archive]


REGULAR, LINK, HARD_LINK = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
MEMBERS = [
    # name, kind, target of a link: none of them is the batch, or is written anywhere
    (NAME, LINK, "../secret"), (NAME, LINK, "/etc/passwd"), (NAME, HARD_LINK, "../secret"),
    (NAME, tarfile.CHRTYPE, ""), (NAME, tarfile.BLKTYPE, ""), (NAME, tarfile.FIFOTYPE, ""),
    (NAME, tarfile.DIRTYPE, ""), ("../secret", REGULAR, ""), (f"../{NAME}", REGULAR, ""),
    (f"./../../{NAME}", REGULAR, ""), (f"/{NAME}", REGULAR, ""), ("", REGULAR, ""),
    ("/tmp/layerscope-secret", REGULAR, ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "target"), MEMBERS)
def test_a_member_that_is_no_file_or_wants_to_be_elsewhere(name, kind, target, tmp_path, secret):
    (tmp_path / "in").mkdir()
    through = member("cifar-10-batches-bin", LINK, "..")
    content = b"theirs" if kind == REGULAR else b""
    path, form = archive_of(tmp_path / "in", through, member(name, kind, target, content))
    with pytest.raises(SourceError, match=r"data_batch_1\.bin is missing"):
        read_archive(path, form)
    assert_untouched(tmp_path, secret)
    assert not Path("/tmp/layerscope-secret").exists()


def test_a_member_that_says_it_is_large_is_not_read(tmp_path):
    info, _ = member(NAME)
    info.size = 2**40
    header = io.BytesIO(info.tobuf())
    path = tmp_path / BINARY_FORM.archive
    path.write_bytes(gzip.compress(header.getvalue()))
    right = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(SourceError, match="too large"):
        read_archive(path, replace(BINARY_FORM, archive_sum=f"md5:{right}"))


def test_a_file_that_is_large_is_read_no_further_than_its_bound(tmp_path):
    with (tmp_path / "data_batch_1").open("wb") as file:
        file.truncate(2**40)  # a hole; no memory holds as much
    for name in list(PYTHON_FORM.members)[1:]:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(SourceError, match="data_batch_1 has the wrong md5"):
        read_folder(tmp_path, PYTHON_FORM)


@pytest.mark.parametrize(
    "call", [(os.system, "touch ran"), (eval, "open('ran', 'w')"), (np.save, "ran", 1)]
)
def test_a_batch_whose_sum_were_forged_still_calls_nothing(call, tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return call[0], call[1:]

    monkeypatch.chdir(tmp_path)
    batches = dict.fromkeys(PYTHON_FORM.members, pickle.dumps(Payload()))
    with pytest.raises(pickle.UnpicklingError, match="a batch does not need"):
        decode_python(batches)
    assert not Path("ran").exists()


@pytest.mark.parametrize("header", ["object", "structured", "huge"])
def test_arrays_that_are_no_plain_bytes(header, tmp_path):
    array = {
        "object": np.array([print], dtype=object),
        "structured": np.zeros(3, dtype=[("a", "u1"), ("b", "O")]),
        "huge": np.zeros(3, dtype=np.uint8),
    }[header]
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        with (tmp_path / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=True)
        if header == "huge":
            content = (tmp_path / f"{name}.npy").read_bytes()
            lie = content.replace(b"(3,), }", b"(9999999999,), }", 1)
            (tmp_path / f"{name}.npy").write_bytes(lie)
    with pytest.raises(UserError, match="holds no verified CIFAR-10"):
        load_cifar10(tmp_path)
