"""
What the node needs of one open stream.

Implemented by asgi/session.py, asgi/takeover/streams.py and `TabSession` in shared_streams.py.

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
    """When a viewer must be authorised, or a shared stream have a tab; None: it is or has, or is a counted page."""
    slot: int
    """Its place in the keepalive wheel of `LoopTimers`."""

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

    def post(self, payload: Payload) -> None:
        """Send now or, while busy, after what is on its way; a full queue drops the peer."""

    def keepalive(self) -> None:
        """Send the smallest thing that keeps the stream open."""

    def end(self, end: End) -> None:
        """End the stream from this side. Idempotent."""
