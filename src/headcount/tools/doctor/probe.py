"""
Streams that record what arrives and when.

Tests: tests/cli/test_doctor.py.
"""

import asyncio
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self

import httpx2 as httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Origin

from ...client.access import NO_SOCKS, Access, unreachable
from ...client.event_reader import EventReader
from ...client.transport import HomeConnect
from ...core.ends import standard_code
from ...errors import ProtocolError

OPEN_TIMEOUT: Final = 10.0
"""Seconds."""

ENCODINGS: Final = "gzip, deflate, br, zstd"
"""Encodings that browsers accept. Only gzip and deflate are decoded here; of the others, the name is enough."""


MAX_BEGINNING: Final = 8_192
"""Bytes of a body that are kept, for an error in it."""


class Probe:
    """
    An open stream.

    Attributes:
        opened_at: Time of the request, in monotonic seconds, as all times here.
        messages: Received messages with their times.
        last_byte_at: Time of the last byte.
        ended_at: Time of the end; None: the stream is open.
        end: Reason of the end.
    """

    def __init__(self) -> None:
        self.opened_at = time.monotonic()
        self.messages: list[tuple[float, dict[str, Any]]] = []
        self.last_byte_at = self.opened_at
        self.pieces = 0
        self.ended_at: float | None = None
        self.end = ""
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    def find(self, *types: str) -> tuple[float, dict[str, Any]] | None:
        """Return the first message of one of these types, with its time."""
        return next((found for found in self.messages if found[1].get("type") in types), None)

    async def until(self, condition: Callable[[Self], object], timeout: float) -> bool:
        """Wait until a condition holds. Returns False if it did not hold in time or before the stream ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not condition(self):
                    if self.ended_at is not None:
                        return False
                    self._changed.clear()
                    await self._changed.wait()
                return True
        return bool(condition(self))

    def start(self, pieces: AsyncIterator[bytes | str]) -> None:
        """Start reading."""
        self._reading = asyncio.create_task(self._read(pieces))

    async def stop(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def receive(self, piece: bytes | str) -> None:
        """Process received bytes or text."""
        raise NotImplementedError

    def reason_of_end(self) -> str:
        """Return why the peer ended it, as far as it said."""
        return "the peer ended it"

    def record(self, text: str) -> None:
        """Record a text, if it is a message."""
        with suppress(ValueError):
            message = json.loads(text)
            if isinstance(message, dict):
                self.messages.append((time.monotonic(), message))

    async def _read(self, pieces: AsyncIterator[bytes | str]) -> None:
        try:
            async for piece in pieces:
                self.last_byte_at = time.monotonic()
                self.pieces += 1
                self.receive(piece)
                self._changed.set()
            self.end = self.reason_of_end()
        except ConnectionClosed:
            self.end = self.reason_of_end()
        except (httpx.HTTPError, ProtocolError, zlib.error) as error:
            self.end = str(error) or type(error).__name__
        finally:
            self.ended_at = time.monotonic()
            self._changed.set()


class EventStreamProbe(Probe):
    """A stream of Server-Sent Events. `encoding`: how a proxy compressed it; empty if none did."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.http_version = ""
        self.encoding = ""
        self.beginning = bytearray()
        """The first bytes of the body; all of a short one."""
        self._reader = EventReader()
        self._unpack: Any = None

    @property
    def readable(self) -> bool:
        """Whether the events can be decoded here."""
        return self.encoding in ("", "identity", "gzip", "deflate")

    def begin(self, response: "httpx.Response") -> None:
        """Record the head of the answer and start reading."""
        self.status = response.status_code
        self.headers = dict(response.headers)
        self.http_version = response.http_version
        self.encoding = self.headers.get("content-encoding", "").strip().lower()
        if self.encoding in ("gzip", "deflate"):
            self._unpack = zlib.decompressobj(wbits=47)
        self.start(response.aiter_raw())

    def receive(self, piece: bytes | str) -> None:
        """Decompress and read events."""
        assert isinstance(piece, bytes)
        if len(self.beginning) < MAX_BEGINNING:
            self.beginning += piece[:MAX_BEGINNING]
        if self.readable:
            for event in self._reader.feed(self._unpack.decompress(piece) if self._unpack else piece):
                self.record(event.data)


class WebSocketProbe(Probe):
    """
    A WebSocket.

    Attributes:
        refusal: Status of a refused handshake; 0: accepted, or no answer.
        kind: Media type of the refusal.
        failure: Why there was no answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refusal = 0
        self.kind = ""
        self.failure = ""
        self.compressed = False
        self.socket: ClientConnection | None = None

    def reason_of_end(self) -> str:
        """Return code and reason of the close."""
        code = None if self.socket is None else self.socket.close_code
        reason = (self.socket.close_reason or "") if self.socket is not None else ""
        return f"{code or 1006} {''.join(c for c in reason if c.isprintable())}".strip()

    @property
    def close_code(self) -> int:
        """Code with which the peer closed it; 1006: without one."""
        return 1006 if self.socket is None else standard_code(self.socket.close_code or 1006)

    def receive(self, piece: bytes | str) -> None:
        """Read a message."""
        self.record(piece if isinstance(piece, str) else piece.decode("utf-8", "replace"))


@asynccontextmanager
async def event_stream(
    base: str, access: Access, query: dict[str, str]
) -> AsyncIterator[tuple[EventStreamProbe, "httpx.AsyncClient"]]:
    """Open an SSE stream as a browser does. Raises what the HTTP library does."""
    async with access.http() as client:
        probe = EventStreamProbe()
        timeout = httpx.Timeout(OPEN_TIMEOUT, read=None)
        headers = {"accept": "text/event-stream", "accept-encoding": ENCODINGS}
        request = client.build_request("GET", f"{base}/sse", params=query, headers=headers, timeout=timeout)
        # If even the head is buffered, wait no longer than the user of a browser would.
        async with asyncio.timeout(OPEN_TIMEOUT):
            response = await client.send(request, stream=True)
        probe.begin(response)
        try:
            yield probe, client
        finally:
            await probe.stop()
            await response.aclose()


@asynccontextmanager
async def web_socket(
    base: str,
    access: Access,
    query: dict[str, str],
    page: Mapping[str, str] | None = None,
    open_timeout: float = OPEN_TIMEOUT,
) -> AsyncIterator[WebSocketProbe]:
    """Open a WebSocket as a browser does, or record why it does not open. `page`: headers of the page that opens it."""
    probe = WebSocketProbe()
    text = "&".join(f"{name}={value}" for name, value in query.items())
    try:
        probe.socket = await HomeConnect(
            f"ws{base.removeprefix('http')}/ws?{text}",
            additional_headers={
                **{name: value for name, value in access.headers.items() if name not in ("user-agent", "origin")},
                **{name: value for name, value in (page or {}).items() if name != "origin"},
            },
            origin=Origin(page["origin"]) if page and "origin" in page else None,
            ssl=access.tls(base),
            proxy=access.proxy or None,
            ping_interval=None,
            open_timeout=open_timeout,
            close_timeout=1,
        )
    except InvalidStatus as error:
        probe.refusal = error.response.status_code
        probe.kind = error.response.headers.get("content-type", "").partition(";")[0].strip()
    except ImportError:
        probe.failure = NO_SOCKS
    except (OSError, TimeoutError, WebSocketException) as error:
        probe.failure = unreachable(base, error, access.proxy)
    if probe.socket is None:
        yield probe
        return
    probe.compressed = bool(probe.socket.protocol.extensions)
    probe.start(aiter(probe.socket))
    try:
        yield probe
    finally:
        await probe.stop()
        await probe.socket.close()
