"""Whom a node asks for figures, without a loop and without a network."""

from hypothesis import given
from hypothesis import strategies as st

from headcount.core import report_requests
from headcount.core.report_requests import (
    MAX_OPEN_REQUESTS,
    RETRY_AFTER,
    SMALL_FLEET,
    FlushRound,
    ReportRequests,
    row_quota,
)


def test_only_so_many_are_asked_at_once_and_the_others_in_their_turn() -> None:
    requests = ReportRequests()
    nodes = [f"{number:04x}" for number in range(3 * MAX_OPEN_REQUESTS)]
    requests.add(nodes)
    asked = requests.pop_due(0.0, nodes)
    assert len(asked) == MAX_OPEN_REQUESTS
    assert requests.pop_due(0.1, nodes) == []
    for node in asked[:10]:
        requests.close(node)
    assert len(requests.pop_due(0.2, nodes)) == 10
    assert not requests.idle


def test_a_node_is_asked_once_and_again_after_a_while() -> None:
    requests = ReportRequests()
    requests.add(["aa", "aa"])
    requests.add(["aa"])
    assert requests.pop_due(0.0, {"aa"}) == ["aa"]
    requests.add(["aa"])
    assert requests.pop_due(0.1, {"aa"}) == []
    idle = []
    for now in (RETRY_AFTER - 0.1, RETRY_AFTER):
        requests.time_out(now)
        idle.append(requests.idle)
    assert idle == [False, True]
    requests.add(["aa"])
    assert requests.pop_due(RETRY_AFTER, {"aa"}) == ["aa"]


def test_a_node_that_is_gone_is_not_asked() -> None:
    requests = ReportRequests()
    requests.add(["aa", "bb"])
    assert requests.pop_due(0.0, {"bb"}) == ["bb"]
    requests.clear()
    assert requests.idle


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=60),
    st.integers(1, 1_000),
    st.integers(0, 60),
    st.integers(0, 1_000),
)
def test_the_rows_asked_for_are_enough_and_never_less_than_before(
    totals: list[int], limit: int, unreported: int, before: int
) -> None:
    before = min(before, limit)
    quota = row_quota(totals, limit, unreported=unreported, before=before)
    if unreported <= SMALL_FLEET:
        assert quota <= limit
        assert sum(min(total, quota) for total in totals) >= min(limit, sum(totals))
    if len(totals) > SMALL_FLEET:
        assert quota >= before


def test_a_large_fleet_sends_a_few_rows_each() -> None:
    assert row_quota([1_000] * 1_000, 1_000, unreported=0, before=0) < 10
    assert row_quota([0] * 1_000, 1_000, unreported=1_000, before=0) < 10, "also before it has reported"


def test_a_round_is_complete_when_what_every_node_named_has_arrived() -> None:
    round_ = FlushRound(5, ["aa", "bb", "cc"])
    round_.answered("aa", 4, 1)
    round_.arrived("aa", 9)
    assert round_.pending == ["aa", "bb", "cc"], "an answer to another round is none"
    round_.answered("aa", 5, 7)
    round_.arrived("aa", 6)
    assert "aa" in round_.pending
    round_.arrived("aa", 7)
    assert round_.pending == ["bb", "cc"]
    round_.answered("bb", 5, 0)
    round_.arrived("bb", 0)
    assert not round_.complete
    round_.left("cc")
    round_.left("cc")
    assert round_.complete


def test_limits_fit_one_another() -> None:
    assert report_requests.MAX_OPEN_REQUESTS > SMALL_FLEET, "a small fleet is asked at once"
