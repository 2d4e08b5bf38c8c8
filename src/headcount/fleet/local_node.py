"""
What the fleet needs of the node that it belongs to, as protocols: fleet/ imports nothing of node/.

Tests: tests/fleet/backends/test_two_sites.py.
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from ..authorization.authorizer import AuthorizationCheck
from ..config import Config
from ..core import messages, paging
from ..core.fleet_messages import Declaration
from ..core.invitation_counts import InvitationCounts
from ..core.payload import Payload
from ..core.stats import Stats, StatsDelta
from ..core.ticket import EndedTicket


class ReleaseState(Protocol):
    """Which version was declared current. The node and the fleet share one object."""

    @property
    def released(self) -> Declaration | None:
        """The newest release that is known; None: no version was declared current."""

    def learn(self, released: Declaration) -> None:
        """Apply a release that another node knows of, unless this one knows a newer. Called without the lock."""


class KnownState(Protocol):
    """Which versions are known, so that they are counted apart from those that visitors make up."""

    @property
    def known_versions(self) -> frozenset[str]:
        """All of them."""

    def learn_versions(self, versions: Iterable[str]) -> None:
        """Take versions for known, and count them apart from now on. From any thread."""


class LocalTickets(Protocol):
    """The tickets of the dashboard that log-outs ended. The node and the fleet share one object."""

    def ended(self) -> tuple[EndedTicket, ...]:
        """Return all of them."""

    async def end_here(self, tickets: Iterable[EndedTicket]) -> int:
        """End tickets, and the rights of this node that stand on them. Returns how many were not ended before."""


class FigureSource(Protocol):
    """Where figures come from. Called with the node's lock held."""

    @property
    def revision(self) -> int:
        """Number of changes so far."""

    def note_changes(self, *, on: bool) -> None:
        """Start or stop noting changes for `pop_changes()`."""

    def pop_changes(self) -> StatsDelta | None:
        """Return what changed since the last time, or None."""

    def snapshot(self) -> Stats:
        """Return the figures now."""


class ClientMessages(Protocol):
    """What clients ask of a node on their streams, and the command handlers for clients whose POST came elsewhere."""

    def find(self, handle: str) -> Any:
        """Return the stream that a secret handle names; raises UnknownConnection."""

    def on_message(
        self, session: Any, message: messages.ClientMessage, make_check: Callable[[], AuthorizationCheck], /
    ) -> Coroutine[Any, Any, None] | None:
        """Do what a client asks on its stream; the coroutine, if any, decides a subscription."""

    def remove_held_tabs(self, handle: str, report: messages.Tabs) -> bool:
        """Do what the last report of a shared stream says after its end. Returns False if it left no tabs here."""

    def bye_here(self, handle: str, tab: str) -> bool:
        """End the count of a page that leaves. Returns False if the handle is not one of this node's."""


class LocalReplacements(Protocol):
    """Ends the streams of one node that new ones replace."""

    def replace_here(self, handle: str, cut_after: float = 0.0, *, shared: bool = False) -> bool:
        """
        End a stream because a new one takes its place; note what its client reports. Returns if there was one.

        With `shared`, its tabs are on their way to the new one.
        """


class LocalNotices(Protocol):
    """Messages of the application to many pages of one node."""

    def deliver_all(self, payload: Payload, *, version: str | None, route: str | None, acknowledge: str = "") -> int:
        """Send a message to all connections, or those of a version or route. Returns to how many."""

    def acknowledged(self, number: str) -> int | None:
        """Return how many pages of this node acknowledged a message; None: it is not known here."""


class LocalCommands(Protocol):
    """What the application and its operators ask, for the connections of one node."""

    def deliver(self, connection_id: str, payload: Payload) -> None:
        """Send one connection a message; raises UnknownConnection."""

    async def revoke_here(self, connection_id: str) -> bool:
        """Withdraw a viewer's right. Returns whether it had one."""

    def release_here(self, release: Declaration) -> int:
        """Declare a version current. Returns the number of streams that it was sent to."""

    @property
    def released(self) -> Declaration | None:
        """The newest release that is known here."""

    def invitation_counts(self) -> InvitationCounts | None:
        """Return what came of the invitations of this node; None: nothing was declared."""

    def takes_release(self, number: int) -> bool:
        """Say whether a release of another node, with this number, can be applied here."""


class LocalListing(Protocol):
    """Lists the connections of one node, page by page."""

    def list_connections(self, *, version: str | None, route: str | None, limit: int, after: int) -> paging.LocalPage:
        """Return a page, oldest first."""

    async def list_sorted(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> paging.SortedRows:
        """Return the first connections after a position in an order."""


class ListeningSocket(Protocol):
    """A socket by which requests come in."""

    def still_listens(self) -> bool:
        """Look whether it still listens."""


class LocalSockets(Protocol):
    """The listening sockets of this process, and whether the application drains it."""

    @property
    def draining(self) -> bool:
        """The application drains all streams."""

    def find_listener(self, server: tuple[Any, ...] | None) -> ListeningSocket | None:
        """Return the listening socket behind an ASGI scope's `server` value, if it can be found."""

    def addresses(self, server: tuple[Any, ...]) -> list[str]:
        """Return the addresses of the listening sockets behind an ASGI scope's `server` value."""


class LocalNode(Protocol):
    """What membership uses of a node."""

    @property
    def id(self) -> str:
        """The node's id."""

    @property
    def config(self) -> Config:
        """Checked settings."""

    @property
    def clock(self) -> Callable[[], float]:
        """Returns monotonic seconds."""

    @property
    def ordinal(self) -> int:
        """Which of the nodes of one base path in one process it is."""

    @property
    def is_idle(self) -> bool:
        """No stream is open."""

    def use_figures(self, figures: FigureSource | None) -> None:
        """Take the figures from another source from now on; None: from this node's connections."""
