"""A request whose upgrade is declined is read as if it had not asked for one: its body, and every request behind it."""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from headcount.asgi.app import endpoints_of
from headcount.asgi.takeover.choose import protocol_class

from .inside import BASE, get, make, on_both_loops, post, running, sse, text, until, ws
from .wire import Wire

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
"""As Java's HttpClient and `curl --http2` ask on each connection."""
DECLINED = (
    H2C,
    ("Connection: keep-alive, upgrade", "Upgrade: h2c, websocket"),
    ("Connection: upgrade", "Upgrade: TLS/1.3"),
    ("Connection: upgrade", "Upgrade: " + "h" * 2_000),
    ("Upgrade: websocket", "Upgrade: h2c", "Connection: upgrade", "Connection: x"),
    ("Connection: upgrade", "Upgrade: websocket"),
)
"""The last one is a handshake in a GET alone."""
REQUEST = get("/smuggled")
MARK = "X-Ask: 1"
"""In the place of what asks for an upgrade."""


def request(body: bytes = b"", *headers: str, path: str = "/read", method: str = "POST") -> bytes:
    """Make a request with a body of a known length and a mark."""
    return get(path, *headers, f"Content-Length: {len(body)}", MARK, method=method, body=body)


def chunked(body: bytes, path: str = "/read", sizes: int = 7) -> bytes:
    """Make a request with a body in chunks and a mark."""
    chunks = [body[start : start + sizes] for start in range(0, len(body), sizes)]
    coded = b"".join(b"%x;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: t\r\n\r\n"
    return get(path, "Transfer-Encoding: chunked", MARK, method="POST", body=coded)


def marked(data: bytes, ask: Sequence[str]) -> bytes:
    """Put headers in the place of each mark."""
    return data.replace(MARK.encode() + b"\r\n", "".join(line + "\r\n" for line in ask).encode())


class Seen:
    """An application that notes each request and what it read of it, and how the connection looked from outside."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.answers: list[bytes] = []
        self.closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        noted, body, more = len(self.requests), b"", scope["path"] != "/unread"
        self.requests.append((scope["method"], scope["path"], b""))
        while more:
            message: Message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            self.requests[noted] = (scope["method"], scope["path"], body)
        headers = [(b"content-length", b"2"), (b"x-path", scope["path"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return repr(vars(self))

    __hash__ = None  # type: ignore[assignment]


async def serve(pieces: Sequence[bytes], *, alone: bool = False, turns: int = 3) -> Seen:
    """Let packets arrive, one after so many turns of the loop, and return what came of them."""
    seen, headcount = Seen(), make()
    app = headcount.wrap(seen)
    protocol: Any = protocol_class(endpoints_of(headcount), seen if alone else None)
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, proxy_headers=False)
    config.load()
    state = ServerState()
    wire = Wire(asyncio.get_running_loop())
    wire.begin(lambda: protocol(config=config, server_state=state, app_state={}))
    for piece in pieces:
        await until(lambda: wire.reading or wire.closing)
        wire.feed(piece)
        for _ in range(turns):
            await asyncio.sleep(0)
    # What waits for more of a body waits for ever. Everything else has come to an end a few turns later.
    for _ in range(30):
        await asyncio.sleep(0)
    answers = re.sub(rb"(?i)(date|server): [^\r]*\r\n", b"", bytes(wire.sent))
    seen.answers, seen.closed = answers.split(b"HTTP/1.1 ")[1:], wire.closing
    wire.leave()
    await until(lambda: not state.tasks and not state.connections)
    return seen


def halves(data: bytes) -> list[list[bytes]]:
    """Cut data in two at every byte."""
    return [[data[:cut], data[cut:]] for cut in range(1, len(data))]


FORGED = json.dumps({"connectionId": "forged", "route": "/a"}).encode()
STREAMS = {
    "body": request(b"hello"),
    "no body": get("/read", MARK),
    "head": get("/read", MARK, method="HEAD"),
    "empty body": request(b""),
    "get with a body": request(REQUEST, method="GET"),
    "body like a request": request(REQUEST),
    "chunked": chunked(REQUEST),
    "requests behind": request(REQUEST) + request(b"two") + get("/read") + chunked(b"three") + get("/read", MARK),
    "unread": request(REQUEST, path="/unread") + chunked(REQUEST, path="/unread") + request(b"read"),
    "expect": request(b"hello", "Expect: 100-continue") + request(b"more"),
    "close": request(REQUEST, "Connection: close") + get("/read"),
    "incomplete": request(REQUEST)[:-1],
    "ours": post("/route", FORGED, MARK) + post("/route", FORGED) + get(f"{BASE}/no", MARK) + get("/read"),
}


def is_handshake(name: str, ask: Sequence[str]) -> bool:
    """Say whether a WebSocket is asked for as one must be."""
    marks_a_get = re.search(rb"GET [^\n]*\n([^\r]+\r\n)*X-Ask", STREAMS[name])
    return ask == DECLINED[-1] and marks_a_get is not None


@pytest.mark.parametrize("alone", [False, True], ids=["mounted", "alone"])
@pytest.mark.parametrize(
    ("name", "ask"), [(name, ask) for name in STREAMS for ask in DECLINED if not is_handshake(name, ask)]
)
@pytest.mark.anyio
async def test_it_is_read_as_without_the_header(name: str, ask: Sequence[str], alone: bool) -> None:
    expected = await serve([marked(STREAMS[name], ("Connection: x",))], alone=alone)
    assert "/smuggled" not in [path for _, path, _ in expected.requests]
    assert await serve([marked(STREAMS[name], ask)], alone=alone) == expected
    data = marked(STREAMS[name], ask)
    assert await serve([data[at : at + 1] for at in range(len(data))], alone=alone, turns=0) == expected


@pytest.mark.parametrize("turns", [0, 3], ids=["at once", "later"])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.anyio
async def test_it_is_read_as_without_the_header_wherever_packets_end(name: str, turns: int) -> None:
    expected = await serve([marked(STREAMS[name], ("Connection: x",))])
    for pieces in halves(marked(STREAMS[name], H2C)):
        assert await serve(pieces, turns=turns) == expected, pieces


FRAMINGS = (
    ["Content-Length: 5", "Content-Length: 5"],
    ["Content-Length: 5", "Content-Length: 6"],
    ["Content-Length: 5, 5"],
    ["Content-Length: +5"],
    ["Content-Length: -5"],
    ["Content-Length: 0x5"],
    ["Content-Length: 5 5"],
    ["Content-Length:"],
    ["Content-Length:  5  "],
    ["Content-Length: 5", " 6"],
    ["Content-Length: 99999999999999999999"],
    ["Content-Length : 5"],
    ["Content-Length: 5\rX: 1"],
    ["Content-Length: 5\nTransfer-Encoding: chunked"],
    ["Content-Length: 5", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: 5"],
    ["Transfer-Encoding: gzip"],
    ["Transfer-Encoding: gzip, chunked"],
    ["Transfer-Encoding: chunked, gzip"],
    ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: CHUNKED"],
    ["Transfer-Encoding: xchunked"],
    ["Transfer-Encoding: chunked;q=1"],
    ["Transfer-Encoding:\tchunked"],
    ["Transfer-Encoding: \vchunked"],
    ["Transfer_Encoding: chunked", "Content-Length: 5"],
    ["X: Content-Length: 5"],
)


@pytest.mark.parametrize("headers", FRAMINGS, ids=" ".join)
@pytest.mark.anyio
async def test_whatever_says_where_the_body_ends_says_so_with_the_header(headers: list[str]) -> None:
    for body in (b"hello" + REQUEST, b"5\r\nhello\r\n0\r\n\r\n" + REQUEST, REQUEST):
        data = get("/read", *headers, MARK, method="POST", body=body)
        head, _, rest = data.partition(b"\r\n\r\n")
        for cut in (len(rest), 0, 3):
            with_it, without = [
                await serve([marked(head + b"\r\n", ask) + b"\r\n" + rest[:cut], rest[cut:]])
                for ask in (H2C, ("Connection: x",))
            ]
            assert with_it == without, (body, cut)


@pytest.mark.parametrize("seed", range(200))
@pytest.mark.anyio
async def test_random_requests_in_random_packets_are_read_as_without_the_header(seed: int) -> None:
    chance = random.Random(seed)
    body = chance.choice([b"", b"x", REQUEST, REQUEST * 3, b"0\r\n\r\n" + REQUEST, marked(request(REQUEST), H2C)])
    kinds = [
        lambda: request(body, path=chance.choice(["/read", "/unread"])),
        lambda: chunked(body, sizes=chance.randint(1, 40)),
        lambda: get("/read", MARK),
        lambda: get("/read"),
        lambda: post("/route", FORGED, *chance.choice([(MARK,), ()])),
    ]
    plain = b"".join(chance.choice(kinds)() for _ in range(chance.randint(1, 6)))
    # As many bytes in the place of the mark, so that packets end at the same places.
    ask = "Connection: upgrade\r\nUpgrade: h2c"
    streams = [plain.replace(MARK.encode(), line.encode()) for line in (ask, "X: " + "y" * (len(ask) - 3))]
    cuts = sorted(chance.sample(range(1, len(streams[0])), min(len(streams[0]) - 1, chance.randint(0, 8))))
    pieces = [[stream[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)] for stream in streams]
    alone, turns = chance.random() < 0.5, chance.choice([0, 1, 5])
    with_it, without = [await serve(one, alone=alone, turns=turns) for one in pieces]
    assert with_it == without
    assert "/smuggled" not in [path for _, path, _ in with_it.requests]


@on_both_loops
async def test_a_body_above_the_high_water_mark_arrives_whole() -> None:
    size = 3_000_000
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            body, more = body + message["body"], message["more_body"]
            await asyncio.sleep(0)
        assert body == b"x" * size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    headcount = make()
    async with running(headcount, app) as inside:
        for data in (request(b"x" * size), chunked(b"x" * size, sizes=50_000)):
            peer = await inside.ask(marked(data, H2C))
            assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
            peer.fin()
        assert max(sizes) < 1_000_000, "reading is paused meanwhile"
        await inside.empty()


@pytest.mark.parametrize("alone", [False, True], ids=["mounted", "alone"])
@on_both_loops
async def test_streams_are_taken_over_and_their_posts_work(alone: bool) -> None:
    async def wrapped_app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    headcount = make()
    app = headcount.wrap(wrapped_app)
    async with running(headcount, app, wrapped_app=wrapped_app if alone else None) as inside:
        page = await sse(inside, f"{BASE}/sse", *H2C)
        assert inside.taken == 1
        peer = await inside.connect()
        for number in range(3):
            body = {"connectionId": page.handle, "route": f"/{number}"}  # type: ignore[attr-defined]
            peer.send(post("/route", body, *(H2C if number != 1 else ())))
            assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
            assert await peer.read(11) == b'{"ok":true}'
            assert dict(headcount.node.figures.stats().routes) == {f"/{number}": 1}
        await headcount.broadcast({"type": "hello"})
        assert await page.event() == {"type": "hello"}
        for one in (page, peer):
            one.fin()
        await inside.empty()


@on_both_loops
async def test_a_websocket_may_follow_on_the_same_connection() -> None:
    headcount = make()
    async with running(headcount, headcount) as inside:
        first = await ws(inside)
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
        shake = get(f"{BASE}/ws", "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
        peer = await inside.ask(post("/route", FORGED, *H2C))
        assert (await peer.head()).startswith(b"HTTP/1.1 404 ")
        await peer.until(b"}")
        peer.send(shake)
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.message())["type"] == "connected"
        peer.send(text({"type": "ping"}))
        assert await peer.message() == {"type": "pong"}
        for one in (first, peer):
            one.fin()
        await inside.empty()


@pytest.mark.parametrize("target", ["/read", "http://shop.example/read", "shop.example:80"])
@pytest.mark.anyio
async def test_connect_is_refused_and_nothing_behind_it_is_read(target: str) -> None:
    for ask in ((), H2C, ("Connection: upgrade", "Upgrade: websocket")):
        data = get(target, *ask, "Content-Length: 3", method="CONNECT")
        for pieces in ([data + REQUEST], [data, REQUEST]):
            seen = await serve(pieces)
            assert [answer[:4] for answer in seen.answers] == [b"400 "]
            assert seen.closed
            assert "/smuggled" not in [path for _, path, _ in seen.requests]
