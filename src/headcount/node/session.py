"""
What the node needs of one open stream.

Implemented by asgi/session.py, asgi/takeover/direct_sessions.py and `TabSession` in shared_streams.py.

Tests: tests/asgi/test_slow_peers.py, tests/asgi/takeover/test_first_request.py.
"""

import asyncio
from typing import Protocol

from ..core.ends import End
from ..core.payload import Payload


class Session(Protocol):
    """One open stream. To be called in its own loop, but for `loop` and `busy`."""

    id: str
    deadline: float | None
    """When the stream is ended unless its viewer is authorised, or a tab is reported on it; None: never."""
    slot: int
    """Its place in the keepalive wheel of `LoopTimers`."""
    paid_until: float
    """Up to when its messages have paid; see core/message_rate.py."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it must be called."""

    @property
    def counted(self) -> bool:
        """False for a viewer's own stream, and for a stream that tabs share."""

    @property
    def busy(self) -> bool:
        """A message is still on its way: the peer does not read as fast as we send."""

    def transmit(self, payload: Payload) -> None:
        """Send now; must not be called while busy."""

    def send(self, payload: Payload) -> None:
        """Send now or, while busy, after what is on its way; a full queue drops the peer."""

    def keepalive(self, ask: bool = False) -> bool:
        """
        Send the smallest thing that keeps the stream open.

        Args:
            ask: Ask the client whether it is there, if it is one that answers and whose socket does not tell.

        Returns:
            Whether the client was asked, and must answer.
        """

    def end(self, end: End) -> None:
        """End the stream from this side. Idempotent."""
