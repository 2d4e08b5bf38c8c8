"""
This node's connections and their counts.

Every event costs O(1), whatever the number of connections: a counter moves, and while a viewer watches, the value that
it had before is noted. `pop_changes()` turns those notes into a delta, so the cost of a push is that of what changed.

    rows.shown        {id: Record}   the connections that viewers see, at most `max_listed`, in the order of listing
    rows.spare        {id: Record}   all other connections; the oldest moves up when a listed one closes
    versions, routes  LabelCounts: {label: count}, counts >= 1, a bounded number of labels

Invariants: `total == len(rows) == sum(versions)`, and `== sum(routes)` with route tracking.
"""

from collections.abc import Iterable, Mapping
from itertools import chain, islice
from types import MappingProxyType

import msgspec

from ..errors import UnknownConnection
from .counts import LabelCounts
from .current_version import CurrentRelease, CurrentVersion
from .labels import OTHER, ROOT, UNKNOWN
from .rows import RowChoice
from .stats import Absence, ConnectionInfo, Nodes, Stats, StatsDelta, VersionCount, changed_counts


class Record(msgspec.Struct, gc=False):
    """
    One connection. `gc=False`: it refers only to strings and to a row that refers only to strings, so no cycle can
    pass through it, and a full collection with 100,000 of them costs nothing.

    The labels are what it is counted under: `(other)` when the limit was reached as it arrived, and `unknown` for a
    version that is not known where only known ones are counted. They are kept
    because the limit may have moved by the time it leaves.
    """

    info: ConnectionInfo
    version_label: str
    route_label: str
    sequence: int


class _Records(RowChoice[Record]):
    """All connections: those listed are shown, all others are spare."""

    __slots__ = ()

    def row_of(self, entry: Record) -> ConnectionInfo:
        """Return a connection's row."""
        return entry.info


class Registry:
    """
    The connections of one node. Not thread-safe: the caller holds its lock.

    Args:
        route_tracking: Off, every route is `/` and no route is counted.
        max_listed: Rows in a snapshot.
        max_versions: Versions counted apart.
        max_routes: Routes counted apart.
        known_versions: Versions that are counted apart whatever arrived before them, so that no visitor can push the
            real ones into `(other)` by opening a thousand connections with made-up build ids. So is `unknown`.
        only_known: Count all other versions under `unknown`.
        serves: The version that this node serves; empty: it does not say.
    """

    def __init__(
        self,
        *,
        route_tracking: bool = True,
        max_listed: int = 1_000,
        max_versions: int = 1_000,
        max_routes: int = 10_000,
        known_versions: Iterable[str] = (),
        only_known: bool = False,
        serves: str = "",
    ) -> None:
        self._nodes = Nodes(1, 1, {serves: 1}) if serves else Nodes(1, 1)
        self._current = CurrentVersion(serves)
        self._release_before = self._current.shown
        self._route_tracking = route_tracking
        self._rows = _Records(max_listed, None)
        self._known_versions = frozenset(known_versions)
        self._only_known = only_known
        self._versions = LabelCounts(max_versions, (*self._known_versions, UNKNOWN))
        self._routes = LabelCounts(max_routes, (ROOT,))
        self._sequence = 0
        self.noting = False
        """Changes are noted for `pop_changes()`."""
        self._base = 0
        self._truncated_before = False
        self._absences: tuple[Absence, ...] = ()
        self._absences_before: tuple[Absence, ...] = ()
        self._away: Mapping[str, int] = MappingProxyType({})
        self._away_before: Mapping[str, int] = self._away
        self._away_known = self._away_known_before = False
        self.revision = 0
        """Number of changes so far."""

    @property
    def total(self) -> int:
        """Open connections."""
        return len(self._rows)

    def __contains__(self, connection_id: object) -> bool:
        return connection_id in self._rows

    def ids(self) -> dict[str, list[str]]:
        """Return the ids of all connections by the label of their version. O(connections)."""
        shown, spare = self._rows.shown, self._rows.spare
        if len(self._versions.counts) == 1:  # mostly, and then it costs a fifth
            return {version: [*shown, *spare] for version in self._versions.counts}
        found: dict[str, list[str]] = {version: [] for version in self._versions.counts}
        for rows in (shown, spare):
            for connection_id, record in rows.items():
                found[record.version_label].append(connection_id)
        return found

    def info(self, connection_id: str) -> ConnectionInfo:
        """
        Return the row of a connection.

        Raises:
            UnknownConnection: Never opened, or already closed.
        """
        return self._record(connection_id).info

    def open(self, connection_id: str, version: str, route: str, ip: str | None = None) -> ConnectionInfo:
        """
        Count a new connection. The caller must then schedule a flush.

        Args:
            connection_id: Public id, new.
            version: From `parse_version`.
            route: From `parse_route`; ignored without route tracking.
            ip: Only when the operator wants addresses kept.

        O(1).
        """
        if connection_id in self._rows:
            raise ValueError(f"Connection {connection_id} is open already.")
        if not self._route_tracking:
            route = ROOT
        if self._only_known and version not in self._known_versions:
            version_label = self._versions.add(UNKNOWN)
        else:
            version_label = self._versions.add(version)
        route_label = self._routes.add(route) if self._route_tracking else ROOT
        if version_label == version:
            version = version_label  # the shared string, so that 100,000 connections hold one
        if route_label != OTHER:
            route = route_label
        info = ConnectionInfo(connection_id, version, route, ip)
        self._sequence += 1
        self._rows.add(connection_id, Record(info, version_label, route_label, self._sequence))
        self.revision += 1
        return info

    def navigate(self, connection_id: str, route: str) -> str | None:
        """
        Move a connection to another route.

        Args:
            connection_id: Public id given to `open()`.
            route: From `parse_route`.

        Returns:
            The route before; the caller must then schedule a flush. None: nothing changed.

        Raises:
            UnknownConnection: Never opened, or already closed.

        O(1). Source: protocol/README.md#client-to-server-websocket
        """
        record = self._record(connection_id)
        before = record.info
        if not self._route_tracking or before.route == route:
            return None
        self._routes.remove(record.route_label)
        record.route_label = self._routes.add(route)
        if record.route_label != OTHER:
            route = record.route_label
        self._replace(record, ConnectionInfo(connection_id, before.version, route, before.ip, before.hidden))
        return before.route

    def set_hidden(self, connection_id: str, hidden: bool) -> bool:
        """
        Say whether a page is in the background. Counts do not change.

        Returns:
            True if its row changed; the caller must then schedule a flush.

        Raises:
            UnknownConnection: Never opened, or already closed.

        O(1).
        """
        record = self._record(connection_id)
        before = record.info
        if before.hidden == hidden:
            return False
        self._replace(record, ConnectionInfo(before.id, before.version, before.route, before.ip, hidden))
        return True

    def close(self, connection_id: str) -> ConnectionInfo | None:
        """
        Stop counting a connection. The caller must then schedule a flush.

        Returns:
            The row as it was last; None: it was never opened, or is closed already.

        O(1).
        """
        record = self._rows.pop(connection_id)
        if record is None:
            return None
        self._versions.remove(record.version_label)
        if self._route_tracking:
            self._routes.remove(record.route_label)
        self.revision += 1
        return record.info

    def declare(self, version: str, number: int, *, insisted: bool = False, beside: Iterable[str] = ()) -> None:
        """Take a version for declared. See `CurrentVersion`; it is one of the known versions."""
        self._current.declare(version, number, insisted=insisted, beside=beside)
        self.revision += 1

    @property
    def settled(self) -> str | None:
        """The version that this node serves, whatever was declared; None: it serves none."""
        return self._current.settled

    @property
    def release(self) -> CurrentRelease:
        """Which version is current, and why."""
        return self._current.release

    def set_known_versions(self, known: frozenset[str]) -> bool:
        """
        Count these versions apart from now on. Those of their connections that were counted with others move.

        Returns:
            True if counts changed; the caller must then schedule a flush.

        O(1), and O(connections) for a version that was not known while some are not counted apart.
        """
        new = known - self._known_versions
        self._known_versions = known
        self._versions.set_reserved(known | {UNKNOWN})
        if not new or not (self._only_known or OTHER in self._versions.counts):
            return False
        changed = False
        for record in self.records():
            version = record.info.version
            if version in new and record.version_label != version:
                record.version_label = self._versions.move(record.version_label, version)
                changed = True
        self.revision += changed
        return changed

    def count_of(self, version: str) -> VersionCount:
        """Return how many connections are of a version."""
        least = self._versions.counts.get(version, 0)
        if version == UNKNOWN or version in self._known_versions:
            return VersionCount(version, least, least)
        rest = self._versions.counts.get(UNKNOWN if self._only_known else OTHER, 0)
        return VersionCount(version, least, least + rest)

    def snapshot(self) -> Stats:
        """Return the figures now. O(versions + routes + rows listed)."""
        return Stats(
            total=self.total,
            versions=MappingProxyType(self._versions.counts.copy()),
            routes=MappingProxyType(self._routes.counts.copy()),
            connections=tuple([record.info for record in self._rows.shown.values()]),
            revision=self.revision,
            connections_truncated=bool(self._rows.spare),
            partial=bool(self._absences),
            away=self._away,
            away_known=self._away_known,
            absences=self._absences,
            nodes=self._nodes,
            release=self._current.shown,
        )

    def set_absence(self, absence: Absence | None) -> bool:
        """
        Say which connections of this node are unaccounted for. A fleet has its own knowledge of them.

        Returns:
            True if that is news; the caller must then schedule a flush.
        """
        absences = () if absence is None else (absence,)
        if absences == self._absences:
            return False
        self._absences = absences
        self.revision += 1
        return True

    def set_away(self, away: Mapping[str, int], *, known: bool) -> bool:
        """
        Say how many pages of this node broke off and may come back, by version.

        Args:
            away: Counts >= 1. The caller must not change it afterwards.
            known: This node has been there since before the first page broke off that may come back.

        Returns:
            True if that is news; the caller must then schedule a flush.
        """
        if away == self._away and known == self._away_known:
            return False
        self._away, self._away_known = MappingProxyType(away), known
        self.revision += 1
        return True

    @property
    def absence(self) -> Absence | None:
        """The connections of this node that are unaccounted for."""
        return self._absences[0] if self._absences else None

    @property
    def versions(self) -> Mapping[str, int]:
        """Return the counts by version now. O(1); not to be kept or changed."""
        return self._versions.counts

    def note_changes(self, *, on: bool) -> None:
        """
        Start or stop noting changes for `pop_changes()`; the first delta starts at the present revision.

        While they are not noted, as without a viewer, events leave no trace but the counts.
        """
        self.noting = on
        self._rows.note_changes(on=on)
        self._versions.note_changes(on=on)
        self._routes.note_changes(on=on)
        self._base = self.revision
        self._truncated_before = bool(self._rows.spare)
        self._absences_before = self._absences
        self._away_before, self._away_known_before = self._away, self._away_known
        self._release_before = self._current.shown

    def pop_changes(self) -> StatsDelta | None:
        """
        Return what changed since the last `pop_changes()`, or since noting began, and start over.

        Returns:
            None when no event came. Events that cancel one another give a delta without keys, because the revision
            moved.

        O(changes). Equals `diff` of the two snapshots, but that rows which were listed before come in the order of
        their changes; `apply` leaves them where they are.
        """
        if not self.noting or self._base == self.revision:
            return None
        rows = self._rows.pop_changes()
        truncated, release = bool(self._rows.spare), self._current.shown
        absences, before = self._absences, self._absences_before
        delta = StatsDelta(
            base=self._base,
            revision=self.revision,
            total=self.total,
            versions=self._versions.pop_changes(),
            routes=self._routes.pop_changes(),
            set=rows.set,
            removed=rows.removed,
            connections_truncated=truncated if truncated != self._truncated_before else None,
            partial=bool(absences) if bool(absences) != bool(before) else None,
            moved=rows.moved,
            absences=absences if absences != before else None,
            away=changed_counts(self._away_before, self._away),
            away_known=self._away_known if self._away_known != self._away_known_before else None,
            release=release if release != self._release_before else None,
        )
        self._base = self.revision
        self._truncated_before, self._release_before = truncated, release
        self._absences_before = absences
        self._away_before, self._away_known_before = self._away, self._away_known
        return delta

    def list_connections(
        self, *, version: str | None = None, route: str | None = None, limit: int = 100, after: int = 0
    ) -> tuple[list[ConnectionInfo], int | None]:
        """
        Return one page of all connections, oldest first.

        Args:
            version: Only those of this version.
            route: Only those on this route.
            limit: Rows at most.
            after: Cursor from the previous page; 0 is the start.

        Returns:
            The rows, and the cursor of the next page or None. Connections that stay open while a caller pages are
            seen exactly once.

        O(connections before the end of the page): paging is for people, not for pushes.
        """
        # Both are in the order of their sequence, and all listed ones came before the others.
        matching = (
            record
            for record in chain(self._rows.shown.values(), self._rows.spare.values())
            if record.sequence > after and matches(record.info, version, route)
        )
        found = list(islice(matching, limit + 1))
        cursor = found[limit - 1].sequence if len(found) > limit else None
        return [record.info for record in found[:limit]], cursor

    def records(self) -> list[Record]:
        """Return all connections, to be read in portions while they come, change and go. O(connections)."""
        return [*self._rows.shown.values(), *self._rows.spare.values()]

    def _record(self, connection_id: str) -> Record:
        record = self._rows.shown.get(connection_id) or self._rows.spare.get(connection_id)
        if record is None:
            raise UnknownConnection(f"No open connection has the id {connection_id}.")
        return record

    def _replace(self, record: Record, info: ConnectionInfo) -> None:
        if self.noting:
            self._rows.note(info.id, record)
        record.info = info
        self.revision += 1


def matches(row: ConnectionInfo, version: str | None, route: str | None) -> bool:
    """Say whether a row is of a version and on a route; None: of any."""
    return (version is None or row.version == version) and (route is None or row.route == route)
