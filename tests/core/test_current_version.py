"""Which version is current: by declaration, else by what all nodes serve; and the sentence for when it is not known."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.current_version import count_versions, current_version, why_unknown
from headcount.core.fleet_figures import FleetFigures
from headcount.core.fleet_messages import Join, Report, decode, encode
from headcount.core.registry import Registry
from headcount.core.stats import Nodes, apply
from headcount.core.unaccounted import StoredAbsence
from headcount.tools.rollout_gate import Bound, Judge, Selection

versions = st.sampled_from(["v1", "v2", "v3", ""])
"""What a node serves; an older Headcount does not say."""
names = st.sampled_from(["aa", "bb", "cc"])


@given(st.lists(versions), st.none() | st.sampled_from(["v1", "v9"]))
def test_it_is_declared_or_served_by_every_node_or_unknown(served: list[str], declared: str | None) -> None:
    found = current_version(declared, count_versions(served), served.count(""))
    if declared is not None:
        assert found == declared
    elif len(set(served)) == 1 and "" not in served:
        assert found == served[0]
    else:
        assert found is None


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
    declared: str | None = None
    for sequence, (event, name, version) in enumerate(history):
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
                    {life: StoredAbsence(None, 0.0, present=True, serves=serves.get(life, version))}, 0.0, 0.0
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
                fleet.declare(version)
        known = [version for life, version in serves.items() if life in fleet and version]
        silent = [life for life in reported if not serves.get(life)]
        now = fleet.snapshot()
        assert now.nodes.versions == count_versions(["v1", *known])
        assert now.current_version == current_version(declared, count_versions(["v1", *known]), len(silent))
        assert now.current_version == fleet.current_version
        if noting:
            delta = fleet.pop_changes()
            shown = shown if delta is None else apply(shown, delta)
            assert (shown.nodes, shown.current_version) == (now.nodes, now.current_version)
        gate = Judge(Selection("outdated"), Bound(0), 0.0, 0.0)
        verdict = gate.look(0.0, now, now.known_version("v1"))
        assert not verdict.done or declared is not None or set(chain(["v1"], known)) == {"v1"}


def test_a_node_alone_serves_the_current_version_until_another_is_declared() -> None:
    registry = Registry(serves="v1")
    assert (registry.snapshot().current_version, registry.snapshot().nodes) == ("v1", Nodes(1, 1, {"v1": 1}))
    registry.note_changes(on=True)
    registry.declare("v2")
    delta = registry.pop_changes()
    assert delta is not None
    assert delta.current_version == registry.snapshot().current_version == "v2"


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
