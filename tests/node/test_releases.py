"""Which version is current, without a loop and without a server."""

import threading
from collections import defaultdict
from unittest.mock import AsyncMock, Mock

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.fleet_messages import MAX_NUMBER, Answer, Declaration
from headcount.core.stats import Nodes, Stats
from headcount.fleet.calls import Answers
from headcount.node.fleet_commands import FleetCommands
from headcount.node.releases import MAX_AHEAD, Releases, UnreachedNode

NOW = 1_800_000_000_000
"""A clock of 2027, in ms."""


def made(now: int = 1_000) -> Releases:
    return Releases("v1", lambda _: None, lambda: now)


def test_without_a_declaration_the_server_s_own_version_is_current() -> None:
    releases = made()
    assert releases.current == "v1"
    assert releases.released is None


def test_a_declared_version_is_current() -> None:
    releases = made()
    assert releases.declare(Declaration(0, "v2"))
    assert releases.current == "v2"
    assert releases.released == Declaration(1_000, "v2")


def test_the_same_version_again_is_no_news_but_a_newer_declaration() -> None:
    releases = made()
    releases.declare(Declaration(0, "v2"))
    assert not releases.declare(Declaration(0, "v2"))
    assert releases.released == Declaration(1_001, "v2"), "numbers grow though the clock stands still"


def test_an_older_declaration_is_ignored() -> None:
    releases = made()
    assert releases.declare(Declaration(500, "v3"))
    assert not releases.declare(Declaration(499, "v2"))
    assert releases.current == "v3"


def test_of_two_declarations_at_once_all_nodes_choose_the_same() -> None:
    one, two = made(), made()
    for version in ("v2", "v3"):
        one.declare(Declaration(700, version))
    for version in ("v3", "v2"):
        two.declare(Declaration(700, version))
    assert one.current == two.current == "v3"


@pytest.mark.parametrize("number", [1_000 + MAX_AHEAD + 1, 2**42, MAX_NUMBER])
def test_a_release_of_another_node_from_far_ahead_is_ignored_and_logged_once(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A neighbour on the same Redis could freeze all later releases with one number that none exceeds."""
    releases = made()
    assert not releases.declare(Declaration(number, "evil"))
    assert not releases.declare(Declaration(number, "evil"))
    assert releases.released is None
    assert len(caplog.records) == 1
    assert "Correct the clock that is wrong" in caplog.text
    assert releases.declare(Declaration(1_000 + MAX_AHEAD, "evil"))
    assert releases.declare(Declaration(0, "v2"))
    assert releases.released == Declaration(1_001 + MAX_AHEAD, "v2")


NUMBERS = st.one_of(
    st.integers(0, MAX_NUMBER),
    st.integers(NOW - 10, NOW + 10),
    st.integers(NOW + MAX_AHEAD - 90_000, NOW + MAX_AHEAD + 90_000),
)


@given(
    st.lists(st.tuples(st.integers(0, 2), NUMBERS, st.sampled_from(["evil", "zzz-evil", "v2", "a"]))),
    st.lists(st.integers(-30_000, 30_000), min_size=3, max_size=3),
)
def test_after_whatever_strangers_said_the_operator_s_next_release_is_current_on_all_nodes(
    said: list[tuple[int, int, str]], skews: list[int]
) -> None:
    """The clocks of the nodes differ by up to a minute, and a minute passes before the operator declares."""
    now = NOW
    nodes = [Releases("v1", lambda _: None, lambda skew=skew: now + skew) for skew in skews]  # type: ignore[misc]
    for node, number, version in said:
        nodes[node].declare(Declaration(number, version))
    now += 60_000
    for version in ("v2", "v3", "a"):
        outcome = anyio.run(operators(nodes).release, version)
        assert (outcome.reached, outcome.partial) == (3, False)
        assert [node.current for node in nodes] == [version] * 3
        assert all(node.released == nodes[0].released for node in nodes)


def operators(nodes: list[Releases]) -> FleetCommands:
    """Return what an operator uses at the first node; the others are asked as they are over the network."""

    async def release(declared: Declaration) -> Answers:
        answers = []
        for name, node in enumerate(nodes[1:]):
            ok = node.is_acceptable(declared.number)
            node.declare(declared)
            answers.append(Answer(node=f"{name:x}", re=1, ok=ok, released=node.released))
        return Answers(answers, len(nodes) - 1, tuple(answer.node for answer in answers))

    host, none, figures = Mock(sessions={}), Mock(), Mock()
    figures.fresh_stats = AsyncMock(return_value=Stats(nodes=Nodes(3, 3, {"v1": 3})))
    host.membership.remote.release = release
    host.membership.view.keep_release = AsyncMock()
    return FleetCommands(
        host,
        none,
        threading.RLock(),
        defaultdict(int),
        releases=nodes[0],
        viewers=none,
        shared_streams=none,
        figures=figures,
        rollout=Mock(announce=Mock(return_value=[]), tell=Mock(return_value=0)),
        settle_time=0.0,
    )


def test_a_node_that_takes_no_release_from_so_far_ahead_is_not_counted_as_reached() -> None:
    nodes = [made(2 * MAX_AHEAD), made(1_000), made(2 * MAX_AHEAD)]
    outcome = anyio.run(operators(nodes).release, "v2")
    assert (outcome.reached, outcome.expected, outcome.partial) == (2, 3, True)
    assert outcome.unreached == (UnreachedNode("0", "refused"),)
    assert [node.current for node in nodes] == ["v2", "v1", "v2"]


@pytest.mark.parametrize("version", ["x" * 129, "a\x00b"])
def test_another_node_s_version_that_is_none_is_ignored(version: str) -> None:
    announced: list[Declaration] = []
    releases = Releases("v1", announced.append, lambda: 1_000)
    releases.learn(Declaration(1, version))
    assert not announced


def test_another_node_s_declaration_is_announced() -> None:
    announced: list[Declaration] = []
    releases = Releases("v1", announced.append, lambda: 1_000)
    releases.learn(Declaration(7, "v2"))
    assert announced == [Declaration(7, "v2")]
