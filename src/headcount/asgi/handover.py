"""
How a server offers Headcount the socket of a request, and how Headcount finds the offer.

The offer is an ASGI extension, so it passes through middleware like the rest of the scope, and a server that knows
nothing of it changes nothing: the stream then stays on the ASGI path.

Tests: tests/asgi/takeover/test_taking_over.py.
"""

from typing import Any, Final, Protocol, cast

from starlette.types import Scope

from ..authorization.deferred import MakeCheck
from ..core.payload import Payload
from ..node.node_parts import NodeParts
from ..node.session import Session
from .stream_request import StreamRequest

EXTENSION: Final = "headcount.handover"


class SseOffer(Protocol):
    """Offered with `GET {base}/sse`."""

    @property
    def behind_middleware(self) -> bool:
        """The response may pass the application's middleware on its way to the socket."""

    def sse(self, parts: NodeParts, public_id: str, connected: Payload, request: StreamRequest) -> Session | None:
        """
        Take the socket over, after the response's head and `connected` were sent the ASGI way.

        Args:
            parts: The node, and what belongs to it.
            public_id: Of the connection.
            connected: The first message.
            request: What the client says about the stream.

        Returns:
            The stream, which the caller must open in the node at once, and then return without sending anything more.
            None: what arrived at the socket is not just what was sent, so the stream stays where it is.
        """


class WebSocketOffer(Protocol):
    """Offered with a WebSocket on `{base}/ws`."""

    def websocket(self, parts: NodeParts, public_id: str, *, counted: bool, make_check: MakeCheck) -> Session | None:
        """
        Take the socket over, after the handshake was accepted the ASGI way.

        Returns:
            The stream, which the caller must tell `connected` and open in the node at once, and then return. None: it
            cannot be, so the stream stays where it is.
        """


def sse_offer(scope: Scope) -> SseOffer | None:
    """Return the offer that came with a request, or None."""
    return cast(SseOffer | None, _extension(scope))


def websocket_offer(scope: Scope) -> WebSocketOffer | None:
    """Return the offer that came with a handshake, or None."""
    return cast(WebSocketOffer | None, _extension(scope))


def _extension(scope: Scope) -> Any:
    return (scope.get("extensions") or {}).get(EXTENSION)
