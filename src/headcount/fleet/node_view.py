"""
What a node uses of its view of the fleet, as a protocol: `FleetView` among other nodes, `NoFleet` alone.

Tests: tests/fleet/test_membership.py.
"""

import asyncio
from typing import Protocol

from ..core.current_version import CurrentRelease
from ..core.fleet_messages import Declaration
from ..core.kept_history import KeptHistory
from ..core.stats import NodeShare, VersionCount
from .border import Border
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
    def border(self) -> Border:
        """Which nodes are of the fleet."""

    @property
    def accepts_traffic(self) -> bool:
        """The backend has reached the other nodes, if only once, or cannot. True for a node that is alone."""

    @property
    def figures_ready(self) -> bool:
        """The reports of all nodes are here, or had time to come; until then viewers get no figures."""

    @property
    def calls(self) -> Caller:
        """Questions to other nodes."""

    @property
    def departure_notices(self) -> Notices:
        """Pages that this node sent away or gave up."""

    @property
    def release(self) -> CurrentRelease:
        """Which version is current, and why. Not to be asked of a view that is not active. The lock is held."""

    @property
    def settled(self) -> str | None:
        """The version that the fleet has settled on. Not to be asked of a view that is not active. The lock is held."""

    @property
    def report_age(self) -> float:
        """For how many seconds the most silent node has been silent. The lock is held."""

    def shares(self) -> list[NodeShare]:
        """Return what each expected node has reported, this one first; none without a fleet. The lock is held."""

    def count_of(self, version: str) -> VersionCount | None:
        """Return how many connections are of a version; None without a fleet. The lock is held."""

    @property
    def shortest_cut(self) -> float | None:
        """The shortest limit that ends streams of another node, in seconds; None: none is known. The lock is held."""

    def sync(self) -> None:
        """Bring the figures up to what is known now; to be called before they are read. The lock is held."""

    def keep_listening(self, *, rows: bool, linger: float | None = None) -> None:
        """Listen to the other nodes for a while, because a caller reads the figures once."""

    async def refresh(self, *, rows: bool = True) -> None:
        """Bring the figures up to what every node has now. Waits a second for those that do not answer."""

    async def history(self, *, for_rollouts: bool = False) -> KeptHistory | None:
        """Return the fleet's history, or what of it the rollouts need; None without a backend. From any loop."""

    def viewers_changed(self) -> None:
        """Ask the other nodes for what the viewers here may see now. The lock is held."""

    def publish_soon(self) -> None:
        """Tell the nodes with viewers what changed here, if anything did. To be called after every change."""

    def publish_now(self) -> None:
        """Tell the nodes with viewers what changed here, before anything that is sent after this call."""

    def declare(self, release: Declaration) -> None:
        """Take a version for declared, here as in the registry. The lock is held."""

    async def keep_release(self) -> None:
        """Have the backend keep the newest release, so that it outlives the nodes. From any loop."""

    def set_known_versions(self, known: frozenset[str]) -> None:
        """Count these versions apart from now on, here as in the registry. The lock is held."""

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


class OtherNodes(Protocol):
    """What viewers need of the fleet. Called with the node's lock held."""

    @property
    def figures_ready(self) -> bool:
        """The other nodes have reported, or had time to; until then viewers are sent nothing."""

    def sync(self) -> None:
        """Bring the figures up to what is known now; to be called before they are read."""

    def publish_soon(self) -> None:
        """Send the viewers of other nodes what changed here."""

    def viewers_changed(self) -> None:
        """Ask the other nodes for more, if the viewers here may see more than before."""


class HasView(Protocol):
    """The node's place in its fleet, as fleet/membership.py has it: it may find other nodes, and lose them."""

    @property
    def view(self) -> OtherNodes:
        """The other nodes as they are seen now."""
