"""
Load: many WebSockets from one process, cheaply enough that the server is what is measured.

Each is a bare asyncio protocol that counts the bytes it is sent and looks at none of them but the first.
"""

import asyncio
import base64
import json
import os
import resource
from collections.abc import Sequence

MASK = b"\x00\x00\x00\x00"
"""Clients must mask; with zeros the text stays as it is."""


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us, and return how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def frame(text: str) -> bytes:
    """Make a client's text frame."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + length + MASK + data


class Peer(asyncio.Protocol):
    """One WebSocket. `opened` is done when the server has said `connected`."""

    def __init__(self, host: str, path: str, headers: Sequence[str]) -> None:
        self.received = 0
        """Bytes since the handshake."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            *headers,
        ]
        self._hello = ("\r\n".join(lines) + "\r\n\r\n").encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self.opened.done() and b'"connected"' in data:
            self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def send(self, message: dict[str, object]) -> None:
        """Send one JSON message."""
        self.transport.write(frame(json.dumps(message, separators=(",", ":"))))


async def open_peers(port: int, count: int, path: str, headers: Sequence[str] = (), at_once: int = 200) -> list[Peer]:
    """Open `count` WebSockets, `at_once` at a time."""
    loop = asyncio.get_running_loop()
    peers: list[Peer] = []
    while len(peers) < count:
        some = min(at_once, count - len(peers))
        made = await asyncio.gather(
            *(
                loop.create_connection(lambda: Peer(f"127.0.0.1:{port}", path, headers), "127.0.0.1", port)
                for _ in range(some)
            )
        )
        await asyncio.gather(*(peer.opened for _, peer in made))
        peers += [peer for _, peer in made]
    return peers


def close_peers(peers: list[Peer]) -> None:
    """Close all of them."""
    for peer in peers:
        peer.transport.abort()
