"""A WebSocket."""

import asyncio
from typing import Any

from starlette.types import Receive

from ..core import messages
from ..core.messages import Payload
from ..errors import ProtocolError
from ..node import Ask
from ..session import End
from .session import AsgiSession


class WebSocketSession(AsgiSession):
    """One WebSocket on `/ws`, accepted already."""

    __slots__ = ("_asking",)

    def keepalive(self) -> None:
        """Send a message: pages cannot see the protocol's own pings, and servers may have them switched off."""
        self.transmit(_KEEPALIVE)

    async def run(
        self, receive: Receive, connected: bytes, ask: Ask, *, version: str, route: str, ip: str | None
    ) -> None:
        """Serve the stream until either side ends it."""
        self._asking: asyncio.Task[None] | None = None
        self.transmit(Payload(connected))
        self._node.open(self, version, route, ip)
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                self._handle(message, ask)
            self._close("client")
        except ProtocolError as error:
            self._node.counters["malformed"] += 1
            self._close("malformed")
            await self._say_goodbye(End(4400, "malformed", str(error)))
        except asyncio.CancelledError:
            end = self._ended()
            read = not self.busy
            self._close(end.cause)
            if read:
                await self._say_goodbye(end)
        finally:
            self._close("cancelled")

    def _handle(self, message: Any, ask: Ask) -> None:
        data = message.get("text")
        if data is None:
            data = message.get("bytes") or b""
        coroutine = self._node.handle(self, messages.decode(data), ask)
        if coroutine is not None:
            # The answer may take long; meanwhile this task must notice when the peer leaves.
            self._asking = self.loop.create_task(coroutine)

    def _message(self, payload: Payload) -> dict[str, Any]:
        return {"type": "websocket.send", "text": payload.text}

    def _close(self, cause: str) -> None:
        super()._close(cause)
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _say_goodbye(self, end: End) -> None:
        try:
            if end.reconnect is not None:
                await self._send(self._message(Payload(messages.drain(end.reconnect))))
            await self._send({"type": "websocket.close", "code": end.code, "reason": reason_of(end.reason)})
        except Exception:  # the peer left first, which each server reports its own way
            return


def reason_of(text: str) -> str:
    """Cut a sentence to what fits in a close frame: 123 bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:123].decode("utf-8", "ignore")


_KEEPALIVE = Payload(messages.KEEPALIVE)
