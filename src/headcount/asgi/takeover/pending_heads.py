"""
Connections that have not sent a whole request yet: how long they may take, how many there may be, and of what size.

A connection is pending from accept to the end of its first head, and again from the first byte of each further request
to the end of that head. Between requests uvicorn's own keep-alive timeout applies. One timer serves all connections of
an event loop, and none runs while nothing is pending.

Source: RFC 9110, section 15.5.9 (408); RFC 6585, section 5 (431)
"""

import asyncio
from collections import OrderedDict, defaultdict
from contextlib import suppress
from typing import Final, Protocol, cast

from ...log_throttle import LogThrottle

HEAD_TIMEOUT: Final = 10.0
"""Seconds from accept, or from the first byte of a further request, to the end of the head."""

MAX_HEAD: Final = 65_536
"""Bytes of a head, its request line included. The same number bounds trailers and what frames the chunks of a body."""

MAX_WEBSOCKET_MESSAGE: Final = 65_536
"""Bytes of a message that uvicorn's own WebSocket class accepts, where it serves a stream of ours."""

MAX_PENDING: Final = 4_096
"""Pending connections of one event loop. One more closes the oldest."""

MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all unfinished heads of one event loop. More close the oldest of those that have begun."""


class HeadProtocol(Protocol):
    """What the protocol of a pending connection must have."""

    def give_up(self) -> None:
        """Close the connection, because its request took too long or others need the place."""


class PendingHeads:
    """
    The pending connections of one server, by event loop.

    Args:
        counters: The node's: `incomplete_request:timeout`, `:limit` and `:size` count what was closed.
        timeout: Seconds for a head.
        max_pending: Connections of one loop.
        max_bytes: Of all unfinished heads of one loop.
    """

    def __init__(
        self,
        counters: defaultdict[str, int],
        *,
        timeout: float = HEAD_TIMEOUT,
        max_pending: int = MAX_PENDING,
        max_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self.counters = counters
        self.log_throttle = LogThrottle()
        """Of warnings about single requests, which anybody can cause."""
        self.timeout = timeout
        self.max_pending = max_pending
        self.max_bytes = max_bytes
        self._by_loop: dict[asyncio.AbstractEventLoop, _LoopHeads] = {}
        self._newest: _LoopHeads | None = None

    def count(self) -> int:
        """Return how many connections are pending."""
        return sum(len(heads.deadlines) for heads in list(self._by_loop.values()))

    def begin(self, transport: asyncio.Transport, size: int = 0, *, restart: bool = False) -> None:
        """
        Note a connection that waits for the end of a head. Its protocol must be a `HeadProtocol`.

        Args:
            transport: The connection; it stays the key when its protocol changes.
            size: Bytes of the unfinished head.
            restart: Give a connection that is pending already the whole time again.
        """
        heads = self._newest
        if heads is None or heads.loop is not asyncio.get_running_loop():
            heads = self._here()
        deadlines = heads.deadlines
        if restart:
            deadlines.pop(transport, None)
        if transport not in deadlines:
            deadlines[transport] = heads.loop.time() + self.timeout
            if heads.timer is None:
                heads.timer = heads.loop.call_later(self.timeout, heads.expire)
            if len(deadlines) > self.max_pending:
                heads.close(next(iter(deadlines)), "limit")
        if size:
            heads.note_size(transport, size)

    def end(self, transport: asyncio.Transport) -> None:
        """Note that a head is whole, or its connection over. Idempotent."""
        heads = self._newest
        if heads is None:
            return
        if heads.deadlines.pop(transport, None) is None:
            if len(self._by_loop) == 1:  # so it is pending nowhere, as before a further request
                return
            heads = self._here()
            if heads.deadlines.pop(transport, None) is None:
                return
        if heads.sizes:
            heads.forget_size(transport)

    def _here(self) -> "_LoopHeads":
        loop, heads = asyncio.get_running_loop(), self._newest
        if heads is None or heads.loop is not loop:
            for old in [old for old in self._by_loop if old.is_closed()]:
                del self._by_loop[old]
            heads = self._newest = self._by_loop.setdefault(loop, _LoopHeads(loop, self))
        return heads


class _LoopHeads:
    """The pending connections of one event loop, oldest first."""

    __slots__ = ("_limits", "_total", "deadlines", "loop", "sizes", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: PendingHeads) -> None:
        self.loop = loop
        self.deadlines: OrderedDict[asyncio.Transport, float] = OrderedDict()
        self.sizes: OrderedDict[asyncio.Transport, int] = OrderedDict()
        """Bytes of those that have begun to send."""
        self.timer: asyncio.TimerHandle | None = None
        self._limits = limits
        self._total = 0

    def note_size(self, transport: asyncio.Transport, size: int) -> None:
        self._total += size - self.sizes.get(transport, 0)
        self.sizes[transport] = size
        while self._total > self._limits.max_bytes:
            self.close(next(iter(self.sizes)), "limit")

    def forget_size(self, transport: asyncio.Transport) -> None:
        self._total -= self.sizes.pop(transport, 0)

    def close(self, transport: asyncio.Transport, cause: str) -> None:
        self.deadlines.pop(transport, None)
        self.forget_size(transport)
        if transport.is_closing():
            return
        self._limits.counters[f"incomplete_request:{cause}"] += 1
        with suppress(OSError):  # it left first
            cast(HeadProtocol, transport.get_protocol()).give_up()

    def expire(self) -> None:
        self.timer = None
        now = self.loop.time()
        due = []
        for transport, deadline in self.deadlines.items():
            if deadline > now:
                break
            due.append(transport)
        for transport in due:
            self.close(transport, "timeout")
        if self.deadlines:
            self.timer = self.loop.call_at(next(iter(self.deadlines.values())), self.expire)
