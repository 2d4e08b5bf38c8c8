"""A WebSocket."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Scope, Send

from ..authorization.authorizer import AuthorizationCheck
from ..core import messages
from ..core.ends import End
from ..core.frames import cut_reason
from ..core.payload import KEEPALIVE, Payload, websocket_farewell
from ..node.listening_sockets import Listener
from ..node.node import Node
from .responses import Problem
from .session import AsgiSession
from .stream_request import Opening


class WebSocketSession(AsgiSession):
    """One WebSocket on `/ws`, accepted already."""

    __slots__ = ("_asking",)

    def __init__(self, node: Node, send: Send, public_id: str, *, counted: bool) -> None:
        super().__init__(node, send, public_id, counted=counted)
        self._asking: asyncio.Task[None] | None = None

    def keepalive(self) -> None:
        """Send a message: pages cannot see the protocol's own pings, and servers may have them switched off."""
        self.transmit(KEEPALIVE)

    def open(self, connected: bytes, opening: Opening, listener: Listener | None) -> None:
        """Say `connected` and be counted. The caller must `serve()` now."""
        # As in SseSession.open(), without a pause.
        self.post(Payload(connected))
        opening.open(self._node, self, listener)

    def take(self, make_check: Callable[[], AuthorizationCheck], message: Message) -> None:
        """
        Do what the peer asks.

        `make_check` is called when it wants to watch, because what it makes keeps the handshake's headers and address,
        and of most pages nobody needs them.
        """
        data = message.get("text")
        if data is None:
            data = message.get("bytes") or b""
        coroutine = self._node.handle(self, messages.decode(data), make_check)
        if coroutine is not None:
            # The answer may take long; meanwhile this task must notice when the peer leaves.
            self._asking = self.loop.create_task(coroutine)

    def _message(self, payload: Payload) -> dict[str, Any]:
        return {"type": "websocket.send", "text": payload.text}

    def _farewell(self, end: End) -> list[dict[str, Any]]:
        close = {"type": "websocket.close", "code": end.code, "reason": cut_reason(end.reason)}
        last = websocket_farewell(end)
        return [close] if last is None else [self._message(last), close]

    def _close(self, cause: str) -> None:
        super()._close(cause)
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None


def needs_handshake(scope: Scope) -> Problem:
    """Make the answer for an ordinary request to where the WebSocket is."""
    # HTTP/2 has no Upgrade, and forbids the header.
    headers = [(b"upgrade", b"websocket")] if scope.get("http_version", "1.1").startswith("1") else []
    return Problem(
        426,
        "This is the WebSocket's place: open it with a WebSocket client, by ws:// or wss:// and this path.",
        headers,
    )
