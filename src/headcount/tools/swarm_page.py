"""
One page of the swarm: a bare asyncio protocol that parses little of what it receives, so that the load is the server's.

Tests: tests/cli/test_swarm.py.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from ..client.retry_after import parse_retry_after
from ..core.ends import standard_code
from ..core.reconnect import after_drain, is_refusal

_MASK: Final = b"\x00\x00\x00\x00"
"""Clients must mask frames; a mask of zeros leaves the text unchanged."""

_CONNECTED: Final = b'"type":"connected"'
_VERSION: Final = b'{"type":"version"'
_DRAIN: Final = b'{"type":"drain"'
_NOTICE: Final = re.compile(rb'"acknowledge":"([0-9a-f]{16})"')

_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A
"""First bytes of frames."""

_LEAVE: Final = bytes((_CLOSE, 0x82)) + _MASK + (1000).to_bytes(2, "big")
"""The close frame of a page that leaves."""

_MAX_TAIL: Final = 1_024
"""Received bytes that are kept, for a message that arrives in two pieces. Longer messages are not read."""


class Page(asyncio.Protocol):
    """
    One stream. `opened` is done when `connected` has come, `closed` when the stream is over.

    Args:
        request: Bytes of the HTTP request that opens it.
        rng: For the delay of a `drain` that names none.
        on_release: Called with the version of a release, and whether the server asks for replies to it.
        on_notice: Called with the id of a message that is to be acknowledged.
    """

    def __init__(
        self,
        request: bytes,
        rng: random.Random,
        on_release: Callable[[str, bool], None],
        on_notice: Callable[["Page", str], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.handle = ""
        self.opened_at = 0.0
        """When `connected` came, in monotonic time; 0: it has not."""
        self.ended_at: float | None = None
        """When the stream ended, in monotonic time; None: it has not."""
        self.received = 0
        self.return_at: float | None = None
        """When to open the next stream, as `drain` asked, in monotonic time; None: no `drain` has come."""
        self.code: int | None = None
        """The WebSocket's close code; None: none has come."""
        self.named = 0.0
        """Seconds of a Retry-After header; 0: there was none."""
        self.status = ""
        self.on_answer: Callable[[], object] | None = None
        """Called when the request is answered by a stream that may not have delivered yet."""
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._rng = rng
        self._on_release = on_release
        self._on_notice = on_notice
        self._tail = b""
        self._is_stream = True
        self._frames: bytearray | None = None
        """Received bytes of an incomplete WebSocket frame. None before the handshake is over, and for SSE."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self.status:
            self.status = data[:64].split(b"\r\n", 1)[0].decode("ascii", "replace")
            if " 101 " in self.status + " ":
                self._frames = bytearray(data.partition(b"\r\n\r\n")[2])
            elif " 200 " not in self.status + " ":
                self.named = _retry_after(data)
            elif not (kind := _kind(data)).startswith("text/event-stream"):
                self.status = f"HTTP/1.1 200 with {kind or 'no content type'}, not an event stream"
                self._is_stream = False
                self.close()
                return
            if self.on_answer is not None:
                self.on_answer()
        elif self._frames is not None:
            self._frames += data
        if self._frames:
            self._read_frames(self._frames)
        if data == b":\n\n" or len(data) < 8:
            return  # a keepalive
        text = self._tail + data
        if not self.opened.done():
            if _CONNECTED in text and (found := _string(text, b'"connectionId":"')) is not None:
                self.handle = found
                self.opened_at = time.monotonic()
                self.opened.set_result(None)
                self._tail = b""
                return
            if " 200 " not in self.status + " " and " 101 " not in self.status + " ":
                self.close()
        elif _VERSION in text and (release := _release(text[text.index(_VERSION) :])) is not None:
            self._tail = b""
            self._on_release(*release)
            return
        elif notices := _NOTICE.findall(text):
            self._tail = b""
            for notice in notices:
                self._on_notice(self, notice.decode())
            return
        elif _DRAIN in text and self.return_at is None:
            self._on_drain(text)
        self._tail = text[-_MAX_TAIL:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_at = time.monotonic()
        if not self.opened.done():
            words = self.status.partition(" ")[2] or (str(exc) if exc else "the server ended it at once")
            self.opened.set_exception(ConnectionError(words))
            self.opened.exception()  # retrieved, so that the loop does not log it if nothing awaits this future
        if not self.closed.done():
            self.closed.set_result(None)

    @property
    def refused(self) -> bool:
        """It was answered by something that is no stream, and will be again."""
        status = self.status.split(" ")[1:2]
        if not status or not status[0].isdecimal() or int(status[0]) < 200:
            return False
        return is_refusal(int(status[0])) and (status[0] != "200" or not self._is_stream)

    def _on_drain(self, text: bytes) -> None:
        """Leave when `drain` says, also when the server keeps the stream open."""
        reconnect = None
        with suppress(ValueError, IndexError):
            reconnect = int(text.split(b'"reconnectMs":', 1)[1].split(b"}", 1)[0]) / 1000
        delay = after_drain(reconnect, self._rng.random())
        self.return_at = time.monotonic() + delay
        asyncio.get_running_loop().call_later(delay, self.close)

    def _read_frames(self, frames: bytearray) -> None:
        """
        Answer pings, as every browser does, because the server ends a stream that does not; and read the close code.
        Drops the frames it has read.
        """
        start = 0
        while len(frames) - start >= 2:
            size, begin = frames[start + 1], start + 2
            if size > 125:
                long = 2 if size == 126 else 8
                size, begin = int.from_bytes(frames[begin : begin + long], "big"), begin + long
            if len(frames) < begin + size:
                break
            if frames[start] == _PING and self.transport is not None:
                self.transport.write(bytes((_PONG, 0x80 | size)) + _MASK + frames[begin : begin + size])
            elif frames[start] == _CLOSE and size >= 2:
                self.code = standard_code(int.from_bytes(frames[begin : begin + 2], "big"))
            start = begin + size
        del frames[:start]

    @property
    def is_websocket(self) -> bool:
        """It has opened as a WebSocket."""
        return self._frames is not None

    def leave(self) -> bool:
        """Close a WebSocket that is open as a page does that leaves. Returns False if this is none."""
        if self._frames is None or self.transport is None or self.transport.is_closing():
            return False
        self.transport.write(_LEAVE)
        self.transport.close()
        return True

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.abort()

    def send(self, message: Mapping[str, object]) -> None:
        """Send a WebSocket message."""
        data = json.dumps(message, separators=(",", ":")).encode()
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"\x81" + length + _MASK + data)


def _string(text: bytes, before: bytes) -> str | None:
    """Return the JSON string after `before`, without escapes; None if it is not complete."""
    start = text.find(before)
    end = text.find(b'"', start + len(before)) if start >= 0 else -1
    return text[start + len(before) : end].decode("utf-8", "replace") if end >= 0 else None


def _release(text: bytes) -> tuple[str, bool] | None:
    """Return the version of a release, and whether replies are asked for; None if the message is not complete."""
    try:
        message, _ = json.JSONDecoder().raw_decode(text.decode("utf-8", "replace"))
    except ValueError:
        return None
    version = message.get("version")
    return (version, message.get("reply") is True) if isinstance(version, str) else None


def _retry_after(head: bytes) -> float:
    """Return the seconds of the Retry-After header; 0 where there is none."""
    return parse_retry_after(_header(head, b"retry-after")) or 0.0


def _kind(head: bytes) -> str:
    """Return the media type of an answer; that of a stream where the head is not complete yet."""
    if b"\r\n\r\n" not in head:
        return "text/event-stream"
    return _header(head, b"content-type").partition(";")[0].strip().lower()


def _header(head: bytes, wanted: bytes) -> str:
    """Return the value of a header of an answer; "" where there is none."""
    for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == wanted:
            return "".join(character for character in value.decode("latin-1").strip() if character.isprintable())
    return ""
