"""The token bucket of one stream: a burst, then its rate, and nothing gained by waiting longer or by being refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.message_rate import BURST, MessageRate
from headcount.errors import TooManyMessages


def accepted(rate: MessageRate, times: list[float]) -> int:
    """Return how many messages are accepted that come at these times."""
    paid_until, count = 0.0, 0
    for now in times:
        try:
            paid_until = rate.charge(paid_until, now)
        except TooManyMessages:
            continue
        count += 1
    return count


def test_64_may_come_at_once_and_20_a_second_after_that() -> None:
    assert BURST == 64
    rate = MessageRate(20)
    assert accepted(rate, [1_000.0] * 1_000) == 64
    assert accepted(rate, [1_000.0 + number / 1_000 for number in range(10_000)]) == pytest.approx(64 + 200, abs=1)
    assert accepted(rate, [1_000.0 + number / 19 for number in range(1_000)]) == 1_000
    assert accepted(rate, [1_000.0] * 100 + [9_000.0] * 100) == 128, "a long silence saves no more than one burst"


def test_a_higher_rate_has_the_burst_of_a_second() -> None:
    assert accepted(MessageRate(1_000), [5.0] * 2_000) == 1_000


def test_the_sentence_says_the_rate() -> None:
    with pytest.raises(TooManyMessages, match=r"^Too many messages; send at most 20 a second\.$"):
        MessageRate(20).charge(100.0, 1.0)


@given(st.lists(st.floats(0, 0.2), max_size=300), st.integers(1, 100))
def test_never_more_than_a_burst_and_the_rate(gaps: list[float], per_second: int) -> None:
    times, now = [], 50.0
    for gap in gaps:
        now += gap
        times.append(now)
    most = max(BURST, per_second) + (now - 50.0) * per_second + 1
    assert accepted(MessageRate(per_second), times) <= most
