"""
A stream of Server-Sent Events over ASGI.

Tests: tests/asgi/test_streams.py, tests/asgi/test_slow_peers.py.
"""

from typing import Any, Final

from starlette.types import Message, Send

from ..core import event_stream
from ..core.ends import End
from ..core.payload import ARE_YOU_THERE, COMMENT, KEEPALIVE, Payload, sse_close
from .handover import SseOffer
from .responses import Headers
from .session import AsgiSession
from .stream_request import AdmittedStream

_FOR_MIDDLEWARE: Final = (b"content-encoding", b"identity")
"""
The application's middleware may compress, which takes up to 2 MB for each open stream. It leaves alone what names an
encoding, and does not read no-transform.
"""


class SseSession(AsgiSession):
    """
    One `GET /sse`.

    Args:
        send: The server's, for this stream.
        stream: As it was admitted.
    """

    __slots__ = ("_answers", "_visible_keepalives")

    def __init__(self, send: Send, stream: AdmittedStream) -> None:
        super().__init__(send, stream)
        self._visible_keepalives = stream.request.visible_keepalives
        self._answers = stream.request.answers

    def keepalive(self, ask: bool = False) -> bool:
        """Send a comment, the message that the client asked for, or the question whether it is there."""
        asked = ask and self._answers
        self.transmit(ARE_YOU_THERE if asked else KEEPALIVE if self._visible_keepalives else COMMENT)
        return asked

    def open(self, stream: AdmittedStream, offer: SseOffer | None, headers: Headers) -> bool:
        """
        Begin the response, send `connected` and enter the node.

        Returns:
            True: the caller must `serve()` now. False: the socket behind the stream has been handed over, and there is
            nothing more to do here.
        """
        # Nothing is awaited: where this suspends, other streams would open meanwhile and be more than
        # `max_connections`; the page may use its connectionId as soon as it has read it; and nobody may find this
        # stream before its client knows of it.
        head = [*event_stream.HEADERS, *headers]
        if offer is None or offer.behind_middleware:
            head.append(_FOR_MIDDLEWARE)
        self._put({"type": "http.response.start", "status": 200, "headers": head})
        connected = Payload(stream.connected)
        self.send(connected)
        if offer is not None and not self.busy:
            taken = offer.sse(self._parts, self.id, connected, stream.request)
            if taken is not None:
                self._over = True
                stream.enter(taken)
                return False
        stream.enter(self)
        return True

    def _message(self, payload: Payload) -> dict[str, Any]:
        return {"type": "http.response.body", "body": payload.event, "more_body": True}

    async def _send_close(self, end: End) -> None:
        await self._send({"type": "http.response.body", "body": sse_close(end), "more_body": False})


def ignore(message: Message) -> None:
    """Ignore a body, which no browser sends with GET."""
