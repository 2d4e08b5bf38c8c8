"""Which requests become streams on the bare socket, and that all others are answered as ever."""

import asyncio
import gzip
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from headcount import Headcount

from .inside import BASE, Inside, Peer, frame, get, make, on_both_loops, post, running, sse, text, until, upgrade, ws
from .wire import Wire


def shop(headcount: Headcount, *middleware: Middleware, at: str | None = None) -> Starlette:
    """Make an application with a Headcount in it."""

    async def page(request: Request) -> Response:
        return PlainTextResponse("hello")

    async def echo(socket: WebSocket) -> None:
        await socket.accept(subprotocol=(socket.scope["subprotocols"] or [None])[0])
        while True:
            await socket.send_text((await socket.receive_text()).upper())

    return Starlette(
        routes=[
            Route("/", page),
            WebSocketRoute("/other/__skew/ws", echo),
            Mount(headcount.base_path if at is None else at, headcount),
        ],
        middleware=middleware,
    )


class Around:
    """Middleware that does something to each message sent."""

    def __init__(self, app: ASGIApp, do: Callable[[Message, Send], Awaitable[None]]) -> None:
        self.app = app
        self.do = do

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            await self.do(message, send)

        await self.app(scope, receive, sending)


async def works_sse(inside: Inside, peer: Peer) -> None:
    """Navigate by POST and see it in the figures."""
    other = await inside.ask(post("/route", {"connectionId": peer.handle, "route": "/moved"}))  # type: ignore[attr-defined]
    assert (await other.head()).startswith(b"HTTP/1.1 200 ")
    assert await other.read(11) == b'{"ok":true}'
    other.fin()
    assert dict(inside.headcount.node.figures.stats().routes) == {"/moved": 1}
    await inside.headcount.broadcast({"type": "hello"})
    assert await peer.event() == {"type": "hello"}


async def works_ws(inside: Inside, peer: Peer) -> None:
    peer.send(text({"type": "route-update", "route": "/moved"}) + text({"type": "ping"}))
    assert await peer.message() == {"type": "pong"}
    assert dict(inside.headcount.node.figures.stats().routes) == {"/moved": 1}
    await inside.headcount.broadcast({"type": "hello"})
    assert await peer.message() == {"type": "hello"}


@on_both_loops
async def test_streams_of_a_mounted_headcount_are_taken_over() -> None:
    headcount = make()
    async with running(headcount, shop(headcount)) as inside:
        peer = await sse(inside)
        assert (inside.taken, inside.over_asgi) == (1, 0)
        await works_sse(inside, peer)
        peer.fin()
        await inside.empty()
        peer = await ws(inside)
        assert (inside.taken, inside.over_asgi) == (1, 0)
        await works_ws(inside, peer)
        peer.fin()
        await inside.empty()


@on_both_loops
async def test_a_stream_is_taken_over_wherever_it_is_mounted_and_with_a_root_path() -> None:
    headcount = make()
    app = Starlette(routes=[Mount("/deep", shop(headcount))])
    async with running(headcount, app, root_path="/proxy") as inside:
        one, two = await sse(inside, f"/deep{BASE}/sse"), await ws(inside, f"/deep{BASE}/ws")
        assert (inside.taken, inside.over_asgi) == (2, 0)
        two.send(text({"type": "subscribe-stats"}))
        assert (await two.message())["total"] == 2
        one.fin()
        two.fin()
        await inside.empty()


@on_both_loops
async def test_two_headcounts_behind_one_protocol_are_both_taken_over() -> None:
    first, second = make(), make(version="second")
    app = Starlette(routes=[Mount("/second", shop(second)), Mount("/", shop(first))])
    async with running(first, app) as inside:
        peers = [
            *(await sse(inside), await ws(inside)),
            *(await sse(inside, f"/second{BASE}/sse"), await ws(inside, f"/second{BASE}/ws")),
        ]
        assert inside.taken == 2
        assert Inside(second, inside.server, inside.sock).taken == 2
        for peer in peers:
            peer.fin()
        await inside.empty()
        await until(lambda: not second.node.sessions)


@on_both_loops
async def test_a_websocket_of_the_application_whose_path_ends_like_ours_works_as_ever() -> None:
    headcount = make()
    async with running(headcount, shop(headcount)) as inside:
        for headers in ((), ("Sec-WebSocket-Protocol: one, two",)):
            peer = await inside.ask(upgrade("/other/__skew/ws", *headers))
            head = await peer.head()
            assert head.startswith(b"HTTP/1.1 101 "), head
            assert (b"sec-websocket-protocol: one\r\n" in head.lower()) == bool(headers)
            for word in (b"one", b"two" * 3_000):
                peer.send(frame(1, word))
                assert await peer.frame() == (1, word.upper())
            peer.send(frame(8, b"\x03\xe8"))
            assert (await peer.closed())[0] == 1000
            assert await peer.rest() == b""
        await inside.empty()


@on_both_loops
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_stranger_at_our_path_may_greet_wait_fail_and_return(caplog: pytest.LogCaptureFixture) -> None:
    async def stranger(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "headers": [(b"x-mine", b"1")]})
        match scope["query_string"]:
            case b"greet":
                await send({"type": "websocket.send", "text": "hello"})
                assert (await receive())["type"] == "websocket.disconnect"
            case b"wait":
                await asyncio.sleep(0.01)
                await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
            case b"fail":
                await receive()
                raise ValueError("on purpose")
            case b"return":
                return

    headcount = make()
    async with running(headcount, stranger) as inside:
        peer = await inside.ask(upgrade(f"{BASE}/ws?greet"))
        assert b"x-mine: 1\r\n" in (await peer.head()).lower()
        assert await peer.frame() == (1, b"hello")
        peer.fin()
        peer = await inside.ask(upgrade(f"{BASE}/ws?wait"))
        await peer.head()
        assert await peer.closed() == (4001, "enough")
        peer = await inside.ask(upgrade(f"{BASE}/ws?fail"))
        await peer.head()
        peer.send(frame(1, b"go"))
        await peer.rest()
        peer = await inside.ask(upgrade(f"{BASE}/ws?return"))
        await peer.head()
        await peer.rest()
        await inside.empty()
    assert "on purpose" in caplog.text


MESSAGES: dict[str, Callable[[Message, Send], Awaitable[None]]] = {}


def doing(do: Callable[[Message, Send], Awaitable[None]]) -> Callable[[Message, Send], Awaitable[None]]:
    MESSAGES[do.__name__] = do
    return do


@doing
async def waits(message: Message, send: Send) -> None:
    await asyncio.sleep(0.001)
    await send(message)


@doing
async def waits_afterwards(message: Message, send: Send) -> None:
    await send(message)
    await asyncio.sleep(0.001)


@doing
async def adds_a_cookie(message: Message, send: Send) -> None:
    if message["type"].endswith((".start", ".accept")):
        message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", b"seen=1")]}
    await send(message)


@doing
async def splits(message: Message, send: Send) -> None:
    if message["type"] == "http.response.body" and len(message["body"]) > 1:
        await send({**message, "body": message["body"][:5], "more_body": True})
        message = {**message, "body": message["body"][5:]}
    await send(message)


@doing
async def comes_first(message: Message, send: Send) -> None:
    await send(message)
    if message["type"] == "http.response.start":
        await send({"type": "http.response.body", "body": b":first\n\n", "more_body": True})


@doing
async def has_a_length(message: Message, send: Send) -> None:
    if message["type"] == "http.response.start":
        message = {**message, "headers": [*message["headers"], (b"content-length", b"1000000")]}
    await send(message)


TAKEN = {
    ("sse", "adds_a_cookie"),
    ("ws", "adds_a_cookie"),
    ("ws", "splits"),
    ("ws", "waits"),
    ("ws", "comes_first"),
    ("ws", "has_a_length"),
}


@pytest.mark.parametrize("how", MESSAGES)
@pytest.mark.parametrize("kind", ["sse", "ws"])
@on_both_loops
async def test_whatever_middleware_does_to_the_answer_the_stream_works(kind: str, how: str) -> None:
    headcount = make()
    app = shop(headcount, Middleware(Around, do=MESSAGES[how]))
    async with running(headcount, app) as inside:
        if kind == "ws":
            peer = await inside.ask(upgrade())
            head = await peer.head()
            assert (await peer.message())["type"] == "connected"
            await until(lambda: inside.taken + inside.over_asgi == 1)
            await works_ws(inside, peer)
        else:
            peer = await inside.ask(get())
            head = await peer.head()
            data = b""
            while b'"connectionId":"' not in data or not data.rstrip(b"\r\n").endswith(b"}"):
                data += await peer.read(1)
            assert data.count(b"connected") == 1
            await until(lambda: inside.taken + inside.over_asgi == 1)
        assert (b"set-cookie: seen=1" in head) == (how == "adds_a_cookie")
        assert (inside.taken == 1) == ((kind, how) in TAKEN)
        peer.fin()
        await inside.empty()


@on_both_loops
async def test_responses_that_are_compressed_or_relayed_stay_on_asgi_and_work() -> None:
    class Relay(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["x-relayed"] = "1"
            return response

    class Squeeze:
        """Compresses everything, event streams included, as middleware that does not know them."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def squeezing(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"content-encoding", b"gzip")]}
                elif message["body"]:
                    message = {**message, "body": gzip.compress(message["body"])}
                await send(message)

            await self.app(scope, receive, squeezing if scope["type"] == "http" else send)

    headcount = make()
    async with running(headcount, shop(headcount, Middleware(Relay))) as inside:
        peer = await sse(inside)
        await until(lambda: inside.over_asgi == 1)
        await works_sse(inside, peer)
        peer.fin()
        await inside.empty()
        assert inside.headcount.node.counters["closed:client"] == 1
    headcount = make()
    async with running(headcount, shop(headcount, Middleware(Squeeze))) as inside:
        peer = await inside.ask(get())
        assert b"content-encoding: gzip" in await peer.head()
        size = int(await peer.until(b"\r\n"), 16)
        assert b"connected" in gzip.decompress(await peer.read(size))
        assert (inside.taken, inside.over_asgi) == (0, 1)
        peer.fin()
        await inside.empty()
    headcount = make()
    async with running(headcount, shop(headcount, Middleware(GZipMiddleware))) as inside:
        peer = await sse(inside, f"{BASE}/sse", "Accept-Encoding: gzip")
        assert (inside.taken, inside.over_asgi) == (1, 0)
        await works_sse(inside, peer)
        peer.fin()
        await inside.empty()


@on_both_loops
async def test_middleware_that_buffers_the_whole_response_gets_no_stream_and_harms_nobody() -> None:
    class Hoard:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            held: list[Message] = []

            async def hold(message: Message) -> None:
                held.append(message)

            await self.app(scope, receive, hold if scope["type"] == "http" else send)
            for message in held if scope["type"] == "http" else ():
                await send(message)

    headcount = make()
    async with running(headcount, shop(headcount, Middleware(Hoard))) as inside:
        peer = await inside.ask(get())
        await until(lambda: inside.over_asgi == 1)
        assert inside.taken == 0
        peer.fin()
        await inside.empty()


@on_both_loops
async def test_middleware_that_fails_or_sends_more_once_the_stream_is_ours_does_not_touch_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Late:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)
            if scope["query_string"] == b"route=/more":
                if scope["type"] == "http":
                    await send({"type": "http.response.body", "body": b"more", "more_body": False})
                else:
                    await send({"type": "websocket.send", "text": "more"})
                    await send({"type": "websocket.close"})
            elif scope["query_string"]:
                raise ValueError("too late")

    headcount = make()
    async with running(headcount, shop(headcount, Middleware(Late))) as inside:
        for query in ("route=/more", "route=/fail"):
            peer = await sse(inside, f"{BASE}/sse?{query}")
            assert inside.taken == 1
            await until(lambda: not inside.state.tasks)
            await headcount.broadcast({"type": "hello"})
            assert await peer.event() == {"type": "hello"}
            peer.fin()
            await inside.empty()
            peer = await ws(inside, f"{BASE}/ws?{query}")
            assert inside.taken == 1
            await until(lambda: not inside.state.tasks)
            await works_ws(inside, peer)
            peer.fin()
            await inside.empty()
    assert caplog.text.count("too late") >= 2


@on_both_loops
async def test_middleware_that_refuses_or_fails_in_the_handshake_is_answered_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Gate:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            match scope["query_string"]:
                case b"route=/fail":
                    raise ValueError("on purpose")
                case b"route=/refuse":
                    await receive()
                    await send({"type": "websocket.close", "code": 1008})
                case b"route=/nothing":
                    return
                case b"route=/nonsense":
                    await send({"type": "websocket.send", "text": "too early"})
                case b"route=/split":
                    await send({"type": "websocket.accept", "headers": [(b"x", b"a\r\nset-cookie: b")]})
                case b"route=/receive":
                    await receive()
                    await receive()
                case _:
                    await self.app(scope, receive, send)

    headcount = make()
    async with running(headcount, shop(headcount, Middleware(Gate))) as inside:
        for query, status in {
            "/fail": 500, "/refuse": 403, "/nothing": 500, "/nonsense": 500, "/split": 500, "/receive": 500
        }.items():  # fmt: skip
            peer = await inside.ask(upgrade(f"{BASE}/ws?route={query}"))
            answer = await peer.rest()
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert b"set-cookie" not in answer
        peer = await ws(inside)
        peer.fin()
        await inside.empty()
    assert "on purpose" in caplog.text


@on_both_loops
async def test_a_peer_that_leaves_or_talks_while_middleware_takes_its_time_is_met_afterwards() -> None:
    go = asyncio.Event()

    class Slow:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await self.app(scope, receive, send)

    headcount = make()
    async with running(headcount, shop(headcount, Middleware(Slow))) as inside:
        request = {"ws": upgrade(), "sse": get()}
        left = [await inside.ask(request[kind]) for kind in ("ws", "sse", "ws", "sse")]
        talks = await inside.ask(upgrade())
        await until(lambda: len(inside.state.tasks) == 5)
        left[0].fin()
        left[1].fin()
        left[2].rst()
        left[3].rst()
        talks.send(text({"type": "ping"}))
        await asyncio.sleep(0.02)
        go.set()
        await talks.head()
        assert (await talks.message())["type"] == "connected"
        assert (await talks.message())["type"] == "pong"
        assert (inside.taken, inside.over_asgi) == (1, 0) or await _only(inside)
        talks.fin()
        await inside.empty()


async def _only(inside: Inside) -> bool:
    await until(lambda: len(inside.headcount.node.sessions) == 1)
    return True


KEY = "AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.mark.parametrize("app", [True, False], ids=["mounted", "alone"])
@pytest.mark.parametrize(
    "handshake",
    [
        upgrade("/__skew/%77s", key=KEY),
        upgrade("/__ske%77/ws", key=KEY),
        upgrade("/__skew/ws/", key=KEY),
        upgrade("/__skew/__skew/ws", key=KEY),
        upgrade("/__skew/ws", "Host: shop.example", key=KEY),
        upgrade("/__skew/ws", key=KEY).replace(b"HTTP/1.1", b"HTTP/2.0"),
    ],
    ids=["escape", "escape in the base", "slash", "base twice", "two hosts", "HTTP/2.0"],
)
@on_both_loops
async def test_a_handshake_of_another_form_opens_nothing(handshake: bytes, app: bool) -> None:
    """Neither a stream of ours nor a WebSocket of uvicorn's, which would read messages of 16 MiB."""

    async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("nothing", 404)(scope, receive, send)

    headcount = make()
    served: ASGIApp = shop(headcount) if app else headcount.wrap(nothing_else)
    async with running(headcount, served, wrapped_app=None if app else nothing_else) as inside:
        peer = await inside.ask(handshake)
        answer = await peer.reader.readline()
        assert re.fullmatch(rb"HTTP/1.1 40[034] .*\r\n", answer), answer
        assert not headcount.node.sessions
        peer.rst()
        await inside.empty()


@pytest.mark.parametrize("app", [True, False], ids=["mounted", "alone"])
@pytest.mark.parametrize(("host", "verdict"), [("evil.example", "stats-unauthorized"), ("localhost", "stats")])
@on_both_loops
async def test_a_page_that_was_rebound_to_this_machine_does_not_watch(host: str, verdict: str, app: bool) -> None:
    async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("nothing", 404)(scope, receive, send)

    headcount = make()
    served: ASGIApp = shop(headcount) if app else headcount.wrap(nothing_else)
    async with running(headcount, served, wrapped_app=None if app else nothing_else) as inside:
        name = f"{host}:{inside.port}"
        peer = await inside.ask(upgrade("/__skew/ws?viewer=1").replace(b"shop.example", name.encode()))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.message())["type"] == "connected"
        assert inside.taken == 1
        peer.send(text({"type": "subscribe-stats"}))
        assert (await peer.message())["type"] == verdict
        await page_over_sse(inside, name, verdict)
        peer.fin()
        await inside.empty()


async def page_over_sse(inside: Inside, name: str, verdict: str) -> None:
    stream = await inside.ask(get("/__skew/sse?viewer=1").replace(b"shop.example", name.encode()))
    await stream.head()
    handle = (await stream.event())["connectionId"]
    subscribe = post("/subscribe-stats", {"connectionId": handle}).replace(b"shop.example", name.encode())
    other = await inside.ask(subscribe)
    assert (await other.head()).startswith(b"HTTP/1.1 200 ")
    assert (await stream.event())["type"] == verdict
    other.fin()
    stream.fin()


@pytest.mark.parametrize("app", [True, False], ids=["mounted", "alone"])
@on_both_loops
async def test_requests_of_every_odd_form_are_answered_as_on_asgi(app: bool) -> None:
    """Compared with uvicorn's own class, byte for byte but for what is random."""

    requests = {
        "http/1.0": get(version="1.0"),
        "HEAD": get(method="HEAD"),
        "POST": get(method="POST", body=b""),
        "percent": get("/__skew/%73se"),
        "percent in the base": get("/%5f_skew/sse"),
        "base twice": get("/__skew/__skew/sse"),
        "ws percent": upgrade("/__skew/%77s", key="AAAAAAAAAAAAAAAAAAAAAA=="),
        "no host": get("/__skew/sse").replace(b"Host: shop.example\r\n", b""),
        "two hosts": get("/__skew/sse", "Host: shop.example"),
        "http/2.0": get("/__skew/sse", version="2.0"),
        "double slash": get("//__skew/sse"),
        "trailing slash": get("/__skew/sse/"),
        "dots": get("/__skew/../__skew/sse"),
        "bad label": get("/__skew/sse?version=" + "v" * 129),
        "twice": get("/__skew/sse?route=/a&route=/b"),
        "foreign": get("/__skew/sse", "Origin: https://evil.example"),
        "health": get("/__skew/health/../nothing"),
        "absolute": get("http://shop.example/__skew/sse"),
        "body": get("/__skew/sse", "Content-Length: 5", body=b"hello"),
        "chunked": get("/__skew/sse", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        "expect": get("/__skew/sse", "Content-Length: 5", "Expect: 100-continue"),
        "close": get("/__skew/sse", "Connection: close"),
        "post": post("/route", {"connectionId": "x", "route": "/a"}),
        "post expect": post("/route", {"connectionId": "x", "route": "/a"}, "Expect: 100-continue"),
        "post type": get("/__skew/route", "Content-Type: text/plain", "Content-Length: 2", method="POST", body=b"{}"),
        "post none": get("/__skew/route", method="POST"),
        "post long": post("/route", b"x" * 5_000),
        "post chunked": get("/__skew/route", "Transfer-Encoding: chunked", method="POST", body=b"2\r\n{}\r\n0\r\n\r\n"),
        "post 1.0": get("/__skew/route", "Content-Length: 2", method="POST", version="1.0", body=b"{}"),
        "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        "no version": b"GET /__skew/sse\r\n\r\n",
        "nul": get("/__skew/sse?\0"),
        "ws no key": get("/__skew/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        "ws version": get(
            "/__skew/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        "h2c": get("/__skew/sse", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"),
        "ws at sse": upgrade("/__skew/sse", key="AAAAAAAAAAAAAAAAAAAAAA=="),
        "ws elsewhere": upgrade("/__skew/nothing", key="AAAAAAAAAAAAAAAAAAAAAA=="),
        "no ws": get("/__skew/ws"),
        "other": get("/nothing/here"),
    }  # fmt: skip

    async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("nothing", 404)(scope, receive, send)

    async def answers(taking: bool) -> dict[str, bytes]:
        headcount = make()
        served: ASGIApp = shop(headcount) if app else headcount.wrap(nothing_else)
        protocol = None if taking else HttpToolsProtocol
        async with running(headcount, served, wrapped_app=None if app else nothing_else, protocol=protocol) as inside:
            peers = {name: await inside.ask(request) for name, request in requests.items()}
            found = dict(zip(peers, map(_plain, await asyncio.gather(*map(_all_of, peers.values()))), strict=True))
            for peer in peers.values():
                peer.rst()
            await inside.empty()
        return found

    async def _all_of(peer: Peer) -> bytes:
        """Read until nothing comes; a stream is open then, and the peer does not end it."""
        data = b""
        try:
            while True:
                async with asyncio.timeout(0.15):
                    piece = await peer.reader.read(65_536)
                if not piece:
                    return data + b"<end>"
                data += piece
        except TimeoutError:
            return data
        except ConnectionError:
            return data + b"<end>"

    def _plain(data: bytes) -> bytes:
        data = re.sub(rb'"connectionId":"[^"]*"|"timestamp":\d+|"uptime":[\d.]+', b"?", data)
        if not app:  # there, no middleware is between
            data = data.replace(b"content-encoding: identity\r\n", b"")
        return re.sub(rb"(?i)(date|server): [^\r]*\r\n", b"", data)

    expected, found = await answers(False), await answers(True)
    for name in requests:
        assert found[name] == expected[name], name


@on_both_loops
async def test_a_body_that_is_longer_than_the_server_reads_does_not_make_it_deaf() -> None:
    headcount = make()
    async with running(headcount, shop(headcount)) as inside:
        peer = await inside.ask(get(f"{BASE}/sse", "Content-Length: 1000000", body=b"x" * 200_000))
        await peer.head()
        assert (await peer.event())["type"] == "connected"
        peer.send(b"x" * 200_000)
        await peer.writer.drain()
        peer.fin()
        await inside.empty()


@pytest.mark.parametrize("alone", [False, True], ids=["mounted", "alone"])
@on_both_loops
async def test_requests_that_come_together_are_answered_in_order(alone: bool) -> None:
    headcount = make()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.03)
        await PlainTextResponse("slow")(scope, receive, send)

    app: ASGIApp = headcount.wrap(slow)
    async with running(headcount, app, wrapped_app=slow if alone else None, timeout_keep_alive=0.01) as inside:
        page = await sse(inside)
        handle = page.handle  # type: ignore[attr-defined]
        route = post("/route", {"connectionId": handle, "route": "/a"})
        peer = await inside.ask(
            route + get("/slow") + route + get(f"{BASE}/health") + get("/slow") + get(f"{BASE}/sse")
        )
        for length in (11, 4, 11):
            head = await peer.head()
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert b"content-length: %d\r\n" % length in head, head
            await peer.read(length)
        head = await peer.head()
        await peer.read(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        head = await peer.head()
        assert await peer.read(4) == b"slow"
        head = await peer.head()
        assert b"text/event-stream" in head
        assert (await peer.event())["type"] == "connected"
        # Far longer than the time that a server waits for the next request.
        await asyncio.sleep(0.05)
        await headcount.broadcast({"type": "hello"})
        assert await peer.event() == {"type": "hello"}
        peer.fin()
        page.fin()
        await inside.empty()


@pytest.mark.parametrize("alone", [False, True], ids=["mounted", "alone"])
@pytest.mark.parametrize("kind", ["sse", "ws"])
@on_both_loops
async def test_a_stream_that_is_asked_for_right_behind_a_post_outlives_the_wait_for_requests(
    kind: str, alone: bool
) -> None:
    headcount = make()

    async def wrapped_app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async with running(
        headcount, headcount.wrap(wrapped_app), wrapped_app=wrapped_app if alone else None, timeout_keep_alive=0.01
    ) as inside:
        page = await sse(inside)
        route = post("/route", {"connectionId": page.handle, "route": "/a"})  # type: ignore[attr-defined]
        peer = await inside.ask(route + (get() if kind == "sse" else upgrade()))
        if kind == "ws" and not alone:
            # Read before the POST is answered: then its answer and the handshake's could not be told apart.
            assert b"HTTP/1.1 400 " in await peer.rest()
            return
        assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
        await peer.read(11)
        await peer.head()
        await (peer.event() if kind == "sse" else peer.message())
        await asyncio.sleep(0.05)
        await headcount.broadcast({"type": "hello"})
        assert await (peer.event() if kind == "sse" else peer.message()) == {"type": "hello"}


@on_both_loops
async def test_what_comes_right_behind_the_request_for_a_stream_is_not_read_as_another() -> None:
    headcount = make()

    async def wrapped_app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    for second in (get(), upgrade(), post("/route", {}), get("/x" * 2_000)):
        async with running(headcount, headcount.wrap(wrapped_app), wrapped_app=wrapped_app) as inside:
            peer = await inside.ask(get() + second)
            await peer.head()
            assert (await peer.event())["type"] == "connected"
            assert len(headcount.node.sessions) == 1
            peer.send(second)
            await headcount.broadcast({"type": "hello"})
            assert await peer.event() == {"type": "hello"}
            peer.fin()
            await inside.empty()


@on_both_loops
async def test_a_path_that_is_no_ascii_is_refused_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    headcount = make()
    async with running(headcount, shop(headcount)) as inside:
        peer = await inside.ask(upgrade("/X/__skew/ws").replace(b"X", b"\xff"))
        await peer.rest()
        peer = await inside.ask(get("/X/__skew/sse").replace(b"X", b"\xff"))
        assert b" 400 " in await peer.rest()
        await inside.empty()
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]


@on_both_loops
async def test_the_log_tells_of_websockets_as_uvicorn_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")  # which a server in this process may have raised
    headcount = make()
    async with running(headcount, shop(headcount)) as inside:
        peer = await ws(inside, f"{BASE}/ws?route=/a")
        other = await inside.ask(upgrade(f"{BASE}/ws", "Origin: https://evil.example"))
        assert b" 403 " in await other.rest()
        peer.fin()
        await inside.empty()
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.error"]
    assert any(line.endswith(' - "WebSocket /__skew/ws?route=/a" [accepted]') for line in lines), lines
    assert any(line.endswith(' - "WebSocket /__skew/ws" 403') for line in lines), lines


@on_both_loops
async def test_a_server_at_its_limit_of_connections_refuses_streams_that_were_taken_over_count() -> None:
    headcount = make()
    async with running(headcount, shop(headcount), limit_concurrency=4) as inside:
        peers = [await sse(inside), await ws(inside), await sse(inside)]
        refused = await inside.ask(get())
        assert (await refused.head()).startswith(b"HTTP/1.1 503 ")
        refused.rst()
        peers[0].fin()
        await until(lambda: len(inside.state.connections) == 2)
        peers[0] = await sse(inside)
        assert inside.taken == 3
        for peer in peers:
            peer.fin()
        await inside.empty()


@on_both_loops
async def test_a_page_that_comes_back_to_a_full_server_is_noted_once() -> None:
    headcount = make(max_connections=1)

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("nothing", 404)(scope, receive, send)

    async with running(headcount, headcount.wrap(nothing), wrapped_app=nothing) as inside:
        page = await ws(inside, f"{BASE}/ws?reconnect=1")
        assert headcount.node.counters["reconnects"] == 1
        refused = await inside.ask(upgrade(f"{BASE}/ws?reconnect=1"))
        assert b" 101 " in await refused.head()
        assert (1013).to_bytes(2, "big") in await refused.rest()
        assert headcount.node.counters["reconnects"] == 2
        page.fin()
        await inside.empty()


@pytest.mark.parametrize("first", [True, False], ids=["the first streams", "not the first"])
@on_both_loops
async def test_a_server_stops_whatever_state_its_streams_are_in(first: bool) -> None:
    go = asyncio.Event()

    class Slow:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["query_string"] == b"route=/slow":
                await go.wait()
            await self.app(scope, receive, send)

    headcount = make()
    async with running(headcount, shop(headcount, Middleware(Slow))) as inside:
        peers = [] if first else [await sse(inside), await ws(inside)]
        slow = [await inside.ask(get(f"{BASE}/sse?route=/slow")), await inside.ask(upgrade(f"{BASE}/ws?route=/slow"))]
        half = [await inside.ask(get()[:-2]), await inside.ask(post("/route", {})[:-1]), await inside.connect()]
        await until(lambda: len(inside.state.tasks) == 3)
        stopping = asyncio.create_task(inside.server.shutdown(sockets=[inside.sock]))
        if peers:
            assert b"reconnectMs" in await peers[0].rest()
            assert (await peers[1].closed())[0] == 1012
        await asyncio.sleep(0.01)
        go.set()
        answer = await slow[0].rest()
        assert answer.startswith(b"HTTP/1.1 503 ") or b"reconnectMs" in answer, answer
        assert await slow[1].rest() == b""
        for peer in half:
            peer.fin()
        await asyncio.wait_for(stopping, 5)
        await inside.empty()


@pytest.mark.parametrize("behind", ["a request", "a WebSocket of ours", "another WebSocket"])
@on_both_loops
async def test_a_peer_that_asks_for_more_behind_an_event_stream_is_heard_to_leave(behind: str) -> None:
    headcount = make()
    more = {
        "a request": get(f"{BASE}/health"),
        "a WebSocket of ours": upgrade(),
        "another WebSocket": upgrade(f"{BASE}/other"),
    }
    async with running(headcount, shop(headcount)) as inside:
        peer = await inside.ask(get() + more[behind])
        if behind == "a request":
            await peer.head()
            await until(lambda: inside.over_asgi == 1)
            peer.fin()
        else:
            assert b"HTTP/1.1 400 " in await peer.rest()
        await inside.empty()


@on_both_loops
async def test_a_websocket_that_is_refused_while_its_peer_does_not_read_is_forgotten() -> None:
    headcount = make()
    config = uvicorn.Config(headcount, http=headcount.protocol, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    made: Callable[..., asyncio.Protocol] = headcount.protocol
    wire = Wire(asyncio.get_running_loop(), reads=False)
    wire.begin(lambda: made(config=config, server_state=state, app_state={}))
    wire.feed(get(f"{BASE}/health"))
    await until(lambda: wire.sent.endswith(b"}"))
    wire.feed(upgrade(f"{BASE}/ws?version=" + "v" * 129))
    await until(lambda: b"\x11\x30" in wire.sent, "it is closed with 4400")
    assert wire.waiting
    wire.leave()
    await until(lambda: not state.connections and not state.tasks)
    assert not headcount.node.timers.by_loop


@on_both_loops
async def test_who_asks_for_nothing_leaves_nothing_and_does_not_hold_up_the_end() -> None:
    headcount = make()
    app = headcount.wrap(_nobody)
    async with running(headcount, app, wrapped_app=_nobody) as inside:
        for data in (b"", b"G", get()[:-1]):
            peer = await inside.ask(data)
            await until(lambda: len(inside.state.connections) == 1)
            peer.fin()
            await inside.empty()
        silent = await inside.connect()
        await until(lambda: len(inside.state.connections) == 1)
        await asyncio.wait_for(inside.server.shutdown(sockets=[inside.sock]), 5)
        assert await silent.rest() == b""
        await inside.empty()


@pytest.mark.parametrize("kind", ["sse", "ws"])
@on_both_loops
async def test_a_request_that_comes_in_two_pieces_opens_the_same_stream(kind: str) -> None:
    headcount = make()
    app = headcount.wrap(_nobody)
    request = (get() if kind == "sse" else upgrade()).replace(b"\r\n\r\n", b"\r\nX-More: 1\r\n\r\n")
    async with running(headcount, app, wrapped_app=_nobody) as inside:
        answers = []
        for cut in (len(request), 1, len(request) // 2, len(request) - 1):
            peer = await inside.ask(request[:cut])
            await asyncio.sleep(0.01)
            peer.send(request[cut:])
            answers.append(sorted((await peer.head()).lower().splitlines()))
            assert (await (peer.event() if kind == "sse" else peer.message()))["type"] == "connected"
            assert inside.taken == 1
            peer.rst()
            await inside.empty()
        for answer in answers[1:]:
            assert _comparable(answer) == _comparable(answers[0])


def _comparable(lines: list[bytes]) -> list[bytes]:
    """Leave out what differs from request to request, and what is for middleware, which not each request passes."""
    differing = (b"date:", b"sec-websocket-accept:", b"content-encoding: identity")
    return [line for line in lines if not line.startswith(differing)]


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError
