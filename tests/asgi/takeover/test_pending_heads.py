"""Requests that never become whole: how long they may take, how large they may get, and how many there may be."""

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

from headcount import Headcount
from headcount.asgi.app import endpoints_of
from headcount.asgi.takeover import pending_heads
from headcount.asgi.takeover.choose import protocol_class
from headcount.asgi.takeover.pending_heads import MAX_HEAD, PendingHeads
from headcount.server.serve import _not_found

from .inside import BASE, Inside, Peer, get, make, on_both_loops, running, sse, until, upgrade, ws
from .test_taking_over import shop


@pytest.fixture(params=["serve", "mounted"])
def kind(request: pytest.FixtureRequest) -> Any:
    """`headcount serve`, or an application whose streams are taken over."""
    return request.param


def limited(kind: str, headcount: Headcount, **limits: Any) -> Any:
    """Serve a Headcount with other limits than the real ones."""
    app = _not_found(headcount.base_path)
    wrapped = app if kind == "serve" else None
    protocol: Any = protocol_class(endpoints_of(headcount), wrapped)
    for name, value in limits.items():
        assert hasattr(protocol.pending, name)
        setattr(protocol.pending, name, value)
    served = headcount.wrap(app) if kind == "serve" else shop(headcount)
    return running(headcount, served, wrapped_app=wrapped, protocol=protocol)


def incomplete_requests(inside: Inside) -> int:
    count = inside.headcount.node.count_incomplete_requests
    assert count is not None
    return count()


def closes(inside: Inside) -> dict[str, int]:
    counters = inside.headcount.node.counters
    return {
        name.partition(":")[2]: count
        for name, count in counters.items()
        if name.startswith("incomplete_request:") and count
    }


async def still_open(peer: Peer) -> bool:
    try:
        async with asyncio.timeout(0.05):
            return await peer.reader.read(1) != b""
    except TimeoutError:
        return True


def test_a_head_has_ten_seconds_and_64_kib() -> None:
    assert (pending_heads.HEAD_TIMEOUT, MAX_HEAD) == (10.0, 65_536)
    protocol: Any = Headcount(version="1").protocol
    assert protocol.pending.timeout == 10.0


@on_both_loops
async def test_silent_and_half_sent_requests_are_closed_and_pages_stay(kind: str) -> None:
    headcount = make()
    async with limited(kind, headcount, timeout=5) as inside:
        pages = [await sse(inside), await ws(inside)]
        silent = [await inside.connect() for _ in range(150)]
        half = [
            await inside.ask(f"GET {BASE}/sse?route=/{n} HTTP/1.1\r\nHost: a\r\nX-Slow: ".encode()) for n in range(150)
        ]
        await until(lambda: incomplete_requests(inside) == 300, "all are seen")
        assert [await peer.rest() for peer in silent] == [b""] * 150
        for peer in half:
            assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
        assert incomplete_requests(inside) == 0
        assert closes(inside) == {"timeout": 300}
        assert len(headcount.node.sessions) == 2
        for page in pages:
            page.fin()
        await inside.empty()


@on_both_loops
async def test_a_head_that_trickles_in_has_no_more_time_than_one_that_stops(kind: str) -> None:
    async with limited(kind, make(), timeout=0.5) as inside:
        peer = await inside.ask(b"GET /__skew/health HTTP/1.1\r\nHost: a\r\n")
        began = asyncio.get_running_loop().time()

        async def trickle() -> None:
            while True:
                peer.send(b"X-A: b\r\n")
                await asyncio.sleep(0.05)

        task = asyncio.create_task(trickle())
        try:
            assert b" 408 " in await peer.rest()
        finally:
            task.cancel()
        assert asyncio.get_running_loop().time() - began < 2


@on_both_loops
async def test_the_second_request_of_a_connection_has_a_deadline_too(kind: str) -> None:
    async with limited(kind, make(), timeout=0.5) as inside:
        peer = await inside.ask(get(f"{BASE}/health"))
        await peer.head()
        await peer.until(b"}")
        assert incomplete_requests(inside) == 0, "uvicorn's keep-alive timeout bounds the time between requests"
        peer.send(b"GET /__skew/health HT")
        await until(lambda: incomplete_requests(inside) == 1, "it is pending again")
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
        assert closes(inside) == {"timeout": 1}


@on_both_loops
async def test_a_body_that_stops_after_its_answer_does_not_hold_the_connection() -> None:
    async with limited("serve", make(), timeout=0.5) as inside:
        peer = await inside.ask(get(f"{BASE}/health", "Content-Length: 1000"))
        await peer.head()
        await peer.until(b"}")
        peer.send(b"x")
        await until(lambda: incomplete_requests(inside) == 1, "it is pending")
        assert await peer.rest() == b"", "the answer has been given"
        assert closes(inside) == {"timeout": 1}


def _headers(size: int) -> bytes:
    """Make a head of so many bytes."""
    begin, end = b"GET /__skew/health HTTP/1.1\r\nHost: a\r\n", b"\r\n"
    line = b"X-Long: " + b"x" * 1_000 + b"\r\n"
    lines = (size - len(begin) - len(end) - 20) // len(line)
    rest = size - len(begin) - len(end) - lines * len(line)
    return begin + lines * line + b"Y: " + b"y" * (rest - 5) + b"\r\n" + end


@on_both_loops
async def test_a_head_of_64_kib_is_read_and_a_longer_one_is_refused_with_431(kind: str) -> None:
    async with limited(kind, make()) as inside:
        whole = _headers(MAX_HEAD)
        assert len(whole) == MAX_HEAD
        peer = await inside.ask(whole)
        assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
        peer.fin()
        for long in (
            _headers(MAX_HEAD + 1),
            b"GET /__skew/health?" + b"a" * MAX_HEAD + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            get(f"{BASE}/sse", "X-Long: " + "x" * MAX_HEAD),
            upgrade(f"{BASE}/ws", "Cookie: a=" + "x" * MAX_HEAD),
        ):
            peer = await inside.ask(long)
            assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")
        assert closes(inside) == {"size": 4}
        assert not headcount_sessions(inside)


_ENDLESS = 8_000_000
"""Bytes after which a test takes it that the server would read for ever."""


def headcount_sessions(inside: Inside) -> int:
    return len(inside.headcount.node.sessions)


@on_both_loops
async def test_a_head_is_refused_in_the_middle_of_whatever_it_sends(kind: str) -> None:
    """57 MB of headers, a request line of 10 MB, one header, empty lines, trailers and extensions of chunks."""
    chunked = b"POST /__skew/route HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    endless = {
        "headers": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-Header: " + b"x" * 990 + b"\r\n"),
        "header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x" * 1_000),
        "request line": (b"GET /", b"a" * 1_000),
        "method": (b"", b"A" * 1_000),
        "empty lines": (b"", b"\r\n" * 500),
        "trailers": (chunked + b"0\r\n", b"X-Header: " + b"x" * 990 + b"\r\n"),
        "extension": (chunked + b"1;", b"a" * 1_000),
    }
    async with limited(kind, make()) as inside:
        for name, (begin, more) in endless.items():
            peer = await inside.ask(begin)
            sent = 0
            with suppress(ConnectionError):
                while sent < _ENDLESS:
                    peer.send(more)
                    await peer.writer.drain()
                    await asyncio.sleep(0)
                    sent += len(more)
            assert sent < _ENDLESS, name
            peer.rst()
        await inside.empty()


@on_both_loops
async def test_above_the_limit_the_oldest_pending_connection_makes_room(kind: str) -> None:
    async with limited(kind, make(), max_pending=5) as inside:
        peers = []
        for _ in range(8):
            peers.append(await inside.connect())
            await asyncio.sleep(0.01)
        assert [await still_open(peer) for peer in peers] == [False] * 3 + [True] * 5
        assert incomplete_requests(inside) == 5
        assert closes(inside) == {"limit": 3}
        page = await sse(inside)
        page.fin()


@on_both_loops
async def test_above_the_limit_of_bytes_the_oldest_unfinished_head_makes_room(kind: str) -> None:
    async with limited(kind, make(), max_bytes=100_000) as inside:
        silent = await inside.connect()
        peers = []
        for _ in range(4):
            peers.append(await inside.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000))
            await asyncio.sleep(0.05)
        assert [await still_open(peer) for peer in peers[2:]] == [True, True]
        for peer in peers[:2]:
            assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
        assert await still_open(silent)
        assert closes(inside) == {"limit": 2}


@on_both_loops
async def test_an_upload_that_an_application_answered_early_is_not_cut() -> None:
    headcount = make()
    async with limited("mounted", headcount, timeout=0.4) as inside:
        peer = await inside.ask(get("/", "Content-Length: 12", method="GET") + b"x")
        await peer.head()
        for _ in range(11):
            await asyncio.sleep(0.1)
            peer.send(b"x")
        peer.send(get("/"))
        assert b"200 OK" in await peer.until(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/__skew/ws/", "/__skew/%77s", "/__skew/w%73", "/%5f%5fskew/ws", "/__skew%2fws"])
@on_both_loops
async def test_another_spelling_of_the_path_of_a_websocket_opens_none(path: str, kind: str) -> None:
    async with limited(kind, make()) as inside:
        peer = await inside.ask(upgrade(path))
        assert (await peer.head()).startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 404 "))
        assert (inside.taken, inside.over_asgi) == (0, 0)


@on_both_loops
async def test_nonsense_is_logged_once_a_minute(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with limited(kind, make()) as inside:
        for nonsense in [b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n", b"GET \r\n\r\n"] * 10:
            peer = await inside.ask(nonsense)
            assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
        for _ in range(10):
            peer = await inside.ask(get(f"{BASE}/health", "Connection: Upgrade", "Upgrade: h2c"))
            await peer.head()
            peer.fin()
        for _ in range(10):
            peer = await inside.ask(upgrade(key="short"))
            await peer.rest()
    kinds = [record.getMessage() for record in caplog.records]
    assert len(kinds) <= 3, kinds


def test_a_timer_is_left_only_while_something_is_pending() -> None:
    class Transport(asyncio.Transport):
        closed = False

        def is_closing(self) -> bool:
            return self.closed

        def get_protocol(self) -> Any:
            return self

        def give_up(self) -> None:
            self.closed = True

    async def main() -> None:
        pending = PendingHeads(make().node.counters, timeout=0.5)
        first, second = Transport(), Transport()
        pending.begin(first)
        await asyncio.sleep(0.3)
        pending.begin(second)
        pending.begin(second)
        pending.end(second)
        pending.end(second)
        pending.begin(second, 10)
        heads = pending._here()
        await asyncio.sleep(0.35)
        assert (first.closed, second.closed, pending.count()) == (True, False, 1)
        assert heads.timer is not None
        await asyncio.sleep(0.5)
        assert (second.closed, pending.count(), heads._total) == (True, 0, 0)
        left: Any = heads.timer
        assert left is None

    asyncio.run(main())


@on_both_loops
async def test_no_access_log_shows_the_handle_of_the_stream_that_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    for name in (None, "uvicorn.access", "uvicorn.error"):  # another test may have set the level of one
        caplog.set_level(logging.INFO, logger=name)
    logging.getLogger("uvicorn.access").addHandler(caplog.handler)
    try:
        async with limited("mounted", make(max_connections=1)) as inside:
            page = await sse(inside)
            await (await inside.ask(get(f"{BASE}/sse?replaces=secret1&route=/a"))).head()
            await (await inside.ask(upgrade(f"{BASE}/ws?version=1&replaces=secret2"))).head()
            page.fin()
    finally:
        logging.getLogger("uvicorn.access").removeHandler(caplog.handler)
    lines = [record.getMessage() for record in caplog.records]
    assert not [line for line in lines if "secret" in line]
    assert [line for line in lines if "/sse?replaces=…&route=/a" in line]
    assert [line for line in lines if "/ws?version=1&replaces=…" in line]
