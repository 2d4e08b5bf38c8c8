"""Which version is current: by declaration, else what the fleet has settled on; and the sentence for neither."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.current_version import SETTLED, SETTLED_RELEASE, CurrentRelease, CurrentVersion, why_unknown
from headcount.core.fleet_figures import FleetFigures
from headcount.core.fleet_messages import Join, Report, decode, encode
from headcount.core.registry import Registry
from headcount.core.rollout_gate import Bound, Judge, Selection
from headcount.core.stats import Nodes, apply
from headcount.core.unaccounted import StoredAbsence

versions = st.sampled_from(["v1", "v2", "v3", ""])
"""What a node serves; an older Headcount does not say."""
names = st.sampled_from(["aa", "bb", "cc"])


def count_versions(served: Iterable[str]) -> dict[str, int]:
    """Return `{version: nodes}` of the nodes that say which version they serve; an empty one does not say."""
    return dict(Counter(version for version in served if version))


def noted(served: list[str], settle_time: float = 0.0) -> CurrentVersion:
    current = CurrentVersion("", settle_time, needs=("nodes",))
    current.note("nodes", set(served) - {""}, silent="" in served)
    return current


@given(st.lists(versions), st.none() | st.sampled_from(["v1", "v9"]), st.booleans())
def test_it_is_declared_or_served_by_every_node_or_unknown(
    served: list[str], declared: str | None, insisted: bool
) -> None:
    current = noted(served)
    if declared is not None:
        current.declare(declared, 7, insisted=insisted)
        is_served = declared in served
        assert current.release == CurrentRelease("declared" if insisted or is_served else "orphaned", declared, 7)
        assert current.release.current == (declared if insisted or is_served else None)
    elif len(set(served)) == 1 and "" not in served:
        assert current.release == CurrentRelease("settled", served[0], 0)
    else:
        assert current.release == CurrentRelease("unsettled")
        assert current.release.current is None


sources = st.sampled_from(["reports", "store"])
steps: st.SearchStrategy[tuple[str, str, list[str]]] = st.one_of(
    st.tuples(st.just("note"), sources, st.lists(versions, max_size=3)),
    st.tuples(st.just("forget"), sources, st.just([])),
    st.tuples(st.just("time"), sources, st.just([])),
)


@given(st.lists(steps, max_size=40), st.sampled_from([0.0, 3.0]))
def test_it_is_settled_only_after_all_sources_have_agreed_for_the_settle_time(
    history: list[tuple[str, str, list[str]]], settle_time: float
) -> None:
    current = CurrentVersion("v1", settle_time, needs=("store",))
    said: dict[str, list[str]] = {}
    now, since, agreed, alone_at = 0.0, 0.0, False, -1.0
    for step, source, served in history:
        before = current.release
        match step:
            case "note":
                said[source] = served
                changed = current.note(source, set(served) - {""}, silent="" in served)
            case "forget":
                said.pop(source, None)
                changed = current.forget(source)
            case _:
                now += 1
                changed = current.look(now)
        assert changed == (current.release != before)
        all_served = {"v1", *(version for each in said.values() for version in each)}
        fits = all_served == {"v1"} and "store" in said
        if agreed != fits:
            agreed, since = fits, now
        if current.release.state == "settled":
            assert agreed
            alone_at = now if not any(said.values()) else alone_at
            assert now - since >= settle_time or alone_at >= since
        elif agreed:  # it looks once to begin, and again when the time is over
            assert settle_time
            assert now - since <= settle_time + 1


def test_it_is_not_settled_before_the_store_was_read() -> None:
    current = CurrentVersion("v2", 0.0, needs=("store",))
    assert current.release == CurrentRelease("unsettled"), "there may be nodes of v1 that this one has not seen"
    assert current.note("store", {"v1"}, silent=False) is False
    assert current.note("store", set(), silent=False)
    assert current.release == CurrentRelease("settled", "v2", 0)


def test_a_new_node_learns_from_another_for_how_long_all_have_agreed() -> None:
    current = noted(["v1"], 30.0)
    current.adopt("v2", 100.0, 1_000.0)
    assert not current.look(1_000.0), "that is about another version"
    current.adopt("v1", 29.0, 1_000.0)
    assert not current.look(1_000.0)
    assert current.agreed_for(1_000.5) == 29.5
    alone = CurrentVersion("v1", 30.0)
    assert alone.agreed_for(8.0) == SETTLED
    assert current.look(1_001.0)
    assert current.release == CurrentRelease("settled", "v1", 0)


@pytest.mark.parametrize(("served", "state"), [({"v1"}, "settled"), ({"v2"}, "unsettled"), ({"v1", "v2"}, "unsettled")])
def test_what_another_node_said_holds_only_until_nodes_differ(served: set[str], state: str) -> None:
    current = CurrentVersion("v1", 30.0, needs=("store",))
    current.adopt("v1", 100.0, 1_000.0)
    assert not current.look(1_000.0), "the others have not been seen yet"
    current.note("store", served, silent=False)
    current.look(1_000.0)
    assert current.release.state == state
    current.note("store", {"v2"}, silent=False)
    current.note("store", {"v1"}, silent=False)
    current.look(1_001.0)
    assert current.release == CurrentRelease("unsettled")


def test_a_declared_version_is_orphaned_when_its_last_node_goes() -> None:
    current = noted(["v1", "v2"])
    assert current.declare("v2", 5, insisted=False)
    assert current.release == CurrentRelease("declared", "v2", 5)
    assert current.note("nodes", {"v1"}, silent=False), "all nodes are back on v1, and nobody declared it"
    assert current.release == CurrentRelease("orphaned", "v2", 5)
    assert current.release.current is None
    assert current.declare("v1", 6, insisted=False)
    assert current.release.current == "v1"


def report(node: str, sequence: int, serves: str) -> Report:
    message = Report(node=node, sequence=sequence, total=0, versions={}, routes={}, rows=(), serves=serves)
    decoded = decode(encode(message))
    assert isinstance(decoded, Report)
    return decoded


events = st.one_of(
    st.tuples(st.just("report"), names, versions),
    st.tuples(st.just("heard"), names, versions),
    st.tuples(st.just("expect"), names, st.just("")),
    st.tuples(st.just("leave"), names, st.just("")),
    st.tuples(st.just("vanish"), names, st.just("")),
    st.tuples(st.just("store"), names, versions),
    st.tuples(st.just("forget others"), st.just(""), st.just("")),
    st.tuples(st.just("declare"), st.just(""), st.sampled_from(["v1", "v2", "v9"])),
)


@given(st.lists(events, max_size=30), st.booleans())
def test_a_fleet_knows_it_only_if_every_node_that_reported_says_the_same(
    history: list[tuple[str, str, str]], noting: bool
) -> None:
    fleet = FleetFigures("00", serves="v1")
    fleet.note_changes(on=noting)
    shown = fleet.snapshot()
    lives: dict[str, int] = {}
    serves: dict[str, str] = {}
    reported: set[str] = set()
    listening = True
    declared: str | None = None
    for sequence, (event, name, version) in enumerate(history):
        listening = event == "report" or (listening and event != "forget others")
        life = f"{name}{lives.get(name, 0)}"  # a node that starts again has another id
        match event:
            case "report":
                serves[life] = serves.get(life) or version
                reported.add(life)
                fleet.receive(report(life, sequence, serves[life]), 0.0)
            case "heard" if life in fleet:
                serves[life] = serves.get(life) or version
                fleet.serves(life, serves[life])
            case "store":
                if life in fleet:
                    serves[life] = serves.get(life) or version
                fleet.apply_tallies(
                    {life: StoredAbsence(None, 0.0, has_heartbeat=True, serves=serves.get(life, version))}, 0.0, 0.0
                )
            case "expect":
                fleet.expect(life, 0.0)
            case "leave" | "vanish":
                (fleet.drop if event == "leave" else lambda node: fleet.drop_vanished(node, 0.0))(life)
                serves.pop(life, None)
                reported.discard(life)
                lives[name] = lives.get(name, 0) + 1
            case "forget others":
                fleet.forget_others()
            case "declare":
                declared = version
                fleet.declare(version, 9, insisted=True)
        known = [version for life, version in serves.items() if life in fleet and version]
        silent = [life for life in reported if not serves.get(life)]
        now = fleet.snapshot()
        assert now.nodes.versions == count_versions(["v1", *known])
        if declared is not None:
            assert now.release == CurrentRelease("declared", declared, 9)
        elif listening:  # otherwise nobody removes the nodes that leave
            settled = set(known) <= {"v1"} and not silent
            assert now.release == (CurrentRelease("settled", "v1", 0) if settled else CurrentRelease("unsettled"))
        assert now.release == fleet.release
        if noting:
            delta = fleet.pop_changes()
            shown = shown if delta is None else apply(shown, delta)
            assert (shown.nodes, shown.release) == (now.nodes, now.release)
        gate = Judge(Selection("outdated"), Bound(0), 0.0, 0.0)
        verdict = gate.look(0.0, now, now.known_version("v1"))
        assert not verdict.done or declared is not None or set(chain(["v1"], known)) == {"v1"}


def test_a_node_alone_serves_the_current_version_until_another_is_declared() -> None:
    registry = Registry(serves="v1")
    assert (registry.snapshot().current_version, registry.snapshot().nodes) == ("v1", Nodes(1, 1, {"v1": 1}))
    registry.note_changes(on=True)
    registry.declare("v2", 8, insisted=True)
    delta = registry.pop_changes()
    assert delta is not None
    assert delta.release == registry.snapshot().release == CurrentRelease("declared", "v2", 8)


def test_a_version_that_is_declared_again_is_another_release() -> None:
    current, registry = noted(["v2"]), Registry(serves="v2")
    assert current.declare("v2", 5, insisted=False), "it was the settled one"
    assert not current.declare("v2", 5, insisted=False)
    assert current.declare("v2", 6, insisted=False)
    assert current.release == CurrentRelease("declared", "v2", 6)
    registry.declare("v2", 5)
    registry.note_changes(on=True)
    registry.declare("v2", 6)
    delta = registry.pop_changes()
    assert delta is not None
    assert delta.release == CurrentRelease("declared", "v2", 6)


def test_messages_of_older_nodes_say_nothing() -> None:
    assert decode(encode(Join(node="aa"))) == Join(node="aa", serves="")
    assert b"serves" not in encode(Join(node="aa"))


@pytest.mark.parametrize(
    ("serving", "nodes", "sentence"),
    [
        (None, 1, "the current version is not known"),
        (
            {"v1": 1, "v2": 2},
            3,
            "nodes serve v2 and v1, and no release was declared; declare one: headcount release VERSION URL",
        ),
        (
            {"v1": 1, "v2": 1, "v3": 1, "v4": 1, "v5": 1},
            5,
            "nodes serve v1, v2, v3 and 2 other versions, and no release was declared; declare one: headcount release "
            "VERSION URL",
        ),
        (
            {"v1": 2},
            3,
            "1 of 3 nodes does not say which version it serves, and no release was declared; declare one: headcount "
            "release VERSION URL",
        ),
    ],
)
def test_the_sentence_says_what_to_do(serving: dict[str, int] | None, nodes: int, sentence: str) -> None:
    assert why_unknown(serving, nodes) == sentence


def test_what_the_fleet_has_settled_on_is_known_whatever_was_declared() -> None:
    current = CurrentVersion("v2", settle_time=30.0)
    assert _settled(current) == "v2", "alone"
    current.note("reports", ["v1"], silent=False)
    current.declare("v1", 1, insisted=False)
    assert _settled(current) is None
    current.note("reports", ["v2"], silent=False)
    current.look(0.0)
    assert _settled(current) is None
    current.look(30.0)
    assert _settled(current) == "v2"
    assert current.release.state == "orphaned", "the declared one is another"


def _settled(current: CurrentVersion) -> str | None:
    return current.settled


def test_a_version_that_came_after_the_declaration_makes_the_current_one_unknown() -> None:
    """The next rolling update has begun: pages of the new servers must not be asked to go back."""
    current = CurrentVersion("v1")
    current.declare("v1", 1, insisted=False, beside=["v1"])
    assert current.release == CurrentRelease("declared", "v1", 1)
    assert current.note("reports", ["v2"], silent=False)
    assert current.release == CurrentRelease("unsettled")
    assert current.note("reports", [], silent=False), "it was rolled back"
    assert current.release == CurrentRelease("declared", "v1", 1)
    current.note("reports", ["v2"], silent=False)
    assert current.declare("v2", 2, insisted=False, beside=["v1", "v2"])
    assert current.release == CurrentRelease("declared", "v2", 2), "also before the last old server is gone"


def test_versions_of_the_servers_do_not_matter_where_another_one_delivers_the_front_end() -> None:
    current = CurrentVersion("api-1")
    current.declare("web-1", 1, insisted=True, beside=["api-1"])
    current.note("reports", ["api-2"], silent=False)
    assert current.release == CurrentRelease("declared", "web-1", 1)


def test_a_declaration_of_an_older_node_stays_current_beside_whatever_comes() -> None:
    current = CurrentVersion("v1")
    current.declare("v1", 1, insisted=False)
    current.note("reports", ["v2"], silent=False)
    assert current.release == CurrentRelease("declared", "v1", 1)


def test_a_node_whose_last_neighbour_is_replaced_is_not_settled_at_once() -> None:
    """A rolling update of two servers: the first runs v2, the second is stopped to be started with v2."""
    current = CurrentVersion("v2", settle_time=30)
    assert current.release == CurrentRelease("settled", "v2", SETTLED_RELEASE), "it is alone"
    current.note("reports", ["v1"], silent=False)
    current.note("reports", [], silent=False)
    assert not current.look(0.0)
    assert current.release == CurrentRelease("unsettled")
    assert not current.look(29.9)
    assert current.look(30.0)
    assert current.release == CurrentRelease("settled", "v2", SETTLED_RELEASE)
