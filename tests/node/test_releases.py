"""Which version is current, without a loop and without a server."""

import pytest

from headcount.core.fleet_messages import MAX_NUMBER, Released
from headcount.node.releases import Releases


def made(now: int = 1_000) -> Releases:
    return Releases("v1", lambda *_: None, lambda: now)


def test_without_a_declaration_the_server_s_own_version_is_current() -> None:
    releases = made()
    assert releases.current == "v1"
    assert releases.released is None


def test_a_declared_version_is_current() -> None:
    releases = made()
    assert releases.declare("v2")
    assert releases.current == "v2"
    assert releases.released == Released(1_000, "v2")


def test_the_same_version_again_is_no_news_but_a_newer_declaration() -> None:
    releases = made()
    releases.declare("v2")
    assert not releases.declare("v2")
    assert releases.released == Released(1_001, "v2"), "numbers grow though the clock stands still"


def test_an_older_declaration_is_ignored() -> None:
    releases = made()
    assert releases.declare("v3", 500)
    assert not releases.declare("v2", 499)
    assert releases.current == "v3"


def test_of_two_declarations_at_once_all_nodes_choose_the_same() -> None:
    one, two = made(), made()
    for version in ("v2", "v3"):
        one.declare(version, 700)
    for version in ("v3", "v2"):
        two.declare(version, 700)
    assert one.current == two.current == "v3"


def test_a_number_is_bounded() -> None:
    releases = made()
    releases.declare("v2", MAX_NUMBER + 1)
    assert releases.released == Released(MAX_NUMBER, "v2")


@pytest.mark.parametrize("version", ["x" * 129, "a\x00b"])
def test_another_node_s_version_that_is_none_is_ignored(version: str) -> None:
    announced: list[tuple[str, int]] = []
    releases = Releases("v1", lambda *args: announced.append(args), lambda: 1_000)
    releases.learn(Released(1, version))
    assert not announced


def test_another_node_s_declaration_is_announced() -> None:
    announced: list[tuple[str, int]] = []
    releases = Releases("v1", lambda *args: announced.append(args), lambda: 1_000)
    releases.learn(Released(7, "v2"))
    assert announced == [("v2", 7)]
