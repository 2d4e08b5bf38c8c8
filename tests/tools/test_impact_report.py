"""Whom a deploy would meet, how long pages stay, and when it is quiet."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.client.rollout_messages import Minute
from headcount.core.rollouts import AdoptionCurve, Milestone
from headcount.tools.impact_report import HOUR, Quiet, leaving, quiet_hour, sentences

MINUTE = HOUR // 60


def hour(number: int, total: int, minutes: int = 60, *, partial: bool = False) -> list[Minute]:
    return [Minute(number * HOUR + at * MINUTE, total, partial=partial) for at in range(minutes)]


def test_the_quietest_hour_is_the_one_with_the_fewest_connections() -> None:
    assert quiet_hour([*hour(1, 50), *hour(2, 10), *hour(3, 90)]) == Quiet(2 * HOUR, 10.0, 3)


@pytest.mark.parametrize("unknown", [hour(2, 0, 29), hour(2, 0, partial=True), []])
def test_an_hour_that_is_not_known_well_enough_is_not_quiet(unknown: list[Minute]) -> None:
    assert quiet_hour([*hour(1, 50), *unknown]) == Quiet(HOUR, 50.0, 1)
    assert quiet_hour(unknown) is None


@given(st.lists(st.builds(Minute, at=st.integers(0, 25 * HOUR), total=st.integers(0, 9), partial=st.booleans())))
def test_it_is_never_an_hour_without_whole_minutes(minutes: list[Minute]) -> None:
    found = quiet_hour(minutes)
    whole = [each for each in minutes if found is not None and each.at // HOUR == found.start // HOUR]
    assert found is None or len([each for each in whole if not each.partial]) >= 30


def curve(*milliseconds: int) -> AdoptionCurve:
    reached = tuple(Milestone(percent, after) for percent, after in zip((50, 90, 99), milliseconds, strict=False))
    return AdoptionCurve("v2", "v1", 1, declared=True, reached=reached)


def test_pages_stay_as_long_as_in_the_last_rollouts_that_were_finished() -> None:
    running, slow, quick = curve(1_000), curve(30_000, 90_000, 600_000), curve(10_000, 50_000, 400_000)
    assert leaving([running]) == {}
    assert leaving([running, slow, quick]) == {50: 20.0, 90: 70.0, 99: 500.0}
    assert "Pages came to the new version in the last 2 rollouts (medians): 50 % after 20 s" in said(
        rollouts=[running, slow, quick]
    )
    assert "in the last rollout: 50 % after 30 s, 90 % after 90 s, 99 % after 600 s." in said(rollouts=[slow])


def said(**changes: Any) -> str:
    given: dict[str, Any] = {
        "total": 1204,
        "versions": {"v1": 14, "v2": 1190},
        "route": None,
        "on_route": None,
        "partial": False,
        "rollouts": [],
        "quiet": None,
        "clock": lambda at: f"{at // HOUR % 24:02}:00",
        "span": lambda seconds: f"{seconds:g} s",
    }
    return " ".join(sentences(**{**given, **changes}))


def test_it_says_who_is_there_and_what_is_not_known() -> None:
    assert said() == (
        "1,204 pages are open: 1,190 on v2, 14 on v1. "
        "No rollout is finished yet, so it is not known how long old pages stay. "
        "No hour of the last day is known well enough to say when it is quiet."
    )
    assert "Figures are partial" in said(partial=True)
    assert "212 of them are on /checkout." in said(route="/checkout", on_route=212)
    assert "How many are on /checkout is not known" in said(route="/checkout")


def test_it_says_when_it_is_quiet() -> None:
    assert "The quietest of 23 hours was 04:00 to 05:00, with 120 pages on average." in said(
        quiet=Quiet(4 * HOUR, 119.6, 23)
    )


def test_many_versions_are_summed_up() -> None:
    versions = {f"v{number}": 10 - number for number in range(8)}
    assert "7 on v3, 18 on other versions." in said(versions=versions)
