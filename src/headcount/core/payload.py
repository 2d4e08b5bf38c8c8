"""One encoded message in every framing that a transport wants, keepalives and last messages included."""

from typing import Final

from . import messages
from .ends import End
from .event_stream import KEEPALIVE as COMMENT_EVENT
from .event_stream import LAST_CHUNK, chunk, frame, retry
from .frames import close_frame, text_frame


class Payload:
    """
    One encoded message in the forms that transports want, each made once and shared by all who get it.

    JSON is what goes over the wire; the others only frame it: `event` and `text` for a server that does the rest,
    `event_chunk` and `text_frame` for a bare socket.
    """

    __slots__ = ("_event", "_event_chunk", "_text", "_text_frame", "json")

    def __init__(self, json: bytes) -> None:
        self.json = json
        self._event: bytes | None = None
        self._event_chunk: bytes | None = None
        self._text: str | None = None
        self._text_frame: bytes | None = None

    @property
    def event(self) -> bytes:
        """As an SSE frame."""
        if self._event is None:
            self._event = frame(self.json)
        return self._event

    @property
    def text(self) -> str:
        """As the text of a WebSocket frame."""
        if self._text is None:
            self._text = self.json.decode()
        return self._text

    @property
    def event_chunk(self) -> bytes:
        """As an SSE frame in a chunk of an HTTP/1.1 response."""
        if self._event_chunk is None:
            self._event_chunk = chunk(self.event)
        return self._event_chunk

    @property
    def text_frame(self) -> bytes:
        """As a WebSocket frame."""
        if self._text_frame is None:
            self._text_frame = text_frame(self.json)
        return self._text_frame


class _Comment(Payload):
    """A comment of SSE, which has no JSON."""

    __slots__ = ()

    @property
    def event(self) -> bytes:
        """As an SSE frame."""
        return COMMENT_EVENT


KEEPALIVE: Final = Payload(messages.KEEPALIVE)
"""For WebSockets, whose pages cannot see the protocol's own pings, and for SSE clients that cannot see comments."""

ARE_YOU_THERE: Final = Payload(messages.ARE_YOU_THERE)
"""For SSE clients that said that they answer it."""

COMMENT: Final = _Comment(b"")
"""The keepalive of an SSE stream."""


def sse_close(end: End) -> bytes:
    """Return the last events of an SSE stream; empty when the end names no delay."""
    if end.reconnect is None:
        return b""
    # `drain` is for our own clients, `retry` for a plain EventSource.
    return retry(end.reconnect) + frame(messages.drain(end.reconnect))


def sse_close_chunks(end: End) -> bytes:
    """Return the end of the chunked response that an SSE stream is."""
    events = sse_close(end)
    return (chunk(events) if events else b"") + LAST_CHUNK


def websocket_close(end: End) -> Payload | None:
    """Return the last message of a WebSocket, before its close frame; None when the end names no delay."""
    return None if end.reconnect is None else Payload(messages.drain(end.reconnect))


def websocket_close_frames(end: End) -> bytes:
    """Return the last frames of a WebSocket: the last message, if any, and the close frame."""
    last = websocket_close(end)
    return (b"" if last is None else last.text_frame) + close_frame(end.code, end.reason)
