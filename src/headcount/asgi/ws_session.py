"""
A WebSocket over ASGI.

Tests: tests/asgi/test_streams.py, tests/asgi/test_abuse.py.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Scope, Send

from ..authorization.authorizer import AuthorizationCheck
from ..core import messages
from ..core.ends import End, private_code
from ..core.frames import cut_reason
from ..core.payload import KEEPALIVE, Payload, websocket_close
from .responses import Problem
from .session import AsgiSession
from .stream_request import AdmittedStream


class WebSocketSession(AsgiSession):
    """
    One WebSocket on `/ws`, accepted already.

    Args:
        send: The server's, for this stream.
        stream: As it was admitted.
    """

    __slots__ = ("_deciding",)

    def __init__(self, send: Send, stream: AdmittedStream) -> None:
        super().__init__(send, stream)
        self._deciding: asyncio.Task[None] | None = None

    def keepalive(self, ask: bool = False) -> bool:  # noqa: ARG002
        """Send a message: pages cannot see the protocol's own pings, and servers may have them off."""
        self.transmit(KEEPALIVE)
        return False

    def open(self, stream: AdmittedStream) -> None:
        """Send `connected` and enter the node. The caller must `serve()` now."""
        # As in SseSession.open(), nothing is awaited.
        self.send(Payload(stream.connected))
        stream.enter(self)

    def on_message(self, make_check: Callable[[], AuthorizationCheck], message: Message) -> None:
        """
        Receive one message of the peer.

        `make_check` makes the check of the right to watch. It is called when the peer subscribes, because a check keeps
        the handshake's headers and address, and most pages never need one. It is not kept here for the same reason.
        """
        data = message.get("text")
        if data is None:
            data = message.get("bytes") or b""
        coroutine = self._node.on_message(self, messages.decode(data), make_check)
        if coroutine is not None:
            # The answer may take long; meanwhile this task must notice when the peer leaves.
            self._deciding = self.loop.create_task(coroutine)

    def _message(self, payload: Payload) -> dict[str, Any]:
        return {"type": "websocket.send", "text": payload.text}

    async def _send_close(self, end: End) -> None:
        last = websocket_close(end)
        if last is not None:
            await self._send(self._message(last))
        await send_close(self._send, end)

    def _close(self, cause: str, *, farewell: bool = False) -> None:
        super()._close(cause, farewell=farewell)
        if self._deciding is not None:
            self._deciding.cancel()
            self._deciding = None


async def send_close(send: Send, end: End) -> None:
    """Close a WebSocket; where the server does not send the code, with the private one that stands for it."""
    close = {"type": "websocket.close", "code": end.code, "reason": cut_reason(end.reason)}
    try:
        await send(close)
    except Exception:  # each server raises its own, also when the peer is gone
        if (code := private_code(end.code)) == end.code:
            raise
        await send({**close, "code": code})


def needs_handshake(scope: Scope, *, asked_by_page: bool = False) -> Problem:
    """
    Make the problem of a plain HTTP request to the WebSocket endpoint.

    Args:
        scope: The request.
        asked_by_page: A page whose WebSocket did not open asks why, and would be admitted.
    """
    # HTTP/2 has no Upgrade, and forbids the header.
    headers = [(b"upgrade", b"websocket")] if scope.get("http_version", "1.1").startswith("1") else []
    detail = (
        "Headcount accepts WebSockets of this page, but none arrived. Let every proxy pass Upgrade on, and the page's "
        "Content-Security-Policy allow the WebSocket in connect-src."
        if asked_by_page
        else "This endpoint accepts WebSockets only; open it with a WebSocket client, as ws:// or wss:// and this path."
    )
    return Problem(426, detail, headers)
