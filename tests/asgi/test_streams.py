"""How a stream ends, from either side, and what stands between it and the server."""

import asyncio
from collections.abc import Awaitable, Callable
from socket import create_server
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headcount.core import messages
from headcount.core.payload import Payload

from .asgi_client import (
    TRANSPORTS,
    WAYS,
    Client,
    EventStream,
    Site,
    Stream,
    WebSocket,
    asynchronous,
    problem,
    turn_until,
    turns,
)

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)

CallNext = Callable[[Request], Awaitable[Response]]


def news(number: int) -> Payload:
    return Payload(messages.application({"type": "news", "number": number}))


async def passes(request: Request, call_next: CallNext) -> Response:
    """Do nothing, the way `BaseHTTPMiddleware` does it: with tasks and streams of anyio."""
    return await call_next(request)


@every_way
@asynchronous
async def test_drain_tells_every_page_when_to_come_back_and_ends_its_stream(way: str) -> None:
    site = Site(way, reconnect_spread=5)
    closed: list[str] = []
    site.headcount.on_connection_close(lambda connection, reason: closed.append(reason))
    streams: list[EventStream] = [await site.stranger.open("sse") for _ in range(10)]
    sockets: list[WebSocket] = [await site.stranger.open("ws") for _ in range(10)]
    viewer = await site.admin.open("ws", "?viewer=1")
    await site.admin.watch(viewer)
    await site.headcount.drain()
    delays = []
    for stream in streams:
        await stream.ended()
        assert stream.complete
        delays.append((await stream.next("drain"))["reconnectMs"])
        assert f"retry: {delays[-1]}\n\n" in stream.text
        assert stream.text.endswith("\n\n")
    for socket in [*sockets, viewer]:
        assert (await socket.closed())[0] == 1012
        while (message := await socket.next())["type"] != "drain":
            pass
        delays.append(message["reconnectMs"])
        assert not socket.unread
    assert all(isinstance(delay, int) and 0 <= delay <= 5_000 for delay in delays)
    assert len(set(delays)) > 15, "they come back spread over time"
    assert max(delays) - min(delays) > 1_000
    assert closed == ["drain"] * 20
    assert not site.node.sessions


@every_way
@asynchronous
async def test_draining_server_takes_no_new_streams_and_still_answers(way: str) -> None:
    site = Site(way)
    await site.headcount.drain()
    await site.headcount.drain()
    answer = await site.stranger.get("/sse")
    problem(answer, 503, "going away")
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert (await site.stranger.ws().closed())[0] == 1012
    assert (await site.stranger.get("/health")).status == 200
    assert (await site.admin.get("/admin/stats")).json["total"] == 0


@asynchronous
async def test_server_whose_listener_was_closed_takes_no_new_streams_and_the_next_one_does() -> None:
    """On a connection that was open before: by the listener itself nobody can come any more."""

    class ByListener(Client):
        def scope(self, method: str, target: str, headers: Any = None) -> Scope:
            return {**super().scope(method, target, headers), "server": address}

    site = Site("alone")
    client = ByListener(site.app)
    with create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        await client.open("sse")
    problem(await client.get("/sse"), 503, "going away")
    assert (await client.ws().closed())[0] == 1012
    await site.stranger.open("ws")
    with create_server(address):
        await client.open("sse")


@both
@asynchronous
async def test_spread_of_nothing_brings_everybody_back_at_once(transport: str) -> None:
    site = Site(reconnect_spread=0)
    stream = await site.stranger.open(transport)
    await site.headcount.drain()
    assert (await stream.next("drain"))["reconnectMs"] == 0
    await stream.ended()


@both
@asynchronous
async def test_drain_from_within_a_hook_ends_that_stream_too(transport: str) -> None:
    site = Site()
    site.headcount.on_connection_open(lambda _: site.node.drain())
    stream = await site.stranger.open(transport)
    await stream.next("drain")
    await stream.ended()
    assert site.node.counters["closed:drain"] == 1


@every_way
@both
@asynchronous
async def test_server_that_cancels_a_stream_gets_its_cancellation_back(way: str, transport: str) -> None:
    site = Site(way)
    stream = await site.stranger.open(transport)
    stream.task.cancel()
    await asyncio.wait([stream.task])
    assert stream.task.cancelled()
    assert not site.node.sessions
    assert site.node.counters["closed:cancelled"] == 1


@both
@asynchronous
async def test_cancellation_that_meets_a_drain_is_not_swallowed(transport: str) -> None:
    for drain_first in (True, False):
        site = Site("alone")
        stream = await site.stranger.open(transport)
        if drain_first:
            await site.headcount.drain()
        stream.task.cancel()
        if not drain_first:
            await site.headcount.drain()
        await asyncio.wait([stream.task])
        assert stream.task.cancelled()
        assert not site.node.sessions


@both
@asynchronous
async def test_stream_that_was_ended_leaves_its_task_as_it_found_it(transport: str) -> None:
    """The task is the server's: what it awaits after the application must not be cancelled."""
    counts: list[int] = []

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        await site.headcount(scope, receive, send)
        task = asyncio.current_task()
        assert task is not None
        counts.append(task.cancelling())
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        counts.append(task.cancelling())

    site = Site("alone")
    stream = await Client(server).open(transport)
    await site.headcount.drain()
    await stream.ended()
    assert counts == [0, 0]


@both
@asynchronous
async def test_drain_and_disconnect_in_the_same_moment_end_it_once(transport: str) -> None:
    for peer_first in (True, False):
        site = Site("alone")
        closed: list[str] = []
        site.headcount.on_connection_close(lambda connection, reason: closed.append(reason))  # noqa: B023
        stream = await site.stranger.open(transport)
        if peer_first:
            stream.put(stream._disconnect())
        await site.headcount.drain()
        stream.put(stream._disconnect())
        await stream.ended()
        assert len(closed) == 1
        assert not site.node.sessions


@both
@asynchronous
async def test_end_that_somebody_in_between_swallows_comes_with_the_next_message(transport: str) -> None:
    async def forgetful(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_again() -> Message:
            try:
                return await receive()
            except asyncio.CancelledError:
                return {"type": f"{'http.request' if scope['type'] == 'http' else 'websocket.receive'}", "text": "ping"}

        await site.headcount(scope, receive_again, send)

    site = Site("alone")
    stream = await Client(forgetful).open(transport)
    await site.headcount.drain()
    await stream.ended()
    assert site.node.counters["closed:drain"] == 1
    assert [message["type"] for message in stream.received if message["type"] != "pong"] == ["connected", "drain"]


@both
@asynchronous
async def test_receive_that_fails_is_the_servers_error_and_leaves_no_ghost(transport: str) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        calls = 0

        async def receive_once() -> Message:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise OSError("the server is confused")
            return await receive()

        await site.headcount(scope, receive_once, send)

    site = Site("alone")
    stream: Stream = Client(failing).sse() if transport == "sse" else Client(failing).ws()
    assert stream.task is not None
    await asyncio.wait([stream.task])
    assert isinstance(stream.task.exception(), OSError)
    assert not site.node.sessions
    assert not site.node.timers.by_loop


@asynchronous
async def test_websocket_that_leaves_before_it_is_accepted_or_refused_is_no_error() -> None:
    site = Site("alone")
    for query in ("", "?version=%00"):
        socket = site.stranger.ws(query)
        socket.break_sending(OSError("gone"))
        await socket.ended()
    refused = site.stranger.ws(headers={"origin": "https://evil.example"})
    refused.break_sending(OSError("gone"))
    await refused.ended()
    assert not site.node.sessions


@both
@asynchronous
async def test_after_the_end_nothing_is_received_or_sent(transport: str) -> None:
    """Servers hang or complain when they are asked again after a disconnect (measured: hypercorn, uvicorn)."""
    late: list[str] = []

    async def strict(scope: Scope, receive: Receive, send: Send) -> None:
        over = False

        async def receive_strictly() -> Message:
            nonlocal over
            if over:
                late.append("receive")
            message = await receive()
            over = message["type"].endswith(".disconnect")
            return message

        async def send_strictly(message: Message) -> None:
            nonlocal over
            if over:
                late.append(str(message))
            over = message["type"] == "websocket.close" or message.get("more_body") is False
            await send(message)

        await site.headcount(scope, receive_strictly, send_strictly)

    site = Site("alone", stats_interval=0.001)
    client = Client(strict)
    for how in ("leave", "drain"):
        stream = await client.open(transport)
        viewer = await client.open(transport)
        if how == "leave":
            await stream.leave()
        else:
            await site.headcount.drain()
        await site.headcount.broadcast({"type": "news"})
        await viewer.leave()
        await turns()
    assert late == []


@asynchronous
async def test_body_that_comes_with_the_opening_request_is_ignored() -> None:
    site = Site("alone")
    stream = await site.stranger.open("sse")
    for _ in range(100):
        stream.put({"type": "http.request", "body": b"x" * 65_536, "more_body": True})
    await turn_until(lambda: stream.caught_up)
    assert not stream.done
    await site.headcount.broadcast({"type": "news"})
    await stream.next("news")


@pytest.mark.parametrize("way", ["mounted", "wrapped"])
@both
@asynchronous
async def test_everything_works_behind_http_middleware(way: str, transport: str, quick_ticks: None) -> None:
    site = Site(way, middleware=[passes, passes], stats_interval=0.001, keepalive_interval=0.01)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    page = await site.stranger.open("sse", "?keepalive=message")
    await figures.total(2)
    await site.stranger.navigate(page, "/on")
    await figures.until(lambda now: "/on" in now["routes"])
    await turn_until(lambda: page.keepalives > 2)
    await site.headcount.send(page.public, {"type": "news"})
    await page.next("news")
    await page.leave()
    await figures.total(1)
    await site.headcount.drain()
    await viewer.ended()
    assert viewer.received[-1]["type"] == "drain"
    assert not site.node.sessions


@both
@asynchronous
async def test_stream_that_ends_before_http_middleware_has_begun_it_leaves_nothing(transport: str) -> None:
    site = Site(middleware=[passes])
    stream: Stream = site.stranger.sse() if transport == "sse" else site.stranger.ws()
    stream.put(stream._disconnect())
    await stream.ended()
    await turns()
    assert not site.node.sessions


@both
@asynchronous
async def test_messages_from_a_bare_callback_and_from_another_thread_arrive(transport: str) -> None:
    """There is no current task in either, and middleware may ask for one."""
    site = Site(middleware=[passes])
    page = await site.stranger.open(transport)
    loop = asyncio.get_running_loop()
    loop.call_soon(site.node.commands.deliver, page.public, news(1))
    assert (await page.next("news"))["number"] == 1
    await asyncio.to_thread(site.node.commands.deliver, page.public, news(2))
    assert (await page.next("news"))["number"] == 2
    await asyncio.to_thread(site.node.notices.deliver_all, news(3))
    assert (await page.next("news"))["number"] == 3


class Locked:
    """Middleware whose `send` holds a lock of anyio, which belongs to a task."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        lock = anyio.Lock()

        async def send_locked(message: Message) -> None:
            async with lock:
                await send(message)

        await self._app(scope, receive, send_locked)


@both
@asynchronous
async def test_middleware_that_locks_its_send_gets_every_message(transport: str) -> None:
    site = Site(middleware=[Middleware(Locked)], stats_interval=0.001)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    for total in (2, 3):
        await site.stranger.open("sse")
        await figures.total(total)
    await site.headcount.drain()
    await viewer.ended()


@asynchronous
async def test_compressing_middleware_does_not_hold_messages_back() -> None:
    site = Site(middleware=[Middleware(GZipMiddleware, minimum_size=1)])
    stream = await site.stranger.open("sse", headers={"accept-encoding": "gzip"})
    await site.headcount.broadcast({"type": "news"})
    await stream.next("news")


@every_way
@asynchronous
async def test_middleware_that_would_compress_event_streams_keeps_no_compressor_for_one(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in brotli-asgi, which knows no event streams. Each open compressor takes half a megabyte there.
    monkeypatch.setattr("starlette.middleware.gzip.DEFAULT_EXCLUDED_CONTENT_TYPES", ())
    site = Site(way, middleware=[Middleware(GZipMiddleware, minimum_size=1)])
    stream = await site.stranger.open("sse", headers={"accept-encoding": "gzip, br"})
    assert stream.headers["content-encoding"] == "identity"
    assert '"type":"connected"' in stream.text


@every_way
@asynchronous
async def test_lifespan_is_served_or_handed_on(way: str) -> None:
    site = Site(way)
    sent: list[Any] = []
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    for kind in ("startup", "shutdown"):
        incoming.put_nowait({"type": f"lifespan.{kind}"})

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await site.app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, incoming.get, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
