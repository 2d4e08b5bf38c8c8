"""
One open stream over ASGI, whichever the transport.

The only task of a stream is the server's own call into the application, and it waits in `receive()`. Everything that is
sent is driven from outside (sending.py). A peer that does not read holds one message in flight and a short queue of
application messages; figures are not queued but conflated, since only the newest are worth reading.
"""

import asyncio
from collections import deque
from typing import Any

from starlette.types import Send

from ..core.messages import Payload
from ..node import Node
from ..session import End
from .sending import Rest, step


class AsgiSession:
    """
    Base of the two transports. Implements `headcount.session.Session`.

    Args:
        node: Whose stream it is.
        send: The server's, for this stream.
        counted: False for a viewer's own stream.
    """

    __slots__ = (
        "_ending",
        "_node",
        "_over",
        "_queue",
        "_rest",
        "_send",
        "_task",
        "counted",
        "deadline",
        "handle",
        "id",
        "loop",
    )

    def __init__(self, node: Node, send: Send, *, counted: bool) -> None:
        self.id, self.handle = node.identify()
        self.loop = asyncio.get_running_loop()
        self.counted = counted
        self.deadline: float | None = None
        self._node = node
        self._send = send
        self._task = asyncio.current_task()
        self._rest: asyncio.Task[None] | None = None
        self._queue: deque[Payload] | None = None
        self._ending: End | None = None
        self._over = False

    @property
    def busy(self) -> bool:
        """A message is still on its way."""
        return self._rest is not None

    def transmit(self, payload: Payload) -> None:
        """Send now; must not be called while busy."""
        if self._over:
            return
        try:
            rest = step(self._send(self._message(payload)))
        except Exception:  # each server raises its own when the peer is gone; receive() will tell
            self._over = True
            return
        if rest is not None:
            self._rest = self.loop.create_task(self._finish(rest))
            self._node.stalled(self)

    def post(self, payload: Payload) -> None:
        """Send now or, while busy, after what is on its way; a full queue drops the peer."""
        if not self.busy:
            self.transmit(payload)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(payload)
        if len(self._queue) > self._node.config.max_queued_messages:
            self._queue = None
            self.end(End(4408, "slow", "Too many messages are waiting to be read."))

    def keepalive(self) -> None:
        """Send the smallest thing that keeps the stream open."""
        raise NotImplementedError

    def end(self, end: End) -> None:
        """End the stream from this side. Idempotent."""
        if self._ending is None and self._task is not None and not self._over:
            self._ending = end
            # The task waits in receive(), and only a cancellation wakes it without a second task for each stream.
            self._task.cancel()

    def _message(self, payload: Payload) -> dict[str, Any]:
        raise NotImplementedError

    def _ended(self) -> End:
        """Take back the cancellation by `end()`, called where it was caught; any other is raised again."""
        assert self._task is not None
        if self._ending is None or self._task.uncancel():
            raise asyncio.CancelledError
        return self._ending

    def _close(self, cause: str) -> None:
        self._over = True
        if self._rest is not None:
            self._rest.cancel()
        self._node.close(self, cause)

    async def _finish(self, rest: Rest) -> None:
        try:
            await rest
        except Exception:  # as in transmit()
            self._over = True
        self._rest = None
        self._node.read_again(self)
        while self._queue and self._rest is None:
            self.transmit(self._queue.popleft())
        if self._rest is None:
            self._node.caught_up(self)
