"""
A WebSocket that somebody else than Headcount answers, although its path ends like ours.

The application has accepted it, and nothing was sent. uvicorn's own class for WebSockets is given the request, and what
the application said and says goes on to it.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from starlette.types import Message, Receive, Scope, Send

if TYPE_CHECKING:
    from .protocol import HeadcountProtocol

_PATIENCE: Final = 10.0
"""Seconds for uvicorn's class to call the application. It does so at once, or has refused the request by itself."""


class UvicornWebSocketFallback:
    """
    One WebSocket, from the application's acceptance on.

    Args:
        protocol: Whose request it is.
        accept: The application's message.
    """

    def __init__(self, protocol: "HeadcountProtocol", accept: Message) -> None:
        self._accept = accept
        self._ends: asyncio.Future[tuple[Receive, Send]] = protocol.loop.create_future()
        self._finished: asyncio.Future[None] = protocol.loop.create_future()
        make: Any = protocol.ws_protocol_class

        def make_ours(**settings: Any) -> Any:
            usual = make(**settings)
            usual.app = self._app
            return usual

        protocol.ws_protocol_class = make_ours  # type: ignore[assignment]
        try:
            protocol.upgrade_as_usual()
        finally:
            protocol.ws_protocol_class = make

    async def receive(self) -> Message:
        """Receive for the application."""
        receive, _ = await self._both()
        return await receive()

    async def send(self, message: Message) -> None:
        """Send for the application."""
        _, send = await self._both()
        await send(message)

    def finish(self, failure: Exception | None) -> None:
        """The application has returned, or failed. uvicorn does and logs what it does in that case."""
        if self._finished.done():
            return
        if failure is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(failure)
            self._finished.exception()  # it may be nobody's, if uvicorn's class has refused the request

    async def _app(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """What uvicorn's class takes for the application."""
        await receive()  # websocket.connect
        await send(self._accept)
        if not self._ends.done():
            self._ends.set_result((receive, send))
        await self._finished

    async def _both(self) -> tuple[Receive, Send]:
        async with asyncio.timeout(_PATIENCE):
            return await asyncio.shield(self._ends)
