"""
What a node uses of its view of the fleet, as a protocol: `FleetView` among other nodes, `NoFleet` alone.

Tests: tests/fleet/test_membership.py.
"""

import asyncio
from typing import Any, Protocol

from ..core.stats import NodeShare
from .calls import Caller


class Notices(Protocol):
    """Tells the other nodes which pages this one sent away or gave up."""

    def publish_soon(self) -> None:
        """Tell the other nodes, soon, that this one ended streams whose pages may come back. From any loop."""

    def gave_up(self) -> None:
        """Say at once that pages are unaccounted for because they did not answer. From any loop; the lock is held."""


class NodeView(Protocol):
    """The fleet as a node sees it, which may be alone."""

    @property
    def active(self) -> bool:
        """A backend runs, in a loop that runs."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the backend, also after it has stopped; None: there was none."""

    @property
    def may_get_traffic(self) -> bool:
        """The backend has reached the other nodes, if only once, or cannot. True for a node that is alone."""

    @property
    def ready(self) -> bool:
        """The reports of all nodes are here, or had time to come; until then viewers get no figures."""

    @property
    def calls(self) -> Caller:
        """Questions to other nodes."""

    @property
    def departure_notices(self) -> Notices:
        """Pages that this node sent away or gave up."""

    @property
    def current_version(self) -> str | None:
        """The current version; None: it is not known. Not to be asked of a view that is not active."""

    @property
    def report_age(self) -> float:
        """For how many seconds the most silent node has been silent. The lock is held."""

    def shares(self) -> list[NodeShare]:
        """Return what each expected node has reported, this one first; none without a fleet. The lock is held."""

    def sync(self) -> None:
        """Bring the figures up to what is known now; to be called before they are read. The lock is held."""

    def touch(self, *, rows: bool, linger: float | None = None) -> None:
        """Listen to the other nodes for a while, because a caller reads the figures once."""

    async def refresh(self, *, rows: bool = True) -> None:
        """Bring the figures up to what every node has now. Waits a second for those that do not answer."""

    async def history(self) -> dict[str, Any] | None:
        """Return the fleet's history in the wire's shape; None without a backend. From any loop."""

    def viewers_changed(self) -> None:
        """Ask the other nodes for what the viewers here may see now. The lock is held."""

    def publish_soon(self) -> None:
        """Tell the nodes with viewers what changed here, if anything did. To be called after every change."""

    def publish_now(self) -> None:
        """Tell the nodes with viewers what changed here, before anything that is sent after this call."""

    def declare(self, version: str) -> None:
        """Take a version for current, here as in the registry. The lock is held."""

    def page_returned(self, handle: str, version: str) -> None:
        """Note a page that names a stream of another node, which may be gone. From any loop."""

    async def forget(self, node: str) -> bool:
        """
        End the doubt about a node that is gone, on all nodes. Returns whether there was any. From any loop.

        Raises:
            Busy: The backend cannot be asked.
        """

    async def leave(self) -> None:
        """Leave the fleet, from any loop."""

    def leave_soon(self) -> None:
        """Leave the fleet, from any loop, without waiting for it; see `wait_left`."""

    async def wait_left(self) -> None:
        """Wait until the leave message is out, from any loop."""
