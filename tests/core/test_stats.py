"""The figures, `diff` and `apply`; the golden deltas, which vitest reads too."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.client.messages import DeltaMessage, StatsMessage, decode
from headcount.core import messages
from headcount.core.current_version import CurrentRelease
from headcount.core.stats import Absence, ConnectionInfo, Nodes, Stats, StatsDelta, apply
from headcount.core.visibility import Visibility

from .stats_diff import diff

GOLDEN = json.loads((Path(__file__).parents[2] / "protocol/fixtures/deltas.json").read_text())

labels = st.sampled_from(["v1", "v2", "/", "/a", "(other)", "__proto__", "constructor", "🦆", '"', "\\", "é"])
counts = st.dictionaries(labels, st.integers(1, 5))
nodes = st.builds(Nodes, st.integers(0, 3), st.integers(1, 3), st.none() | st.just({"v1": 1, "v2": 1}))


@st.composite
def consecutive(draw: st.DrawFn) -> tuple[Stats, Stats]:
    """Two snapshots of one stream: rows that stay keep their order, new ones are at the end."""
    rows = {
        number: ConnectionInfo(f"c{number}", draw(labels), draw(labels), draw(st.sampled_from([None, "192.0.2.7"])))
        for number in range(draw(st.integers(0, 8)))
    }
    first = [row for row in rows.values() if draw(st.booleans())]
    again = [
        ConnectionInfo(row.id, row.version, draw(labels), row.ip) if draw(st.booleans()) else row
        for row in rows.values()
    ]
    kept = [row for row in again if row.id in {old.id for old in first} and draw(st.booleans())]
    new = [row for row in again if row.id not in {old.id for old in first}]
    revision = draw(st.integers(0, 100))
    return (
        draw(snapshots(tuple(first), revision)),
        draw(snapshots(tuple(kept + new), revision + draw(st.integers(0, 5)))),
    )


releases = st.sampled_from(
    [
        CurrentRelease("unsettled"),
        CurrentRelease("settled", "v1", 0),
        CurrentRelease("declared", "v2", 5),
        CurrentRelease("declared", "v2", 6),
        CurrentRelease("orphaned", "v2", 5),
    ]
)


@st.composite
def snapshots(draw: st.DrawFn, rows: tuple[ConnectionInfo, ...], revision: int) -> Stats:
    return Stats(
        total=draw(st.integers(0, 9)),
        versions=draw(counts),
        routes=draw(counts),
        connections=rows,
        revision=revision,
        connections_truncated=draw(st.booleans()),
        nodes=draw(nodes),
        partial=draw(st.booleans()),
        release=draw(releases),
    )


def stats_from(wire: dict[str, Any]) -> Stats:
    return Stats(
        total=wire["total"],
        versions=wire["versions"],
        routes=wire["routes"],
        connections=tuple(ConnectionInfo(**row) for row in wire["connections"]),
        revision=wire["revision"],
        connections_truncated=wire["connectionsTruncated"],
        nodes=Nodes(**wire["nodes"]),
        partial=wire["partial"],
    )


def delta_from(wire: dict[str, Any]) -> StatsDelta:
    return StatsDelta(
        base=wire["base"],
        revision=wire["revision"],
        total=wire["total"],
        versions=wire["versions"],
        routes=wire["routes"],
        set=tuple(ConnectionInfo(**row) for row in wire["connections"]["set"]),
        removed=tuple(wire["connections"]["remove"]),
        connections_truncated=wire.get("connectionsTruncated"),
        nodes=Nodes(**wire["nodes"]) if "nodes" in wire else None,
        partial=wire.get("partial"),
        release=CurrentRelease(**wire["release"]) if "release" in wire else None,
    )


def apply_as_a_page_does(wire: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """What protocol/README.md#stats-delta tells a client in another language to do, and nothing else."""
    assert delta["base"] == wire["revision"]
    rows = {row["id"]: row for row in wire["connections"] if row["id"] not in delta["connections"]["remove"]}
    rows.update({row["id"]: row for row in delta["connections"]["set"]})
    return {
        **wire,
        **{key: delta[key] for key in ("revision", "total")},
        **{
            key: delta[key]
            for key in ("connectionsTruncated", "nodes", "partial", "currentVersion", "release")
            if key in delta
        },
        **{
            key: {label: count for label, count in {**wire[key], **delta[key]}.items() if count}
            for key in ("versions", "routes")
        },
        "connections": list(rows.values()),
    }


@given(consecutive())
def test_applying_what_changed_gives_what_came(pair: tuple[Stats, Stats]) -> None:
    before, after = pair
    assert apply(before, diff(before, after)) == after


@given(consecutive())
def test_a_page_that_applies_the_encoded_delta_shows_the_same(pair: tuple[Stats, Stats]) -> None:
    before, after = pair
    delta = json.loads(messages.stats_delta(diff(before, after)))
    shown = apply_as_a_page_does({"currentVersion": None, **before.to_dict()}, delta)
    assert shown == {"currentVersion": None, **after.to_dict()}


@given(consecutive())
def test_to_whoever_sees_no_routes_a_delta_tells_nothing_of_who_only_navigated(pair: tuple[Stats, Stats]) -> None:
    before, after = (json.loads(messages.stats(stats, Visibility(routes=False))) for stats in pair)
    delta = json.loads(messages.stats_delta(diff(*pair), Visibility(routes=False)))
    shown = apply_as_a_page_does(before, delta)
    assert (shown["connections"], shown["routes"]) == (after["connections"], {})
    assert not [row for row in delta["connections"]["set"] if row in before["connections"]]


@given(consecutive())
def test_a_delta_holds_nothing_that_did_not_change(pair: tuple[Stats, Stats]) -> None:
    before, after = pair
    delta = diff(before, after)
    assert all(before.versions.get(label, 0) != count for label, count in delta.versions.items())
    assert all(before.routes.get(label, 0) != count for label, count in delta.routes.items())
    assert not set(delta.set) & set(before.connections)
    assert set(delta.removed) == {row.id for row in before.connections} - {row.id for row in after.connections}
    assert delta.connections_truncated in (None, not before.connections_truncated)
    assert delta.nodes != before.nodes
    assert delta.partial in (None, not before.partial)


@given(consecutive())
def test_what_did_not_change_gives_an_empty_delta(pair: tuple[Stats, Stats]) -> None:
    stats, _ = pair
    revision = stats.revision
    assert diff(stats, stats) == StatsDelta(revision, revision, stats.total, {}, {}, (), (), None, None, None)


def test_a_delta_of_another_base_is_refused() -> None:
    delta = diff(Stats(revision=1), Stats(revision=2, total=1))
    for revision in (0, 2):
        with pytest.raises(ValueError, match=f"revision 1, the figures are at {revision}"):
            apply(Stats(revision=revision), delta)


def test_a_count_of_zero_removes_a_key_even_one_that_is_not_there() -> None:
    delta = StatsDelta(0, 1, 0, {"v1": 0, "never": 0}, {"/": 0}, (), ())
    after = apply(Stats(total=1, versions={"v1": 1}, routes={"/": 1}), delta)
    assert after.versions == {}
    assert after.routes == {}


def test_rows_are_removed_before_others_are_put_in() -> None:
    """So a row that is in both is set, and goes to the end."""
    before = Stats(connections=(ConnectionInfo("a", "v1", "/"), ConnectionInfo("b", "v1", "/")))
    delta = StatsDelta(0, 1, 2, {}, {}, (ConnectionInfo("a", "v2", "/"),), ("a", "not there"))
    assert apply(before, delta).connections == (ConnectionInfo("b", "v1", "/"), ConnectionInfo("a", "v2", "/"))


def test_apply_leaves_what_it_was_given_alone() -> None:
    before = Stats(total=1, versions={"v1": 1}, routes={"/": 1}, connections=(ConnectionInfo("a", "v1", "/"),))
    kept = before.to_dict()
    apply(before, StatsDelta(0, 1, 0, {"v1": 0}, {"/": 0}, (), ("a",), True, Nodes(1, 2), True))
    assert before.to_dict() == kept


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["name"]))
def test_golden_delta_is_applied(golden: dict[str, Any]) -> None:
    after = apply(stats_from(golden["before"]), delta_from(golden["delta"]))
    assert after == stats_from(golden["after"])
    assert after.to_dict() == golden["after"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["name"]))
def test_golden_delta_is_made(golden: dict[str, Any]) -> None:
    delta = diff(stats_from(golden["before"]), stats_from(golden["after"]))
    # Who moved is not on the wire.
    assert delta._replace(moved=frozenset()) == delta_from(golden["delta"])
    assert json.loads(messages.stats_delta(delta)) == golden["delta"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["name"]))
def test_golden_delta_is_what_a_page_expects(golden: dict[str, Any]) -> None:
    assert apply_as_a_page_does(golden["before"], golden["delta"]) == golden["after"]


def test_stats_cannot_be_changed() -> None:
    stats = apply(Stats(), StatsDelta(0, 1, 1, {"v1": 1}, {"/": 1}, (ConnectionInfo("a", "v1", "/"),), ()))
    for figures in (Stats(), stats):
        for name in Stats.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(figures, name, None)
        for counts_by_label in (figures.versions, figures.routes):
            with pytest.raises(TypeError):
                counts_by_label["v2"] = 1  # type: ignore[index]
        assert isinstance(figures.connections, tuple)
    with pytest.raises(AttributeError):
        stats.connections[0].route = "/elsewhere"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        stats.nodes.expected = 0  # type: ignore[misc]


def test_to_dict_is_plain_json_in_camel_case() -> None:
    stats = Stats(
        total=1,
        versions={"__proto__": 1},
        routes={"/": 1},
        connections=(ConnectionInfo("a", "__proto__", "/"), ConnectionInfo("b", "v1", "/", "2001:db8::1")),
        revision=3,
        connections_truncated=True,
        nodes=Nodes(1, 2),
        partial=True,
    )
    expected = {
        "total": 1,
        "versions": {"__proto__": 1},
        "routes": {"/": 1},
        "connections": [
            {"id": "a", "version": "__proto__", "route": "/"},
            {"id": "b", "version": "v1", "route": "/", "ip": "2001:db8::1"},
        ],
        "revision": 3,
        "connectionsTruncated": True,
        "nodes": {"reporting": 1, "expected": 2},
        "partial": True,
    }
    assert stats.to_dict() == expected
    assert json.loads(json.dumps(stats.to_dict())) == expected


def test_no_figures_are_those_of_one_node_that_reports() -> None:
    assert Stats().to_dict() == {
        "total": 0,
        "versions": {},
        "routes": {},
        "connections": [],
        "revision": 0,
        "connectionsTruncated": False,
        "nodes": {"reporting": 1, "expected": 1},
        "partial": False,
    }


def test_to_dict_gives_away_nothing_of_the_stats_themselves() -> None:
    stats = Stats(versions={"v1": 1}, connections=(ConnectionInfo("a", "v1", "/"),))
    shown = stats.to_dict()
    shown["versions"]["v2"] = 1
    shown["connections"].clear()
    assert stats == Stats(versions={"v1": 1}, connections=(ConnectionInfo("a", "v1", "/"),))


def test_a_row_without_an_address_has_no_key_for_one() -> None:
    assert msgspec.json.encode(ConnectionInfo("a", "v1", "/")) == b'{"id":"a","version":"v1","route":"/"}'


def test_what_is_unaccounted_for_is_on_the_wire_only_while_there_is_any() -> None:
    absence = Absence("aa", 3, {"v1": 3}, "vanished", 7)
    whole, lost = Stats(revision=1), Stats(revision=2, partial=True, absences=(absence, Absence("bb")))
    assert not {"unaccounted", "absences"} & whole.to_dict().keys()
    told = lost.to_dict()
    assert (told["unaccounted"], [one["total"] for one in told["absences"]]) == (3, [3, None])
    there, back = diff(whole, lost), diff(lost, Stats(revision=3))
    assert apply(whole, there) == lost
    assert msgspec.json.decode(messages.stats_delta(there))["unaccounted"] == 3
    over = msgspec.json.decode(messages.stats_delta(back))
    assert (over["unaccounted"], over["absences"]) == (0, [])
    assert "absences" not in msgspec.json.decode(messages.stats_delta(diff(whole, Stats(revision=2, total=1))))
    for message in (messages.stats(lost), messages.stats(whole)):
        read = decode(message)
        assert isinstance(read, StatsMessage)
        assert read.figures().absences == (lost.absences if message == messages.stats(lost) else ())
    read = decode(messages.stats_delta(there))
    assert isinstance(read, DeltaMessage)
    assert read.delta().absences == lost.absences
