"""
The sums of what the nodes of a fleet report: totals, labels and rows.

What each node reported is kept beside the sums, so that a newer report replaces it: O(labels that changed), whatever
the number of nodes. Which reports are applied, core/fleet_figures.py decides.

Tests: tests/core/test_fleet_figures.py.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from . import away_pages
from .counts import LabelSums, bounded
from .fleet_messages import MAX_BROKEN_OFF, Delta, Report
from .known_versions import MAX_LEARNT, MAX_LISTED
from .labels import OTHER, ROOT, parse_route, parse_version
from .rows import Rows, is_valid_row
from .stats import ConnectionInfo

_RESERVED_SLACK: Final = MAX_LEARNT + MAX_LISTED + 16
"""Labels above its limit that a node may report: those it knows, and `(other)`."""


class NodeReport(msgspec.Struct):
    """What one node reported. Labels are those that it sent, counts >= 1."""

    sequence: int = -1
    """Up to where its changes are in the sums; -1: nothing is held."""
    latest: int = -1
    """The highest sequence number that it named."""
    total: int = 0
    versions: dict[str, int] = {}
    routes: dict[str, int] = {}
    rows: set[str] | None = None
    """Ids of its rows that are kept; None: its rows are not known."""
    rows_dropped: bool = False
    """Some of its rows found no place."""
    serves: str = ""
    """The version that it serves; empty: it has not said."""
    known: frozenset[str] = frozenset()
    """Versions that it counts apart from all others; what it reports under `(other)` is none of them."""
    away: dict[str, int] = {}
    """Its pages that broke off and may come back, counts >= 1."""
    says_away: bool = True
    """It says how many those are."""
    remembers: bool = False
    """It has been there since before the first of them broke off."""
    cut_after: float = 0.0
    """Seconds after which something ends its clients' streams; 0: it knows of no limit, or does not say."""
    truncated: bool = False
    """It reported more labels than are held; the rest is under `(other)`."""


class ReportSums:
    """
    The sums. Every method that changes a node's report changes them by the difference.

    Args:
        max_listed: Rows shown.
        max_versions: Versions counted apart.
        max_routes: Routes counted apart.
        reserved_versions: Versions that are always counted apart.
    """

    def __init__(self, max_listed: int, max_versions: int, max_routes: int, reserved_versions: Iterable[str]) -> None:
        self.total = 0
        self.versions = LabelSums(max_versions, parse_version, reserved_versions)
        self.routes = LabelSums(max_routes, parse_route, (ROOT,))
        self.away = LabelSums(away_pages.MAX_VERSIONS, parse_version, reserved_versions)
        self.rows = Rows(max_listed, max_listed)
        self._max_versions = max_versions + _RESERVED_SLACK
        self._max_routes = max_routes + _RESERVED_SLACK

    def note_changes(self, *, on: bool) -> None:
        """Start afresh to note changes, or stop and forget them."""
        self.versions.note_changes(on=on)
        self.away.note_changes(on=on)
        self.routes.note_changes(on=on)
        self.rows.note_changes(on=on)

    @property
    def has_room_for_rows(self) -> bool:
        """Rows were dropped for which there is room now."""
        return self.rows.overflowed and len(self.rows.shown) < min(self.rows.limit, self.total)

    def replace(self, held: NodeReport, report: Report) -> bool:
        """Replace what is held of a node by a whole report. Returns whether anything changed. O(labels of the node)."""
        versions, versions_truncated = _bounded(report.versions, self._max_versions, self.versions)
        routes, routes_truncated = _bounded(report.routes, self._max_routes, self.routes)
        held.truncated = versions_truncated or routes_truncated
        changed = self._set_total(held, report.total)
        changed |= _replace_counts(self.versions, held.versions, versions)
        changed |= _replace_counts(self.routes, held.routes, routes)
        held.versions, held.routes = versions, routes
        away = {self.away.shared(label): count for label, count in (report.away or {}).items() if count}
        changed |= _replace_counts(self.away, held.away, away)
        held.away, held.says_away, held.remembers = away, report.away is not None, report.remembers
        if report.rows is not None:
            changed |= self._replace_rows(report.node, held, report.rows)
        elif report.sequence > held.sequence:
            changed |= self._forget_rows(held)  # they changed, and the report does not say how
        held.sequence = report.sequence
        return changed

    def fits(self, held: NodeReport, delta: Delta) -> bool:
        """Say whether a delta can be applied. If not, its node is stale, and its next report is truncated again."""
        for counts, changed, limit in (
            (held.versions, delta.versions, self._max_versions),
            (held.away, delta.away, MAX_BROKEN_OFF),
            (held.routes, delta.routes, self._max_routes),
        ):
            new = sum(label not in counts for label in changed)
            if held.truncated and counts is not held.away and (new or OTHER in changed):
                return False
            if not new:
                continue
            # Those that are gone make room: visitors may replace all labels of a node between two deltas.
            gone = sum(not count and label in counts for label, count in changed.items())
            if len(counts) + new - gone > limit:
                return False
        return True

    def change(self, held: NodeReport, delta: Delta) -> bool:
        """Change what is held of a node by a delta that fits. Returns whether anything changed. O(changes)."""
        changed = self._set_total(held, delta.total)
        for sums, counts, news in (
            (self.versions, held.versions, delta.versions),
            (self.routes, held.routes, delta.routes),
            (self.away, held.away, delta.away),
        ):
            for label, count in news.items():
                before = counts.get(label, 0)
                if before == count:
                    continue
                if before and count:
                    counts[label] = count  # under the string that it has already
                elif count:
                    counts[sums.shared(label)] = count
                else:
                    del counts[label]
                sums.change(label, count - before)
                changed = True
        if delta.rows is not None and held.rows is not None:
            changed |= self._change_rows(delta.node, held, delta.rows, delta.removed)
        elif delta.rows is None and delta.base < delta.sequence:
            changed |= self._forget_rows(held)  # they changed, and the delta does not say how
        if delta.remembers is not None:
            held.remembers = delta.remembers
        held.sequence = delta.sequence
        return changed

    def forget(self, held: NodeReport) -> bool:
        """Take what is held of a node out of the sums. Returns whether anything changed. O(labels of the node)."""
        changed = self._set_total(held, 0)
        changed |= _replace_counts(self.versions, held.versions, {})
        changed |= _replace_counts(self.routes, held.routes, {})
        changed |= _replace_counts(self.away, held.away, {})
        changed |= self._forget_rows(held)
        held.versions, held.routes, held.away = {}, {}, {}
        held.cut_after = 0.0
        held.sequence = -1
        return changed

    def _set_total(self, held: NodeReport, total: int) -> bool:
        by = total - held.total
        self.total += by
        held.total = total
        return by != 0

    def _replace_rows(self, node: str, held: NodeReport, rows: Iterable[ConnectionInfo]) -> bool:
        reported = {row.id: row for row in rows}
        held.rows_dropped = False
        gone = (held.rows or set()) - reported.keys()
        for connection_id in gone:
            self.rows.pop(connection_id)
        held.rows = (held.rows or set()) & reported.keys()
        return self._change_rows(node, held, reported.values(), ()) or bool(gone)

    def _change_rows(self, node: str, held: NodeReport, rows: Iterable[ConnectionInfo], removed: Iterable[str]) -> bool:
        kept = held.rows
        assert kept is not None
        changed = False
        for connection_id in removed:
            if connection_id in kept:
                kept.discard(connection_id)
                self.rows.pop(connection_id)
                changed = True
        for row in rows:
            if not is_valid_row(row, node):
                continue
            if self.rows.put(row):
                kept.add(row.id)
                changed = True
            else:
                held.rows_dropped = True
        return changed

    def _forget_rows(self, held: NodeReport) -> bool:
        rows, held.rows, held.rows_dropped = held.rows, None, False
        for connection_id in rows or ():
            self.rows.pop(connection_id)
        return bool(rows)


def _replace_counts(sums: LabelSums, before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Change sums from one node's counts to its next. Returns whether any changed."""
    changed = False
    for label, count in before.items():
        if label not in after:
            sums.change(label, -count)
            changed = True
    for label, count in after.items():
        held = before.get(label, 0)
        if held != count:
            sums.change(label, count - held)
            changed = True
    return changed


def _bounded(counts: Mapping[str, int], limit: int, sums: LabelSums) -> tuple[dict[str, int], bool]:
    """Return counts >= 1 of at most `limit` labels and the rest under `(other)`, and whether there was a rest."""
    kept = {sums.shared(label): count for label, count in counts.items() if count}
    truncated = len(kept) - (OTHER in kept) > limit
    return bounded(kept, limit, sums.reserved) if truncated else kept, truncated
