"""
This node's own share of the figures: from its registry into the fleet's figures and into its publication.

While a viewer watches, here or at another node, the registry notes changes, and each is passed on: O(changes).
Otherwise nothing is noted, and the whole share is passed on when it is asked for.

Tests: tests/fleet/test_own_share.py, tests/fleet/backends/test_conformance.py.
"""

from collections.abc import Callable

from ..core.fleet_figures import FleetFigures
from ..core.fleet_messages import Delta, Report
from ..core.publication import Publication
from ..core.registry import Registry
from ..core.stats import Stats


class OwnShare:
    """
    Passes the registry's changes on. Called with the node's lock held.

    Args:
        registry: This node's connections.
        figures: Where this node is one of many.
        publication: What the other nodes get.
        clock: Monotonic seconds.
        refresh_departed: Brings up to date what the registry says of pages that may come back.
    """

    def __init__(
        self,
        registry: Registry,
        figures: FleetFigures,
        publication: Publication,
        clock: Callable[[], float],
        refresh_departed: Callable[[], None],
    ) -> None:
        self.registry = registry
        self._figures = figures
        self._publication = publication
        self._clock = clock
        self._refresh_departed = refresh_departed
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
        self._refresh_departed()
        if self._synced == self.registry.revision:
            return
        self._synced = self.registry.revision
        change = self.registry.pop_changes() if self._noting else None
        base = self._figures.sequence(self._figures.own)
        if change is None:
            now = self.registry.snapshot()
            self._publication.start(now)
            self._report(now, base + 1)
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
            away=dict(change.away),
            remembers=change.away_known,
        )
        self._figures.update(delta, self._clock())
        if self._figures.sequence(self._figures.own) != delta.sequence:
            # It did not fit. What it said would be missing from the sums, and nobody else tells this node.
            self._report(self.registry.snapshot(), delta.sequence)

    def _report(self, now: Stats, sequence: int) -> None:
        report = Report(
            node=self._figures.own,
            sequence=sequence,
            total=now.total,
            versions=dict(now.versions),
            routes=dict(now.routes),
            rows=now.connections,
            away=dict(now.away),
            remembers=now.away_known,
        )
        self._figures.receive(report, self._clock())

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
