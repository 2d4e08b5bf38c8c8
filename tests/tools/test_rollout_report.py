"""What `headcount rollout` says."""

import csv
import io

import msgspec

from headcount.core.rollouts import AdoptionCurve, Milestone, Point
from headcount.tools.rollout_report import HEAD, NOTHING, row, sentences, short, to_csv


def span(seconds: float) -> str:
    return f"{seconds:g}s"


def clock(at: int) -> str:
    return f"T{at}"


def rollout(version: str, on: int, *reached: Milestone, total: int = 1_000, **more: object) -> AdoptionCurve:
    point = Point(90_000, on, total)
    curve = AdoptionCurve(version, "v0", 5, True, reached=reached, points=(Point(0, 0, total), point), latest=point)
    return msgspec.structs.replace(curve, **more)


RUNNING = rollout("v9", 898, Milestone(50, 30_000), half_life=Milestone(50, 31_000, True))
DONE = [
    rollout(f"v{n}", 995, *(Milestone(percent, 1_000 * n * percent) for percent in (50, 90, 99))) for n in range(1, 4)
]


def test_the_newest_is_described_and_compared() -> None:
    assert sentences([RUNNING, *DONE], clock, span) == [
        "v9 is current since T5 (declared). 89.8 % of 1,000 connections are on it; the rollout is running.",
        "The last 3 rollouts that reached 99 %: 50 % after 100s, 90 % after 180s, 99 % after 198s (medians).",
    ]
    assert sentences([DONE[0], DONE[1]], clock, span)[1] == (
        "The last rollout that reached 99 %: 50 % after 100s, 90 % after 180s, 99 % after 198s."
    )


def test_a_share_is_never_rounded_up_to_what_is_not_reached() -> None:
    assert "98.9 % of 100,000" in sentences([rollout("v9", 98_999, total=100_000)], clock, span)[0]
    assert sentences([rollout("v9", 0, total=0)], clock, span)[0].endswith(
        " No connections are open; the rollout is running."
    )


def test_what_is_not_known_is_said() -> None:
    assert sentences([], clock, span) == [NOTHING]
    assert sentences([AdoptionCurve("v9", "", 5)], clock, span) == [
        "v9 is current since T5 (settled). It is not known yet how many connections are on it."
    ]
    partial = sentences([rollout("v9", 1, total=1, partial=True)], clock, span)
    assert partial[0].endswith("100 % of 1 connection is on it; the rollout is running.")
    assert partial[1].startswith("Partial: the newest figures lack connections")
    assert len(sentences([rollout("v9", 999, Milestone(99, 1), partial=True)], clock, span)) == 1


def test_rows_mark_what_may_be_too_late_and_what_was_not_reached() -> None:
    assert dict(zip(HEAD, row(RUNNING, clock), strict=True)) == {
        "Version": "v9",
        "Current since": "T5",
        "50 %": "30 s",
        "90 %": "-",
        "99 %": "-",
        "Half-life": "<31 s",
        "State": "running",
    }
    assert row(DONE[0], clock)[-1] == "done"
    assert row(rollout("v9", 1, ended=7), clock)[-1] == "replaced"


def test_durations_fit_a_narrow_column() -> None:
    seconds = (0, 9.96, 40, 119, 120, 210, 1_500, 7_199, 7_200, 7_560, 431_999, 432_000, 604_800)
    assert [short(each) for each in seconds] == [
        *("0 s", "10 s", "40 s", "119 s", "2 min", "3.5 min", "25 min", "120 min"),
        *("2 h", "2.1 h", "120 h", "5 d", "7 d"),
    ]


def test_csv_has_seconds_and_empty_cells() -> None:
    first, second = csv.DictReader(io.StringIO(to_csv([RUNNING, AdoptionCurve("=1+1", "@x", 86_400_000)])))
    assert first == {
        "version": "v9",
        "previous": "v0",
        "since": "1970-01-01T00:00:00Z",
        "declared": "yes",
        "state": "running",
        "on": "898",
        "total": "1000",
        "seconds_to_50": "30.0",
        "seconds_to_90": "",
        "seconds_to_99": "",
        "half_life_seconds": "31.0",
        "late": "half_life_seconds",
        "partial": "no",
    }
    assert (second["version"], second["previous"], second["on"], second["declared"]) == ("'=1+1", "'@x", "", "no")


def test_csv_holds_nothing_that_a_terminal_obeys() -> None:
    text = to_csv([AdoptionCurve("v\x1b[2J\nw", "", 1)])
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2
