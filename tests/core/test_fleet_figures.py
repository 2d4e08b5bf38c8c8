"""The fleet's figures against a naive sum, under everything that a network and dying nodes can do to reports."""

from collections import Counter
from collections.abc import Mapping
from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headcount.core import liveness
from headcount.core.counts import LabelSums
from headcount.core.fleet_figures import FleetFigures
from headcount.core.fleet_messages import Delta, Heartbeat, Leave, Report, decode, encode
from headcount.core.labels import OTHER, parse_version
from headcount.core.publication import Publication
from headcount.core.registry import Registry
from headcount.core.report_sums import _RESERVED_SLACK
from headcount.core.stats import Absence, ConnectionInfo, NodeShare, Stats, VersionCount, apply
from headcount.core.unaccounted import StoredAbsence

OWN = "00"
NODES = ("aa", "bb", "cc")
VERSIONS = ("v1", "v2", "v3", "v4")
ROUTES = ("/", "/a", "/b", "/c", "/d")


def report(node: str, sequence: int, versions: Mapping[str, int], rows: tuple[ConnectionInfo, ...] = ()) -> Report:
    return Report(
        node=node,
        sequence=sequence,
        total=sum(versions.values()),
        versions=dict(versions),
        routes={"/": sum(versions.values())} if versions else {},
        rows=rows,
    )


class Node:
    """A node that counts and publishes, and remembers what it was at every sequence."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.registry = Registry(max_listed=6)
        self.publication = Publication(name, 6)
        self.registry.note_changes(on=True)
        self.publication.start(self.registry.snapshot())
        self.publication.show_rows(4, self.registry.snapshot())
        self.states: dict[int, Stats] = {}
        self.number = 0
        self.remember()

    def remember(self) -> None:
        if (change := self.registry.pop_changes()) is not None:
            self.publication.add(change)
        self.states[self.publication.sequence] = self.registry.snapshot()

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self.registry.list_connections(limit=10_000)[0]]


class Network(RuleBasedStateMachine):
    """
    Nodes that live, die and come again; a network that loses, repeats, delays and reorders; one fleet that listens.

    Invariant at every moment: what is held of a node is exactly what it was at the sequence that is held, and the sums
    are the sums of that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.fleet = FleetFigures(OWN, max_listed=8, max_versions=3, max_routes=3, known_versions=("v1",))
        self.nodes = {name: Node(name) for name in NODES}
        self.dead: set[str] = set()
        self.wire: list[tuple[Node, bytes]] = []
        self.known: dict[str, Node] = dict(self.nodes)
        """By name, the incarnation whose messages count."""
        self.view: Stats | None = None
        self.doubts: dict[str, tuple[int | None, float]] = {}
        """What must be unaccounted for: how many connections (None: unknown), and until when."""

    @initialize()
    def begin(self) -> None:
        self.fleet.note_changes(on=True)
        self.view = self.fleet.snapshot()

    @rule(name=st.sampled_from(NODES), version=st.sampled_from(VERSIONS), route=st.sampled_from(ROUTES))
    def come(self, name: str, version: str, route: str) -> None:
        node = self.nodes[name]
        node.number += 1
        node.registry.open(f"{name}{node.number:04}", version, route)

    @rule(name=st.sampled_from(NODES), route=st.sampled_from(ROUTES), which=st.integers(0, 99))
    def navigate(self, name: str, route: str, which: int) -> None:
        if ids := self.nodes[name].ids:
            self.nodes[name].registry.navigate(ids[which % len(ids)], route)

    @rule(name=st.sampled_from(NODES), which=st.integers(0, 99))
    def go(self, name: str, which: int) -> None:
        if ids := self.nodes[name].ids:
            self.nodes[name].registry.close(ids[which % len(ids)])

    @rule(name=st.sampled_from(NODES))
    def publish(self, name: str) -> None:
        node = self.nodes[name]
        node.remember()
        if (delta := node.publication.pop_changes()) is not None:
            self.wire.append((node, encode(delta)))

    @rule(name=st.sampled_from(NODES))
    def publish_heartbeat(self, name: str) -> None:
        node = self.nodes[name]
        node.remember()
        self.wire.append((node, encode(Heartbeat(node=name, sequence=node.publication.sequence))))

    @rule(name=st.sampled_from(NODES), rows=st.booleans())
    def tell_all(self, name: str, rows: bool) -> None:
        node = self.nodes[name]
        node.remember()
        self.wire.append((node, encode(node.publication.report(node.registry.snapshot(), rows=rows))))

    @rule(name=st.sampled_from(NODES), limit=st.sampled_from((0, 2, 4, 6)))
    def show_rows(self, name: str, limit: int) -> None:
        node = self.nodes[name]
        node.remember()
        if limit == 0 or limit > node.publication.rows:
            if (delta := node.publication.pop_changes()) is not None:
                self.wire.append((node, encode(delta)))
            node.publication.show_rows(limit, node.registry.snapshot())
            node.states[node.publication.sequence] = node.registry.snapshot()

    @precondition(lambda self: self.wire)
    @rule(which=st.integers(0, 10_000), keep=st.booleans(), lose=st.integers(0, 9))
    def deliver(self, which: int, keep: bool, lose: int) -> None:
        """Any message that is under way, in any order, perhaps again, perhaps never."""
        index = which % len(self.wire)
        node, data = self.wire[index]
        if not keep:
            del self.wire[index]
        if lose:
            self.hand_over(node, data)

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 4))
    def deliver_newest(self, count: int) -> None:
        """A network as it mostly is."""
        for node, data in self.wire[-count:]:
            self.hand_over(node, data)

    @rule(name=st.sampled_from(NODES), rows=st.booleans())
    def want(self, name: str, rows: bool) -> None:
        """What a node does that misses something."""
        self.tell_all(name, rows)
        self.deliver_newest(1)

    def hand_over(self, node: Node, data: bytes) -> None:
        message = decode(data)
        if self.known.get(node.name) is not node:
            return  # node ids are drawn anew at each start, so nobody else sends under this name
        match message:
            case Report():
                self.fleet.receive(message, self.now)
            case Delta():
                self.fleet.update(message, self.now)
            case Heartbeat():
                self.fleet.heartbeat(message.node, message.sequence, self.now)
            case Leave():
                counts = self.fleet.sequence(message.node) <= message.sequence
                self.fleet.receive_leave(message.node, message.sequence, message.departed, message.transit, self.now)
                if counts:
                    away = sum(message.departed.values())
                    self.doubts[message.node] = (away, self.now + message.transit if away else 0.0)
            case _:
                raise AssertionError(message)
        if self.fleet.sequence(node.name) >= 0 and not isinstance(message, Leave):
            self.doubts.pop(node.name, None)

    @rule(name=st.sampled_from(NODES))
    def leaves(self, name: str) -> None:
        node = self.nodes[name]
        node.remember()
        away = dict(node.registry.versions)
        leave = Leave(node=name, sequence=node.publication.sequence, departed=away, transit=8.0)
        self.wire.append((node, encode(leave)))

    @rule(name=st.sampled_from(NODES))
    def is_lost(self, name: str) -> None:
        before = self.held()
        self.fleet.drop_vanished(name, self.now)
        self.note_losses(before)

    def held(self) -> dict[str, tuple[int | None, float]]:
        """Return what is held of each other node: its total, or None where nothing is, and when it was heard."""
        return {
            name: (
                report.total if report.sequence >= 0 else None,
                self.now - self.fleet._liveness.silence(name, self.now),
            )
            for name, report in self.fleet._reports.items()
            if name != OWN
        }

    def note_losses(self, before: dict[str, tuple[int | None, float]]) -> None:
        """What was held, and is not any more, is unaccounted for."""
        after = self.held()
        for name, (total, heard) in before.items():
            if total is None and name in self.fleet._left_properly:
                continue  # it was only listed once more
            if name not in after or (total is not None and after[name][0] is None):
                self.doubts[name] = (total, heard + 120.0 if total != 0 else 0.0)

    @rule(name=st.sampled_from(NODES))
    def is_expected(self, name: str) -> None:
        self.fleet.expect(name, self.now)

    @rule(seconds=st.sampled_from((0.5, 3.0, 6.0, 20.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        before = self.held()
        self.fleet.expire(self.now)
        self.note_losses(before)

    @rule(disconnected=st.booleans())
    def lose_connection(self, disconnected: bool) -> None:
        self.fleet.set_disconnected(disconnected=disconnected, now=self.now)

    @rule()
    def forget(self) -> None:
        self.fleet.forget_others()

    @invariant()
    def every_report_is_what_the_node_was(self) -> None:
        versions: Counter[str] = Counter()
        routes: Counter[str] = Counter()
        total = 0
        rows: dict[str, ConnectionInfo] = {}
        for name in self.fleet._reports:
            if name == OWN:
                continue
            held = self.fleet._reports[name]
            if held.sequence < 0:
                assert (held.total, held.versions, held.routes) == (0, {}, {})
                assert not held.rows
                continue
            state = self.nodes[name].states[held.sequence]
            assert (held.total, held.versions, held.routes) == (state.total, state.versions, state.routes)
            versions.update(state.versions)
            routes.update(state.routes)
            total += state.total
            if held.rows is not None:
                listed = {row.id: row for row in state.connections}
                assert held.rows <= listed.keys(), "no row outlives its connection"
                rows.update({one: listed[one] for one in held.rows})
        figures = self.fleet.snapshot()
        assert figures.total == total
        for shown, real, limit in ((figures.versions, versions, 4), (figures.routes, routes, 4)):
            assert sum(shown.values()) == sum(real.values())
            assert all(count > 0 for count in shown.values())
            assert all(real[label] == count for label, count in shown.items() if label != OTHER)
            assert len(shown) - (OTHER in shown) <= limit
            if OTHER in shown:
                assert len(shown) > 3, "nothing is folded while there is room"
        assert {row.id: row for row in figures.connections}.items() <= rows.items()
        assert len(figures.connections) == min(8, len(rows))

    @invariant()
    def it_says_what_is_missing(self) -> None:
        figures = self.fleet.snapshot()
        current = [
            name
            for name in self.fleet._reports
            if 0 <= self.fleet._reports[name].sequence == self.fleet._reports[name].latest
            and not self.fleet._liveness.members[name].suspect
        ]
        assert figures.nodes.reporting == len(current)
        assert figures.nodes.expected == len(self.fleet)
        assert figures.partial is (
            self.fleet._liveness.disconnected
            or figures.nodes.reporting < figures.nodes.expected
            or bool(figures.absences)
        )
        assert set(self.fleet.missing_nodes(rows=False)) == set(self.fleet._reports) - set(current)

    @invariant()
    def whoever_is_gone_is_unaccounted_for_until_they_return_or_the_time_is_over(self) -> None:
        shown = {absence.node: absence for absence in self.fleet.snapshot().absences}
        for name, (total, ends) in self.doubts.items():
            if self.now < ends:
                assert shown.pop(name).total == total, name
        assert all(self.now <= self.doubts[name][1] + 20.0 for name in shown), "until the next tick at most"
        assert all(shown[name].state == "leaving" or self.fleet.sequence(name) < 0 for name in shown)

    @invariant()
    def deltas_lead_to_the_same_figures(self) -> None:
        if self.view is None:
            return
        delta = self.fleet.pop_changes()
        if delta is not None:
            self.view = apply(self.view, delta)
        now = self.fleet.snapshot()
        assert self.view.revision == now.revision
        assert (self.view.total, self.view.versions, self.view.routes) == (now.total, now.versions, now.routes)
        assert (self.view.nodes, self.view.partial, self.view.absences) == (now.nodes, now.partial, now.absences)
        assert self.view.connections_truncated == now.connections_truncated
        assert {row.id: row for row in self.view.connections} == {row.id: row for row in now.connections}

    def teardown(self) -> None:
        """At last the network is kind for one heartbeat: then the figures are the sum."""
        self.fleet.set_disconnected(disconnected=False, now=self.now)
        for name, node in self.nodes.items():
            node.remember()
            node.publication.show_rows(0, node.registry.snapshot())
            node.publication.show_rows(6, node.registry.snapshot())
            self.fleet.expect(name, self.now)
            self.fleet.receive(node.publication.report(node.registry.snapshot(), rows=True), self.now)
        self.now += 20.0  # what was told to come back has
        self.fleet.apply_tallies({}, self.now, self.now)
        figures = self.fleet.snapshot()
        states = [node.registry.snapshot() for node in self.nodes.values()]
        assert figures.total == sum(state.total for state in states)
        assert not figures.partial
        assert (figures.nodes.reporting, figures.nodes.expected) == (4, 4)
        assert len(figures.connections) == min(8, sum(len(state.connections) for state in states))


TestNetwork = Network.TestCase
TestNetwork.settings = settings(settings(), stateful_step_count=60)


@pytest.fixture
def fleet() -> FleetFigures:
    return FleetFigures(OWN)


def test_one_node_alone_is_whole(fleet: FleetFigures) -> None:
    fleet.receive(report(OWN, 1, {"v1": 2}), 0.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.reporting, figures.nodes.expected) == (2, False, 1, 1)


def test_a_late_report_of_a_node_that_left_does_not_revive_it(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 5, {"v1": 3}), 0.0)
    assert fleet.drop("aa", 7)
    assert not fleet.receive(report("aa", 6, {"v1": 3}), 1.0)
    assert not fleet.heartbeat("aa", 7, 1.0)
    assert "aa" not in fleet
    assert fleet.snapshot().total == 0
    assert fleet.receive(report("aa", 8, {"v1": 1}), 1.0), "but what it says after its return counts"
    assert fleet.snapshot().total == 1


def test_a_farewell_that_comes_after_the_return_changes_nothing(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 9, {"v1": 3}), 0.0)
    assert not fleet.drop("aa", 7)
    assert fleet.snapshot().total == 3


def test_a_repeated_report_is_counted_once(fleet: FleetFigures) -> None:
    for now in range(5):
        fleet.receive(report("aa", 5, {"v1": 3}), float(now))
    assert fleet.snapshot().total == 3


def test_silence_makes_partial_and_then_drops(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    assert not fleet.expire(14.0).changed
    assert fleet.expire(14.6).changed
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.reporting, figures.nodes.expected) == (3, True, 1, 2)
    assert fleet.heartbeat("aa", 1, 14.7)
    assert not fleet.snapshot().partial
    assert fleet.expire(23.8).changed
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.expected) == (0, True, 1)
    assert [(one.node, one.total, one.versions, one.state) for one in figures.absences] == [
        ("aa", 3, {"v1": 3}, "vanished")
    ]
    assert figures.unaccounted == 3
    assert not fleet.expire(134.6).changed
    assert fleet.expire(134.8).changed, "120 s after it was heard last"
    assert (fleet.snapshot().partial, fleet.snapshot().unaccounted) == (False, 0)


def test_a_node_that_returns_is_not_unaccounted_for_and_counted_once(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.expire(20.0)
    assert fleet.snapshot().unaccounted == 3
    fleet.heartbeat("aa", 2, 30.0)
    assert fleet.snapshot().unaccounted == 3, "it lives, and nobody knows yet how many it has"
    fleet.receive(report("aa", 2, {"v1": 2}), 31.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.unaccounted, figures.partial) == (2, 0, False)


def test_a_node_that_left_hands_its_pages_over(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.receive_leave("aa", 2, {"v1": 3}, 8.0, 11.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.unaccounted, figures.partial) == (0, 3, True)
    assert figures.absences[0].state == "leaving"
    assert not fleet.drop_vanished("aa", 11.0), "the end of its connection says nothing new"
    fleet.expect("aa", 11.1)  # the backend lists it for a moment longer
    fleet.drop_vanished("aa", 11.2)
    assert fleet.snapshot().unaccounted == 3
    fleet.expire(19.0)
    assert (fleet.snapshot().unaccounted, fleet.snapshot().partial) == (0, False)


def test_a_node_that_sends_pages_away_is_still_counted(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.receive_departures("aa", {"v1": 2}, 8.0, 11.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.unaccounted, figures.partial) == (3, 2, True)


def test_pages_that_did_not_answer_are_unaccounted_for_since_the_first_of_them(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.receive_departures("aa", {"v1": 1}, 120.0, 11.0, unanswered=True)
    figures = fleet.snapshot()
    assert (figures.total, figures.unaccounted, figures.absences[0].state) == (3, 1, "unanswered")
    first = figures.absences[0].since
    # The node writes its tally again and again.
    fleet.apply_tallies(
        {"aa": StoredAbsence(Absence("aa", 1, {"v1": 1}, "unanswered", first + 60_000), 59.0, has_heartbeat=True)},
        71.0,
        71.1,
    )
    assert fleet.snapshot().absences[0].since == first
    fleet.apply_tallies({"aa": StoredAbsence(None, inf, has_heartbeat=True)}, 80.0, 80.1)
    assert (fleet.snapshot().unaccounted, fleet.snapshot().partial) == (0, False), "it came back"


def test_the_store_decides_about_what_was_claimed_before_it_was_asked(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.receive(report("bb", 1, {"v1": 4}), 10.0)
    fleet.drop_vanished("aa", 20.0)
    nothing = StoredAbsence(None, inf)
    fleet.apply_tallies(
        {"aa": StoredAbsence(Absence("aa", 1, {"v1": 1}, "vanished", 10_000), 50.0), "bb": nothing}, 20.5, 20.6
    )
    assert fleet.snapshot().unaccounted == 1, "two have come back elsewhere"
    fleet.drop_vanished("bb", 21.0)
    fleet.apply_tallies({"aa": nothing, "bb": nothing}, 20.9, 21.1)
    assert [one.node for one in fleet.snapshot().absences] == ["bb"], "when it was asked, it lived"
    fleet.apply_tallies({}, 22.0, 22.1)
    assert [one.node for one in fleet.snapshot().absences] == ["bb"], "the store does not know of it"
    assert fleet.end_absence("bb")
    assert fleet.snapshot().absences == ()


def test_a_sign_of_life_that_outlasts_its_node_does_not_account_for_its_pages(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.drop_vanished("aa", 20.0)
    present = StoredAbsence(None, inf, has_heartbeat=True)
    fleet.apply_tallies({"aa": present}, 20.5, 20.6)
    assert (fleet.snapshot().unaccounted, fleet.snapshot().partial) == (3, True)
    # The sign expires, and the store knows that one page came back.
    fleet.apply_tallies({"aa": StoredAbsence(Absence("aa", 2, {"v1": 2}, "vanished", 10_000), 50.0)}, 21.5, 21.6)
    assert fleet.snapshot().unaccounted == 2
    # Another one lives after all, and speaks.
    fleet.receive(report("bb", 1, {"v1": 4}), 22.0)
    fleet.drop_vanished("bb", 22.1)
    fleet.apply_tallies({"bb": present}, 22.5, 22.6)
    assert fleet.snapshot().unaccounted == 4
    fleet.receive(report("bb", 9, {"v1": 4}), 23.0)
    assert (fleet.snapshot().total, fleet.snapshot().unaccounted) == (4, 0)
    # A node reports itself which pages it sent away, so its tally is newer than the claim.
    fleet.receive_departures("bb", {"v1": 2}, 8.0, 24.0)
    fleet.apply_tallies(
        {"bb": StoredAbsence(Absence("bb", 1, {"v1": 1}, "leaving", 24_000), 7.0, has_heartbeat=True)}, 24.5, 24.6
    )
    assert fleet.snapshot().unaccounted == 1


def test_what_is_in_the_sums_is_accounted_for_whatever_the_store_says(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.apply_tallies({"aa": StoredAbsence(Absence("aa", 3, {"v1": 3}, "vanished", 1), 9.0)}, 11.0, 11.0)
    assert (fleet.snapshot().total, fleet.snapshot().unaccounted) == (3, 0)
    fleet.drop_vanished("aa", 12.0)
    assert fleet.snapshot().unaccounted == 3


def test_what_the_store_said_ends_when_it_said_though_it_is_not_asked_again(fleet: FleetFigures) -> None:
    fleet.apply_tallies({"aa": StoredAbsence(Absence("aa", 3, {"v1": 3}, "leaving", 1), 5.0)}, 11.0, 11.1)
    fleet.expire(15.9)
    assert fleet.snapshot().unaccounted == 3
    fleet.expire(16.0)
    assert fleet.snapshot().unaccounted == 0


def test_who_does_not_answer_is_behind_until_it_speaks(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.receive(report("bb", 1, {"v1": 2}), 11.5)
    assert fleet.mark_silent(["aa", "bb", "cc", fleet.own], 11.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.reporting, figures.nodes.expected) == (5, True, 2, 3)
    assert not fleet.mark_silent(["aa", "bb"], 11.0)
    assert "aa" not in fleet.responsive_nodes()
    assert "bb" in fleet.responsive_nodes()
    assert fleet.heartbeat("aa", 1, 11.6)
    assert not fleet.snapshot().partial


def test_who_was_not_listened_to_has_been_silent_only_since(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.forget_others()
    fleet.restart_deadlines(100.0)
    fleet.expire(100.3)
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.expected) == (0, True, 2)
    assert fleet.receive(report("aa", 1, {"v1": 3}), 100.5)
    assert (fleet.snapshot().total, fleet.snapshot().partial) == (3, False)


def test_silent_nodes_stay_expected_where_their_end_would_be_told(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    for now in (14.6, 20.0, 80.0):
        fleet.expire(now, drop=False)
        figures = fleet.snapshot()
        assert (figures.total, figures.partial, figures.nodes.expected) == (3 if now < 19 else 0, True, 2)
        assert [one.state for one in figures.absences] == ([] if now < 19 else ["cut-off"])
    fleet.expire(500.0, drop=False)
    assert fleet.snapshot().unaccounted == 3, "its pages can hold on for as long as they like"
    fleet.heartbeat("aa", 1, 501.0)
    assert fleet.missing_nodes(rows=False) == ["aa"]
    fleet.receive(report("aa", 1, {"v1": 3}), 501.1)
    assert not fleet.snapshot().partial
    assert fleet.drop("aa")
    assert not fleet.snapshot().partial


def test_while_blind_silent_nodes_stay_expected(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.receive(report(OWN, 1, {"v1": 1}), 10.0)
    fleet.set_disconnected(disconnected=True, now=10.0)
    assert fleet.snapshot().total == 4, "what is known is shown a little longer"
    fleet.expire(30.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.reporting, figures.nodes.expected) == (1, True, 1, 2)
    fleet.set_disconnected(disconnected=False, now=60.0)
    assert not fleet.expire(61.0).changed, "silence counts from now"
    fleet.receive(report("aa", 1, {"v1": 3}), 62.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.reporting) == (4, False, 2)


def test_the_longest_silence_is_told_and_grows_while_nobody_can_be_heard(fleet: FleetFigures) -> None:
    assert fleet.longest_silence(100.0) == 0.0, "alone"
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.receive(report("bb", 1, {"v1": 1}), 12.0)
    assert fleet.longest_silence(14.0) == 4.0
    fleet.heartbeat("aa", 1, 14.0)
    assert fleet.longest_silence(14.0) == 2.0
    fleet.set_disconnected(disconnected=True, now=14.0)
    fleet.expire(60.0)
    assert fleet.snapshot().total == 0, "their figures are let go"
    assert fleet.longest_silence(60.0) == 48.0, "and what is missing still gets older"
    fleet.set_disconnected(disconnected=False, now=60.0)
    assert fleet.longest_silence(61.0) == 1.0


def test_shares_tell_what_each_node_has(fleet: FleetFigures) -> None:
    fleet.receive(report(OWN, 1, {"v1": 2}), 0.0)
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.expect("bb", 11.0)
    fleet.expire(12.0)
    own, other, missing = fleet.shares(12.0)
    assert own == NodeShare(OWN, 2, reporting=True, silent=0.0)
    assert other == NodeShare("aa", 3, reporting=True, silent=2.0)
    assert missing == NodeShare("bb", 0, reporting=False, silent=1.0)


def test_shares_say_which_version_each_node_serves(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.expect("bb", 10.0)
    fleet.serves("bb", "v2")
    assert {share.node: share.version for share in fleet.shares(12.0)} == {OWN: None, "aa": None, "bb": "v2"}


def test_a_node_that_slept_forgives_the_others(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.extend_deadlines(60.0)
    assert not fleet.expire(71.0).changed
    assert fleet.snapshot().total == 3


def test_what_a_node_that_slept_for_long_knows_of_the_others_is_not_the_whole(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.extend_deadlines(2.0)
    assert not fleet.snapshot().partial, "anybody may be busy for a moment"
    fleet.extend_deadlines(60.0)
    assert fleet.snapshot().partial
    assert fleet.heartbeat("aa", 1, 72.0)
    assert not fleet.snapshot().partial


def test_a_dead_node_does_not_live_on_while_the_store_comes_and_goes(fleet: FleetFigures) -> None:
    now = 10.0
    fleet.receive(report("aa", 1, {"v1": 3}), now)
    for _ in range(6):
        fleet.set_disconnected(disconnected=True, now=now + 1.0)
        fleet.set_disconnected(disconnected=False, now=now + 2.0)
        now += 5.0
        fleet.expire(now)
    # Four of five seconds it could be heard: it was let off once, because it had no chance to speak.
    assert fleet.snapshot().total == 0
    assert "aa" not in fleet


def test_a_node_that_could_not_be_heard_is_let_off_each_time_it_has_spoken(fleet: FleetFigures) -> None:
    for now in (10.0, 110.0, 210.0):
        fleet.receive(report("aa", int(now), {"v1": 3}), now)
        fleet.set_disconnected(disconnected=True, now=now + 1.0)
        fleet.set_disconnected(disconnected=False, now=now + 90.0)
        fleet.expire(now + 98.0)
        assert "aa" in fleet, "silence counts from when it could be heard again"


def test_what_is_known_from_before_a_long_blindness_is_not_the_whole(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.set_disconnected(disconnected=True, now=11.0)
    fleet.set_disconnected(disconnected=False, now=13.0)
    assert not fleet.snapshot().partial, "it has been silent for no longer than others may be"
    fleet.set_disconnected(disconnected=True, now=13.0)
    fleet.set_disconnected(disconnected=False, now=18.0)
    figures = fleet.snapshot()
    assert (figures.total, figures.partial, figures.nodes.reporting) == (3, True, 1)
    assert fleet.heartbeat("aa", 1, 18.1)
    assert not fleet.snapshot().partial


def test_only_those_that_never_spoke_are_known_by_the_list_of_nodes_alone(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"v1": 3}), 10.0)
    fleet.expect("bb", 10.0)
    assert fleet.never_reported() == {"bb"}
    fleet.set_disconnected(disconnected=True, now=10.0)
    fleet.expire(30.0)
    assert fleet.unreported() == {"aa", "bb"}
    assert fleet.never_reported() == {"bb"}


def test_cost_does_not_grow_with_nodes() -> None:
    """Counted, not timed: a change of one label of one node touches that label of that node."""
    touched = Counter[str]()

    class Counting(LabelSums):
        def change(self, label: str, by: int) -> None:
            touched[label] += 1
            super().change(label, by)

    fleet = FleetFigures(OWN)
    fleet._sums.versions = Counting(1_000, parse_version)
    for number in range(200):
        fleet.receive(report(f"{number:04x}", 1, {f"v{label}": 1 for label in range(50)}), 0.0)
    touched.clear()
    fleet.update(Delta(node="0007", base=1, sequence=2, total=51, versions={"v3": 2}), 0.0)
    assert touched == {"v3": 1}


def test_labels_and_nodes_are_bounded_whatever_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "MAX_NODES", 5)
    monkeypatch.setattr(liveness, "MAX_TOMBSTONES", 5)
    fleet = FleetFigures(OWN, max_versions=10, max_routes=10, max_listed=10)
    for number in range(50):
        node = f"{number:02x}aa"
        rows = tuple(ConnectionInfo(f"{node}{row:04}", "v", "/") for row in range(100))
        fleet.receive(report(node, 1, {f"{node}{label}": 1 for label in range(400)}, rows), 0.0)
        fleet.update(
            Delta(node=node, base=1, sequence=2, total=800, versions={f"new{label}": 1 for label in range(400)}), 0.0
        )
    figures = fleet.snapshot()
    assert len(figures.versions) <= 11
    assert len(figures.connections) <= 10
    assert figures.partial, "who found no place is missing"
    assert (len(fleet), figures.nodes.expected) == (5, 10)
    assert all(len(held.versions) <= 10 + _RESERVED_SLACK + 1 for held in fleet._reports.values())
    assert len(fleet._sums.rows.spare) <= 10
    for number in range(50):
        fleet.drop(f"{number:02x}aa", 9)
    fleet.expire(0.0)
    assert len(fleet._liveness.tombstones) <= 5
    figures = fleet.snapshot()
    assert (figures.total, figures.versions, figures.routes, figures.connections) == (0, {}, {}, ())
    assert not figures.partial


def test_folded_reports_are_never_added_to_by_deltas() -> None:
    fleet = FleetFigures(OWN, max_versions=10)
    labels = {f"v{label:03}": 1 for label in range(300)}
    fleet.receive(report("aa", 1, labels), 0.0)
    assert fleet.snapshot().total == 300
    assert sum(fleet.snapshot().versions.values()) == 300
    fleet.update(Delta(node="aa", base=1, sequence=2, total=301, versions={"v299": 2}), 0.0)
    assert fleet.missing_nodes(rows=False) == ["aa"], "what was folded cannot be told apart, so the whole is needed"
    assert sum(fleet.snapshot().versions.values()) == 300
    fleet.receive(report("aa", 2, {**labels, "v299": 2}), 0.0)
    assert sum(fleet.snapshot().versions.values()) == 301
    assert not fleet.missing_nodes(rows=False)


def test_a_label_that_is_reserved_late_is_counted_apart_from_then_on() -> None:
    fleet = FleetFigures(OWN, max_versions=2)
    fleet.receive(report("aa", 1, {"v1": 1, "v2": 2, "v3": 3, "v4": 4}), 0.0)
    fleet.note_changes(on=True)
    before = fleet.snapshot()
    assert before.versions == {"v1": 1, "v2": 2, OTHER: 7}
    assert fleet.set_known_versions(frozenset({"v4"}))
    assert not fleet.set_known_versions(frozenset({"v4"}))
    delta = fleet.pop_changes()
    assert delta is not None
    assert apply(before, delta).versions == fleet.snapshot().versions == {"v1": 1, "v2": 2, "v4": 4, OTHER: 3}
    fleet.drop("aa")
    assert fleet.snapshot().versions == {}


def test_what_a_node_cannot_tell_apart_may_be_of_any_version() -> None:
    fleet = FleetFigures(OWN, max_versions=3, known_versions=("v2",))
    for node, known in (("aa", ("v1", "v2")), ("bb", ("v2",)), ("cc", ())):
        versions = {"v1": 1, "made-up": 1, OTHER: 10}
        fleet.receive(msgspec.structs.replace(report(node, 1, versions), known=known), 0.0)
    assert fleet.count_of("v1") == VersionCount("v1", 3, 23), "two nodes count it with others"
    assert fleet.count_of("v2") == VersionCount("v2", 0, 10), "an older node does not say"
    assert fleet.count_of("unknown") == VersionCount("unknown", 0, 0), "it is always counted apart"
    fleet.note_known("bb", ("v1", "v2"))
    assert fleet.count_of("v1") == VersionCount("v1", 3, 13)
    fleet.drop("cc")
    assert fleet.count_of("v1") == VersionCount("v1", 2, 2)


def test_the_shortest_limit_of_the_other_nodes_is_known_as_long_as_they_are() -> None:
    fleet = FleetFigures(OWN)

    def shortest() -> float | None:
        return fleet.shortest_cut

    fleet.note_cut("aa", 15.0)
    assert shortest() is None, "nothing else is known of this node"
    for node, seconds in (("aa", 60.0), ("bb", 15.0), ("cc", 0.0)):
        fleet.receive(report(node, 1, {"v1": 1}), 0.0)
        fleet.note_cut(node, seconds)
    assert shortest() == 15.0
    fleet.note_cut("cc", 0.001)
    assert shortest() == 15.0, "no client can have proven so short a limit"
    fleet.drop("bb")
    assert shortest() == 60.0
    fleet.note_cut("aa", 0.0)
    assert shortest() is None, "it knows of no limit any more"
    fleet.note_cut("aa", 60.0)
    fleet.forget_others()
    assert shortest() is None


@pytest.mark.parametrize("seconds", [-1.0, 86_401.0, inf, nan, "15"])
def test_a_limit_that_cannot_be_meant_makes_the_message_invalid(seconds: Any) -> None:
    for message in (Heartbeat(node="aa", sequence=1), report("aa", 1, {"v1": 1})):
        assert decode(encode(msgspec.structs.replace(message, cut=15.0))) is not None
        assert decode(encode(msgspec.structs.replace(message, cut=seconds))) is None


def test_where_only_known_versions_count_a_node_may_have_others_under_unknown() -> None:
    fleet = FleetFigures(OWN, known_versions=("v1", "v2"), only_known=True)
    fleet.receive(msgspec.structs.replace(report("aa", 1, {"v2": 1, "unknown": 5}), known=("v2",)), 0.0)
    assert fleet.count_of("v1") == VersionCount("v1", 0, 5)
    assert fleet.count_of("v2") == VersionCount("v2", 1, 1)


def test_a_report_that_had_too_many_labels_says_nothing_of_a_version_that_became_known_later() -> None:
    fleet = FleetFigures(OWN, max_versions=10)
    labels = {f"v{label:03}": 2 for label in range(300)} | {"wanted": 1}
    whole = msgspec.structs.replace(report("aa", 1, labels), known=("wanted",))
    fleet.receive(whole, 0.0)
    fleet.set_known_versions(frozenset({"wanted"}))
    count = fleet.count_of("wanted")
    assert count.least == 0
    assert count.most > 0
    fleet.receive(msgspec.structs.replace(whole, sequence=2), 0.0)
    assert fleet.count_of("wanted").least == 1, "known versions are the last to be cut off"


def test_what_was_folded_with_the_rest_is_not_taken_for_what_a_node_calls_the_rest() -> None:
    fleet = FleetFigures(OWN, max_versions=10)
    labels = {**{f"v{label:03}": 1 for label in range(300)}, OTHER: 5}
    fleet.receive(report("aa", 1, labels), 0.0)
    fleet.update(Delta(node="aa", base=1, sequence=2, total=306, versions={OTHER: 6}), 0.0)
    assert sum(fleet.snapshot().versions.values()) == fleet.snapshot().total
    fleet.receive(report("aa", 2, {**labels, OTHER: 6}), 0.0)
    assert (sum(fleet.snapshot().versions.values()), fleet.snapshot().total) == (306, 306)


def test_one_label_too_many_is_folded_like_hundreds() -> None:
    fleet = FleetFigures(OWN, max_versions=10)
    most = 10 + _RESERVED_SLACK
    labels = {f"v{label:03}": 1 for label in range(most + 1)}
    fleet.receive(report("aa", 1, labels), 0.0)
    gone = {"v000": 0, "v001": 0}
    fleet.update(Delta(node="aa", base=1, sequence=2, total=most - 1, versions=gone), 0.0)
    fleet.update(Delta(node="aa", base=2, sequence=3, total=most, versions={f"v{most:03}": 2}), 0.0)
    assert sum(fleet.snapshot().versions.values()) == fleet.snapshot().total


def test_labels_that_are_gone_make_room_for_those_that_come_in_the_same_delta() -> None:
    """Strangers replace all labels of a node between two deltas. No report is missing because of that."""
    fleet = FleetFigures(OWN, max_versions=200)
    before, after = ({f"{word}{label:03}": 1 for label in range(200)} for word in ("old", "new"))
    for node in ("aa", OWN):
        fleet.receive(report(node, 1, before), 0.0)
        fleet.update(
            Delta(node=node, base=1, sequence=2, total=200, versions=dict.fromkeys(before, 0) | after, rows=()), 0.0
        )
        assert fleet.sequence(node) == 2
    assert not fleet.missing_nodes(rows=False)
    assert not fleet.snapshot().partial
    assert fleet.snapshot().total == 400
    assert fleet._reports["aa"].versions == after


def test_labels_that_never_were_make_no_room() -> None:
    fleet = FleetFigures(OWN, max_versions=10)
    most = 10 + _RESERVED_SLACK
    fleet.receive(report("aa", 1, {f"v{label:03}": 1 for label in range(most)}), 0.0)
    made_up = {f"never{label}": 0 for label in range(100)}
    fleet.update(Delta(node="aa", base=1, sequence=2, total=most + 1, versions=made_up | {"v": 1}), 0.0)
    assert len(fleet._reports["aa"].versions) == most
    assert fleet.missing_nodes(rows=False) == ["aa"]


def test_rows_with_labels_that_no_page_may_have_are_not_shown(fleet: FleetFigures) -> None:
    bad = (
        ConnectionInfo("aa01", "v\n1", "/"),
        ConnectionInfo("aa02", "v1", "/\x1b[2J"),
        ConnectionInfo("aa03\r", "v1", "/"),
    )
    good = ConnectionInfo("aa04", "v1", "/")
    fleet.receive(report("aa", 1, {"v1": 4}, (*bad, good)), 0.0)
    assert fleet.snapshot().connections == (good,)
    fleet.update(Delta(node="aa", base=1, sequence=2, total=4, rows=bad), 0.0)
    assert fleet.snapshot().connections == (good,)


def test_labels_that_no_page_may_have_are_never_shown(fleet: FleetFigures) -> None:
    fleet.receive(report("aa", 1, {"bad\n": 2, "good": 1}), 0.0)
    assert fleet.snapshot().versions == {"good": 1, OTHER: 2}


def test_rows_of_another_node_are_not_taken(fleet: FleetFigures) -> None:
    mine = ConnectionInfo("bb01", "v1", "/")
    fleet.receive(report("bb", 1, {"v1": 1}, (mine,)), 0.0)
    stolen = ConnectionInfo("bb01", "v1", "/stolen")
    long = ConnectionInfo("aa01", "v" * 200, "/")
    fleet.receive(report("aa", 1, {"v1": 1}, (stolen, long)), 0.0)
    assert fleet.snapshot().connections == (mine,)
    fleet.update(Delta(node="aa", base=1, sequence=2, total=1, rows=(), removed=("bb01",)), 0.0)
    assert fleet.snapshot().connections == (mine,)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81\xa1t\xa6report",
        encode({"t": "report", "node": "aa", "sequence": -1, "total": 1, "versions": {}, "routes": {}}),
        encode({"t": "report", "node": "aa", "sequence": 1, "total": -1, "versions": {}, "routes": {}}),
        encode({"t": "report", "node": "aa", "sequence": 1, "total": 1, "versions": {"v": -5}, "routes": {}}),
        encode({"t": "report", "node": "aa", "sequence": 1, "total": 1, "versions": {"v" * 129: 1}, "routes": {}}),
        encode({"t": "report", "node": "aa", "sequence": 1, "total": 1, "versions": {}, "routes": {"/" * 513: 1}}),
        encode({"t": "report", "node": "*" * 12, "sequence": 1, "total": 1, "versions": {}, "routes": {}}),
        encode({"t": "interest", "node": "aa", "ttl": 1e9}),
        encode({"t": "of the next version", "node": "aa"}),
    ],
)
def test_nonsense_and_news_are_not_understood(data: bytes) -> None:
    assert decode(data) is None


def test_a_field_of_the_next_version_is_passed_over() -> None:
    told: dict[str, Any] = {"t": "beat", "node": "aa", "sequence": 3, "mood": "good"}
    assert decode(encode(told)) == Heartbeat(node="aa", sequence=3)


def says(node: str, away: dict[str, int] | None, *, remembers: bool = True) -> Report:
    return Report(node=node, sequence=1, total=0, versions={}, routes={}, away=away, remembers=remembers)


def test_who_broke_off_is_known_if_every_node_says_so_and_one_was_there_before() -> None:
    fleet = FleetFigures("a")
    fleet.receive(says("a", {"old": 1}, remembers=False), 0.0)
    assert not fleet.snapshot().away_known
    fleet.receive(says("b", {"old": 2, "new": 1}), 0.0)
    assert fleet.snapshot().away_known
    assert (dict(fleet.snapshot().away), fleet.snapshot().partial) == ({"old": 3, "new": 1}, False)
    fleet.receive(says("c", None), 0.0)
    assert not fleet.snapshot().away_known, "a node of an older Headcount"
    fleet.receive_leave("c", 1, {}, 0.0, 1.0)
    assert fleet.snapshot().away_known
    fleet.receive_leave("b", 1, {}, 0.0, 1.0)
    assert (dict(fleet.snapshot().away), fleet.snapshot().away_known) == ({"old": 1}, False)


def test_what_changes_of_those_who_broke_off_is_in_the_delta() -> None:
    fleet = FleetFigures("a")
    fleet.note_changes(on=True)
    fleet.receive(says("b", {"old": 2}, remembers=False), 0.0)
    before = fleet.pop_changes()
    assert before is not None
    assert (dict(before.away), before.away_known) == ({"old": 2}, None)
    fleet.update(Delta(node="b", base=1, sequence=2, total=0, away={"old": 0, "new": 1}, remembers=True), 0.0)
    delta = fleet.pop_changes()
    assert delta is not None
    assert (dict(delta.away), delta.away_known) == ({"old": 0, "new": 1}, True)
    assert dict(fleet.snapshot().away) == {"new": 1}


def test_those_who_broke_off_at_a_node_that_vanishes_are_unaccounted_for_and_away_no_more() -> None:
    fleet = FleetFigures("a")
    fleet.receive(Report(node="b", sequence=1, total=1, versions={"old": 1}, routes={}, away={"old": 2, "new": 1}), 0.0)
    fleet.drop_vanished("b", 1.0)
    stats = fleet.snapshot()
    assert (dict(stats.away), stats.unaccounted) == ({}, 4)
    assert stats.absences[0].versions == {"old": 3, "new": 1}


def test_versions_of_strangers_who_broke_off_share_a_count_and_known_ones_have_their_own() -> None:
    fleet = FleetFigures("a", known_versions=("old",))
    for number in range(5):
        made_up = {f"made-up-{number}-{each}": 1 for each in range(60)}
        fleet.receive(says(f"b{number}", {**made_up, "old": 1}), 0.0)
    away = fleet.snapshot().away
    assert away["old"] == 5
    assert sum(away.values()) == 305
    assert len(away) <= 66
