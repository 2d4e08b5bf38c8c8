"""The registry against somebody who forgets nothing and counts everything again after each event."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headcount.core.labels import OTHER, ROOT
from headcount.core.registry import Registry
from headcount.core.stats import Absence, ConnectionInfo, Stats, StatsDelta, VersionCount, apply
from headcount.errors import UnknownConnection

from .stats_diff import diff

LABELS = ["v1", "v2", "v3", "ours", "unknown", OTHER, "__proto__", "constructor", "ünïcödé", "🦆", "\\", '"']
ROUTES = [ROOT, "/a", "/b", "/shopping", OTHER, "__proto__", "/🦆", "/ä", "/a/b"]
RESERVED = ("ours", "unknown")


@dataclass
class Known:
    """A connection as the naive recount remembers it: with the labels it was counted under."""

    info: ConnectionInfo
    version_label: str
    route_label: str


def label_of(label: str, in_use: set[str], limit: int, reserved: tuple[str, ...]) -> str:
    apart = in_use - {OTHER}
    return label if label in apart or label in reserved or len(apart) < limit else OTHER


def comparable(delta: StatsDelta, before: Stats) -> object:
    """A delta without the order in which rows that were there before come, which means nothing."""
    old = {row.id for row in before.connections}
    replaced = {row for row in delta.set if row.id in old}
    appended = [row for row in delta.set if row.id not in old]
    assert len(replaced) + len(appended) == len(delta.set)
    assert len(set(delta.removed)) == len(delta.removed)
    return delta._replace(set=(), removed=()), replaced, appended, set(delta.removed)


class RegistryHistory(RuleBasedStateMachine):
    """Random histories of one registry."""

    @initialize(
        route_tracking=st.booleans(),
        max_listed=st.integers(1, 5),
        max_versions=st.integers(1, 3),
        max_routes=st.integers(1, 3),
        watching=st.booleans(),
    )
    def start(self, route_tracking: bool, max_listed: int, max_versions: int, max_routes: int, watching: bool) -> None:
        self.route_tracking = route_tracking
        self.max_listed = max_listed
        self.max_versions = max_versions
        self.max_routes = max_routes
        self.registry = Registry(
            route_tracking=route_tracking,
            max_listed=max_listed,
            max_versions=max_versions,
            max_routes=max_routes,
            known_versions=RESERVED,
        )
        self.known: list[Known] = []
        self.opened = 0
        self.events = 0
        self.before: Stats | None = None
        self.reader_at = 0
        self.reader_saw: list[str] = []
        self.reader_began_with: set[str] = set()
        if watching:
            self.watch()

    @rule(version=st.sampled_from(LABELS), route=st.sampled_from(ROUTES), ip=st.sampled_from([None, "192.0.2.7"]))
    def open(self, version: str, route: str, ip: str | None) -> None:
        self.opened += 1
        self.events += 1
        shown = route if self.route_tracking else ROOT
        info = self.registry.open(f"c{self.opened}", version, route, ip)
        assert info == ConnectionInfo(f"c{self.opened}", version, shown, ip)
        self.known.append(Known(info, self.version_label(version), self.route_label(shown, self.known)))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), route=st.sampled_from(ROUTES))
    def navigate(self, data: st.DataObject, route: str) -> None:
        moved = data.draw(st.sampled_from(self.known))
        before = moved.info
        changes = self.route_tracking and before.route != route
        assert self.registry.navigate(before.id, route) == (before.route if changes else None)
        if changes:
            self.events += 1
            others = [known for known in self.known if known is not moved]
            moved.route_label = self.route_label(route, others)
            moved.info = ConnectionInfo(before.id, before.version, route, before.ip)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.known))
        self.events += 1
        self.known.remove(gone)
        assert self.registry.close(gone.info.id) == gone.info

    @rule()
    def watch(self) -> None:
        self.registry.note_changes(on=True)
        self.before = self.registry.snapshot()

    @rule()
    def unwatch(self) -> None:
        self.registry.note_changes(on=False)
        self.before = None

    @rule()
    def take(self) -> None:
        taken = self.registry.pop_changes()
        if self.before is None:
            assert taken is None
            return
        after = self.registry.snapshot()
        if taken is None:
            assert after == self.before
            return
        assert apply(self.before, taken) == after
        assert comparable(taken, self.before) == comparable(diff(self.before, after), self.before)
        assert self.registry.pop_changes() is None
        self.before = after

    @rule(limit=st.integers(1, 3))
    def read_a_page(self, limit: int) -> None:
        """Somebody pages through all connections while they come and go."""
        standing = {known.info.id for known in self.known}
        if self.reader_at == 0:
            self.reader_saw = []
            self.reader_began_with = standing
        rows, cursor = self.registry.list_connections(limit=limit, after=self.reader_at)
        assert len(rows) <= limit
        self.reader_saw += [row.id for row in rows]
        self.reader_at = cursor or 0
        assert len(set(self.reader_saw)) == len(self.reader_saw)
        if cursor is None:
            assert self.reader_began_with & standing <= set(self.reader_saw)

    @invariant()
    def equals_the_naive_recount(self) -> None:
        stats = self.registry.snapshot()
        listed = self.known[: self.max_listed]
        assert stats == Stats(
            total=len(self.known),
            versions=Counter(known.version_label for known in self.known),
            routes=Counter(known.route_label for known in self.known) if self.route_tracking else {},
            connections=tuple(known.info for known in listed),
            revision=self.events,
            connections_truncated=len(self.known) > self.max_listed,
        )

    @invariant()
    def sums_and_bounds_hold(self) -> None:
        stats = self.registry.snapshot()
        assert stats.total == self.registry.total == sum(stats.versions.values())
        assert all(count >= 1 for count in (*stats.versions.values(), *stats.routes.values()))
        assert len(set(stats.versions) - {OTHER, *RESERVED}) <= self.max_versions
        if self.route_tracking:
            assert stats.total == sum(stats.routes.values())
            assert len(set(stats.routes) - {OTHER, ROOT}) <= self.max_routes
        else:
            assert stats.routes == {}

    @invariant()
    def finds_what_is_open_and_nothing_else(self) -> None:
        standing = {known.info.id: known.info for known in self.known}
        for number in range(1, self.opened + 1):
            connection_id = f"c{number}"
            assert (connection_id in self.registry) is (connection_id in standing)
            if connection_id in standing:
                assert self.registry.info(connection_id) == standing[connection_id]

    @invariant()
    def gives_the_ids_by_the_label_of_their_version(self) -> None:
        ids = {version: set(some) for version, some in self.registry.ids().items()}
        labels = {known.version_label for known in self.known}
        assert ids == {
            label: {known.info.id for known in self.known if known.version_label == label} for label in labels
        }

    def version_label(self, version: str) -> str:
        return label_of(version, {known.version_label for known in self.known}, self.max_versions, RESERVED)

    def route_label(self, route: str, others: list[Known]) -> str:
        if not self.route_tracking:
            return ROOT
        return label_of(route, {known.route_label for known in others}, self.max_routes, (ROOT,))


TestRegistryHistory = RegistryHistory.TestCase
TestRegistryHistory.settings = settings(stateful_step_count=150)


def watched(max_listed: int = 1_000) -> Registry:
    registry = Registry(max_listed=max_listed)
    registry.note_changes(on=True)
    return registry


def test_new_registry_is_empty() -> None:
    assert Registry().snapshot() == Stats()


def test_open_counts_version_and_route() -> None:
    registry = Registry()
    registry.open("a", "v1", "/x", "192.0.2.7")
    registry.open("b", "v1", "/y")
    assert registry.snapshot() == Stats(
        total=2,
        versions={"v1": 2},
        routes={"/x": 1, "/y": 1},
        connections=(ConnectionInfo("a", "v1", "/x", "192.0.2.7"), ConnectionInfo("b", "v1", "/y")),
        revision=2,
    )


def test_open_of_an_open_id_is_an_error_and_changes_nothing() -> None:
    registry = Registry()
    registry.open("a", "v1", "/")
    before = registry.snapshot()
    with pytest.raises(ValueError, match="open already"):
        registry.open("a", "v2", "/x")
    assert registry.snapshot() == before


def test_navigate_moves_one_count() -> None:
    registry = Registry()
    registry.open("a", "v1", "/x", "192.0.2.7")
    assert registry.navigate("a", "/y") == "/x"
    stats = registry.snapshot()
    assert stats.routes == {"/y": 1}
    assert stats.connections == (ConnectionInfo("a", "v1", "/y", "192.0.2.7"),)


def test_navigate_to_same_route_changes_nothing() -> None:
    registry = watched()
    registry.open("a", "v1", "/x")
    registry.pop_changes()
    before = registry.snapshot()
    assert registry.navigate("a", "/x") is None
    assert registry.snapshot() == before
    assert registry.pop_changes() is None


def test_without_route_tracking_every_route_is_the_root_and_none_is_counted() -> None:
    registry = Registry(route_tracking=False)
    registry.open("a", "v1", "/secret")
    assert registry.navigate("a", "/other") is None
    stats = registry.snapshot()
    assert stats.routes == {}
    assert [row.route for row in stats.connections] == ["/"]


@pytest.mark.parametrize("route_tracking", [True, False])
def test_a_connection_that_is_not_open_is_unknown(route_tracking: bool) -> None:
    registry = Registry(route_tracking=route_tracking)
    registry.open("a", "v1", "/")
    registry.close("a")
    before = registry.snapshot()
    for connection_id in ("a", "never opened", ""):
        assert connection_id not in registry
        with pytest.raises(UnknownConnection):
            registry.info(connection_id)
        with pytest.raises(UnknownConnection):
            registry.navigate(connection_id, "/x")
        assert registry.close(connection_id) is None
    assert registry.snapshot() == before


def test_the_oldest_unlisted_row_moves_up_when_a_listed_one_closes() -> None:
    registry = Registry(max_listed=2)
    for connection_id in "abcd":
        registry.open(connection_id, "v1", "/")
    assert [row.id for row in registry.snapshot().connections] == ["a", "b"]
    assert registry.snapshot().connections_truncated
    registry.close("a")
    assert [row.id for row in registry.snapshot().connections] == ["b", "c"]
    registry.close("d")
    assert [row.id for row in registry.snapshot().connections] == ["b", "c"]
    assert not registry.snapshot().connections_truncated


def test_labels_beyond_the_limit_are_counted_under_other() -> None:
    registry = Registry(max_versions=2, max_routes=2)
    for number in range(5):
        registry.open(f"c{number}", f"v{number}", f"/{number}")
    stats = registry.snapshot()
    assert stats.versions == {"v0": 1, "v1": 1, OTHER: 3}
    assert stats.routes == {"/0": 1, "/1": 1, OTHER: 3}
    assert [row.version for row in stats.connections] == ["v0", "v1", "v2", "v3", "v4"]


def test_without_other_limits_those_of_the_contract_hold() -> None:
    registry = Registry()
    for number in range(10_001):
        registry.open(f"c{number}", f"v{number}", f"/{number}")
    stats = registry.snapshot()
    assert stats.total == 10_001
    assert (len(stats.versions), stats.versions[OTHER]) == (1_001, 9_001)
    assert (len(stats.routes), stats.routes[OTHER]) == (10_001, 1)
    assert len(stats.connections) == 1_000


def test_other_takes_no_label_s_place() -> None:
    registry = Registry(max_versions=2)
    for number in range(3):
        registry.open(f"c{number}", f"v{number}", "/")
    registry.close("c0")
    registry.open("c3", "v3", "/")
    assert registry.snapshot().versions == {"v1": 1, "v3": 1, OTHER: 1}


def test_a_page_that_calls_itself_other_takes_no_label_s_place() -> None:
    registry = Registry(max_versions=1)
    registry.open("a", OTHER, "/")
    registry.open("b", "v1", "/")
    assert registry.snapshot().versions == {OTHER: 1, "v1": 1}
    registry.close("a")
    assert registry.snapshot().versions == {"v1": 1}


def test_connections_under_a_label_hold_one_string_and_the_last_takes_it_along() -> None:
    registry = Registry()
    for number in range(3):
        registry.open(f"c{number}", "".join(["v", "1"]), "".join(["/a", "/b"]))
    registry.open("d", "v1", "/")
    registry.navigate("d", "".join(["/a", "/b"]))
    rows = registry.snapshot().connections
    assert len({id(row.version) for row in rows}) == 1
    assert len({id(row.route) for row in rows}) == 1
    for number in range(1_000):
        registry.navigate("d", f"/made-up/{number}")
    for connection in ("c0", "c1", "c2", "d"):
        registry.close(connection)
    assert registry._versions._shared == registry._routes._shared == {}


def test_labels_beyond_the_limit_keep_their_own_text_when_a_page_calls_itself_other() -> None:
    registry = Registry(max_versions=1)
    registry.open("a", "".join(["(oth", "er)"]), "/")
    registry.open("b", "v1", "/")
    registry.open("c", "v2", "/")
    assert [row.version for row in registry.snapshot().connections] == [OTHER, "v1", "v2"]
    assert registry.snapshot().versions == {OTHER: 2, "v1": 1}


def test_a_connection_leaves_the_label_it_was_counted_under() -> None:
    registry = Registry(max_versions=1)
    registry.open("a", "v1", "/")
    registry.open("b", "v2", "/")
    registry.close("a")
    registry.open("c", "v2", "/")
    assert registry.snapshot().versions == {OTHER: 1, "v2": 1}
    registry.close("b")
    assert registry.snapshot().versions == {"v2": 1}


def test_made_up_versions_cannot_push_reserved_ones_out() -> None:
    registry = Registry(max_versions=2, known_versions=("ours", "unknown"))
    for number in range(4):
        registry.open(f"c{number}", f"made-up-{number}", "/")
    registry.open("a", "ours", "/")
    registry.open("b", "unknown", "/")
    assert registry.snapshot().versions == {"made-up-0": 1, "made-up-1": 1, OTHER: 2, "ours": 1, "unknown": 1}


def test_made_up_routes_cannot_push_the_root_out() -> None:
    registry = Registry(max_routes=1)
    registry.open("a", "v1", "/made-up")
    registry.open("b", "v1", "/too")
    registry.open("c", "v1", "/")
    assert registry.snapshot().routes == {"/made-up": 1, OTHER: 1, "/": 1}


def test_a_snapshot_does_not_change_afterwards() -> None:
    registry = Registry()
    registry.open("a", "v1", "/")
    kept = registry.snapshot()
    registry.open("b", "v2", "/b")
    registry.close("a")
    assert kept == Stats(
        total=1, versions={"v1": 1}, routes={"/": 1}, connections=(ConnectionInfo("a", "v1", "/"),), revision=1
    )


def test_nothing_is_noted_while_nobody_watches() -> None:
    registry = Registry()
    registry.open("a", "v1", "/")
    assert registry.pop_changes() is None
    registry.note_changes(on=True)
    assert registry.pop_changes() is None
    registry.open("b", "v1", "/")
    registry.note_changes(on=False)
    assert registry.pop_changes() is None


def test_a_page_in_the_background_is_marked_and_counted_as_before() -> None:
    registry = watched()
    registry.open("a", "v1", "/", "192.0.2.7")
    before = registry.snapshot()
    registry.pop_changes()
    assert registry.set_hidden("a", hidden=True)
    assert not registry.set_hidden("a", hidden=True)
    delta = registry.pop_changes()
    assert delta is not None
    assert (delta.versions, delta.routes, delta.set) == ({}, {}, (ConnectionInfo("a", "v1", "/", "192.0.2.7", True),))
    assert apply(before, delta) == registry.snapshot()
    registry.navigate("a", "/b")
    assert registry.info("a").hidden
    registry.set_hidden("a", hidden=False)
    assert registry.info("a") == ConnectionInfo("a", "v1", "/b", "192.0.2.7")
    with pytest.raises(UnknownConnection):
        registry.set_hidden("b", hidden=True)


def test_the_first_delta_starts_where_watching_began() -> None:
    registry = Registry()
    registry.open("a", "v1", "/")
    registry.note_changes(on=True)
    registry.open("b", "v2", "/b")
    assert registry.pop_changes() == StatsDelta(
        base=1,
        revision=2,
        total=2,
        versions={"v2": 1},
        routes={"/b": 1},
        set=(ConnectionInfo("b", "v2", "/b"),),
        removed=(),
    )


def test_events_that_cancel_one_another_give_a_delta_without_keys() -> None:
    registry = watched(max_listed=1)
    registry.open("a", "v1", "/")
    registry.pop_changes()
    registry.navigate("a", "/x")
    registry.open("b", "v2", "/y")
    registry.close("b")
    registry.navigate("a", "/")
    assert registry.pop_changes() == StatsDelta(base=1, revision=5, total=1, versions={}, routes={}, set=(), removed=())


def test_a_delta_says_when_the_list_becomes_truncated_and_when_no_longer() -> None:
    registry = watched(max_listed=1)
    registry.open("a", "v1", "/")
    assert truncated_by(registry) is None
    registry.open("b", "v1", "/")
    assert truncated_by(registry) is True
    registry.open("c", "v1", "/")
    assert truncated_by(registry) is None
    registry.close("b")
    registry.close("a")
    assert truncated_by(registry) is False


def truncated_by(registry: Registry) -> bool | None:
    delta = registry.pop_changes()
    assert delta is not None
    return delta.connections_truncated


def test_pages_are_oldest_first_across_listed_and_unlisted() -> None:
    registry = Registry(max_listed=2)
    for connection_id in "abcde":
        registry.open(connection_id, "v1", "/")
    registry.close("b")
    first, cursor = registry.list_connections(limit=2)
    assert [row.id for row in first] == ["a", "c"]
    assert cursor is not None
    second, cursor = registry.list_connections(limit=2, after=cursor)
    assert [row.id for row in second] == ["d", "e"]
    assert cursor is None


def test_a_page_holds_only_what_was_asked_for() -> None:
    registry = Registry(max_versions=1)
    registry.open("a", "v1", "/x")
    registry.open("b", "v2", "/x")
    registry.open("c", "v2", "/y")
    assert [row.id for row in registry.list_connections(version="v2")[0]] == ["b", "c"]
    assert [row.id for row in registry.list_connections(route="/x")[0]] == ["a", "b"]
    assert [row.id for row in registry.list_connections(version="v2", route="/x")[0]] == ["b"]
    assert registry.list_connections(version="v3") == ([], None)


def test_the_cursor_counts_only_matching_rows() -> None:
    registry = Registry()
    for number in range(6):
        registry.open(f"c{number}", "even" if number % 2 == 0 else "odd", "/")
    first, cursor = registry.list_connections(version="even", limit=2)
    assert [row.id for row in first] == ["c0", "c2"]
    assert cursor is not None
    assert registry.list_connections(version="even", limit=2, after=cursor) == (
        [ConnectionInfo("c4", "even", "/")],
        None,
    )


@pytest.mark.parametrize("only_known", [False, True])
def test_a_version_that_becomes_known_takes_its_connections_along(only_known: bool) -> None:
    registry = Registry(max_versions=1, known_versions=("ours",), only_known=only_known)
    registry.open("a", "made-up", "/")
    registry.open("b", "released", "/")
    registry.open("c", "made-up-too", "/")
    registry.open("d", "unknown", "/")
    assert registry.count_of("released") == VersionCount("released", 0, 4 if only_known else 2)
    registry.note_changes(on=True)
    before = registry.snapshot()
    assert registry.set_known_versions(frozenset({"ours", "released"}))
    delta, after = registry.pop_changes(), registry.snapshot()
    assert delta is not None
    assert apply(before, delta) == after
    if only_known:
        assert after.versions == {"unknown": 3, "released": 1}
        assert delta.versions == {"unknown": 3, "released": 1}
    else:
        assert after.versions == {"made-up": 1, "(other)": 1, "unknown": 1, "released": 1}
        assert delta.versions == {"(other)": 1, "released": 1}
    assert registry.count_of("released") == VersionCount("released", 1, 1)
    registry.open("e", "released", "/")
    assert registry.count_of("released") == VersionCount("released", 2, 2)
    for connection in "abcde":
        registry.close(connection)
    assert registry.snapshot().versions == {}


def test_learning_a_version_costs_nothing_while_every_version_is_counted_apart() -> None:
    registry = Registry()
    registry.open("a", "v1", "/")
    revision = registry.revision
    assert not registry.set_known_versions(frozenset({"v1"}))
    assert registry.revision == revision


def test_a_version_that_is_not_known_any_more_stays_where_it_is_counted() -> None:
    registry = Registry(max_versions=1, known_versions=("v1",))
    registry.open("a", "made-up", "/")
    registry.open("b", "v1", "/")
    registry.set_known_versions(frozenset({"v2"}))
    registry.open("c", "v1", "/")
    assert registry.snapshot().versions == {"made-up": 1, "v1": 2}
    assert registry.count_of("v1") == VersionCount("v1", 2, 2)
    registry.open("d", "made-up-too", "/")
    assert registry.count_of("v1") == VersionCount("v1", 2, 3)


def test_what_is_unaccounted_for_is_news_once_and_makes_figures_partial() -> None:
    registry = Registry()
    registry.note_changes(on=True)
    before = registry.snapshot()
    absence = Absence("aa", 1, {"v1": 1}, "unanswered", 5)
    assert registry.set_absence(absence)
    assert not registry.set_absence(absence)
    delta = registry.pop_changes()
    assert delta is not None
    seen = apply(before, delta)
    assert seen == registry.snapshot()
    assert (seen.unaccounted, seen.partial) == (1, True)
    assert registry.set_absence(None)
    delta = registry.pop_changes()
    assert delta is not None
    assert apply(seen, delta) == registry.snapshot()
    assert (registry.absence, registry.snapshot().partial) == (None, False)
