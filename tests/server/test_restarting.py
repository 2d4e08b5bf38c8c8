"""Servers that come and go in one process: the end of one is nobody else's."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from headcount import Headcount
from kit.pages import Sse, Stream, WebSocket

pytestmark = pytest.mark.anyio


class Threaded:
    """uvicorn in a thread, in an event loop of its own, as test suites and tools run it."""

    def __init__(self, app: Any, port: int = 0, **settings: Any) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", **settings))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()

    def stop(self) -> None:
        """Stop it as a signal does, and wait until it has."""
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "it stops with streams open"
        self._socket.close()


Start = Callable[..., Threaded]


@pytest.fixture(params=["asgi", "takeover"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start servers of one application, and stop those that a test left."""
    headcount = Headcount(version="v1")
    app = Starlette()
    app.mount(headcount.base_path, headcount)
    settings: dict[str, Any] = {"http": headcount.protocol} if request.param == "takeover" else {}
    with ExitStack() as stack:

        @contextmanager
        def running(server: Threaded) -> Iterator[None]:
            try:
                yield
            finally:
                server.stop()

        def started(port: int = 0) -> Threaded:
            server = Threaded(app, port, **settings)
            stack.enter_context(running(server))
            return server

        yield started
    assert not headcount.node.sessions
    assert not headcount.node.admission.draining


async def open_on(server: Threaded, kind: type[Stream]) -> Stream:
    # The listening socket is bound before the server accepts; a connection waits in its backlog, or is refused.
    while True:
        try:
            return await kind.open(server.url)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)


async def test_a_server_that_is_started_again_takes_streams_again(start: Start) -> None:
    port = 0
    for _ in range(3):
        server = start(port)
        pages = [await open_on(server, kind) for kind in (Sse, WebSocket)]
        await asyncio.to_thread(server.stop)
        for page in pages:
            await page.until(lambda p: p.ended)
        assert len(pages[0].of_type("drain")) == 1
        port = server.port


async def test_when_one_of_two_servers_stops_the_pages_of_the_other_stay(start: Start) -> None:
    going, staying = start(), start()
    leave = [await open_on(going, kind) for kind in (Sse, WebSocket)]
    stay = [await open_on(staying, kind) for kind in (Sse, WebSocket)]
    await asyncio.to_thread(going.stop)
    for page in leave:
        await page.until(lambda p: p.ended)
    new = await open_on(staying, Sse)
    assert not any(page.of_type("drain") or page.ended for page in [*stay, new])
    assert isinstance(stay[1], WebSocket)
    stay[1].send({"type": "ping"})
    await stay[1].until(lambda p: bool(p.of_type("pong")))


async def test_a_page_that_leaves_one_server_is_not_sent_away_by_the_end_of_another() -> None:
    headcount = Headcount(version="v1")
    app = Starlette()
    app.mount(headcount.base_path, headcount)
    with ExitStack() as stack:
        ended, running = Threaded(app), Threaded(app)
        stack.callback(running.stop)
        page = await open_on(ended, Sse)
        stay = [await open_on(running, kind) for kind in (Sse, WebSocket)]
        await asyncio.to_thread(ended.stop)
        await page.until(lambda p: p.ended)
        for leaving in stay:
            leaving.fin()
        counters = headcount.node.counters
        async with asyncio.timeout(20):
            while counters["closed"] < 3:
                await asyncio.sleep(0.01)
        assert counters["closed:drain"] == 1, "that of the server that ended"


async def test_two_servers_in_one_loop_stop_one_by_one() -> None:
    headcount = Headcount(version="v1")
    app = Starlette()
    app.mount(headcount.base_path, headcount)
    servers, runs, urls = [], [], []
    with ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            urls.append(f"http://127.0.0.1:{sock.getsockname()[1]}")
            server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
            server.capture_signals = _leave_signals_alone  # type: ignore[method-assign]
            servers.append(server)
            runs.append(asyncio.create_task(server.serve([sock])))
        try:
            leaves, stays = [await Sse.open(url) for url in urls]
            servers[0].should_exit = True
            await asyncio.wait_for(runs[0], 10)
            await leaves.until(lambda p: p.ended)
            assert len(leaves.of_type("drain")) == 1
            await Sse.open(urls[1])
            assert not stays.of_type("drain")
        finally:
            for server in servers:
                server.should_exit = True
            await asyncio.wait(runs, timeout=10)


@contextmanager
def _leave_signals_alone() -> Iterator[None]:
    yield
