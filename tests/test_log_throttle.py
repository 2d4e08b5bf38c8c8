"""Log lines that strangers can cause."""

import pytest

from headcount.log_throttle import INTERVAL, LogThrottle


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_line_is_written_as_it_is(clock: Clock) -> None:
    assert LogThrottle(clock).suffix_if_due("slow") == ""


def test_more_of_a_kind_are_suppressed_for_a_minute_and_counted(clock: Clock) -> None:
    throttle = LogThrottle(clock)
    throttle.suffix_if_due("slow")
    for _ in range(3):
        clock.now += INTERVAL / 4
        assert throttle.suffix_if_due("slow") is None
    clock.now += INTERVAL / 4
    assert throttle.suffix_if_due("slow") == " (3 similar messages suppressed)"
    clock.now += INTERVAL
    assert throttle.suffix_if_due("slow") == "", "none was suppressed since"


def test_kinds_do_not_suppress_each_other(clock: Clock) -> None:
    throttle = LogThrottle(clock)
    throttle.suffix_if_due("slow")
    assert throttle.suffix_if_due("broken") == ""
