"""
The fleet's figures: the newest report of each node, summed.

    liveness  Liveness            which nodes are expected, suspect or dead
    reports   {node: NodeReport}  what each expected node reported last
    sums      ReportSums          their sums, kept as reports come
    unaccounted  Unaccounted      connections of nodes that are gone, and have not come back yet

Rules:

1. A report is applied if it is newer than what is held. A delta says in absolute counts what changed since its base, so
   it is applied if what is held lies between its base and its end. Repeated and late ones change nothing.
2. A delta whose base has not been seen, or a heartbeat with a later sequence number, means that something was lost: the
   node is *stale* until a newer report or the missing deltas have come. A suspect node is stale, too.
3. A dead node is dropped with its figures. A node that expired without being dropped (core/liveness.py) loses its
   figures and stays expected.
4. The connections of a node that was dropped or lost its figures are unaccounted for (core/unaccounted.py). The sums do
   not contain them. What is in the sums is accounted for, whatever anybody claims.
5. Pages that broke off are summed apart (`away`), as their nodes report them. When a node vanishes, they are
   unaccounted for like its connections.

`partial` is true while an expected node is stale, while this node is disconnected, and while connections are
unaccounted for. Which version is current, core/current_version.py judges by what the nodes serve.

Source: docs/adr/0012-fleet-reports.md, docs/adr/0017-unaccounted.md
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from .current_version import CurrentRelease, CurrentVersion
from .cut_reports import SHORTEST
from .fleet_messages import Delta, Report
from .labels import OTHER, UNKNOWN
from .liveness import MAX_TOMBSTONES, Liveness
from .report_sums import NodeReport, ReportSums
from .stats import ENDED_STATES, Absence, Nodes, NodeShare, Stats, StatsDelta, VersionCount
from .tallies import limited
from .unaccounted import StoredAbsence, Unaccounted

REPORTS: Final = "reports"
"""What nodes say themselves of the version that they serve, as a source of `CurrentVersion`."""


class Expired(NamedTuple):
    """What `FleetFigures.expire` did."""

    changed: bool
    dropped: list[str]
    """Nodes that are dead now."""


class _Outline(NamedTuple):
    truncated: bool
    nodes: Nodes
    partial: bool
    absences: tuple[Absence, ...]
    release: CurrentRelease | None
    away_known: bool


class FleetFigures:
    """
    The newest report of each node, and their sum. Not thread-safe.

    Args:
        own: Id of the node whose view this is; it is never stale and never expires.
        max_listed: Rows in a snapshot.
        max_versions: Versions counted apart.
        max_routes: Routes counted apart.
        known_versions: Versions that are always counted apart. So is `unknown`.
        only_known: Nodes count all other versions under `unknown`.
        grace: Seconds after which connections of a node that vanished count as gone.
        serves: The version that the node `own` serves; empty: it does not say.
        settle_time: Seconds for which all nodes must have served a version until it is current.
        needs: See `CurrentVersion`; this object notes the source `REPORTS`.
    """

    def __init__(
        self,
        own: str,
        *,
        max_listed: int = 1_000,
        max_versions: int = 1_000,
        max_routes: int = 10_000,
        known_versions: Iterable[str] = (),
        only_known: bool = False,
        grace: float = 120.0,
        serves: str = "",
        settle_time: float = 0.0,
        needs: Collection[str] = (),
    ) -> None:
        self.own = own
        self.revision = 0
        """Number of changes so far."""
        self.wall_offset = 0.0
        """Milliseconds since 1970 at second 0 of the caller's clock."""
        self._rest_labels = (OTHER, UNKNOWN) if only_known else (OTHER,)
        self._unaccounted = Unaccounted(grace)
        self._absences: tuple[Absence, ...] = ()
        self._left_properly: dict[str, None] = {}
        """Nodes whose leave message came; a backend may list them for a moment after that."""
        self._liveness = Liveness(own)
        self._reports: dict[str, NodeReport] = {own: NodeReport(sequence=0, latest=0, rows=set())}
        self._serving: dict[str, int] = {}
        """How many nodes serve which version, as far as they say."""
        self._mute: set[str] = set()
        """Nodes whose report does not say which version they serve."""
        self._silent_about_away: set[str] = set()
        """Nodes whose report does not say which pages broke off."""
        self._remembering: set[str] = set()
        """Nodes that have been there since before the first page broke off that may come back."""
        self._current = CurrentVersion(serves, settle_time, needs)
        self._set_serves(own, serves)
        self._stale: set[str] = set()
        self._sums = ReportSums(max_listed, max_versions, max_routes, (*known_versions, UNKNOWN))
        self._reports[own].known = frozenset(known_versions)
        self._noting = False
        self._base = 0
        self._outline_before = self._outline()

    def __contains__(self, node: object) -> bool:
        return node in self._reports

    def __len__(self) -> int:
        return len(self._reports)

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

    def expect_strangers(self, nodes: Iterable[str], now: float) -> bool:
        """
        Expect nodes that the store lists, and whose reports are not taken: figures are partial while they are there.

        Returns:
            Whether anything changed.
        """
        before = self.revision
        for node in nodes:
            self.expect(node, now)
            self._liveness.keep_silent(node, now)
            if node in self._reports:
                self._update_stale(node)
        return self._noted(before)

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
            NodeShare(
                node,
                report.total,
                node not in self._stale,
                self._liveness.silence(node, now),
                report.serves or None,
            )
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

    @property
    def release(self) -> CurrentRelease:
        """Which version is current, and why."""
        return self._current.release

    @property
    def settled(self) -> str | None:
        """The version that the fleet has settled on, whatever was declared; None: it has not settled."""
        return self._current.settled

    @property
    def agreement(self) -> str | None:
        """The version that all live nodes serve, settled or not; None: they differ, or one does not say."""
        return self._current.agreement

    def agreed_for(self, now: float) -> float:
        """Return for how many seconds all live nodes have agreed on a version. See `CurrentVersion`."""
        return self._current.agreed_for(now)

    def adopt_agreement(self, version: str, seconds: float, now: float) -> bool:
        """Learn from another node for how long all have served a version. Returns whether anything changed."""
        self._current.adopt(version, seconds, now)
        return self.settle(now)

    def settle(self, now: float) -> bool:
        """Settle if all nodes have served one version for long enough. Returns whether anything changed."""
        return self._note_release(changed=self._current.look(now))

    def note_served(self, source: str, versions: Iterable[str], *, silent: bool) -> bool:
        """Note what another source than the reports says that nodes serve. Returns whether anything changed."""
        return self._note_release(changed=self._current.note(source, versions, silent=silent))

    def _note_release(self, *, changed: bool) -> bool:
        before = self.revision
        self.revision += changed
        return self._noted(before)

    def declare(self, version: str, number: int, *, insisted: bool = False, beside: Iterable[str] = ()) -> bool:
        """
        Take a version for declared. See `CurrentVersion`; it is one of the known versions.

        Returns:
            Whether anything changed.
        """
        return self._note_release(changed=self._current.declare(version, number, insisted=insisted, beside=beside))

    def set_known_versions(self, known: frozenset[str]) -> bool:
        """Count these versions apart from now on, however many others there are. Returns whether anything changed."""
        before = self.revision
        self._reports[self.own].known = known
        moved = self._sums.versions.set_reserved(known | {UNKNOWN})
        moved |= self._sums.away.set_reserved(known | {UNKNOWN})
        self.revision += moved
        return self._noted(before)

    def note_known(self, node: str, known: Iterable[str]) -> None:
        """Note which versions a node counts apart, as of the last message from it."""
        held = self._reports.get(node)
        if held is not None:
            held.known = frozenset(known)

    def note_cut(self, node: str, seconds: float) -> None:
        """Note after how many seconds something ends the streams of another node, as it says; 0: no limit is known."""
        held = self._reports.get(node)
        if held is not None:
            held.cut_after = seconds if seconds >= SHORTEST else 0.0

    @property
    def shortest_cut(self) -> float | None:
        """The shortest limit that another node knows of, in seconds; None: none does. O(nodes)."""
        return min((held.cut_after for held in self._reports.values() if held.cut_after), default=None)

    def count_of(self, version: str) -> VersionCount:
        """
        Return how many connections are of a version. O(nodes).

        At most, those are among them that a node counts with other versions, unless it says that none is of this one.
        """
        least = self._sums.versions.counts.get(version, 0)
        if version == UNKNOWN:
            return VersionCount(version, least, least)
        most = least + sum(
            held.versions.get(label, 0)
            for held in self._reports.values()
            if held.truncated or version not in held.known
            for label in self._rest_labels
        )
        return VersionCount(version, least, most)

    def serves(self, node: str, version: str) -> bool:
        """Note which version an expected node serves; empty: it does not say. Returns whether anything changed."""
        before = self.revision
        self._set_serves(node, version)
        return self._noted(before)

    def receive(self, report: Report, now: float) -> bool:
        """Apply a whole report. Returns whether anything changed. O(labels of that node)."""
        held = self._admit(report.node, report.sequence, now)
        if held is None or report.sequence < held.sequence:
            return False
        before = self.revision
        self._heard(report.node, held, report.sequence, now)
        returned = held.sequence < 0
        if report.node != self.own and not (report.serves or held.serves) and report.node not in self._mute:
            self._mute.add(report.node)
            self.revision += 1
            self._note_serving()
        self._set_serves(report.node, report.serves)
        self._note_serving()  # it may have been forgotten
        held.known = self._reports[self.own].known if report.node == self.own else frozenset(report.known)
        self.revision += self._sums.replace(held, report)
        self._note_away(report.node, held)
        if returned and self._unaccounted:
            self._unaccounted.end_absence(report.node)
            self._update_absences()
        self._update_stale(report.node)
        return self._noted(before)

    def update(self, delta: Delta, now: float) -> bool:
        """Apply what changed at a node. Returns whether anything changed. O(changes)."""
        held = self._admit(delta.node, delta.sequence, now)
        if held is None or delta.sequence < held.sequence:
            return False
        before = self.revision
        self._heard(delta.node, held, delta.sequence, now)
        if 0 <= delta.base <= held.sequence and self._sums.fits(held, delta):
            self.revision += self._sums.change(held, delta)
            self._note_away(delta.node, held)
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

    def drop_vanished(self, node: str, now: float) -> bool:
        """Drop a node that is gone without a leave message. Returns whether anything changed."""
        held = self._reports.get(node)
        if node == self.own or held is None:
            return False  # it left properly, or nothing was ever expected of it
        before = self.revision
        if node not in self._left_properly or held.sequence >= 0:
            self._claim_vanished(node, held, now)
        self.drop(node)
        self._update_absences()
        return self._noted(before)

    def receive_leave(self, node: str, sequence: int, departed: Mapping[str, int], transit: float, now: float) -> bool:
        """
        Drop a node that said that it leaves.

        Args:
            node: Not this one.
            sequence: Its last.
            departed: Pages that it told to reconnect, by version.
            transit: Seconds that they have.
            now: Seconds.

        Returns:
            Whether anything changed.
        """
        held = self._reports.get(node)
        if node == self.own or (held is not None and sequence < held.sequence):
            return False
        self._unaccounted.note_leave(node, departed, transit, now, self._wall(now))
        self._left_properly[node] = None
        while len(self._left_properly) > MAX_TOMBSTONES:
            del self._left_properly[next(iter(self._left_properly))]
        before = self.revision
        self.drop(node, sequence)
        self._update_absences()
        return self._noted(before)

    def receive_departures(
        self, node: str, departed: Mapping[str, int], transit: float, now: float, *, unanswered: bool = False
    ) -> bool:
        """
        Note that a node, perhaps this one, ended the streams of pages that may come back.

        Args:
            node: Its id.
            departed: All such pages, by version.
            transit: Seconds that they have.
            now: Seconds.
            unanswered: None of them was told to reconnect; they did not answer.

        Returns:
            Whether anything changed.
        """
        before = self.revision
        self._unaccounted.note_leave(
            node, departed, transit, now, self._wall(now), "unanswered" if unanswered else "leaving"
        )
        self._update_absences()
        return self._noted(before)

    def apply_tallies(self, found: Mapping[str, StoredAbsence], asked: float, now: float) -> bool:
        """
        Apply what follows from the tallies in the backend's store.

        Args:
            found: See `Unaccounted.apply_tallies`.
            asked: When the store was asked.
            now: Seconds.

        Returns:
            Whether anything changed.
        """
        before = self.revision
        self._unaccounted.apply_tallies(found, asked)
        self._unaccounted.expire(now)
        self._update_absences()
        for node, what in found.items():
            self._set_serves(node, what.serves)
        return self._noted(before)

    def end_absence(self, node: str) -> bool:
        """End the doubt about a node, because an operator says that it is gone. Returns whether anything changed."""
        before = self.revision
        self._unaccounted.end_absence(node)
        self._update_absences()
        return self._noted(before)

    def drop(self, node: str, sequence: int | None = None) -> bool:
        """
        Drop a node that is gone, and whose connections are accounted for.

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
        self._forget_serves(held)
        self._mute.discard(node)
        held.says_away, held.remembers = True, False
        self._note_away(node, held)
        self._note_serving()
        del self._reports[node]
        self._stale.discard(node)
        self.revision += 1
        return self._noted(before)

    def expire(self, now: float, *, drop: bool = True) -> Expired:
        """
        Drop or suspect the nodes that have been silent for too long. O(nodes).

        Args:
            now: Seconds.
            drop: Silence means that a node is dead. False: `drop` is called for every node that is.
        """
        before = self.revision
        expiry = self._liveness.expire(now, drop=drop)
        for node in expiry.dead:
            self.drop_vanished(node, now)
        for node in expiry.expired:
            held = self._reports[node]
            if held.sequence >= 0:
                if drop:  # this node hears nobody
                    self._claim_vanished(node, held, now)
                else:  # the link to it is whole, so it lives, and its pages with it
                    heard = now - self._liveness.silence(node, now)
                    versions = Counter(held.versions) + Counter(held.away)
                    self._unaccounted.cut_off(node, versions, now, self._wall(heard))
                self._sums.forget(held)
                self.revision += 1
                self._update_stale(node)
        for node in expiry.suspected:
            if node in self._reports:
                self._update_stale(node)
        if self._liveness.admit_rejected():
            self.revision += 1
        self._unaccounted.expire(now)
        self._update_absences()
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
        self._current.forget(REPORTS)  # nobody removes the nodes that leave from now on
        self.revision += 1
        self._noted(self.revision)

    def note_changes(self, *, on: bool) -> None:
        """Start or stop noting changes for `pop_changes()`; the first delta starts at the present revision."""
        self._noting = on
        self._start_over()

    def pop_changes(self) -> StatsDelta | None:
        """Return what changed since the last `pop_changes()`, or since noting began; None: nothing. O(changes)."""
        if not self._noting or self._base == self.revision:
            return None
        sums = self._sums
        rows = sums.rows.pop_changes()
        now, before = self._outline(), self._outline_before
        delta = StatsDelta(
            base=self._base,
            revision=self.revision,
            total=sums.total,
            versions=sums.versions.pop_changes(),
            routes=sums.routes.pop_changes(),
            set=rows.set,
            removed=rows.removed,
            connections_truncated=now.truncated if now.truncated != before.truncated else None,
            nodes=now.nodes if now.nodes != before.nodes else None,
            partial=now.partial if now.partial != before.partial else None,
            moved=rows.moved,
            absences=now.absences if now.absences != before.absences else None,
            away=sums.away.pop_changes(),
            away_known=now.away_known if now.away_known != before.away_known else None,
            release=now.release if now.release != before.release else None,
        )
        self._base = self.revision
        self._outline_before = now
        return delta

    def snapshot(self) -> Stats:
        """Return the figures now. O(versions + routes + rows listed)."""
        truncated, nodes, partial, absences, release, away_known = self._outline()
        return Stats(
            total=self._sums.total,
            versions=MappingProxyType(self._sums.versions.counts.copy()),
            routes=MappingProxyType(self._sums.routes.counts.copy()),
            connections=tuple(self._sums.rows.shown.values()),
            revision=self.revision,
            connections_truncated=truncated,
            nodes=nodes,
            partial=partial,
            away=MappingProxyType(self._sums.away.counts.copy()),
            away_known=away_known,
            absences=absences,
            release=release,
        )

    def _outline(self) -> _Outline:
        versions = limited(self._serving) if self._serving else None
        nodes = Nodes(len(self._reports) - len(self._stale), self._liveness.expected, versions)
        partial = self._liveness.disconnected or nodes.reporting < nodes.expected or bool(self._absences)
        truncated = len(self._sums.rows.shown) < self._sums.total
        return _Outline(truncated, nodes, partial, self._absences, self._current.shown, self._away_known)

    @property
    def _away_known(self) -> bool:
        """Every node says which of its pages broke off, and one of them was there before the first did."""
        return bool(self._remembering) and not self._silent_about_away

    def _note_away(self, node: str, held: NodeReport) -> None:
        before = self._away_known
        (self._silent_about_away.discard if held.says_away else self._silent_about_away.add)(node)
        (self._remembering.add if held.remembers else self._remembering.discard)(node)
        self.revision += self._away_known != before

    def _set_serves(self, node: str, version: str) -> None:
        """Note which version a node serves, if it is expected. It keeps that version as long as it lives."""
        held = self._reports.get(node)
        if held is not None and version and version != held.serves:
            self._forget_serves(held)
            held.serves = version
            self._serving[version] = self._serving.get(version, 0) + 1
            self._mute.discard(node)
            self._note_serving()
            self.revision += 1

    def _note_serving(self) -> None:
        own = self._reports[self.own].serves
        others = [version for version, nodes in self._serving.items() if version != own or nodes > 1]
        self._current.note(REPORTS, others, silent=bool(self._mute))

    def _forget_serves(self, held: NodeReport) -> None:
        if held.serves:
            self._serving[held.serves] -= 1
            if not self._serving[held.serves]:
                del self._serving[held.serves]
            held.serves = ""

    def _wall(self, now: float) -> int:
        return max(0, round(self.wall_offset + now * 1000))

    def _claim_vanished(self, node: str, held: NodeReport, now: float) -> None:
        heard = now - self._liveness.silence(node, now)
        versions = Counter(held.versions) + Counter(held.away) if held.sequence >= 0 else None
        self._unaccounted.vanished(node, versions, now, heard, self._wall(heard))

    def _update_absences(self) -> None:
        """Note what is unaccounted for now. What is in the sums is not, unless its node sent it away."""
        absences = tuple(
            absence
            for node, absence in sorted(self._unaccounted.absences().items())
            if absence.state in ENDED_STATES or (held := self._reports.get(node)) is None or held.sequence < 0
        )
        if absences != self._absences:
            self._absences = absences
            self.revision += 1

    def _start_over(self) -> None:
        self._sums.note_changes(on=self._noting)
        self._base = self.revision
        self._outline_before = self._outline()

    def _noted(self, before: int) -> bool:
        if not self._noting:
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
        self._left_properly.pop(node, None)
        self._liveness.heard(node, now)

    def _update_stale(self, node: str) -> None:
        held = self._reports[node]
        current = 0 <= held.sequence == held.latest and not self._liveness.members[node].suspect
        if current == (node in self._stale):
            (self._stale.discard if current else self._stale.add)(node)
            self.revision += 1
