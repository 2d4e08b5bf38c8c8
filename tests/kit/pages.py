"""
Pages and viewers over real TCP, small enough for thousands in one process.

They share no code with `headcount`: they read the wire as protocol/README.md has it, and add up deltas by themselves.
"""

import asyncio
import base64
import json
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlencode, urlsplit

from .frames import frame

T = TypeVar("T")
OUTLINE = ("connectionsTruncated", "nodes", "partial", "currentVersion", "release", "unaccounted", "absences")
"""Fields of figures that a delta has when they changed."""
BASE = "/__skew"

_open: "dict[Stream, asyncio.AbstractEventLoop]" = {}


class Stream(asyncio.Protocol):
    """
    One open stream, SSE or WebSocket.

    Attributes:
        messages: All that came, in order; `times` holds when.
        figures: What a viewer knows now: the last `stats` and the deltas since; None while it knows nothing.
        received: Bytes.
        comments: SSE comments that came.
        retries: SSE `retry:` values that came.
        close_code: WebSocket close code that came; 1006 when the stream ended without one.
        finished: The server ended the SSE stream as HTTP has it, with a last chunk.
        ended: The connection is gone.
        status: Of the answer to the request, once it is there.
    """

    scheme = ""

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.figures: dict[str, Any] | None = None
        self.received = 0
        self.comments = 0
        self.retries: list[int] = []
        self.close_code: int | None = None
        self.finished = False
        self.ended = False
        self.status: int | None = None
        self.transport: asyncio.Transport
        self.origin = ""
        """Of the server."""
        self._path = path
        self._headers = headers
        self._buffer = bytearray()
        self._waiting: list[tuple[Callable[[Any], bool], asyncio.Future[None]]] = []

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        cookie: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        source: str | None = None,
        receive_buffer: int | None = None,
        inside: Callable[[], AbstractContextManager[None]] = nullcontext,
        **query: Any,
    ) -> Self:
        """
        Connect and wait for `connected`.

        Args:
            url: Origin of the server.
            cookie: The whole header.
            token: A bearer token.
            headers: Further ones.
            source: Address of this machine to connect from.
            receive_buffer: SO_RCVBUF, for peers that do not read.
            inside: Where the socket is made, for peers in a network namespace.
            query: Of the URL.
        """
        stream = await cls.start(
            url,
            cookie=cookie,
            token=token,
            headers=headers,
            source=source,
            receive_buffer=receive_buffer,
            inside=inside,
            **query,
        )
        try:
            await stream.until(lambda s: bool(s.messages) or s.ended or s.status not in (None, 101, 200))
            assert stream.messages, f"refused: {stream.status} {stream.close_code}"
            assert stream.messages[0]["type"] == "connected", stream.messages
        except BaseException:
            stream.transport.abort()  # the caller does not have it, so a slow server would count it for ever
            raise
        return stream

    @classmethod
    async def start(
        cls,
        url: str,
        *,
        cookie: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        source: str | None = None,
        receive_buffer: int | None = None,
        inside: Callable[[], AbstractContextManager[None]] = nullcontext,
        **query: Any,
    ) -> Self:
        """Connect and send the request; what comes, comes."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        lines = {"Host": parts.netloc, "User-Agent": "page", **(headers or {})}
        if cookie is not None:
            lines["Cookie"] = cookie
        if token is not None:
            lines["Authorization"] = f"Bearer {token}"
        path = f"{BASE}/{cls.scheme}?{urlencode(query)}"
        with inside():
            sock = socket.socket()
        try:
            sock.setblocking(False)
            if source is not None:
                sock.bind((source, 0))
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (parts.hostname, parts.port))
            _, stream = await loop.create_connection(lambda: cls(path, lines), sock=sock)
            stream.origin = url
        except BaseException:
            sock.close()
            raise
        if stream.ended:
            # The server was killed in the middle of the handshake. uvloop had closed the descriptor before it took hold
            # of the object, which would close the same number again, whoever has it by then.
            sock.detach()
        return stream

    @property
    def handle(self) -> str:
        """The secret `connectionId`."""
        handle: str = self.messages[0]["connectionId"]
        return handle

    def of_type(self, name: str) -> list[dict[str, Any]]:
        """Return the messages of one type."""
        return [message for message in self.messages if message["type"] == name]

    async def until(self, condition: Callable[[Self], bool], timeout: float = 30) -> Self:
        """Wait until something holds; it is looked at again whenever something came."""
        if not condition(self):
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((condition, future))
            try:
                await asyncio.wait_for(future, timeout)
            except TimeoutError:
                raise AssertionError(
                    f"not within {timeout:g} s; status {self.status}, close code {self.close_code}, "
                    f"ended {self.ended}, figures {_short(self.figures)}, last {_short(self.messages[-2:])}"
                ) from None
        return self

    async def until_figures(self, pages: Iterable[tuple[str, str]], timeout: float = 30) -> None:
        """Wait until this viewer's figures are exactly those of the given `(version, route)` pages."""
        expected = figures_of(pages)
        try:
            await self.until(lambda s: s.counts == expected, timeout)
        except AssertionError as error:
            raise AssertionError(f"figures are {_short(self.counts)}, not {_short(expected)}: {error}") from None

    @property
    def counts(self) -> dict[str, Any] | None:
        """Total, versions and routes as this viewer knows them."""
        if self.figures is None:
            return None
        return {name: self.figures[name] for name in ("total", "versions", "routes")}

    async def leave(self) -> None:
        """Leave as a browser's page does that is closed: with a farewell."""
        if self.messages:
            with suppress(OSError):
                await ask(self.origin, "POST", BASE + "/bye", {"connectionId": self.handle})
        self.transport.close()

    def fin(self) -> None:
        """Leave as a browser does that closes a tab: without a word, by FIN."""
        self.transport.close()

    def rst(self) -> None:
        """Leave by RST, as the kernel of a process that was killed with unread data."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:  # else the server has ended it, such as a viewer's without a right
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def half_close(self) -> None:
        """Say that nothing more will come, and go on reading."""
        self.transport.write_eof()

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read what has come meanwhile, and what comes."""
        # Through a small window it would take seconds.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        _open[self] = asyncio.get_running_loop()
        lines = [f"GET {self._path} HTTP/1.1", *(f"{name}: {value}" for name, value in self._request_headers().items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._buffer += data
        if self.status is None:
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            self.status = int(head.split(b" ", 2)[1])
            self._buffer[:] = rest
        if self.status in (101, 200):
            self._read()
        self._wake_waiting()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        _open.pop(self, None)
        if self.close_code is None:
            self.close_code = 1006
        self._wake_waiting()

    def _request_headers(self) -> dict[str, str]:
        return self._headers

    def _read(self) -> None:
        raise NotImplementedError

    def _wake_waiting(self) -> None:
        for waiting in list(self._waiting):
            condition, future = waiting
            if future.done():
                self._waiting.remove(waiting)
            elif condition(self):
                self._waiting.remove(waiting)
                future.set_result(None)

    def _on_message(self, text: bytes) -> None:
        message = json.loads(text)
        self.messages.append(message)
        self.times.append(time.monotonic())
        match message["type"]:
            case "stats":
                self.figures = message
            case "stats-delta":
                assert self.figures is not None, "a delta before the first stats"
                assert message["base"] == self.figures["revision"], "a delta that does not follow the message before it"
                self.figures = apply_delta(self.figures, message)
            case "stats-unauthorized":
                self.figures = None


class Sse(Stream):
    """A stream of server-sent events."""

    scheme = "sse"

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        super().__init__(path, {**headers, "Accept": "text/event-stream"})
        self._events = bytearray()

    async def post(self, url: str, path: str, cookie: str | None = None, **body: Any) -> int:
        """POST for this stream; returns the status."""
        headers = {} if cookie is None else {"Cookie": cookie}
        status, _ = await ask(url, "POST", BASE + path, {"connectionId": self.handle, **body}, headers)
        return status

    async def subscribe(self, url: str, cookie: str | None = None, *, deltas: bool = True) -> None:
        """Ask for statistics."""
        assert await self.post(url, "/subscribe-stats", cookie, deltas=deltas) == 200

    async def navigate(self, url: str, route: str) -> None:
        """Show another route."""
        assert await self.post(url, "/route", route=route) == 200

    def _read(self) -> None:
        while not self.finished:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                break
            size = int(self._buffer[:end].partition(b";")[0], 16)
            if len(self._buffer) < end + 2 + size + 2:
                break
            self._events += self._buffer[end + 2 : end + 2 + size]
            self.finished = size == 0
            del self._buffer[: end + 2 + size + 2]
        while (end := self._events.find(b"\n\n")) >= 0:
            for line in bytes(self._events[:end]).split(b"\n"):
                field, _, value = line.partition(b":")
                if field == b"data":
                    self._on_message(value)
                elif field == b"retry":
                    self.retries.append(int(value))
                elif field == b"":
                    self.comments += 1
            del self._events[: end + 2]


class WebSocket(Stream):
    """A WebSocket. Its mask is zero, which is a mask like any other and leaves the bytes as they are."""

    scheme = "ws"

    def send(self, message: Any) -> None:
        """Send a JSON message."""
        self.transport.write(frame(1, json.dumps(message).encode()))

    async def subscribe(self, url: str, cookie: str | None = None, *, deltas: bool = True) -> None:
        """Ask for statistics. The cookie is the handshake's."""
        self.send({"type": "subscribe-stats", "deltas": deltas})

    async def navigate(self, url: str, route: str) -> None:
        """Show another route."""
        self.send({"type": "route-update", "route": route})

    def send_close(self) -> None:
        """Leave properly."""
        self.transport.write(frame(8, struct.pack("!H", 1000)))

    def _request_headers(self) -> dict[str, str]:
        return {
            **self._headers,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        }

    def _read(self) -> None:
        buffer = self._buffer
        while len(buffer) >= 2:
            opcode, size, start = buffer[0] & 15, buffer[1], 2
            if size > 125:
                start = 4 if size == 126 else 10
                if len(buffer) < start:
                    return
                size = int.from_bytes(buffer[2:start], "big")
            if len(buffer) < start + size:
                return
            assert buffer[0] & 0x80, "the server fragments messages, which this peer cannot read"
            body = bytes(buffer[start : start + size])
            del buffer[: start + size]
            if opcode == 1:
                self._on_message(body)
            elif opcode == 8:
                self.close_code = struct.unpack("!H", body[:2])[0] if body else 1005
                self.transport.write(frame(8, body[:2]))
            elif opcode == 9:
                self.transport.write(frame(10, body))


def figures_of(pages: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Count `(version, route)` pages afresh."""
    pages = list(pages)
    return {
        "total": len(pages),
        "versions": dict(Counter(version for version, _ in pages)),
        "routes": dict(Counter(route for _, route in pages)),
    }


def apply_delta(figures: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """Return figures with a delta added, as a client has to."""
    rows = {row["id"]: row for row in figures["connections"] if row["id"] not in delta["connections"]["remove"]}
    rows.update({row["id"]: row for row in delta["connections"]["set"]})
    return {
        **figures,
        **{name: delta[name] for name in ("revision", "total")},
        **{name: delta[name] for name in OUTLINE if name in delta},
        **{
            name: {label: count for label, count in {**figures[name], **delta[name]}.items() if count}
            for name in ("versions", "routes")
        },
        "connections": list(rows.values()),
    }


def history(viewer: Stream) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield the figures that a viewer had, one after the other, and when they came."""
    now: dict[str, Any] = {}
    for moment, message in zip(viewer.times, viewer.messages, strict=True):
        if message["type"] == "stats":
            now = message
        elif message["type"] == "stats-delta":
            now = apply_delta(now, message)
        else:
            continue
        yield moment, now


async def ask(
    url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Send one request on a connection of its own; returns status and decoded JSON (or None)."""
    parts = urlsplit(url)
    content = b"" if body is None else json.dumps(body).encode()
    told = {
        "Host": parts.netloc,
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + content)
            head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    if not head:
        raise EOFError("the server closed the connection without an answer")
    return int(head.split(b" ", 2)[1]), json.loads(answer) if b"json" in head.lower() else None


async def all_of(jobs: Iterable[Coroutine[Any, Any, T]], at_once: int = 64) -> list[T]:
    """Run jobs, a bounded number at a time, and return their results in order."""
    limit = asyncio.Semaphore(at_once)

    async def one(job: Coroutine[Any, Any, T]) -> T:
        async with limit:
            return await job

    return await asyncio.gather(*map(one, jobs))


async def everybody_leaves(*, politely: bool = False) -> None:
    """Close every stream that is still open; politely: with a farewell, so that none of them is away after that."""
    if politely:
        await all_of([stream.leave() for stream, loop in list(_open.items()) if not loop.is_closed()])
    for stream, loop in list(_open.items()):
        if loop.is_closed():  # left by a test that failed; its loop took the connection with it
            del _open[stream]
        else:
            stream.transport.abort()
    await until(lambda: not _open, "closing our own streams")


async def until(condition: Callable[[], object], what: str = "a condition holds", timeout: float = 30) -> None:
    """Wait for something that only asking again can tell."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, 0.005)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 600 else text[:600] + "…"
