import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fake_cifar10 as fake
import numpy as np
import pytest

from layerscope.base.errors import RunFailed, UserError
from layerscope.data import cifar10
from layerscope.data.cifar10 import ARRAY_NAMES, SourceError
from layerscope.data.store import default_directory, load_cifar10, prepare_cifar10

FILES = sorted([*(f"{name}.npy" for name in ARRAY_NAMES), "manifest.json"])
GOOD = fake.source_of(lambda: fake.BINARY.members)


def unreachable() -> dict[str, bytes]:
    raise SourceError("connection refused")


@pytest.fixture(autouse=True)
def _known_sums(monkeypatch):
    monkeypatch.setattr(cifar10, "DECODED_SHA256", fake.SUMS)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def prepared(tmp_path, lines):
    prepare_cifar10(tmp_path, lines.append, fake.only(GOOD))
    return tmp_path


def no_source(_directory):
    raise AssertionError("the cache is good: no source is needed")


def edit_in_place(path: Path) -> None:
    """Change one byte; size, inode and mtime stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def refuse_writing(monkeypatch, number: int) -> None:
    """Let the system open files for reading only."""
    system_open = os.open

    def open_to_read(path, flags, *args, **keys):
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(number, os.strerror(number))
        return system_open(path, flags, *args, **keys)

    monkeypatch.setattr(os, "open", open_to_read)


def test_prepared_arrays_are_stored_with_their_provenance(tmp_path, lines):
    directory = tmp_path / "a" / "b"
    first = prepare_cifar10(directory, lines.append, fake.only(GOOD))
    assert fake.tree(directory) == FILES
    assert first == {
        "name": "cifar10",
        "source": "official archive cifar-10-binary.tar.gz",
        "sha256": fake.SUMS,
    }
    assert lines == [
        "CIFAR-10: trying a fake server",
        f"CIFAR-10: verified and stored in {directory}",
    ]
    assert prepare_cifar10(directory, lines.append, no_source) == first
    assert len(lines) == 2
    fake.assert_same(load_cifar10(directory))


def test_loaded_arrays_are_private_copies(prepared):
    arrays = load_cifar10(prepared)
    arrays.train_labels[:] = 255
    fake.assert_same(load_cifar10(prepared))
    assert type(arrays.train_images) is np.ndarray


def test_an_unchanged_cache_is_not_hashed_again(prepared, monkeypatch):
    def hashed(*_):
        raise AssertionError("hashed")

    monkeypatch.setattr(hashlib, "sha256", hashed)
    load_cifar10(prepared)
    prepare_cifar10(prepared, print, no_source)


def damage_truncate(directory):
    os.truncate(directory / "train_images.npy", 5000)


def damage_empty(directory):
    (directory / "test_labels.npy").write_bytes(b"")


def damage_in_place(directory):
    edit_in_place(directory / "train_images.npy")


def damage_header(directory):
    with (directory / "test_images.npy").open("r+b") as file:
        file.write(b"\x93NUMPX")


def damage_remove(directory):
    (directory / "train_labels.npy").unlink()


def damage_pickle(directory):
    np.save(directory / "train_labels.npy", np.array([print], dtype=object), allow_pickle=True)


def damage_other_data_and_forged_sum(directory):
    """A manifest that vouches for other arrays is believed in nothing."""
    path = directory / "test_images.npy"
    np.save(path, np.zeros((3, 32, 32, 3), dtype=np.uint8))
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["sha256"]["test_images"] = "0" * 64
    for name, stat in manifest["files"].items():
        now = (directory / f"{name}.npy").stat()
        assert stat.keys() == {"bytes", "inode", "mtime_ns", "ctime_ns"}
        stat |= {"bytes": now.st_size, "inode": now.st_ino}
        stat |= {"mtime_ns": now.st_mtime_ns, "ctime_ns": now.st_ctime_ns}
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_empty,
        damage_in_place,
        damage_header,
        damage_remove,
        damage_pickle,
        damage_other_data_and_forged_sum,
    ],
)
def test_a_damaged_cache_is_refused_and_fetched_again(prepared, lines, damage):
    damage(prepared)
    with pytest.raises(UserError, match="holds no verified CIFAR-10") as refusal:
        load_cifar10(prepared)
    assert "\n" not in str(refusal.value)
    prepare_cifar10(prepared, lines.append, fake.only(GOOD))
    fake.assert_same(load_cifar10(prepared))
    assert fake.tree(prepared) == FILES


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 3}', "\0", "[" * 100_000])
def test_a_manifest_that_says_nothing_costs_only_the_provenance(prepared, content):
    (prepared / "manifest.json").write_text(content)
    fake.assert_same(load_cifar10(prepared))
    for _ in range(2):
        found = prepare_cifar10(prepared, print, no_source)
        assert found["source"] == "verified arrays of unknown origin"
    assert json.loads((prepared / "manifest.json").read_text())["sha256"] == fake.SUMS


def test_the_lock_file_of_a_killed_process_is_removed(prepared):
    (prepared / ".prepare.lock").touch()
    prepare_cifar10(prepared, print, no_source)
    assert fake.tree(prepared) == FILES


def test_a_copied_cache_keeps_its_provenance(prepared, tmp_path_factory, monkeypatch):
    copy = tmp_path_factory.mktemp("copy")
    for name in FILES:
        shutil.copyfile(prepared / name, copy / name)
    fake.assert_same(load_cifar10(copy))
    found = prepare_cifar10(copy, print, no_source)
    assert found["source"] == "official archive cifar-10-binary.tar.gz"
    test_an_unchanged_cache_is_not_hashed_again(copy, monkeypatch)


def test_good_arrays_in_a_read_only_directory_work(prepared, monkeypatch):
    for name in FILES:  # as after a copy: no stat in the manifest is right
        os.utime(prepared / name, ns=(0, 0))
    before = (prepared / "manifest.json").read_bytes()
    refuse_writing(monkeypatch, errno.EROFS)
    found = prepare_cifar10(prepared, print, no_source)
    assert found["source"] == "official archive cifar-10-binary.tar.gz"
    fake.assert_same(load_cifar10(prepared))
    assert (prepared / "manifest.json").read_bytes() == before
    assert fake.tree(prepared) == FILES


def test_a_read_only_directory_without_arrays_is_the_users_error(tmp_path, monkeypatch):
    refuse_writing(monkeypatch, errno.EROFS)
    with pytest.raises(UserError, match=r"data\.dir=.* cannot be written") as error:
        prepare_cifar10(tmp_path, print, fake.only(GOOD))
    assert "\n" not in str(error.value)


def test_a_directory_that_is_a_file_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"data\.dir="):
            prepare_cifar10(directory, print, fake.only(GOOD))
        with pytest.raises(UserError, match=r"data\.dir="):
            load_cifar10(directory)


def test_a_full_disk_is_no_error_of_the_user(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="No space left"):
        prepare_cifar10(tmp_path / "new", print, fake.only(GOOD))
    assert fake.tree(tmp_path) == []


def test_the_next_source_is_tried_and_every_failure_said(tmp_path, lines):
    first = fake.source_of(unreachable, "server A")
    wrong = fake.source_of(
        lambda: {**fake.BINARY.members, "test_batch.bin": bytes(3073)}, "server B"
    )
    short = fake.source_of(
        lambda: {**fake.BINARY.members, "test_batch.bin": bytes(3072)}, "server C"
    )
    prepare_cifar10(tmp_path, lines.append, fake.only(first, wrong, short, GOOD))
    fake.assert_same(load_cifar10(tmp_path))
    failures = [line for line in lines if "trying" not in line]
    assert failures[0] == "CIFAR-10: server A: connection refused"
    assert failures[1] == "CIFAR-10: server B: test_images are not CIFAR-10's (wrong sha256)"
    assert failures[2].startswith("CIFAR-10: server C: cannot be decoded")


def test_without_a_source_nothing_is_left(tmp_path, lines):
    directory = tmp_path / "x" / "y"
    sources = [
        fake.source_of(unreachable, "server A"),
        fake.source_of(lambda: {"data_batch_1.bin": b"\n\n" * 5000}, "server B"),
    ]
    with pytest.raises(UserError) as error:
        prepare_cifar10(directory, lines.append, fake.only(*sources))
    message = str(error.value)
    assert "\n" not in message
    assert "server A: connection refused; server B: cannot be decoded" in message
    assert message.startswith(f"CIFAR-10 is not in {directory} and cannot be fetched (server A: ")
    assert message.endswith("put cifar-10-python.tar.gz there, or use data=synthetic")
    assert fake.tree(tmp_path) == []


def test_an_existing_empty_directory_stays(tmp_path):
    with pytest.raises(UserError):
        prepare_cifar10(tmp_path, print, fake.only())
    assert tmp_path.is_dir()
    assert fake.tree(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_cifar10(tmp_path / "x", print, fake.only(fake.source_of(interrupted)))
    assert fake.tree(tmp_path) == []


PREPARE = """
    import sys, time
    from pathlib import Path
    import fake_cifar10 as fake
    from layerscope.data import cifar10
    from layerscope.data.store import prepare_cifar10

    cifar10.DECODED_SHA256 = fake.SUMS
    directory, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

    def fetch(scratch, report):
        (scratch / "partial").write_bytes(b"x")
        with log.open("a") as file:
            file.write("fetched\\n")
        time.sleep(seconds)
        return fake.BINARY.members

    source = fake.Source("a slow server", fake.BINARY.form, fetch)
    print(prepare_cifar10(directory, print, fake.only(source))["source"])
"""


def start_preparing(directory: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PREPARE), directory, log, str(seconds)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_start_together_fetch_once(tmp_path):
    directory, log = tmp_path / "data", tmp_path / "log"
    processes = [start_preparing(directory, log, 1.0) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [output[-1] for output in outputs] == ["official archive cifar-10-binary.tar.gz"] * 2
    assert log.read_text() == "fetched\n"
    assert fake.tree(directory) == FILES
    fake.assert_same(load_cifar10(directory))


def test_a_killed_process_leaves_nothing_that_counts(tmp_path, lines):
    directory, log = tmp_path / "data", tmp_path / "log"
    process = start_preparing(directory, log, 60)
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not any((directory / name).exists() for name in FILES)
    (directory / ".train_images.npy.abc.tmp").write_bytes(b"half")
    prepare_cifar10(directory, lines.append, fake.only(GOOD))
    assert fake.tree(directory) == FILES


def test_the_directory_comes_from_the_environment_or_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERSCOPE_DATA_DIR", str(tmp_path))
    assert default_directory() == tmp_path
    prepare_cifar10(None, print, fake.only(GOOD))
    fake.assert_same(load_cifar10())
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("LAYERSCOPE_DATA_DIR")
        else:
            monkeypatch.setenv("LAYERSCOPE_DATA_DIR", value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        directory = default_directory()
        assert directory.parts[-2:] == ("layerscope", "cifar10")
        assert sys.platform != "linux" or directory.is_relative_to(tmp_path / "cache")
