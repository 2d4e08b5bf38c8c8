"""
The fleet's figures: the newest report of each node, summed.

    liveness  Liveness            which nodes are expected, suspect or dead
    reports   {node: NodeReport}  what each expected node reported last
    sums      ReportSums          their sums, kept as reports come

Rules:

1. A report is applied if it is newer than what is held. A delta says in absolute counts what changed since its base, so
   it is applied if what is held lies between its base and its end. Repeated and late ones change nothing.
2. A delta whose base has not been seen, or a heartbeat with a later sequence number, means that something was lost: the
   node is *stale* until a newer report or the missing deltas have come. A suspect node is stale, too.
3. A dead node is dropped with its figures. A node that expired without being dropped (core/liveness.py) loses its
   figures and stays expected.

`partial` is true while an expected node is stale, or while this node is disconnected.

Source: docs/adr/0012-fleet-reports.md
"""

from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import NamedTuple

from .fleet_messages import Delta, Report
from .liveness import Liveness
from .report_sums import NodeReport, ReportSums
from .stats import Nodes, NodeShare, Stats, StatsDelta


class Expired(NamedTuple):
    """What `Fleet.expire` did."""

    changed: bool
    dropped: list[str]
    """Nodes that are dead now."""


class _Outline(NamedTuple):
    truncated: bool
    nodes: Nodes
    partial: bool


class Fleet:
    """
    The newest report of each node, and their sum. Not thread-safe.

    Args:
        own: Id of the node whose view this is; it is never stale and never expires.
        max_listed: Rows in a snapshot.
        max_versions: Versions counted apart.
        max_routes: Routes counted apart.
        reserved_versions: Versions that are always counted apart.
    """

    def __init__(
        self,
        own: str,
        *,
        max_listed: int = 1_000,
        max_versions: int = 1_000,
        max_routes: int = 10_000,
        reserved_versions: Iterable[str] = (),
    ) -> None:
        self.own = own
        self.revision = 0
        """Number of changes so far."""
        self._liveness = Liveness(own)
        self._reports: dict[str, NodeReport] = {own: NodeReport(sequence=0, latest=0, rows=set())}
        self._stale: set[str] = set()
        self._sums = ReportSums(max_listed, max_versions, max_routes, reserved_versions)
        self._watching = False
        self._base = 0
        self._outline_before = self._outline()

    @property
    def members(self) -> Collection[str]:
        """All nodes that are expected, this one included."""
        return self._reports.keys()

    def __contains__(self, node: object) -> bool:
        return node in self._reports

    def __len__(self) -> int:
        return len(self._reports)

    @property
    def disconnected(self) -> bool:
        """The other nodes cannot be heard."""
        return self._liveness.disconnected

    def sequence(self, node: str) -> int:
        """Return the sequence number up to which a node's changes are in the sums; -1: nothing of it is held."""
        report = self._reports.get(node)
        return -1 if report is None else report.sequence

    def expect(self, node: str, now: float) -> bool:
        """Know of a node before it has reported. Returns whether it was new."""
        expected = self._liveness.expected
        new = self._liveness.expect(node, now)
        if new:
            self._reports[node] = NodeReport()
            self._stale.add(node)
        if self._liveness.expected != expected:
            self.revision += 1
        return new

    def missing_nodes(self, *, rows: bool) -> list[str]:
        """Return the nodes whose report is needed: the stale ones and, with `rows`, those whose rows are not known."""
        if not rows:
            return list(self._stale)
        has_room = self._sums.has_room_for_rows
        return [
            node
            for node, report in self._reports.items()
            if node in self._stale or report.rows is None or (has_room and report.rows_dropped)
        ]

    def is_incomplete(self, *, rows: bool) -> bool:
        """Say whether the report of a node is missing that can be expected to answer. O(nodes) with `rows`."""
        members = self._liveness.members
        if any(not members[node].suspect for node in self._stale):
            return True
        return rows and any(report.rows is None and not members[node].suspect for node, report in self._reports.items())

    def is_stale(self, node: str) -> bool:
        """Say whether something of a node is missing."""
        return node in self._stale

    def longest_silence(self, now: float) -> float:
        """
        Return for how many seconds the most silent node has been silent; 0.0 without others. O(nodes)

        Nodes without figures are among them: while this node is disconnected, the number grows.
        """
        return self._liveness.longest_silence(now)

    def shares(self, now: float) -> list[NodeShare]:
        """Return what each expected node has reported, this one first. O(nodes)."""
        return [
            NodeShare(node, report.total, node not in self._stale, self._liveness.silence(node, now))
            for node, report in self._reports.items()
        ]

    def responsive_nodes(self) -> list[str]:
        """Return the nodes that are not suspect. O(nodes)."""
        return self._liveness.responsive()

    def unreported(self) -> set[str]:
        """Return the expected nodes of which nothing is held."""
        return {node for node in self._stale if self._reports[node].sequence < 0}

    def never_reported(self) -> set[str]:
        """Return the nodes that have not reported since they are expected, not even before they expired."""
        return {node for node in self._stale if self._reports[node].latest < 0}

    def totals(self) -> list[int]:
        """Return the nodes' own totals."""
        return [report.total for report in self._reports.values()]

    def reserve_version(self, version: str) -> bool:
        """Count a version apart from now on, however many others there are. Returns whether anything changed."""
        if not self._sums.versions.reserve(version):
            return False
        before = self.revision
        self.revision += 1
        return self._noted(before)

    def receive(self, report: Report, now: float) -> bool:
        """Apply a whole report. Returns whether anything changed. O(labels of that node)."""
        held = self._admit(report.node, report.sequence, now)
        if held is None or report.sequence < held.sequence:
            return False
        before = self.revision
        self._heard(report.node, held, report.sequence, now)
        if self._sums.replace(held, report):
            self.revision += 1
        self._update_stale(report.node)
        return self._noted(before)

    def update(self, delta: Delta, now: float) -> bool:
        """Apply what changed at a node. Returns whether anything changed. O(changes)."""
        held = self._admit(delta.node, delta.sequence, now)
        if held is None or delta.sequence < held.sequence:
            return False
        before = self.revision
        self._heard(delta.node, held, delta.sequence, now)
        if 0 <= delta.base <= held.sequence and self._sums.fits(held, delta) and self._sums.change(held, delta):
            self.revision += 1
        self._update_stale(delta.node)
        return self._noted(before)

    def heartbeat(self, node: str, sequence: int, now: float) -> bool:
        """Note that a node lives, and its sequence number. Returns whether anything changed. O(1)."""
        held = self._admit(node, sequence, now)
        if held is None or sequence < held.sequence:
            return False
        before = self.revision
        self._heard(node, held, sequence, now)
        self._update_stale(node)
        return self._noted(before)

    def leave(self, node: str, sequence: int | None = None) -> bool:
        """
        Drop a node that is gone.

        Args:
            node: Not this one.
            sequence: Its last, if it named one.

        Returns:
            Whether anything changed.
        """
        held = self._reports.get(node)
        if node == self.own or (held is not None and sequence is not None and sequence < held.sequence):
            return False  # it has come back since
        last = max(-1 if sequence is None else sequence, -1 if held is None else held.latest)
        self._liveness.remove(node, last)
        if held is None:
            return False
        before = self.revision
        self._sums.forget(held)
        del self._reports[node]
        self._stale.discard(node)
        self.revision += 1
        return self._noted(before)

    def expire(self, now: float, *, drop: bool = True) -> Expired:
        """
        Drop or suspect the nodes that have been silent for too long. O(nodes).

        Args:
            now: Seconds.
            drop: Silence means that a node is dead. False: `leave` is called for every node that is.
        """
        before = self.revision
        expiry = self._liveness.expire(now, drop=drop)
        for node in expiry.dead:
            self.leave(node)
        for node in expiry.expired:
            held = self._reports[node]
            if held.sequence >= 0:
                self._sums.forget(held)
                self.revision += 1
                self._update_stale(node)
        for node in expiry.suspected:
            if node in self._reports:
                self._update_stale(node)
        if self._liveness.admit_rejected():
            self.revision += 1
        return Expired(self._noted(before), expiry.dead)

    def extend_deadlines(self, seconds: float) -> bool:
        """Forgive every node so much silence, because this node did not listen. Returns whether anything changed."""
        return self._suspected(self._liveness.extend_deadlines(seconds))

    def mark_silent(self, nodes: Iterable[str], since: float) -> bool:
        """Suspect nodes that were asked and have not spoken `since` then. Returns whether anything changed."""
        return self._suspected(self._liveness.mark_silent(nodes, since))

    def restart_deadlines(self, now: float) -> None:
        """Count silence from now: this node did not listen before. O(nodes)."""
        self._liveness.restart_deadlines(now)

    def set_disconnected(self, *, disconnected: bool, now: float) -> bool:
        """Note whether the other nodes can be heard. Returns whether anything changed. O(nodes)."""
        before = self.revision
        if not self._liveness.set_disconnected(disconnected=disconnected, now=now):
            return False
        self.revision += 1
        for node in self._reports:
            self._update_stale(node)
        return self._noted(before)

    def forget_others(self) -> None:
        """Forget the other nodes' figures, because no viewer watches any more. The nodes stay expected."""
        for node, held in self._reports.items():
            if node != self.own:
                self._sums.forget(held)
                held.latest = -1
                self._liveness.forget(node)
                self._update_stale(node)
        self.revision += 1
        self._noted(self.revision)

    def watch(self) -> None:
        """Start to note changes for `drain_changes()`; the first delta starts at the present revision."""
        self._watching = True
        self._start_over()

    def unwatch(self) -> None:
        """Stop noting changes."""
        self._watching = False
        self._start_over()

    def drain_changes(self) -> StatsDelta | None:
        """Return what changed since the last `drain_changes()` or `watch()`, or None. O(changes)."""
        if not self._watching or self._base == self.revision:
            return None
        sums = self._sums
        rows = sums.rows.drain_changes()
        now, before = self._outline(), self._outline_before
        delta = StatsDelta(
            base=self._base,
            revision=self.revision,
            total=sums.total,
            versions=sums.versions.drain_changes(),
            routes=sums.routes.drain_changes(),
            set=rows.set,
            removed=rows.removed,
            connections_truncated=now.truncated if now.truncated != before.truncated else None,
            nodes=now.nodes if now.nodes != before.nodes else None,
            partial=now.partial if now.partial != before.partial else None,
            moved=rows.moved,
        )
        self._base = self.revision
        self._outline_before = now
        return delta

    def snapshot(self) -> Stats:
        """Return the figures now. O(versions + routes + rows listed)."""
        truncated, nodes, partial = self._outline()
        return Stats(
            total=self._sums.total,
            versions=MappingProxyType(self._sums.versions.counts.copy()),
            routes=MappingProxyType(self._sums.routes.counts.copy()),
            connections=tuple(self._sums.rows.shown.values()),
            revision=self.revision,
            connections_truncated=truncated,
            nodes=nodes,
            partial=partial,
        )

    def _outline(self) -> _Outline:
        nodes = Nodes(len(self._reports) - len(self._stale), self._liveness.expected)
        partial = self._liveness.disconnected or nodes.reporting < nodes.expected
        return _Outline(len(self._sums.rows.shown) < self._sums.total, nodes, partial)

    def _start_over(self) -> None:
        self._sums.note_changes(on=self._watching)
        self._base = self.revision
        self._outline_before = self._outline()

    def _noted(self, before: int) -> bool:
        if not self._watching:
            self._start_over()
        return self.revision != before

    def _suspected(self, nodes: Iterable[str]) -> bool:
        before = self.revision
        for node in nodes:
            self._update_stale(node)
        return self._noted(before)

    def _admit(self, node: str, sequence: int, now: float) -> NodeReport | None:
        """Return what is held of a node that spoke; None: it is dead, or there is no place for it."""
        held = self._reports.get(node)
        if held is None and not self._liveness.is_dead(node, sequence):
            self.expect(node, now)
            held = self._reports.get(node)
        return held

    def _heard(self, node: str, held: NodeReport, sequence: int, now: float) -> None:
        held.latest = max(held.latest, sequence)
        self._liveness.heard(node, now)

    def _update_stale(self, node: str) -> None:
        held = self._reports[node]
        current = 0 <= held.sequence == held.latest and not self._liveness.members[node].suspect
        if current == (node in self._stale):
            (self._stale.discard if current else self._stale.add)(node)
            self.revision += 1
