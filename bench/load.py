"""
Load: many streams from one process, cheaply enough that the server is what is measured.

Each is a bare asyncio protocol. Pages count the bytes they are sent and look at the first only; viewers read.
"""

import asyncio
import base64
import json
import os
import re
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kit.frames import frame

P = TypeVar("P", bound="Peer")

BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "Accept: */*",
    "Accept-Language: en-GB,en;q=0.9",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cache-Control: no-cache",
    "Pragma: no-cache",
    "Cookie: session=Zm9yIHRoZSBiZW5jaG1hcmsgb25seSwgYSBzZXNzaW9u; theme=dark",
)
"""What a browser sends with every request, seven headers; that it costs the server something is part of the figures."""

_HANDLE = re.compile(rb'"connectionId":"([^"]+)"')


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us, and return how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Peer(asyncio.Protocol):
    """One open page. `opened` is done when the server has said `connected`."""

    def __init__(self, host: str, path: str, headers: Sequence[str]) -> None:
        self.received = 0
        """Bytes since the connection was made."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self.handle = ""
        """The secret connectionId."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *self.handshake(), *BROWSER, *headers]
        self._hello = ("\r\n".join(lines) + "\r\n\r\n").encode()

    def handshake(self) -> list[str]:
        """Further headers of the request."""
        return []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self.transport.write(self._hello)
        self._hello = b""

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self.opened.done() and (found := _HANDLE.search(data)):
            self.handle = found[1].decode()
            self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("the server closed the connection"))


class SsePeer(Peer):
    """An event stream."""


class WebSocketPeer(Peer):
    """A WebSocket."""

    def handshake(self) -> list[str]:
        key = base64.b64encode(os.urandom(16)).decode()
        return ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]

    def send(self, message: dict[str, object]) -> None:
        """Send one JSON message."""
        self.transport.write(frame(1, json.dumps(message, separators=(",", ":")).encode()))


class Viewer(WebSocketPeer):
    """A WebSocket that reads what it is sent."""

    def __init__(self, host: str, path: str, headers: Sequence[str]) -> None:
        super().__init__(host, path, headers)
        self.messages = 0
        """Of statistics, so far."""
        self.stats: dict[str, Any] = {}
        """Total, versions and routes as of the newest."""
        self.on_stats: Callable[[dict[str, Any]], None] = lambda _message: None
        self._unread = bytearray()
        self._upgraded = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._unread += data
        if not self._upgraded:
            _, separator, rest = self._unread.partition(b"\r\n\r\n")
            if not separator:
                return
            self._upgraded, self._unread = True, rest
        while (message := self._next()) is not None:
            if message["type"] in ("stats", "stats-delta"):
                self.messages += 1
                self._take(message)
                self.on_stats(message)

    def _next(self) -> dict[str, Any] | None:
        data = self._unread
        if len(data) < 2:
            return None
        length, begin = data[1], 2
        if length == 126:
            length, begin = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, begin = int.from_bytes(data[2:10], "big"), 10
        if len(data) < begin + length:
            return None
        text = bytes(data[begin : begin + length])
        opcode = data[0] & 0xF
        del data[: begin + length]
        message: dict[str, Any] = json.loads(text) if opcode == 1 else {"type": "control"}
        return message

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "stats":
            self.stats = {name: message[name] for name in ("total", "versions", "routes")}
            return
        self.stats["total"] = message["total"]
        for name in ("versions", "routes"):
            counts = self.stats[name]
            for label, count in message[name].items():
                if count:
                    counts[label] = count
                else:
                    counts.pop(label, None)


class Poster(asyncio.Protocol):
    """A kept-alive HTTP connection that POSTs one after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b'{"ok":true}') and self._answered is not None:
            self._answered.set_result(None)

    async def post(self, path: str, body: dict[str, object], headers: Sequence[str] = ()) -> None:
        """POST JSON, and wait for a yes."""
        content = json.dumps(body, separators=(",", ":"))
        lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json", *BROWSER, *headers]
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(
            ("\r\n".join([*lines, f"Content-Length: {len(content)}"]) + "\r\n\r\n" + content).encode()
        )
        async with asyncio.timeout(30):
            await self._answered

    def close(self) -> None:
        self._transport.abort()


async def open_peers(
    kind: type[P], port: int, count: int, path: str, headers: Sequence[str] = (), source: str | None = None
) -> list[P]:
    """Open `count` streams, a hundred at a time."""
    loop = asyncio.get_running_loop()
    peers: list[P] = []
    while len(peers) < count:
        made = await asyncio.gather(
            *(
                loop.create_connection(
                    lambda: kind(f"127.0.0.1:{port}", path, headers),
                    "127.0.0.1",
                    port,
                    local_addr=(source, 0) if source else None,
                )
                for _ in range(min(100, count - len(peers)))
            )
        )
        async with asyncio.timeout(60):
            await asyncio.gather(*(peer.opened for _, peer in made))
        peers += [peer for _, peer in made]
    return peers


def close_peers(peers: Sequence[Peer]) -> None:
    """Close all of them."""
    for peer in peers:
        peer.transport.abort()
