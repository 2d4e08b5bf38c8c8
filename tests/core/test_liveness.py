"""Who is expected, suspect or dead, by the caller's clock alone."""

from hypothesis import given
from hypothesis import strategies as st

from headcount.core.liveness import TOLERATED_LATENESS, LatenessMonitor, Liveness

OWN = "00"


def spoken(*nodes: str, now: float = 10.0) -> Liveness:
    liveness = Liveness(OWN)
    for node in nodes:
        liveness.expect(node, now)
        liveness.heard(node, now)
    return liveness


def test_a_silent_node_is_suspect_and_then_dead() -> None:
    liveness = spoken("aa")
    assert liveness.expire(14.4, drop=True) == ([], [], [])
    assert liveness.expire(14.5, drop=True) == ([], [], ["aa"])
    assert liveness.expire(14.6, drop=True) == ([], [], []), "what changed, and no more"
    assert liveness.responsive() == [OWN]
    assert liveness.expire(19.0, drop=True).dead == ["aa"]


def test_a_node_that_speaks_is_not_suspect_any_more() -> None:
    liveness = spoken("aa")
    liveness.expire(15.0, drop=True)
    liveness.heard("aa", 15.1)
    assert liveness.responsive() == [OWN, "aa"]
    assert liveness.expire(19.5, drop=True) == ([], [], [])


def test_this_node_is_always_there() -> None:
    liveness = spoken()
    assert liveness.expire(1e9, drop=True) == ([], [], [])
    assert liveness.mark_silent([OWN], 1e9) == []
    assert liveness.extend_deadlines(60.0) == []


def test_where_the_backend_detects_failures_silence_drops_nobody() -> None:
    liveness = spoken("aa")
    expiry = liveness.expire(30.0, drop=False)
    assert (expiry.dead, expiry.expired, expiry.suspected) == ([], ["aa"], ["aa"])


def test_nobody_is_dead_while_nobody_can_be_heard() -> None:
    liveness = spoken("aa")
    assert liveness.set_disconnected(disconnected=True, now=11.0)
    assert not liveness.set_disconnected(disconnected=True, now=12.0)
    assert liveness.expire(60.0, drop=True).dead == []
    assert liveness.set_disconnected(disconnected=False, now=60.0)
    assert liveness.expire(68.9, drop=True).dead == []
    assert liveness.expire(69.0, drop=True).dead == ["aa"]


def test_a_deadline_restarts_once_until_the_node_speaks() -> None:
    liveness = spoken("aa")
    for start in (11.0, 15.0):
        liveness.set_disconnected(disconnected=True, now=start)
        liveness.set_disconnected(disconnected=False, now=start + 2.0)
    # Heard again at 13; from 15 to 17 nobody could be heard.
    assert liveness.expire(23.9, drop=True).dead == []
    assert liveness.expire(24.0, drop=True).dead == ["aa"]


def test_a_late_message_of_a_dead_node_is_told_from_a_return() -> None:
    liveness = spoken("aa")
    assert liveness.remove("aa", 7)
    assert not liveness.remove("aa", 5), "it is gone already, and the tombstone keeps the higher number"
    assert liveness.is_dead("aa", 7)
    assert not liveness.is_dead("aa", 8)
    liveness.expect("aa", 20.0)
    liveness.heard("aa", 20.0)
    assert liveness.tombstones == {}


def test_who_is_asked_and_does_not_answer_is_suspect() -> None:
    liveness = spoken("aa")
    liveness.expect("bb", 12.0)
    assert liveness.mark_silent(["aa", "bb", "cc"], 11.0) == ["aa"]
    assert liveness.responsive() == [OWN, "bb"]


@given(st.lists(st.floats(0.1, 20.0), max_size=10))
def test_silence_that_this_node_could_not_hear_does_not_count(pauses: list[float]) -> None:
    liveness, now = spoken("aa"), 10.0
    for pause in pauses:
        now += pause
        liveness.extend_deadlines(pause)
    assert liveness.expire(now + 8.9, drop=True).dead == []
    assert abs(liveness.longest_silence(now + 1.0) - 1.0) < 1e-6


def test_a_late_tick_is_noticed_once() -> None:
    monitor = LatenessMonitor()
    assert monitor.lateness(100.0) == 0.0, "none is expected"
    monitor.expect(100.0)
    assert monitor.lateness(100.0 + TOLERATED_LATENESS) == 0.0
    assert monitor.lateness(105.0) == 5.0
    assert monitor.lateness(105.0) == 0.0
    monitor.stop()
    assert monitor.lateness(1_000.0) == 0.0
