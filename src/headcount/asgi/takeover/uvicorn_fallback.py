"""
A WebSocket of the application's own, although its path ends like ours.

The application has accepted it, and nothing was sent. uvicorn's own class for WebSockets gets the request, and then the
application's messages, the first ones included.

Tests: tests/asgi/takeover/test_taking_over.py.
"""

import asyncio
from typing import Any, Final, Protocol

from starlette.types import Message, Receive, Scope, Send

_TIMEOUT: Final = 10.0
"""Seconds for uvicorn's class to call the application. It does so at once, or has refused the request."""


class UpgradableProtocol(Protocol):
    """What the fallback needs of uvicorn's protocol object."""

    loop: asyncio.AbstractEventLoop
    ws_protocol_class: Any

    def upgrade_by_uvicorn(self) -> None:
        """Have an object of `ws_protocol_class` answer the handshake."""


class UvicornWebSocketFallback:
    """
    One WebSocket, from the application's acceptance on.

    Args:
        protocol: The one that got the request.
        accept: The application's message.
    """

    def __init__(self, protocol: UpgradableProtocol, accept: Message) -> None:
        self._accept = accept
        self._channel: asyncio.Future[tuple[Receive, Send]] = protocol.loop.create_future()
        self._finished: asyncio.Future[None] = protocol.loop.create_future()
        make = protocol.ws_protocol_class

        def make_with_our_app(**settings: Any) -> Any:
            made = make(**settings)
            made.app = self._app
            return made

        protocol.ws_protocol_class = make_with_our_app
        try:
            protocol.upgrade_by_uvicorn()
        finally:
            protocol.ws_protocol_class = make

    async def receive(self) -> Message:
        """Receive for the application."""
        receive, _ = await self._opened()
        return await receive()

    async def send(self, message: Message) -> None:
        """Send for the application."""
        _, send = await self._opened()
        await send(message)

    def finish(self, failure: Exception | None) -> None:
        """Have uvicorn do and log what it does when the application has returned, or failed."""
        if self._finished.done():
            return
        if failure is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(failure)
            self._finished.exception()  # retrieved here: nothing awaits it if uvicorn's class has refused the request

    async def _app(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Stand in for the application in uvicorn's class."""
        await receive()  # websocket.connect
        await send(self._accept)
        if not self._channel.done():
            self._channel.set_result((receive, send))
        await self._finished

    async def _opened(self) -> tuple[Receive, Send]:
        async with asyncio.timeout(_TIMEOUT):
            return await asyncio.shield(self._channel)
