"""
What this node publishes about itself: a chain of deltas, and whole reports in between.

`sequence` grows with every change. A delta begins where the one before it ended. While no node listens, no delta is
made, so a node that listens anew gets a chain that starts later than anything it holds, and asks for a report.
"""

from .fleet_messages import Declaration, Delta, Report
from .rows import Rows
from .stats import Stats, StatsDelta


class Publication:
    """
    The chain of deltas. Must be given every change of the registry, by `add` or `skip`.

    Args:
        node: Id of this node.
        max_listed: Rows that the registry lists.
    """

    def __init__(self, node: str, max_listed: int) -> None:
        self.node = node
        self.sequence = 0
        self._max_listed = max_listed
        self._base = 0
        self._total = 0
        self._versions: dict[str, int] = {}
        self._routes: dict[str, int] = {}
        self._away: dict[str, int] = {}
        self._remembers: bool | None = None
        self._published_rows: Rows | None = None

    @property
    def pending(self) -> bool:
        """Something has changed since the last delta."""
        return self._base != self.sequence

    @property
    def rows(self) -> int:
        """How many rows are published at most; 0: none."""
        return self._published_rows.limit if self._published_rows is not None else 0

    def add(self, change: StatsDelta) -> None:
        """Add what changed in the registry to the next delta. O(changes)."""
        self.sequence += 1
        self._total = change.total
        self._versions.update(change.versions)
        self._routes.update(change.routes)
        self._away.update(change.away)
        if change.away_known is not None:
            self._remembers = change.away_known
        if self._published_rows is not None:
            for connection_id in change.removed:
                self._published_rows.pop(connection_id)
            for row in change.set:
                self._published_rows.put(row)

    def skip(self, total: int) -> None:
        """Note a change that is not published: a new chain starts after it."""
        self.sequence += 1
        self._total = total
        self._clear()

    def start(self, now: Stats) -> None:
        """Start a new chain at the present figures. Must be called before the first delta, and to have rows in it."""
        self.skip(now.total)

    def show_rows(self, limit: int, now: Stats) -> None:
        """Publish up to `limit` rows from now on, or more than so far; 0: none."""
        if not limit:
            if self._published_rows is not None:
                self._published_rows = None
                self.sequence += 1
        elif self._published_rows is None:
            self._published_rows = Rows(limit, self._max_listed)
            self._published_rows.note_changes(on=True)
            for row in now.connections:
                self._published_rows.put(row)
            self.start(now)
        else:
            self._published_rows.grow(limit)
            self.sequence += 1

    def report(
        self,
        now: Stats,
        *,
        rows: bool,
        released: Declaration | None = None,
        serves: str = "",
        known: tuple[str, ...] = (),
        cut: float = 0.0,
    ) -> Report:
        """
        Make a whole report.

        Args:
            now: The registry's figures, after all its changes were added.
            rows: With the rows that are published at present.
            released: The version that was declared current, as far as this node knows.
            serves: The version that this node serves.
            known: The versions that it counts apart.
            cut: Seconds after which something ends its clients' streams; 0: it knows of no limit.
        """
        shown = tuple(self._published_rows.shown.values()) if rows and self._published_rows is not None else None
        return Report(
            node=self.node,
            sequence=self.sequence,
            total=now.total,
            versions=dict(now.versions),
            routes=dict(now.routes),
            rows=shown,
            released=released,
            serves=serves,
            known=known,
            away=dict(now.away),
            remembers=now.away_known,
            cut=cut,
        )

    def pop_changes(self, cut: float = 0.0) -> Delta | None:
        """Return what changed since the last delta, or None; `cut` as for `report`. O(changes)."""
        if not self.pending:
            return None
        changed, removed = self._published_rows.pop_touched() if self._published_rows is not None else (None, [])
        delta = Delta(
            node=self.node,
            base=self._base,
            sequence=self.sequence,
            total=self._total,
            versions=self._versions,
            routes=self._routes,
            rows=tuple(changed) if changed is not None else None,
            removed=tuple(removed),
            away=self._away,
            remembers=self._remembers,
            cut=cut,
        )
        self._forget_changes()
        return delta

    def _forget_changes(self) -> None:
        self._versions, self._routes, self._away = {}, {}, {}
        self._remembers, self._base = None, self.sequence

    def _clear(self) -> None:
        self._forget_changes()
        if self._published_rows is not None:
            self._published_rows.note_changes(on=True)
