"""A small client of Chromium's DevTools protocol, over its pipe: no driver, no port, no package."""

import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
SECONDS = 60


def find_chromium():
    """The path of an installed browser, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """One headless browser, with a profile of its own that is deleted at the end."""

    def __init__(self, binary):
        self._folder = tempfile.mkdtemp(prefix="layerscope-chromium-")
        their_input, self._output = _pipe()
        self._input, their_output = _pipe()
        silent = os.open(os.devnull, os.O_RDWR)
        self._process = os.posix_spawn(
            binary,
            [binary, *FLAGS, f"--user-data-dir={self._folder}", "about:blank"],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_DUP2, silent, stream) for stream in (0, 1, 2)),
                # Chromium reads commands from 3 and writes answers to 4.
                (os.POSIX_SPAWN_DUP2, their_input, 3),
                (os.POSIX_SPAWN_DUP2, their_output, 4),
            ],
        )
        for descriptor in (their_input, their_output, silent):
            os.close(descriptor)
        self._unread = b""
        self._last_id = 0
        self.events = []  # everything that was no answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.send("Browser.close")
        except (OSError, TimeoutError):
            os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._input)
        os.close(self._output)
        shutil.rmtree(self._folder, ignore_errors=True)

    def send(self, method, session=None, **params):
        """The answer to one command."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        os.write(self._output, json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._last_id:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def wait_for(self, method, session):
        """Until an event of this page has come."""
        while not any(e["method"] == method and e["sessionId"] == session for e in self.events):
            self.events.append(self._receive())

    def _receive(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._input], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium has said nothing for {SECONDS} s")
            part = os.read(self._input, 1 << 16)
            if not part:
                raise OSError("Chromium has ended")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def open(self, path, width, height=900, scheme="light", script=True):
        """A page that shows the file, loaded."""
        return Page(self, path, (width, height), scheme, script)


class Page:
    """A tab: what it asked the network for, what it complained about, and its document."""

    def __init__(self, browser, path, size, scheme, script):
        self._browser = browser
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        window = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **window)
        self.send("Emulation.setScriptExecutionDisabled", value=not script)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        browser.wait_for("Page.loadEventFired", self._session)

    def send(self, method, **params):
        """A command for this page."""
        return self._browser.send(method, self._session, **params)

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector):
        """As a person would: the pointer goes to the middle of the element."""
        place = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', inline: 'center'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent",
                type=kind, x=place[0], y=place[1], button="left", clickCount=1,
            )  # fmt: skip

    def press(self, key):
        """Enter or Tab, on whatever has the focus."""
        code, text = {"Enter": (13, "\r"), "Tab": (9, "")}[key]
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )  # fmt: skip

    @property
    def requests(self):
        """The addresses it asked for."""
        return [
            event["params"]["request"]["url"] for event in self._mine("Network.requestWillBeSent")
        ]

    @property
    def complaints(self):
        """Errors and warnings of the console, the log and the scripts."""
        logged = [e["params"]["entry"]["text"] for e in self._mine("Log.entryAdded")]
        thrown = [str(e["params"]) for e in self._mine("Runtime.exceptionThrown")]
        return logged + thrown + [str(e["params"]) for e in self._mine("Runtime.consoleAPICalled")]

    def _mine(self, method):
        return [
            event
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]


def _pipe():
    """Two descriptors above those that the browser is given."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high
