"""
The fleet of a node that knows of no other nodes: nothing to ask, no node to tell.

Tests: tests/asgi/test_figures.py.
"""

from ..core.stats import NodeShare
from .calls import NoCaller


class NoFleet:
    """The view of a node that knows of no other nodes: its own registry is all there is."""

    active = False
    ready = True
    knows_the_fleet = True
    report_age = 0.0

    def __init__(self) -> None:
        self.calls = NoCaller()

    def shares(self) -> list[NodeShare]:
        """Return nothing: the node's own share is in its registry."""
        return []

    def listen_if_cheap(self) -> None:
        """Do nothing."""

    def absorb(self) -> None:
        """Do nothing."""

    def publish_soon(self) -> None:
        """Do nothing."""

    def touch(self, *, rows: bool, linger: float | None = None) -> None:
        """Do nothing."""

    def reserve_version(self, version: str) -> None:
        """Do nothing."""

    def viewers_changed(self) -> None:
        """Do nothing."""

    async def refresh(self, *, rows: bool = True) -> None:
        """Do nothing."""

    async def leave(self) -> None:
        """Do nothing."""

    def leave_soon(self) -> None:
        """Do nothing."""
