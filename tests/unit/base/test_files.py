import os

import pytest

from layerscope.base.files import write_atomically, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(file):
        file.write(b"half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as raised:
        write_atomically(path, fail)
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_the_users_umask_decides_who_reads(tmp_path):
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(previous)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
