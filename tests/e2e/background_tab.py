"""A tab in the background, which Chromium can freeze. Playwright keeps its pages visible, so they are never frozen."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
from websockets.sync.client import ClientConnection, connect

from kit.processes import BIN, run

from . import chromium
from .conftest import PATIENCE, Server, eventually

_ARGUMENTS: Final = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")


class BackgroundTab:
    """
    One tab of a browser of its own.

    Args:
        socket: The tab's end of the DevTools protocol.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0

    def open(self, url: str) -> None:
        """Load a page and wait until its stream is open."""
        self._call("Page.navigate", url=url)
        self.wait("window.headcount?.getSnapshot().status === 'open'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of the promise that it is."""
        options = {"returnByValue": True, "awaitPromise": True}
        return self._call("Runtime.evaluate", expression=expression, **options)["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression holds in the page."""
        eventually(lambda: self.evaluate(expression), expression)

    def freeze(self) -> None:
        """Freeze the page: no timer, no answer and no message reaches its code."""
        self.evaluate("document.addEventListener('freeze', () => { window.frozen = true }), true")
        self._call("Page.setWebLifecycleState", state="frozen")
        self.wait("window.frozen === true")

    def wake(self) -> None:
        """Let the page go on."""
        self._call("Page.setWebLifecycleState", state="active")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=PATIENCE))).get("id") != self._last:
            pass
        found: dict[str, Any] = answer["result"]
        return found


@contextmanager
def background_tab(profile: Path) -> Iterator[BackgroundTab]:
    """Start a browser, and end it."""
    path = chromium.find()
    assert path is not None
    browser = subprocess.Popen(
        [path, *_ARGUMENTS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
    )
    try:
        ready = profile / "DevToolsActivePort"
        eventually(lambda: ready.exists() and ready.read_text(), "the browser listens")  # it writes it in two steps
        port = ready.read_text().split()[0]

        def page() -> str | None:
            targets = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
            return next((each["webSocketDebuggerUrl"] for each in targets if each["type"] == "page"), None)

        eventually(page, "the browser has a tab")
        with connect(page() or "", max_size=None) as socket:
            yield BackgroundTab(socket)
    finally:
        browser.terminate()
        browser.wait(timeout=PATIENCE)


def wait_until_a_ghost_is_dropped(server: Server) -> None:
    """Whoever was there before, and had to answer, has been dropped by then."""
    with httpx.stream("GET", f"{server.url}/__skew/sse?viewer=1&answers=1") as ghost:
        assert b"are-you-there" in b"".join(ghost.iter_raw())


def gate(server: Server, *further: str, timeout: str = "2s") -> int:
    """Run `headcount wait` for the old version, and return its exit code."""
    command = [BIN / "headcount", "wait", f"{server.url}/__skew", "--version", "v1"]
    options = ["--token", "the tests' own door", "--timeout", timeout]
    return run([*command, *options, *further], timeout=60).returncode
