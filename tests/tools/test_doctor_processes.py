"""Which nodes count together is read from their lists, and never from a number of processes."""

import pytest

from headcount.client.messages import Health
from headcount.tools.doctor.processes import NodeIds, TimedHealth, applications, count_starts


def lists(*texts: str) -> list[NodeIds]:
    """Answers; each text has one letter for each node."""
    return [frozenset(text) for text in texts]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([lists("ab", "ba", "ab")], lists("ab")),
        ([lists("ab", "cd", "ab")], lists("ab", "cd")),
        ([lists("a", "b", "c")], lists("a", "b", "c")),
        # A node joins or leaves while the lists are read.
        ([lists("ab", "abc", "bc")], lists("abc")),
        ([lists("ab", "cd", "bc")], lists("abcd")),
        # Workers that have just started have found one another by the second round.
        ([lists("a", "b"), lists("ab", "ab")], lists("ab")),
        # A restart between the rounds, or in one of them.
        ([lists("a", "b"), lists("c", "d")], []),
        ([lists("a", "b"), lists("b", "b")], lists("b")),
        ([lists("ab", "cd"), lists("ab", "cd")], lists("ab", "cd")),
        ([[]], []),
    ],
)
def test_lists_without_a_node_in_common_are_of_applications_that_count_apart(
    rounds: list[list[NodeIds]], expected: list[NodeIds]
) -> None:
    assert sorted(map(sorted, applications(rounds))) == sorted(map(sorted, expected))


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([], 0),
        ([(10.0, 10.01), (10.0, 10.02)], 1),
        ([(10.0, 10.01), (10.04, 10.05)], 1),
        ([(10.0, 10.01), (12.0, 12.01), (10.0, 10.3)], 2),
    ],
)
def test_processes_that_started_together_are_not_told_apart(starts: list[tuple[float, float]], expected: int) -> None:
    assert count_starts([TimedHealth(Health(True, "v1", 1.0), *times) for times in starts]) == expected
