"""
This node's own share of the figures: from its registry into the fleet's figures and into its publication.

While a viewer watches, here or at another node, the registry notes changes, and each is passed on: O(changes).
Otherwise nothing is noted, and the whole share is passed on when it is asked for.

Tests: tests/fleet/backends/test_conformance.py.
"""

from collections.abc import Callable

from ..core.fleet_figures import FleetFigures
from ..core.fleet_messages import Delta, Report
from ..core.publication import Publication
from ..core.registry import Registry


class OwnShare:
    """
    Passes the registry's changes on. Called with the node's lock held.

    Args:
        registry: This node's connections.
        figures: Where this node is one of many.
        publication: What the other nodes get.
        clock: Monotonic seconds.
    """

    def __init__(
        self, registry: Registry, figures: FleetFigures, publication: Publication, clock: Callable[[], float]
    ) -> None:
        self.registry = registry
        self._figures = figures
        self._publication = publication
        self._clock = clock
        self._synced = 0
        """Revision of the registry up to which its changes are in the fleet and in the publication."""
        self._noting = False
        self._collecting = False
        self._publishing = False

    @property
    def pending(self) -> bool:
        """There are changes that no delta has published."""
        return self._publication.pending or self._synced != self.registry.revision

    def set_collecting(self, collecting: bool) -> None:
        """Note changes because this node collects the figures of the fleet for a viewer, or not any more."""
        self._collecting = collecting
        self._update_noting()

    def set_publishing(self, publishing: bool) -> None:
        """Note changes because another node has asked for them, or not any more."""
        self._publishing = publishing
        self._update_noting()

    def sync(self) -> None:
        """Bring the fleet and the publication up to what the registry has now. O(changes) while they are noted."""
        if self._synced == self.registry.revision:
            return
        self._synced = self.registry.revision
        change = self.registry.pop_changes() if self._noting else None
        base = self._figures.sequence(self._figures.own)
        if change is None:
            now = self.registry.snapshot()
            self._publication.start(now)
            report = Report(
                node=self._figures.own,
                sequence=base + 1,
                total=now.total,
                versions=dict(now.versions),
                routes=dict(now.routes),
                rows=now.connections,
            )
            self._figures.receive(report, self._clock())
            return
        if self._publishing:
            self._publication.add(change)
        else:
            self._publication.skip(change.total)  # without a reader it would only grow
        delta = Delta(
            node=self._figures.own,
            base=base,
            sequence=base + 1,
            total=change.total,
            versions=dict(change.versions),
            routes=dict(change.routes),
            rows=change.set,
            removed=change.removed,
        )
        self._figures.update(delta, self._clock())

    def _update_noting(self) -> None:
        noting = self._collecting or self._publishing
        if noting == self._noting:
            return
        self.sync()  # what happened before
        self._noting = noting
        if noting:
            self.registry.note_changes(on=True)
            self._publication.start(self.registry.snapshot())
        else:
            self.registry.note_changes(on=False)
