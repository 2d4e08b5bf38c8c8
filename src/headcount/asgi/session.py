"""
One open stream over ASGI, whichever the transport.

The only task of a stream is the server's own call into the application, and it waits in `receive()`. Everything that is
sent is driven from outside (one_step.py). What waits for a peer that does not read is in core/outbox.py.

Tests: tests/asgi/test_streams.py, tests/asgi/test_slow_peers.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from starlette.types import Message, Receive, Send

from ..core.ends import BROKEN, CANCELLED, CLIENT, FAREWELLS, MALFORMED, End, end_of
from ..core.outbox import Outbox
from ..core.payload import Payload
from ..errors import ProtocolError
from .one_step import Suspended, run_one_step
from .stream_request import AdmittedStream

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that a peer gets to take the last message. By then it is out of the figures, and a server may be stopping."""


class AsgiSession(Outbox):
    """
    Base of the two transports. Implements `headcount.node.session.Session`.

    Args:
        send: The server's, for this stream.
        stream: As it was admitted.
    """

    __slots__ = (
        "_ending",
        "_node",
        "_over",
        "_parts",
        "_receiving",
        "_send",
        "_sending",
        "_sends_in_tasks",
        "_task",
        "_unfinished_send",
        "counted",
        "deadline",
        "id",
        "loop",
        "paid_until",
        "slot",
    )

    def __init__(self, send: Send, stream: AdmittedStream) -> None:
        super().__init__()
        self.id = stream.id
        self.loop = asyncio.get_running_loop()
        self.counted = stream.request.counted
        self.deadline: float | None = None
        self.slot = 0
        self.paid_until = 0.0
        self._parts = stream.parts
        self._node = stream.parts.node  # beside the parts: every message and every end needs it
        self._send = send
        self._task = asyncio.current_task()
        self._unfinished_send: Callable[[], Awaitable[None]] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._receiving = False
        self._sends_in_tasks = False
        self._ending: End | None = None
        self._over = False

    @property
    def busy(self) -> bool:
        """A message is still on its way."""
        return self._sending is not None or self._unfinished_send is not None

    @property
    def over(self) -> bool:
        """Nothing but the last message may be sent any more."""
        return self._over

    @property
    def max_queued(self) -> int:
        """Messages that may wait."""
        return self._node.max_queued(self.id)

    def transmit(self, payload: Payload) -> None:
        """Send now; must not be called while busy."""
        self._put(self._message(payload))

    def keepalive(self, ask: bool = False) -> bool:
        """Send the smallest thing that keeps the stream open, or ask whether the client is there."""
        raise NotImplementedError

    def end(self, end: End) -> None:
        """End the stream from this side. Idempotent."""
        if self._ending is None and self._task is not None:
            self._ending = BROKEN if self._over else end
            # The task waits in receive(), and only a cancellation wakes it without a second task for each stream.
            self._task.cancel()

    def _is_stopping(self) -> bool:
        return self._parts.admission.is_stopping(self._parts.timers.listener_of(self))

    async def serve(self, receive: Receive, on_message: Callable[[Message], None]) -> None:
        """
        Hand each message to `on_message`, which raises `ProtocolError`, until either side ends the stream.

        All of it is one frame, because every open stream keeps its frames in memory.
        """
        try:
            while self._unfinished_send is not None:
                await self._finish(self._unfinished_send)
            self._receiving = True
            while self._ending is None:
                message = await receive()
                if message["type"].endswith(".disconnect"):
                    if message["type"] == "http.disconnect" and self._is_stopping():
                        # uvicorn 0.43 and 0.44 say so to every stream when they stop, and the page is still there.
                        await self._leave_and_close(self._parts.admission.going_away())
                    self._close(CLIENT, farewell=message.get("code") in FAREWELLS)
                    return
                on_message(message)
            # `end` was called by our own send, or something between us and the server swallowed the cancellation. This
            # pause lets it arrive here, and not in the server after we have returned.
            await asyncio.sleep(0)
            raise asyncio.CancelledError
        except ProtocolError as error:
            end = end_of(error)
            if end.cause == MALFORMED.cause:
                self._node.counters["malformed"] += 1
            await self._leave_and_close(end)
        except asyncio.CancelledError:
            if self._ending is None or self._task is None:
                raise
            # Takes back the cancellation by `end()`. Another one may have come with it, of a server that stops.
            cancelled = self._task.uncancel()
            await self._leave_and_close(self._ending)
            if cancelled:
                raise
        finally:
            self._close(CANCELLED)

    def _message(self, payload: Payload) -> dict[str, Any]:
        raise NotImplementedError

    async def _send_close(self, end: End) -> None:
        """Send the last messages of the stream."""
        raise NotImplementedError

    def _put(self, message: dict[str, Any]) -> None:
        """
        Send, in place if it can be.

        Middleware round `send` may hold on to the task it is in (locks and scopes of anyio do, BaseHTTPMiddleware has
        them). So the first sends of a stream are finished by its own task; and one that ever suspended has a task for
        each message from then on, in which all of it happens. So has what comes from outside of any task.
        """
        if self._over:
            return
        task = asyncio.current_task()
        finish: Callable[[], Awaitable[None]]
        if task is None or self._sends_in_tasks:
            finish = partial(self._send, message)
        else:
            try:
                rest = run_one_step(self._send(message))
            except Exception:  # each server raises its own when the peer is gone
                self._mark_broken()
                return
            if not isinstance(rest, Suspended):
                return
            finish = partial(_unchanged, rest)
        self._sends_in_tasks = True
        self._parts.timers.mark_busy(self)
        if task is self._task and not self._receiving:
            self._unfinished_send = finish
        else:
            self._sending = self.loop.create_task(self._finish(finish))

    def _mark_broken(self) -> None:
        self._over = True
        if self._task is not None:
            # receive() will return that the peer is gone. Should it not, the stream ends after `send_timeout`.
            self._parts.timers.mark_busy(self)

    async def _finish(self, finish: Callable[[], Awaitable[None]]) -> None:
        try:
            await finish()
        except Exception:  # as in _put()
            self._sending = self._unfinished_send = None
            self._mark_broken()
            return
        self._sending = self._unfinished_send = None
        self._parts.timers.mark_writable(self)
        if self.resume():
            self._parts.viewers.caught_up(self)

    def _close(self, cause: str, *, farewell: bool = False) -> None:
        # From here on the task is the server's again, and nobody may cancel it.
        self._task = None
        self._over = True
        self.discard()
        if self._sending is not None:
            self._sending.cancel()
        self._node.close(self, cause, farewell=farewell)

    async def _leave_and_close(self, end: End) -> None:
        """Leave the figures and send the last messages, if the peer takes them."""
        broken = self._over
        self._close(end.cause)
        if broken:
            return
        # The peer may have left first, which each server reports its own way, or may not read.
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self._sending is not None:
                    await asyncio.wait([self._sending])
                await self._send_close(end)


def _unchanged(rest: Suspended[None]) -> Suspended[None]:
    return rest
