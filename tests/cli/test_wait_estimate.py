"""What `headcount wait` says of the time to go before it has seen anybody leave."""

import time

import pytest

from headcount.cli.rollout import Situation
from headcount.cli.wait import _ProgressLine, _usual_time
from headcount.core.rollout_gate import Bound, Judge, Selection, Verdict
from headcount.core.rollouts import AdoptionCurve, Milestone, Point


def verdict(left: int | None, total: int = 100, bound: int = 0) -> Verdict:
    return Verdict(left, total, bound, total, None, False, None, None, None)


def finished(*points: tuple[int, int, int]) -> AdoptionCurve:
    reached = tuple(Milestone(percent, points[-1][0]) for percent in (50, 90, 99))
    return AdoptionCurve("v1", "v0", 1, reached=reached, points=tuple(Point(*point) for point in points))


NEWEST = AdoptionCurve("v2", "v1", 2)
BEFORE = finished((0, 0, 100), (100_000, 50, 100), (590_000, 99, 100))


@pytest.mark.parametrize(
    ("now", "seconds"),
    [(verdict(100), 590), (verdict(50), 490), (verdict(50, bound=20), 300), (verdict(0), None), (verdict(None), None)],
)
def test_the_last_rollouts_say_how_long_it_takes_from_here(now: Verdict, seconds: int | None) -> None:
    assert _usual_time([NEWEST, BEFORE], now) == (None if seconds is None else pytest.approx(seconds))


def test_without_a_finished_rollout_there_is_no_estimate() -> None:
    assert _usual_time([NEWEST], verdict(50)) is None
    assert _usual_time([], verdict(50)) is None


@pytest.mark.parametrize(
    ("usual", "words"),
    [(720.0, "about 12 min to go, as in the last rollouts"), (None, "not enough data yet for an estimate")],
)
def test_the_line_names_what_it_knows(usual: float | None, words: str) -> None:
    judge = Judge(Selection("outdated"), Bound(0, False), 1.0, time.monotonic(), 1.0, include_away=True)
    line = _ProgressLine(judge, short=False, usual=lambda _: usual)
    assert line.text(Situation(verdict(50))).endswith(words)
