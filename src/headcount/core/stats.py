"""
The figures, and what changed between two revisions.

The server does not compare snapshots on its way to a viewer, which would cost O(connections) for each event: the
registry knows what changed. tests/core/stats_diff.py compares them, and tests hold the two against one another.

Source: protocol/README.md#stats-delta
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from .current_version import CurrentRelease
from .labels import UNKNOWN

T = TypeVar("T")

AbsenceState: TypeAlias = Literal["vanished", "cut-off", "leaving", "unanswered"]
"""
Why connections are unaccounted for. `vanished`: the node fell silent and may have died. `cut-off`: the node is known to
live, and cannot be heard. `leaving`: the node left properly and told its pages to reconnect. `unanswered`: the node
lives and ended the streams of pages that did not answer or read, and may be frozen.
"""


ABSENCE_STATES: Final[tuple[AbsenceState, ...]] = ("vanished", "cut-off", "leaving", "unanswered")

ENDED_STATES: Final = frozenset({"leaving", "unanswered"})
"""The node itself ended the streams, so these connections are not in its report."""


class ConnectionInfo(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """
    One row of the list. `id` is public; `ip` is None unless IP tracking is on and the viewer may see it. `hidden`: its
    browser said that the tab is in the background, which only those that share a stream say.
    """

    id: str
    version: str
    route: str
    ip: str | None = None
    hidden: bool = False


class Nodes(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """
    How many nodes report, of how many that should. `versions` says how many serve which version, as far as they say;
    None: the server is older than that.
    """

    reporting: int
    expected: int
    versions: Mapping[str, int] | None = None

    @property
    def by_version(self) -> dict[str, int]:
        """How many nodes serve each version; under `unknown`, those that do not say. All counts are >= 1."""
        served = dict(self.versions or {})
        silent = self.expected - sum(served.values())
        return {**served, UNKNOWN: silent} if silent > 0 else served


class NodeShare(msgspec.Struct, frozen=True, gc=False):
    """
    What one node of the fleet has reported.

    Attributes:
        node: Its id; the ids of its connections begin with it.
        total: Its connections; 0 while nothing of it is held.
        reporting: All of its share is in the figures.
        silent: Seconds since its last message; 0.0 for the node that answers.
        version: The version that it serves; None: it has not said, or is older than that.
    """

    node: str
    total: int
    reporting: bool
    silent: float
    version: str | None = None


class Absence(msgspec.Struct, frozen=True, gc=False):
    """
    The unaccounted connections of one node.

    Attributes:
        node: Its id.
        total: How many have not come back; None: nobody knows.
        versions: `{version: count}` of those, as far as they are known.
        state: Why.
        since: When the node was heard last, in ms since 1970 by the clock of the node that answers.
    """

    node: str
    total: int | None = None
    versions: Mapping[str, int] = MappingProxyType({})
    state: AbsenceState = "vanished"
    since: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the wire's shape."""
        return {
            "node": self.node,
            "total": self.total,
            "versions": dict(self.versions),
            "state": self.state,
            "since": self.since,
        }


class VersionCount(msgspec.Struct, frozen=True, gc=False):
    """
    How many connections are of one version.

    Attributes:
        version: The version.
        least: As many are known to be.
        most: As many may be: those that a node counts with other versions, and cannot tell apart, may be of it.
    """

    version: str
    least: int
    most: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures at one revision. Immutable: maps are read-only views, the list is a tuple.

    Attributes:
        total: Open connections.
        versions: `{version: count}`, counts >= 1, at most 1,000 and `(other)`.
        routes: `{route: count}`, counts >= 1, at most 10,000 and `(other)`; empty without route tracking.
        connections: Rows, at most `max_listed_connections`.
        revision: Grows with every change.
        connections_truncated: There are more connections than rows.
        nodes: Whose share is in the figures.
        partial: Connections of at least one node are missing, or unaccounted for.
        away: `{version: count}` of pages whose connection broke off, and that may come back. The totals do not contain
            those.
        away_known: Every node says how many those are, and has since before the first of them broke off.
        absences: Nodes whose connections are unaccounted for. The totals do not contain those.
        release: Which version is current, and why; None: the server is older than that.
        of_version: The number of one version, in the answer to a request that named it.
    """

    total: int = 0
    versions: Mapping[str, int] = MappingProxyType({})
    routes: Mapping[str, int] = MappingProxyType({})
    connections: tuple[ConnectionInfo, ...] = ()
    revision: int = 0
    connections_truncated: bool = False
    nodes: Nodes = Nodes(1, 1)
    partial: bool = False
    away: Mapping[str, int] = MappingProxyType({})
    away_known: bool = False
    absences: tuple[Absence, ...] = ()
    release: CurrentRelease | None = None
    of_version: VersionCount | None = None

    @property
    def current_version(self) -> str | None:
        """The version that was declared, else the one that the fleet has settled on; None: it is not known."""
        return None if self.release is None else self.release.current

    @property
    def unaccounted(self) -> int:
        """Connections that are unaccounted for, as far as their number is known."""
        return sum(absence.total or 0 for absence in self.absences)

    def known_version(self, earlier: str | None) -> str | None:
        """Return the current version, None if it is not known; `earlier` if the server's figures do not say."""
        return earlier if self.nodes.versions is None else self.current_version

    def known_release(self, earlier: CurrentRelease | None) -> CurrentRelease | None:
        """Return the release; `earlier` if the server's figures do not say."""
        return earlier if self.nodes.versions is None else self.release

    def to_dict(self) -> dict[str, Any]:
        """Return the wire's shape: plain JSON values, camelCase keys. O(size)."""
        return {
            "total": self.total,
            "versions": dict(self.versions),
            "routes": dict(self.routes),
            "connections": [msgspec.to_builtins(row) for row in self.connections],
            "revision": self.revision,
            "connectionsTruncated": self.connections_truncated,
            "nodes": msgspec.to_builtins(self.nodes),
            "partial": self.partial,
            **release_fields(self.release),
            **away_fields(self),
            **unaccounted_fields(self.absences),
            **({} if self.of_version is None else {"ofVersion": msgspec.to_builtins(self.of_version)}),
        }


class StatsDelta(NamedTuple):
    """
    What changed from revision `base` to `revision`. Counts are absolute; 0 means that the key is gone.

    `away` holds what changed of it, like `versions`. `removed` ids are taken out before `set` rows are put in. `moved`
    are the ids of those rows in `set` that were there before and have only another route: for a viewer that does not
    see routes, they did not change. `connections_truncated`, `nodes`, `partial`, `away_known`, `absences` and `release`
    are None when they did not change.
    """

    base: int
    revision: int
    total: int
    versions: Mapping[str, int]
    routes: Mapping[str, int]
    set: tuple[ConnectionInfo, ...]
    removed: tuple[str, ...]
    connections_truncated: bool | None = None
    nodes: Nodes | None = None
    partial: bool | None = None
    moved: frozenset[str] = frozenset()
    absences: tuple[Absence, ...] | None = None
    release: CurrentRelease | None = None
    away: Mapping[str, int] = MappingProxyType({})
    away_known: bool | None = None


def away_fields(stats: Stats) -> dict[str, Any]:
    """Return the fields of the wire that say which pages may come back; none where the server cannot say."""
    return {
        **({"away": dict(stats.away)} if stats.away else {}),
        **({"awayKnown": True} if stats.away_known else {}),
    }


def changed_counts(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return what changed, in absolute counts; 0 for what is gone."""
    return {label: after.get(label, 0) for label in {**before, **after} if before.get(label) != after.get(label)}


def release_fields(release: CurrentRelease | None) -> dict[str, Any]:
    """Return the fields of the wire that say which version is current, and why."""
    if release is None:
        return {}
    fields: dict[str, Any] = {"state": release.state}
    if release.version is not None:
        fields["version"] = release.version
    if release.number is not None:
        fields["number"] = release.number
    return {**({} if release.current is None else {"currentVersion": release.current}), "release": fields}


def known_release_fields(release: CurrentRelease) -> dict[str, Any]:
    """Return the same for a page. It is empty while no version was declared and none settled on."""
    return {} if release.version is None else release_fields(release)


def unaccounted_fields(absences: tuple[Absence, ...]) -> dict[str, Any]:
    """Return the fields of the wire that say which connections are unaccounted for; none without any."""
    if not absences:
        return {}
    return {
        "unaccounted": sum(absence.total or 0 for absence in absences),
        "absences": [absence.to_dict() for absence in absences],
    }


def is_move(before: ConnectionInfo | None, after: ConnectionInfo) -> bool:
    """Say whether a row has changed in nothing but its route. None: it was not there."""
    return (
        before is not None
        and before.route != after.route
        and before.version == after.version
        and before.ip == after.ip
        and before.hidden == after.hidden
    )


def apply(stats: Stats, delta: StatsDelta) -> Stats:
    """
    Bring `stats` up to `delta.revision`. O(size).

    Raises:
        ValueError: `delta.base` is not `stats.revision`; ask for a whole snapshot.
    """
    if delta.base != stats.revision:
        raise ValueError(f"This delta starts at revision {delta.base}, the figures are at {stats.revision}.")
    rows = {row.id: row for row in stats.connections}
    for connection_id in delta.removed:
        rows.pop(connection_id, None)
    for row in delta.set:
        rows[row.id] = row
    return Stats(
        total=delta.total,
        versions=_apply_counts(stats.versions, delta.versions),
        routes=_apply_counts(stats.routes, delta.routes),
        connections=tuple(rows.values()),
        revision=delta.revision,
        connections_truncated=_or(delta.connections_truncated, stats.connections_truncated),
        nodes=_or(delta.nodes, stats.nodes),
        partial=_or(delta.partial, stats.partial),
        away=_apply_counts(stats.away, delta.away),
        away_known=_or(delta.away_known, stats.away_known),
        absences=_or(delta.absences, stats.absences),
        release=_or(delta.release, stats.release),
    )


def _apply_counts(counts: Mapping[str, int], changed: Mapping[str, int]) -> Mapping[str, int]:
    merged = {**counts, **changed}
    return MappingProxyType({key: count for key, count in merged.items() if count})


def _or(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
