"""
The fleet of a node that knows of no other nodes: nothing to ask, no node to tell.

Tests: tests/asgi/test_figures.py.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from ..core.stats import NodeShare
from .calls import NoCaller


class NoNotices:
    """Tells nobody of departures."""

    def publish_soon(self) -> None:
        """Do nothing: nobody listens."""

    def gave_up(self) -> None:
        """Do nothing: the node's registry says so."""


class NoFleet:
    """
    The view of a node that knows of no other nodes: its own registry is all there is. Implements `NodeView`.

    Args:
        refresh_absences: Brings the registry's absences up to date.
    """

    active = False
    loop: asyncio.AbstractEventLoop | None = None
    ready = True
    may_get_traffic = True
    current_version: str | None = None
    report_age = 0.0

    def __init__(self, refresh_absences: Callable[[], None] = lambda: None) -> None:
        self.calls = NoCaller()
        self.departure_notices = NoNotices()
        self._refresh_absences = refresh_absences

    def shares(self) -> list[NodeShare]:
        """Return nothing: the node's own share is in its registry."""
        return []

    def sync(self) -> None:
        """Bring the node's own absences up to date. The lock is held."""
        self._refresh_absences()

    def page_returned(self, handle: str, version: str) -> None:
        """Do nothing."""

    async def forget(self, node: str) -> bool:  # noqa: ARG002
        """Return False: there is no such node."""
        return False

    async def history(self) -> dict[str, Any] | None:
        """Return None: this node keeps its own."""
        return None

    def publish_now(self) -> None:
        """Do nothing: nobody listens."""

    def publish_soon(self) -> None:
        """Do nothing."""

    def touch(self, *, rows: bool, linger: float | None = None) -> None:
        """Do nothing."""

    def declare(self, version: str) -> None:
        """Do nothing."""

    def viewers_changed(self) -> None:
        """Do nothing."""

    async def refresh(self, *, rows: bool = True) -> None:
        """Do nothing."""

    async def leave(self) -> None:
        """Do nothing."""

    def leave_soon(self) -> None:
        """Do nothing."""

    async def wait_left(self) -> None:
        """Do nothing."""
