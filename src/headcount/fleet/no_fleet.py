"""
The fleet of a node that knows of no other nodes: nothing to ask, no node to tell.

Tests: tests/asgi/test_figures.py.
"""

import asyncio
from collections.abc import Callable, Iterable

from ..core.current_version import CurrentRelease
from ..core.fleet_messages import Declaration
from ..core.kept_history import KeptHistory
from ..core.stats import NodeShare
from ..core.ticket import EndedTicket
from .border import Border
from .calls import NoCaller


class NoNotices:
    """Tells nobody of departures."""

    def publish_soon(self) -> None:
        """Do nothing: nobody listens."""

    def gave_up(self) -> None:
        """Do nothing: the node's registry says so."""


class NoTickets:
    """The tickets of a node without log-ins. Implements `LocalTickets`."""

    def ended(self) -> tuple[EndedTicket, ...]:
        """Return none."""
        return ()

    async def end_here(self, tickets: Iterable[EndedTicket]) -> int:  # noqa: ARG002
        """Do nothing."""
        return 0


class NoFleet:
    """
    The view of a node that knows of no other nodes: its own registry is all there is. Implements `NodeView`.

    Args:
        refresh_departed: Brings up to date what the registry says of pages that may come back.
    """

    active = False
    loop: asyncio.AbstractEventLoop | None = None
    figures_ready = True
    accepts_traffic = True
    release = CurrentRelease("unsettled")
    settled: str | None = None
    report_age = 0.0
    shortest_cut: float | None = None

    def __init__(self, refresh_departed: Callable[[], None] = lambda: None) -> None:
        self.calls = NoCaller()
        self.departure_notices = NoNotices()
        self.border = Border()
        self._refresh_departed = refresh_departed

    def shares(self) -> list[NodeShare]:
        """Return nothing: the node's own share is in its registry."""
        return []

    def count_of(self, version: str) -> None:
        """Return nothing: the node's registry knows."""

    def sync(self) -> None:
        """Bring up to date which pages may come back. The lock is held."""
        self._refresh_departed()

    def page_returned(self, handle: str, version: str) -> None:
        """Do nothing."""

    async def forget(self, node: str) -> bool:  # noqa: ARG002
        """Return False: there is no such node."""
        return False

    async def history(self, *, for_rollouts: bool = False) -> KeptHistory | None:  # noqa: ARG002
        """Return None: this node keeps its own."""
        return None

    def publish_now(self) -> None:
        """Do nothing: nobody listens."""

    def publish_soon(self) -> None:
        """Do nothing."""

    def keep_listening(self, *, rows: bool, linger: float | None = None) -> None:
        """Do nothing."""

    def declare(self, release: Declaration) -> None:
        """Do nothing."""

    async def keep_release(self) -> None:
        """Do nothing: a node alone has nowhere to keep it."""

    def set_known_versions(self, known: frozenset[str]) -> None:
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
