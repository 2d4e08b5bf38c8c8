"""
The fleet's figures: the newest report of each node, summed.

    members  {node: Share}  every node that is known, with what it reported last
    gone     {node: sequence}  nodes that left, so that what they sent before that and comes later does not revive them
    sums     label by label, kept as reports come: O(labels that changed), whatever the number of nodes

Rules, and there are no others:

1. A report is taken if it is newer than what is held. A delta says in absolute counts what changed since its base, so
   it is taken if what is held lies between its base and its end. Repeated and late ones change nothing.
2. A delta whose base has not been seen, or a heartbeat that tells a later sequence, means that something was lost: the
   share is *behind* until a newer report or the missing deltas have come.
3. A node that is silent for `silent_after`, or does not answer when asked, is behind, too; after `expire_after` it is
   dropped. If nobody can be heard at all (`blind`), or its end would have been told, its figures go and it stays
   expected. When the others can be heard again, the silence after which one is dropped counts from then, but for those
   who have not spoken since the last time: they are let off once.
4. Who left or was dropped comes back only with a report that is newer than its last word.

`partial` is true while anybody who is expected is behind, or while blind. Times are seconds of the caller's own clock;
no clock of another machine is ever compared. Source: docs/adr/0012-fleet-reports.md
"""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from .counts import LabelSums, bounded
from .fleet_messages import Delta, Report
from .labels import OTHER, ROOT, parse_route, parse_version
from .rows import Rows, is_valid_row
from .stats import ConnectionInfo, Nodes, NodeShare, Stats, StatsDelta

MAX_NODES: Final = 4_096
"""Nodes of one fleet; more are not counted, and the figures are partial."""

MAX_GONE: Final = 4_096
"""Nodes that left which are remembered."""


_BESIDE: Final = 16


class Share(msgspec.Struct):
    """What one node reported. Labels are those that it sent, counts >= 1."""

    heard: float
    sequence: int = -1
    """-1: nothing is held."""
    latest: int = -1
    """The highest sequence that it has told of."""
    silent: bool = False
    total: int = 0
    versions: dict[str, int] = {}
    routes: dict[str, int] = {}
    rows: set[str] | None = None
    """Ids of its rows that are kept; None: its rows are not known."""
    cut: bool = False
    """Some of its rows found no place."""
    truncated: bool = False
    """It reported more labels than are held; the rest is under `(other)`."""
    excused: bool = False
    """Its silence was forgiven, because nobody could be heard, and it has not spoken since."""

    @property
    def current(self) -> bool:
        """All that it has told of is in the sums."""
        return 0 <= self.sequence == self.latest and not self.silent


class Fleet:
    """
    The newest report of each node, and their sum. Not thread-safe.

    Args:
        own: Id of the node whose view this is; it is always current and never expires.
        max_listed: Rows in a snapshot.
        max_versions: Versions counted apart.
        max_routes: Routes counted apart.
        reserved_versions: Versions that are always counted apart.
        silent_after: Seconds of silence after which a node is behind.
        expire_after: Seconds of silence after which it is dropped.
    """

    def __init__(
        self,
        own: str,
        *,
        max_listed: int = 1_000,
        max_versions: int = 1_000,
        max_routes: int = 10_000,
        reserved_versions: Iterable[str] = (),
        silent_after: float = 4.5,
        expire_after: float = 9.0,
    ) -> None:
        self.own = own
        self.blind = False
        self._blind_since = 0.0
        self.revision = 0
        """Number of changes so far."""
        self.dropped: list[str] = []
        """Whom the last `expire()` dropped."""
        self._max_listed = max_listed
        # A node counts a few reserved labels and `(other)` beside its limit.
        self._max_versions = max_versions + _BESIDE
        self._max_routes = max_routes + _BESIDE
        self._silent_after = silent_after
        self._expire_after = expire_after
        self._members: dict[str, Share] = {own: Share(heard=math.inf, sequence=0, latest=0, rows=set())}
        self._behind: set[str] = set()
        self._turned_away: set[str] = set()
        self._gone: dict[str, int] = {}
        self._total = 0
        self._versions = LabelSums(max_versions, parse_version, reserved_versions)
        self._routes = LabelSums(max_routes, parse_route, (ROOT,))
        self._rows = Rows(max_listed, max_listed)
        self._watching = False
        self._base = 0
        self._told = self._outline()

    # ---- who is there

    @property
    def members(self) -> Iterable[str]:
        """All nodes that are expected, this one included."""
        return self._members.keys()

    def __contains__(self, node: object) -> bool:
        return node in self._members

    def __len__(self) -> int:
        return len(self._members)

    def sequence(self, node: str) -> int:
        """Return up to where a node's changes are in the sums; -1: nothing of it is held."""
        share = self._members.get(node)
        return -1 if share is None else share.sequence

    def expect(self, node: str, now: float) -> bool:
        """Know of a node before it has reported. Returns whether it was new."""
        if node in self._members or not self._room(node):
            return False
        self._members[node] = Share(heard=now)
        self._behind.add(node)
        self.revision += 1
        return True

    def missing(self, *, rows: bool) -> list[str]:
        """Return the nodes whose report is needed: those behind and, with `rows`, those whose rows are not known."""
        if not rows:
            return list(self._behind)
        hungry = self._rows.overflowed and len(self._rows.shown) < min(self._max_listed, self._total)
        return [
            node
            for node, share in self._members.items()
            if node in self._behind or share.rows is None or (hungry and share.cut)
        ]

    def misses(self, *, rows: bool) -> bool:
        """Say whether a report is needed of somebody who can be expected to answer. O(nodes) with `rows`."""
        if any(not self._members[node].silent for node in self._behind):
            return True
        return rows and any(share.rows is None and not share.silent for share in self._members.values())

    def is_behind(self, node: str) -> bool:
        """Say whether something of a node is missing."""
        return node in self._behind

    def oldest(self, now: float) -> float:
        """
        Return for how many seconds the node that has been silent longest has said nothing; 0.0 without others. O(nodes)

        Those whose figures were let go are among them: while nobody can be heard, it grows.
        """
        return max([0.0, *(now - share.heard for share in self._members.values())])

    def shares(self, now: float) -> list[NodeShare]:
        """Return what each node that is expected has told, this one first. O(nodes)."""
        return [
            NodeShare(node, share.total, node not in self._behind, max(0.0, now - share.heard))
            for node, share in self._members.items()
        ]

    def answering(self) -> list[str]:
        """Return the nodes that have not been silent for long."""
        return [node for node, share in self._members.items() if not share.silent]

    def unheard(self) -> set[str]:
        """Return the nodes that are expected and have not reported."""
        return {node for node in self._behind if self._members[node].sequence < 0}

    def never_heard(self) -> set[str]:
        """Return the nodes that have not reported since they are expected, not even before they could not be heard."""
        return {node for node in self._behind if self._members[node].latest < 0}

    def totals(self) -> Iterable[int]:
        """Return the nodes' own totals."""
        return (share.total for share in self._members.values())

    def reserve_version(self, version: str) -> bool:
        """Count a version apart from now on, however many others there are. Returns whether anything changed."""
        if not self._versions.reserve(version):
            return False
        before = self.revision
        self.revision += 1
        return self._noted(before)

    # ---- what nodes say

    def receive(self, report: Report, now: float) -> bool:
        """Take in a whole report. Returns whether anything changed. O(labels of that node)."""
        share = self._admit(report.node, report.sequence, now)
        if share is None or report.sequence < share.sequence:
            return False
        before = self.revision
        self._heard(report.node, share, report.sequence, now)
        self._replace(share, report)
        if report.rows is not None:
            self._replace_rows(report.node, share, report.rows)
        elif report.sequence > share.sequence:
            self._forget_rows(share)  # they changed, and nobody said how
        share.sequence = report.sequence
        self._settle(report.node, share)
        return self._noted(before)

    def update(self, delta: Delta, now: float) -> bool:
        """Take in what changed at a node. Returns whether anything changed. O(changes)."""
        share = self._admit(delta.node, delta.sequence, now)
        if share is None or delta.sequence < share.sequence:
            return False
        before = self.revision
        self._heard(delta.node, share, delta.sequence, now)
        if 0 <= delta.base <= share.sequence and self._fits(share, delta):
            self._change(share, delta)
            if delta.rows is not None and share.rows is not None:
                self._change_rows(delta.node, share, delta.rows, delta.removed)
            elif delta.rows is None and delta.base < delta.sequence:
                self._forget_rows(share)  # it changed, and nobody said how
            share.sequence = delta.sequence
        self._settle(delta.node, share)
        return self._noted(before)

    def beat(self, node: str, sequence: int, now: float) -> bool:
        """Take note that a node lives, and how far it is. Returns whether anything changed. O(1)."""
        share = self._admit(node, sequence, now)
        if share is None or sequence < share.sequence:
            return False
        before = self.revision
        self._heard(node, share, sequence, now)
        self._settle(node, share)
        return self._noted(before)

    def leave(self, node: str, sequence: int | None = None) -> bool:
        """
        Drop a node that is gone.

        Args:
            node: Not this one.
            sequence: Its last, if it said so.

        Returns:
            Whether anything changed.
        """
        share = self._members.get(node)
        last = max(-1 if sequence is None else sequence, -1 if share is None else share.latest)
        if node == self.own or (share is not None and sequence is not None and sequence < share.sequence):
            return False  # it has come back since
        self._bury(node, last)
        if share is None:
            return False
        before = self.revision
        self._forget(share)
        del self._members[node]
        self._behind.discard(node)
        self.revision += 1
        return self._noted(before)

    def expire(self, now: float, *, drop: bool = True) -> bool:
        """
        Notice who has been silent for too long. O(nodes).

        Args:
            now: Seconds.
            drop: Silence means that a node is gone. False: `leave` is called for every node that is.

        Returns:
            Whether anything changed.
        """
        before = self.revision
        self.dropped = []
        for node, share in list(self._members.items()):
            silence = now - share.heard
            if silence >= self._expire_after and drop and not self.blind:
                self.leave(node)
                self.dropped.append(node)
            elif silence >= self._expire_after and share.sequence >= 0:
                self._forget(share)
                share.sequence = -1
                self._settle(node, share)
                self.revision += 1
            elif silence >= self._silent_after and not share.silent:
                share.silent = True
                self._settle(node, share)
        if self._turned_away and len(self._members) < MAX_NODES:
            self._turned_away.clear()
            self.revision += 1
        return self._noted(before)

    def excuse(self, seconds: float) -> bool:
        """
        Forgive everybody so much silence, because this node was not listening itself. O(nodes)

        Args:
            seconds: After `silent_after`, what is known of the others is no longer the whole until they are heard.

        Returns:
            Whether anything changed.
        """
        before = self.revision
        for node, share in self._members.items():
            share.heard += seconds
            if seconds >= self._silent_after and node != self.own:
                share.silent = True
                self._settle(node, share)
        return self._noted(before)

    def missed(self, nodes: Iterable[str], since: float) -> bool:
        """
        Hold nodes that were asked and have not spoken `since` then for silent until they speak. O(nodes asked)

        Returns:
            Whether anything changed.
        """
        before = self.revision
        for node in nodes:
            share = self._members.get(node)
            if share is not None and node != self.own and share.heard < since:
                share.silent = True
                self._settle(node, share)
        return self._noted(before)

    def listen(self, now: float) -> None:
        """Count silence from now: nobody was listened to before. O(nodes)."""
        for node, share in self._members.items():
            if node != self.own:
                share.heard = now

    def set_blind(self, *, blind: bool, now: float) -> bool:
        """Say whether the others cannot be heard. When they can again, they have time to speak (rule 3). O(nodes)."""
        if blind == self.blind:
            return False
        before = self.revision
        self.blind = blind
        if blind:
            self._blind_since = now
        for node, share in self._members.items():
            if not blind and node != self.own:
                # What is old is not the whole. Those that were only ever expected are behind anyway, and waited for.
                share.silent |= share.latest >= 0 and now - share.heard >= self._silent_after
                # Once, or a store that comes and goes would keep the figures of the dead.
                share.heard = share.heard + now - self._blind_since if share.excused else now
                share.excused = True
                self._settle(node, share)
        self.revision += 1
        return self._noted(before)

    def forget_others(self) -> None:
        """Let go of the others' figures, because nobody watches any more. They stay expected."""
        for node, share in self._members.items():
            if node != self.own:
                self._forget(share)
                share.sequence = share.latest = -1
                share.silent = False
                self._settle(node, share)
        self.revision += 1
        self._noted(self.revision)

    # ---- the figures

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
        rows = self._rows.drain_changes()
        truncated, nodes, partial = now = self._outline()
        delta = StatsDelta(
            base=self._base,
            revision=self.revision,
            total=self._total,
            versions=self._versions.drain_changes(),
            routes=self._routes.drain_changes(),
            set=rows.set,
            removed=rows.removed,
            connections_truncated=truncated if truncated != self._told[0] else None,
            nodes=nodes if nodes != self._told[1] else None,
            partial=partial if partial != self._told[2] else None,
            moved=rows.moved,
        )
        self._base = self.revision
        self._told = now
        return delta

    def snapshot(self) -> Stats:
        """Return the figures now. O(versions + routes + rows listed)."""
        truncated, nodes, partial = self._outline()
        return Stats(
            total=self._total,
            versions=MappingProxyType(self._versions.counts.copy()),
            routes=MappingProxyType(self._routes.counts.copy()),
            connections=tuple(self._rows.shown.values()),
            revision=self.revision,
            connections_truncated=truncated,
            nodes=nodes,
            partial=partial,
        )

    # ---- inside

    def _outline(self) -> tuple[bool, Nodes, bool]:
        expected = len(self._members) + len(self._turned_away)
        nodes = Nodes(len(self._members) - len(self._behind), expected)
        return len(self._rows.shown) < self._total, nodes, self.blind or nodes.reporting < nodes.expected

    def _start_over(self) -> None:
        for noted in (self._versions, self._routes, self._rows):
            noted.note_changes(on=self._watching)
        self._base = self.revision
        self._told = self._outline()

    def _noted(self, before: int) -> bool:
        if not self._watching:
            self._start_over()
        return self.revision != before

    def _room(self, node: str) -> bool:
        if len(self._members) < MAX_NODES:
            return True
        if len(self._turned_away) < MAX_GONE and node not in self._turned_away:
            self._turned_away.add(node)
            self.revision += 1
        return False

    def _admit(self, node: str, sequence: int, now: float) -> Share | None:
        """Return the share of a node that spoke, a new one if need be, or None if it must not be heard."""
        share = self._members.get(node)
        if share is not None:
            return share
        if sequence <= self._gone.get(node, -1) or not self._room(node):
            return None
        self._gone.pop(node, None)
        self.expect(node, now)
        return self._members[node]

    def _heard(self, node: str, share: Share, sequence: int, now: float) -> None:
        share.latest = max(share.latest, sequence)
        if node != self.own:
            share.heard = now
            share.silent = share.excused = False

    def _settle(self, node: str, share: Share) -> None:
        """Keep `behind` true to the share."""
        if share.current:
            if node in self._behind:
                self._behind.discard(node)
                self.revision += 1
        elif node not in self._behind:
            self._behind.add(node)
            self.revision += 1

    def _bury(self, node: str, last: int) -> None:
        self._gone[node] = max(last, self._gone.pop(node, -1))
        while len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]

    def _replace(self, share: Share, report: Report) -> None:
        self._set_total(share, report.total)
        versions, versions_truncated = _bounded(report.versions, self._max_versions, self._versions.shared)
        routes, routes_truncated = _bounded(report.routes, self._max_routes, self._routes.shared)
        share.truncated = versions_truncated or routes_truncated
        share.versions = self._replace_counts(self._versions, share.versions, versions)
        share.routes = self._replace_counts(self._routes, share.routes, routes)

    def _replace_counts(self, sums: LabelSums, before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
        for label, count in before.items():
            if label not in after:
                sums.change(label, -count)
                self.revision += 1
        for label, count in after.items():
            held = before.get(label, 0)
            if held != count:
                sums.change(label, count - held)
                self.revision += 1
        return after

    def _fits(self, share: Share, delta: Delta) -> bool:
        """Say whether a delta can be held. If not, its node is behind, and its next report is truncated again."""
        for held, changed, limit in (
            (share.versions, delta.versions, self._max_versions),
            (share.routes, delta.routes, self._max_routes),
        ):
            new = sum(label not in held for label in changed)
            if share.truncated and (new or OTHER in changed):
                return False
            if new and len(held) + new > limit:
                return False
        return True

    def _change(self, share: Share, delta: Delta) -> None:
        self._set_total(share, delta.total)
        for sums, held, changed in (
            (self._versions, share.versions, delta.versions),
            (self._routes, share.routes, delta.routes),
        ):
            for label, count in changed.items():
                before = held.get(label, 0)
                if before == count:
                    continue
                if before and count:
                    held[label] = count  # under the string that it has already
                elif count:
                    held[sums.shared(label)] = count
                else:
                    del held[label]
                sums.change(label, count - before)
                self.revision += 1

    def _set_total(self, share: Share, total: int) -> None:
        if share.total != total:
            self._total += total - share.total
            share.total = total
            self.revision += 1

    def _replace_rows(self, node: str, share: Share, rows: Iterable[ConnectionInfo]) -> None:
        told = {row.id: row for row in rows}
        share.cut = False
        for connection_id in (share.rows or set()) - told.keys():
            self._rows.pop(connection_id)
            self.revision += 1
        share.rows = (share.rows or set()) & told.keys()
        self._change_rows(node, share, told.values(), ())

    def _change_rows(self, node: str, share: Share, rows: Iterable[ConnectionInfo], removed: Iterable[str]) -> None:
        kept = share.rows
        assert kept is not None
        for connection_id in removed:
            if connection_id in kept:
                kept.discard(connection_id)
                self._rows.pop(connection_id)
                self.revision += 1
        for row in rows:
            if not is_valid_row(row, node):
                continue
            if self._rows.put(row):
                kept.add(row.id)
                self.revision += 1
            else:
                share.cut = True

    def _forget_rows(self, share: Share) -> None:
        for connection_id in share.rows or ():
            self._rows.pop(connection_id)
            self.revision += 1
        share.rows = None
        share.cut = False

    def _forget(self, share: Share) -> None:
        self._set_total(share, 0)
        self._replace_counts(self._versions, share.versions, {})
        self._replace_counts(self._routes, share.routes, {})
        share.versions, share.routes = {}, {}
        self._forget_rows(share)


def _bounded(counts: Mapping[str, int], limit: int, shared: Callable[[str], str]) -> tuple[dict[str, int], bool]:
    """Return counts >= 1 of at most `limit` labels and the rest under `(other)`, and whether there was a rest."""
    kept = {shared(label): count for label, count in counts.items() if count}
    truncated = len(kept) - (OTHER in kept) > limit
    return bounded(kept, limit) if truncated else kept, truncated
