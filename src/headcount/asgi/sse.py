"""A stream of Server-Sent Events."""

from typing import Any

from starlette.types import Message, Send

from ..core import event_stream
from ..core.ends import End
from ..core.payload import COMMENT, KEEPALIVE, Payload, sse_farewell
from ..node.listening_sockets import Listener
from ..node.node import Node
from .handover import SseOffer
from .responses import Headers
from .session import AsgiSession
from .stream_request import Opening


class SseSession(AsgiSession):
    """
    One `GET /sse`.

    Args:
        node: Whose stream it is.
        send: The server's, for this stream.
        public_id: Of the connection.
        counted: False for a viewer's own stream.
        visible_keepalives: The client cannot see comments and wants messages.
    """

    __slots__ = ("_visible_keepalives",)

    def __init__(self, node: Node, send: Send, public_id: str, *, counted: bool, visible_keepalives: bool) -> None:
        super().__init__(node, send, public_id, counted=counted)
        self._visible_keepalives = visible_keepalives

    def keepalive(self) -> None:
        """Send a comment, or the message that the client asked for."""
        self.transmit(KEEPALIVE if self._visible_keepalives else COMMENT)

    def open(
        self,
        connected: bytes,
        opening: Opening,
        listener: Listener | None,
        offer: SseOffer | None,
        headers: Headers,
    ) -> bool:
        """
        Begin the response, say `connected` and be counted.

        Returns:
            True: the caller must `serve()` now. False: the socket behind the stream has been handed over, and there is
            nothing more to do here.
        """
        # Nothing is awaited: where this suspends, other streams would open meanwhile and be more than
        # `max_connections`; the page may use its connectionId as soon as it has read it; and nobody may find this
        # stream before it has been told.
        self._put({"type": "http.response.start", "status": 200, "headers": [*event_stream.HEADERS, *headers]})
        told = Payload(connected)
        self.post(told)
        if offer is not None and not self.busy:
            stream = offer.sse(
                self._node, self.id, told, counted=self.counted, visible_keepalives=self._visible_keepalives
            )
            if stream is not None:
                self._over = True
                opening.open(self._node, stream, listener)
                return False
        opening.open(self._node, self, listener)
        return True

    def _message(self, payload: Payload) -> dict[str, Any]:
        return {"type": "http.response.body", "body": payload.event, "more_body": True}

    def _farewell(self, end: End) -> list[dict[str, Any]]:
        return [{"type": "http.response.body", "body": sse_farewell(end), "more_body": False}]


def ignore(message: Message) -> None:
    """Take no notice of a body, which no browser sends with GET."""
