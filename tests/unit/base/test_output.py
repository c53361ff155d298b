import io
import os
import sys

import pytest

from layerscope.base.output import SafeStream, safe_output


def test_what_a_terminal_cannot_show_is_replaced():
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("0.5 µs → \udc80\n")
    stream.flush()
    assert raw.getvalue() == b"0.5 ?s ? ?\n"
    assert stream.lost is None


def test_a_name_that_is_no_unicode_is_replaced_too():
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding="utf-8"))
    stream.write("µ\udc80\n")
    stream.flush()
    assert raw.getvalue() == "µ?\n".encode()


def test_nothing_is_raised_when_the_reader_has_gone():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        stream = SafeStream(pipe)
        for _ in range(3):
            stream.write("text\n")
            stream.flush()
        assert isinstance(stream.lost, BrokenPipeError)
    # Closing it has flushed it once more, which leads nowhere.


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_standard_output_is_told():
    with open("/dev/full", "w") as full:
        stream = SafeStream(full)
        stream.write("text\n")
        stream.flush()
        assert "No space" in str(stream.lost)


def test_streams_that_the_shell_has_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with safe_output() as output:
        print("text")  # noqa: T201
        assert sys.stderr is not None
    assert output.lost is None
    assert sys.stdout is None
