"""Packets between nodes and Redis vanish, in network namespaces: nobody is told that anything ended."""

from typing import Any

import pytest

from . import namespaces
from .cut import EXPIRED


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    """Pull cables and put them back. It fails by itself when figures are not what they must come to."""
    answer: dict[str, Any] = namespaces.run("cut", None, 115)
    return answer


def test_a_cut_that_nobody_has_time_to_notice_ends_exact_though_everything_comes_late(outcome: dict[str, Any]) -> None:
    assert "cannot be used" not in outcome["short"]["log"]


def test_a_node_that_is_cut_off_counts_its_own_pages_and_the_others_do_without_it(outcome: dict[str, Any]) -> None:
    # It was up to the node to find out; the network told it nothing.
    assert (
        outcome["long"]["log"].count("cannot be used (nothing comes from it)")
        + outcome["long"]["log"].count("cannot be used (it did")
        == 1
    ), outcome["long"]["log"]
    assert outcome["long"]["gone"] < EXPIRED
    # Redis still holds its connection, so it is not dead: no grace ends that, only its return.
    assert outcome["long"]["held"] == [["cut-off", outcome["long"]["pages"]]] * 2


def test_all_nodes_count_their_own_pages_while_redis_is_cut_off_and_all_pages_afterwards(
    outcome: dict[str, Any],
) -> None:
    assert outcome["store"]["healed"] > 0
    assert not outcome["errors"]


def test_nothing_is_ever_counted_twice(outcome: dict[str, Any]) -> None:
    assert not outcome["wrong"]
