"""When a stream may have its right checked again, and which verdict holds until then."""

import threading
from collections import defaultdict
from typing import Any

from headcount import Grant
from headcount.node.check_pace import CheckPace
from headcount.node.check_runner import CheckRunner


class Check:
    """A check of which only the question matters."""

    def __init__(self, question: object | None) -> None:
        self._question = question

    async def __call__(self) -> Grant | None:
        raise AssertionError

    def describe(self) -> dict[str, Any] | None:
        return None

    def visitor(self) -> tuple[bytes, str] | None:
        return None

    def contains(self, nonce: bytes) -> bool:
        return False

    def question(self) -> object | None:
        return self._question


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def pace_of(time: Time) -> CheckPace:
    return CheckPace(time, threading.RLock(), CheckRunner(1.0, defaultdict(int), time), lambda _: True)


def checked(pace: CheckPace, check: Check, grant: Grant | None) -> None:
    pace.end("a", pace.begin("a", check), grant)


def test_a_granted_question_is_answered_for_a_second_and_another_one_waits() -> None:
    time, grant = Time(), Grant()
    pace, mine = pace_of(time), Check("mine")
    assert pace.next_check("a", mine) == (0.0, None)
    checked(pace, mine, grant)
    time.now += 0.25
    assert pace.next_check("a", Check("mine")) == (0.75, grant)
    assert pace.next_check("a", Check("other")) == (0.75, None)
    assert pace.next_check("b", mine) == (0.0, None), "another stream"
    time.now += 0.75
    assert pace.next_check("a", mine) == (0.0, None)


def test_a_question_that_is_not_known_is_never_answered() -> None:
    pace = pace_of(Time())
    checked(pace, Check(None), Grant())
    assert pace.next_check("a", Check(None)) == (1.0, None)


def test_refusals_in_a_row_wait_longer_and_are_forgotten_after_a_quiet_time() -> None:
    time = Time()
    pace, check = pace_of(time), Check("mine")
    waits = []
    for _ in range(5):
        checked(pace, check, None)
        waits.append(pace.next_check("a", check))
        time.now += waits[-1][0]
    assert waits == [(1.0, None), (2.0, None), (4.0, None), (4.0, None), (4.0, None)]
    time.now += 10
    checked(pace, check, None)
    assert pace.next_check("a", check) == (1.0, None)
    time.now += 1
    checked(pace, check, Grant())
    time.now += 1
    checked(pace, check, None)
    assert pace.next_check("a", check) == (1.0, None)


def test_a_verdict_that_was_withdrawn_or_is_of_a_stream_that_is_over_is_not_used() -> None:
    time = Time()
    pace, check = pace_of(time), Check("mine")
    checked(pace, check, Grant())
    pace.withdraw("a")
    assert pace.next_check("a", check) == (1.0, None)
    begun = pace.begin("a", check)
    pace.forget("a")
    pace.end("a", begun, Grant())
    assert pace.next_check("a", check) == (0.0, None)
    assert not pace._last
    pace.withdraw("a")
