"""
This node's own share of the figures: from its registry into the fleet's figures and into its publication.

While a viewer watches here or another node watches from elsewhere, the registry notes changes, and each is passed on:
O(changes). Otherwise nothing is noted, and the whole share is passed on when it is asked for.

Tests: tests/fleet/backends/test_conformance.py.
"""

from collections.abc import Callable

from ..core.fleet import Fleet
from ..core.fleet_messages import Delta, Report
from ..core.publication import Publication
from ..core.registry import Registry


class OwnShare:
    """
    Passes the registry's changes on. Called with the node's lock held.

    Args:
        registry: This node's connections.
        fleet: Where this node is one of many.
        publication: What the other nodes get.
        clock: Monotonic seconds.
    """

    def __init__(self, registry: Registry, fleet: Fleet, publication: Publication, clock: Callable[[], float]) -> None:
        self.registry = registry
        self._fleet = fleet
        self._publication = publication
        self._clock = clock
        self._absorbed = 0
        """Revision of the registry up to which its changes are in the fleet and in the publication."""
        self._noting = False
        self._watched = False
        self._published = False

    @property
    def pending(self) -> bool:
        """There are changes that no delta has published."""
        return self._publication.pending or self._absorbed != self.registry.revision

    def set_watched(self, watched: bool) -> None:
        """Note changes because a viewer watches the fleet here, or not any more."""
        self._watched = watched
        self._update_noting()

    def set_published(self, published: bool) -> None:
        """Note changes because another node watches this one, or not any more."""
        self._published = published
        self._update_noting()

    def absorb(self) -> None:
        """Bring the fleet and the publication up to what the registry has now. O(changes) while they are noted."""
        if self._absorbed == self.registry.revision:
            return
        self._absorbed = self.registry.revision
        change = self.registry.drain_changes() if self._noting else None
        base = self._fleet.sequence(self._fleet.own)
        if change is None:
            now = self.registry.snapshot()
            self._publication.start(now)
            report = Report(
                node=self._fleet.own,
                sequence=base + 1,
                total=now.total,
                versions=dict(now.versions),
                routes=dict(now.routes),
                rows=now.connections,
            )
            self._fleet.receive(report, self._clock())
            return
        if self._published:
            self._publication.absorb(change)
        else:
            self._publication.skip(change.total)  # without a reader it would only grow
        delta = Delta(
            node=self._fleet.own,
            base=base,
            sequence=base + 1,
            total=change.total,
            versions=dict(change.versions),
            routes=dict(change.routes),
            rows=change.set,
            removed=change.removed,
        )
        self._fleet.update(delta, self._clock())

    def _update_noting(self) -> None:
        noting = self._watched or self._published
        if noting == self._noting:
            return
        self.absorb()  # what happened before
        self._noting = noting
        if noting:
            self.registry.watch()
            self._publication.start(self.registry.snapshot())
        else:
            self.registry.unwatch()
