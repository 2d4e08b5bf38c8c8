"""A real Chromium and real servers for the browser tests."""

import asyncio
import http.client
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from kit.processes import BIN
from kit.proxy import Proxy
from kit.servers import ServerProcess

from . import chromium

HERE = Path(__file__).parent
TESTS = HERE.parent
"""For applications that import other modules of the tests."""

PATIENCE = 30.0
"""Seconds for what happens within one, unless the machine is busy."""

LONGEST_PAUSE = 0.1
"""Seconds between two looks at something. A look costs a request, or a script in a browser."""

expect.set_options(timeout=PATIENCE * 1000)

# A client costs 30 ms of CPU to make, for certificates that these tests do not need. Servers come and go: each request
# has a connection of its own.
_client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))


def answers(url: str) -> bool:
    """Say whether there is something at a URL."""
    try:
        return _client.get(url, timeout=1).is_success
    except httpx.TransportError:
        return False


class Server(ServerProcess):
    """
    A server process that can be stopped, killed and started again on the same port.

    Args:
        program: Of the virtual environment.
        arguments: Its own; `{port}` stands for the port.
        cwd: Where it runs.
        env: Variables besides those of this process.
    """

    def __init__(self, program: str, *arguments: str, cwd: Path = HERE, env: dict[str, str] | None = None) -> None:
        super().__init__()
        self.url = self.origin
        self._command = [str(BIN / program), *(part.replace("{port}", str(self.port)) for part in arguments)]
        self._cwd = cwd
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.start()

    def start(self) -> None:
        self.launch(self._command, cwd=self._cwd, env=self.env)
        try:
            self.wait_ready(90)
        except BaseException:
            self.kill()
            raise

    def answers(self) -> bool:
        assert self.process.poll() is None, "the server has ended"
        return super().answers()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.signal(how)
        self.wait(PATIENCE)

    def stats(self) -> dict[str, Any]:
        """The figures, past all sessions."""
        with closing(self.connect()) as connection:
            return read_stats(connection)

    def connect(self) -> http.client.HTTPConnection:
        """A connection for `read_stats`: tests read figures often, and this costs half the CPU time of httpx."""
        return http.client.HTTPConnection(self.host, self.port, timeout=5)


def read_stats(connection: http.client.HTTPConnection) -> dict[str, Any]:
    """Ask a server for its figures, past all sessions."""
    connection.request("GET", "/__skew/admin/stats", headers={"authorization": "Bearer the tests' own door"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


@contextmanager
def every_total(server: Server) -> Iterator[list[int]]:
    """Look at the total all the time, and yield what was seen."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        with closing(server.connect()) as connection:
            while not stop.is_set():
                seen.append(read_stats(connection)["total"])
                time.sleep(0.01)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        stop.set()
        looking.join()


@contextmanager
def proxy_in_front_of(
    server: Server, *, life: float | None = None, answer: Callable[[str, str], bytes | None] | None = None
) -> Iterator[str]:
    """Run a proxy that ends every request after `life` seconds, or answers some itself, and yield its origin."""
    loop, stop, ports = asyncio.new_event_loop(), asyncio.Event(), queue.Queue[int]()

    async def run() -> None:
        async with Proxy(server.port) as proxy:
            proxy.request_life, proxy.answer = life, answer
            ports.put(proxy.port)
            await stop.wait()

    def run_and_close() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # it ends what is still being accepted
            runner.run(run())

    thread = threading.Thread(target=run_and_close)
    thread.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=PATIENCE)}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait until `condition` holds; fail with `what` and what it returned last."""
    end, pause = time.monotonic() + seconds, 0.02
    while not (last := condition()):
        if time.monotonic() > end:
            pytest.fail(f"Waited {seconds:g} s in vain until {what}; last: {last!r}")
        time.sleep(pause)
        pause = min(1.3 * pause, LONGEST_PAUSE)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium.or_skip()
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(
        *("uvicorn", "page_app:app", "--port", "{port}", "--log-level", "warning"), env={"SESSION_SECRET": "s"}
    )
    yield server
    server.stop()


@pytest.fixture
def new_context(browser: Browser, server: Server) -> Iterator[Callable[[], BrowserContext]]:
    """Make browser profiles with their own cookies; all are closed, and gone from the figures, at the end."""
    contexts: list[BrowserContext] = []

    def make() -> BrowserContext:
        contexts.append(browser.new_context(base_url=server.url))
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()
    eventually(lambda: server.answers() and server.stats()["total"] == 0, "all pages are gone")


def log_in(context: BrowserContext) -> None:
    assert context.request.post("/log-in").ok


def wait(page: Page, expression: str, seconds: float = PATIENCE) -> None:
    """Wait until a JavaScript expression holds in the page."""
    # Not with each frame, as Playwright looks by default: the browser would draw all of them.
    page.wait_for_function(expression, timeout=seconds * 1000, polling=LONGEST_PAUSE * 1000)
