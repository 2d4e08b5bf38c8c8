"""Whom a node tells its figures and when, without a loop."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import publish_schedule as core
from headcount.core.fleet_messages import Interest
from headcount.core.publish_schedule import MIN_PUBLISH_INTERVAL, QUIET_AFTER, PublishSchedule, publish_interval


def interest(node: str = "aa", ttl: float = 9.0, **fields: Any) -> Interest:
    return Interest(node=node, ttl=ttl, **fields)


def test_an_interest_holds_for_as_long_as_it_says() -> None:
    schedule = PublishSchedule()
    assert schedule.receive(interest(), 0.0)
    assert not schedule.expire(8.9)
    assert schedule.receive(interest(), 8.9), "said again"
    assert not schedule.expire(9.0)
    assert schedule.expire(17.9)
    assert not schedule.expire(18.0)
    assert not schedule.interests


def test_an_interest_ends_at_once_when_its_node_says_so() -> None:
    schedule = PublishSchedule()
    schedule.receive(interest(), 0.0)
    assert schedule.receive(interest(ttl=0.0), 1.0)
    assert not schedule.receive(interest(ttl=0.0), 1.0)
    assert "aa" not in schedule


def test_an_interest_lasts_longer_by_what_this_node_slept() -> None:
    schedule = PublishSchedule()
    schedule.receive(interest(), 0.0)
    schedule.extend(60.0)
    assert not schedule.expire(68.9)
    assert schedule.expire(69.0)


def test_the_node_that_wants_most_decides() -> None:
    schedule = PublishSchedule()
    assert schedule.rows == 0
    schedule.receive(interest("aa", interval=2.0, rows=10), 0.0)
    schedule.receive(interest("bb", interval=0.5, rows=3), 0.0)
    assert schedule.rows == 10
    schedule.note_delta(10.0)
    assert schedule.delay(10.1) == pytest.approx(0.4)


def test_the_first_change_goes_out_at_once_and_no_node_can_ask_for_a_flood() -> None:
    schedule = PublishSchedule()
    schedule.receive(interest(interval=0.0), 0.0)
    assert schedule.delay(5.0) == 0.0
    schedule.note_delta(5.0)
    assert schedule.delay(5.0) == pytest.approx(MIN_PUBLISH_INTERVAL)
    assert schedule.delay(5.0 + MIN_PUBLISH_INTERVAL) == pytest.approx(0.0)


def test_a_node_that_falls_quiet_says_so_twice_soon_and_then_every_heartbeat() -> None:
    schedule = PublishSchedule()
    assert not schedule.is_quiet(1_000.0, 3.0), "nobody watches"
    schedule.receive(interest(ttl=3_600.0), 0.0)
    schedule.note_delta(0.0)
    sent, now = [], 0.0
    while now < 10.0:
        now += 0.25
        if schedule.is_quiet(now, 3.0):
            schedule.note_heartbeat(now)
            sent.append(now)
    assert sent == [QUIET_AFTER, 2 * QUIET_AFTER, 5.0, 8.0]


def test_interested_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "MAX_INTERESTED_NODES", 2)
    schedule = PublishSchedule()
    assert [schedule.receive(interest(node), 0.0) for node in ("aa", "bb", "cc", "aa")] == [True, True, False, True]
    assert schedule.clear()
    assert not schedule.clear()


@given(st.integers(1, 5_000), st.floats(0.02, 60.0))
def test_a_fleet_is_never_asked_for_more_deltas_than_it_bears(nodes: int, stats_interval: float) -> None:
    interval = publish_interval(nodes, stats_interval)
    assert nodes / interval <= core.MAX_DELTAS_PER_SECOND * 1.001
    assert interval <= max(stats_interval, nodes / core.MAX_DELTAS_PER_SECOND)
