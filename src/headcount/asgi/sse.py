"""A stream of Server-Sent Events."""

from functools import partial
from typing import Any

from starlette.types import Message, Receive, Send

from ..core import event_stream, messages
from ..core.messages import Payload
from ..node import Node
from ..session import End, Session
from .handover import SseOffer
from .opening import Opening
from .responses import Headers
from .session import AsgiSession


class SseSession(AsgiSession):
    """
    One `GET /sse`.

    Args:
        node: Whose stream it is.
        send: The server's, for this stream.
        counted: False for a viewer's own stream.
        visible_keepalives: The client cannot see comments and wants messages.
    """

    __slots__ = ("_visible_keepalives",)

    def __init__(self, node: Node, send: Send, *, counted: bool, visible_keepalives: bool) -> None:
        super().__init__(node, send, counted=counted)
        self._visible_keepalives = visible_keepalives

    def keepalive(self) -> None:
        """Send a comment, or the message that the client asked for."""
        self.transmit(_KEEPALIVE_MESSAGE if self._visible_keepalives else _KEEPALIVE_COMMENT)

    async def run(
        self,
        receive: Receive,
        connected: bytes,
        offer: SseOffer | None,
        opening: Opening,
        headers: Headers,
    ) -> None:
        """Serve the stream until either side ends it, or until the socket behind it is handed over."""
        if offer is not None:
            self._hand_over = partial(self._take, offer)
        # Not awaited: where this suspends, other streams would open meanwhile and be more than `max_connections`.
        self._put({"type": "http.response.start", "status": 200, "headers": [*event_stream.HEADERS, *headers]})
        await self._serve(receive, connected, _ignore, opening)

    def _take(self, offer: SseOffer, connected: Payload) -> Session | None:
        return offer.sse(
            self._node, self.id, connected, counted=self.counted, visible_keepalives=self._visible_keepalives
        )

    def _message(self, payload: Payload) -> dict[str, Any]:
        return {"type": "http.response.body", "body": payload.event, "more_body": True}

    def _farewell(self, end: End) -> list[dict[str, Any]]:
        body = b""
        if end.reconnect is not None:
            # For clients of ours, and for EventSource itself, which comes back after `retry`.
            body = event_stream.retry(end.reconnect) + event_stream.frame(messages.drain(end.reconnect))
        return [{"type": "http.response.body", "body": body, "more_body": False}]


def _ignore(message: Message) -> None:
    """Take no notice of a body, which no browser sends with GET."""


class _Comment(Payload):
    __slots__ = ()

    @property
    def event(self) -> bytes:
        return event_stream.KEEPALIVE


_KEEPALIVE_COMMENT = _Comment(b"")
_KEEPALIVE_MESSAGE = Payload(messages.KEEPALIVE)
