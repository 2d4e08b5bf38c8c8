"""
What a viewer may see of the figures, and the only place where figures are narrowed to it.

Every endpoint, message and metric that shows figures passes them through a `Visibility`. A test asks every endpoint
with every grant, so an endpoint that shows more than its viewer's grant allows fails it.

Tests: tests/core/test_visibility.py, tests/asgi/test_grants.py.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, Self

import msgspec

from .labels import ROOT
from .stats import ConnectionInfo, Stats, StatsDelta


class Right(Protocol):
    """What decides on a visibility: a `Grant`."""

    @property
    def routes(self) -> bool:
        """Routes."""

    @property
    def connections(self) -> bool:
        """The list of connections."""

    @property
    def ips(self) -> bool:
        """Addresses of connections."""


class Visibility(NamedTuple):
    """
    What a viewer may see, besides the total and the versions. Viewers of one visibility are sent the same bytes.

    Attributes:
        routes: Which routes there are, and which of them each connection is on.
        connections: The list of connections.
        ips: Addresses in that list.
    """

    routes: bool = True
    connections: bool = True
    ips: bool = True

    @classmethod
    def of(cls, right: Right) -> Self:
        """Return what a right lets be seen."""
        return cls(right.routes, right.connections, right.ips)

    def shows(self, field: str) -> bool:
        """Say whether a field of rows may be seen, and so whether rows may be filtered or sorted by it."""
        return {"route": self.routes, "ip": self.ips}.get(field, True)

    def stats(self, figures: Stats) -> Stats:
        """Return the figures as far as they may be seen."""
        if all(self):
            return figures
        routes = figures.routes if self.routes else MappingProxyType({})
        return msgspec.structs.replace(figures, routes=routes, connections=tuple(self.rows(figures.connections)))

    def delta(self, delta: StatsDelta) -> StatsDelta:
        """Return a change as far as it may be seen: without routes, a page that only navigated did not change."""
        if all(self):
            return delta
        changed = delta.set if self.routes else tuple(row for row in delta.set if row.id not in delta.moved)
        return delta._replace(
            routes=delta.routes if self.routes else {},
            set=tuple(self.rows(changed)),
            removed=delta.removed if self.connections else (),
            moved=delta.moved if self.routes and self.connections else frozenset(),
        )

    def rows(self, found: Sequence[ConnectionInfo]) -> Sequence[ConnectionInfo]:
        """Return rows as far as they may be seen: none, or without addresses, or every page on `/`."""
        if not self.connections:
            return ()
        hidden: dict[str, str | None] = ({} if self.routes else {"route": ROOT}) | ({} if self.ips else {"ip": None})
        return [msgspec.structs.replace(row, **hidden) for row in found] if hidden else found


EVERYTHING: Final = Visibility()
"""What the admin token, the metrics token, a hook that returns True, and the application itself see."""
