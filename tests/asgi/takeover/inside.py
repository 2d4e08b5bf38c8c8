"""
uvicorn in the test's own process and loop, so that a test can see what is inside, and peers that send raw bytes.

Both loops that uvicorn knows run every test (`on_both_loops`).
"""

import asyncio
import functools
import gc
import inspect
import json
import os
import socket
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp

from headcount import Headcount
from headcount.asgi.app import endpoints_of
from headcount.asgi.takeover.choose import protocol_class
from headcount.asgi.takeover.direct_sessions import DirectSession
from kit import frames, pages

PATIENCE = 10.0
BASE = "/__skew"
Test = Callable[..., Coroutine[Any, Any, None]]

until = functools.partial(pages.until, timeout=PATIENCE)


def on_both_loops(test: Test) -> Callable[..., None]:
    """Run a test in a loop of asyncio's and in one of uvloop's."""

    @pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def run(*args: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop], **kwargs: Any) -> None:
        async def timed() -> None:
            async with asyncio.timeout(9 * PATIENCE):  # a test of hypothesis computes for seconds
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(timed())

    # pytest looks for the arguments of the function that is wrapped, and `loop_factory` is none of them.
    own = [*inspect.signature(test).parameters.values()]
    loop = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    setattr(run, "__signature__", inspect.Signature([*own, loop]))  # noqa: B010  mypy does not know it of functions
    return run  # type: ignore[no-any-return]


def make(**settings: Any) -> Headcount:
    """Make a Headcount whose viewers all may watch."""
    headcount = Headcount(**{"version": "2026.11.3", "route_tracking": True, **settings})

    @headcount.authorize_stats
    async def anybody(request: Any) -> bool:
        return True

    return headcount


class Inside:
    """
    A running server.

    Attributes:
        headcount: Whose protocol it was given.
        state: uvicorn's, with `connections` and `tasks`.
        port: Where it listens.
    """

    def __init__(self, headcount: Headcount, server: uvicorn.Server, sock: socket.socket) -> None:
        self.headcount = headcount
        self.server = server
        self.state = server.server_state
        self.sock = sock
        self.port: int = sock.getsockname()[1]

    @property
    def taken(self) -> int:
        """Streams on the bare socket."""
        return sum(isinstance(session, DirectSession) for session in self.headcount.node.sessions.values())

    @property
    def over_asgi(self) -> int:
        """Streams that stayed where they were."""
        return len(self.headcount.node.sessions) - self.taken

    async def connect(self) -> "Peer":
        """Open a TCP connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Peer(reader, writer)

    async def ask(self, data: bytes) -> "Peer":
        """Open a TCP connection and send bytes."""
        peer = await self.connect()
        peer.send(data)
        return peer

    async def empty(self) -> None:
        """Wait until nothing is left of anybody: no stream, no connection, no task."""
        node = self.headcount.node
        await until(
            lambda: not (node.sessions or node.viewers.subscriptions or self.state.connections or self.state.tasks),
            "the server is empty",
        )


@asynccontextmanager
async def running(
    headcount: Headcount,
    app: ASGIApp,
    *,
    wrapped_app: ASGIApp | None = None,
    protocol: type[asyncio.Protocol] | None = None,
    **options: Any,
) -> AsyncIterator[Inside]:
    """Serve an application with the protocol of a Headcount; `wrapped_app` as in `protocol_class`."""
    # Small, so that it takes few messages until a peer that does not read holds up the server.
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    sock.bind(("127.0.0.1", 0))
    options = {"lifespan": "off", "log_config": None, "proxy_headers": False, **options}
    config = uvicorn.Config(app, http=protocol or protocol_class(endpoints_of(headcount), wrapped_app), **options)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    inside = Inside(headcount, server, sock)
    try:
        yield inside
    finally:
        for connection in list(inside.state.connections):
            connection.transport.abort() if hasattr(connection, "transport") else connection.shutdown()
        for listener in server.servers:
            listener.close()
        sock.close()
        for peer in list(_peers):
            peer.rst()
        await until(lambda: not headcount.node.sessions, "all streams are gone")


_peers: set["Peer"] = set()


class Peer:
    """One TCP connection of a client, and what came over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        _peers.add(self)

    def send(self, data: bytes) -> None:
        """Send bytes, unless the server has ended the connection: asyncio drops them then, and uvloop raises."""
        if not self.writer.transport.is_closing():
            self.writer.write(data)

    async def read(self, size: int) -> bytes:
        """Read exactly so many bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def until(self, end: bytes) -> bytes:
        """Read until something came."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(end)

    async def head(self) -> bytes:
        """Read the head of an answer."""
        return await self.until(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Read until the server closes; a reset is an end, too."""
        data = b""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    piece = await self.reader.read(65_536)
                except ConnectionError:
                    return data
                if not piece:
                    return data
                data += piece

    async def event(self) -> dict[str, Any]:
        """Read one SSE message in a chunk of its own."""
        while True:
            size = int(await self.until(b"\r\n"), 16)
            chunk = (await self.read(size + 2))[:-2]
            assert chunk.endswith(b"\n\n"), chunk
            if chunk.startswith(b"data: "):
                message: dict[str, Any] = json.loads(chunk[6:])
                return message

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame: opcode and payload."""
        first, size = await self.read(2)
        assert first & 0x70 == 0
        if size == 126:
            (size,) = struct.unpack("!H", await self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.read(8))
        return first & 15 if first & 0x80 else -(first & 15), await self.read(size)

    async def message(self) -> dict[str, Any]:
        """Read one WebSocket message."""
        opcode, data = await self.frame()
        assert opcode == 1, (opcode, data)
        message: dict[str, Any] = json.loads(data)
        return message

    async def closed(self) -> tuple[int, str]:
        """Read the close frame that comes next, after whatever messages; answer it; return code and reason."""
        while True:
            opcode, data = await self.frame()
            if opcode == 8:
                self.send(frame(8, data[:2]))
                return (int.from_bytes(data[:2], "big"), data[2:].decode()) if data else (1005, "")

    def fin(self) -> None:
        """Leave."""
        _peers.discard(self)
        self.writer.close()

    def rst(self) -> None:
        """Leave by a reset."""
        _peers.discard(self)
        sock = self.writer.get_extra_info("socket")
        if sock is not None and not self.writer.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def get(
    path: str = f"{BASE}/sse", *headers: str, version: str = "1.1", method: str = "GET", body: bytes = b""
) -> bytes:
    """Make a request."""
    lines = [f"{method} {path} HTTP/{version}", "Host: shop.example", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(path: str, body: Any, *headers: str) -> bytes:
    """Make a POST."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = ("Content-Type: application/json", f"Content-Length: {len(content)}", *headers)
    return get(BASE + path, *told, method="POST", body=content)


def upgrade(path: str = f"{BASE}/ws", *headers: str, key: str | None = None) -> bytes:
    """Make the request of a handshake."""
    own = key or b64encode(os.urandom(16)).decode()
    told = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {own}")
    return get(path, *told, *headers)


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bytes | None = b"\x12\x34\x56\x78") -> bytes:
    """Make one frame as clients do, whose masks change what they send."""
    return frames.frame(opcode, data, fin=fin, mask=mask)


def text(message: Any, **how: Any) -> bytes:
    """Make the frame of a JSON message."""
    return frame(1, json.dumps(message).encode(), **how)


async def sse(inside: Inside, path: str = f"{BASE}/sse", *headers: str) -> Peer:
    """Open an event stream; `connected` has been read and is in `handle`."""
    peer = await inside.ask(get(path, *headers))
    assert (await peer.head()).startswith(b"HTTP/1.1 200 ")
    peer.handle = (await peer.event())["connectionId"]  # type: ignore[attr-defined]
    return peer


async def ws(inside: Inside, path: str = f"{BASE}/ws", *headers: str) -> Peer:
    """Open a WebSocket; `connected` has been read."""
    peer = await inside.ask(upgrade(path, *headers))
    head = await peer.head()
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert (await peer.message())["type"] == "connected"
    return peer


async def garbage_of(work: Callable[[], Awaitable[None]], *kinds: str) -> list[str]:
    """
    Do something with the collector switched off; return the kinds of what only a collector would have freed.

    Only what is of one of `kinds` counts, or, without any, what is of Headcount's or uvicorn's making.
    """
    gc.collect()
    gc.disable()
    try:
        await work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [type(thing) for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in found]
    return sorted({name for name in names if name.startswith(kinds or ("headcount.", "uvicorn."))})
