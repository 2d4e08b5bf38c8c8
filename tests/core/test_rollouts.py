"""The adoption curves of the last rollouts."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import rollouts
from headcount.core.history import Current, Sample, sample
from headcount.core.labels import OTHER
from headcount.core.rollouts import (
    GRID,
    LONGEST_STEP,
    MAX_ENCODED,
    MAX_POINTS,
    MAX_ROLLOUTS,
    NOTHING,
    PERCENTS,
    AdoptionCurve,
    Milestone,
    Point,
    Rollouts,
    compared,
    decode,
    encode,
    fold,
    to_list,
    typical,
    usual_time,
)

STEP = 10_000
START = 1_700_000_000_000
NOW = START + 10**10


def at(step: int) -> int:
    return START + step * STEP


def seen(
    step: int, current: str | None, declared: int | None = None, *, partial: bool = False, **versions: int
) -> Sample:
    """Make a sample. `declared` is a step, too."""
    when = 0 if declared is None else at(declared)
    return sample(at(step), versions, partial=partial, current=Current(current, when))


def only(known: Rollouts) -> AdoptionCurve:
    [rollout] = known.rollouts
    return rollout


def test_a_curve_from_the_release_to_its_end() -> None:
    known = fold(NOTHING, [seen(0, "v1", v1=100), seen(1, "v1", v1=100)], NOW)
    assert known.rollouts == (), "the version that was current when the history began has no rollout"
    moved = [20, 50, 60, 89, 90, 98]
    known = fold(known, [seen(2 + n, "v2", 2, v1=100 - on, v2=on) for n, on in enumerate(moved)], NOW)
    rollout = only(known)
    assert (rollout.version, rollout.previous, rollout.at, rollout.old) == ("v2", "v1", at(2), 100)
    assert rollout.state == "running", "99 % are not reached"
    assert rollout.reached == (Milestone(50, STEP), Milestone(90, 4 * STEP))
    assert rollout.half_life == Milestone(50, STEP)
    assert [(point.after, point.on) for point in rollout.curve] == [
        (0, 0),
        (STEP, 50),
        (20_000, 60),
        (30_000, 89),
        (40_000, 90),
        (50_000, 98),
    ]
    done = only(fold(known, [seen(8, "v2", 2, v1=1, v2=99)], NOW))
    assert (done.state, done.after(99)) == ("done", Milestone(99, 60_000))


def test_a_declaration_between_two_samples_is_where_the_curve_begins() -> None:
    declared = at(1) + 4_000
    known = fold(
        NOTHING,
        [seen(0, "v1", v1=4), seen(1, "v1", v1=4), sample(at(2), {"v2": 4}, current=Current("v2", declared))],
        NOW,
    )
    assert (only(known).at, only(known).after(99)) == (declared, Milestone(99, 6_000))


@pytest.mark.parametrize(("declared", "begins"), [(-500, 1), (500, 2)])
def test_a_declaration_that_is_dated_elsewhere_begins_between_the_two_samples(declared: int, begins: int) -> None:
    known = fold(NOTHING, [seen(1, "v1", v1=4), seen(2, "v2", declared, v2=4)], NOW)
    assert only(known).at == at(begins)


def test_what_the_fleet_settled_on_begins_with_the_first_sample_that_shows_it() -> None:
    known = fold(NOTHING, [seen(0, "v1", v1=4), seen(1, None, v1=2, v2=2), seen(4, "v2", v1=1, v2=3)], NOW)
    assert (only(known).at, only(known).declared) == (at(4), False)
    assert only(known).reached == (Milestone(50, 0),), "half were on it before"


def test_a_release_during_the_first_hour_of_a_history_has_a_curve_though_nothing_was_current_before() -> None:
    known = fold(NOTHING, [seen(0, None, v1=4), seen(1, "v2", 1, v1=4), seen(2, "v2", 1, v2=4)], NOW)
    assert (only(known).previous, only(known).state) == ("", "done")
    known = fold(NOTHING, [seen(5, "v2", 1, v2=4)], NOW)
    assert known.rollouts == (), "it was declared before the history began"
    known = fold(NOTHING, [seen(0, None, v1=4), seen(2, "v2", 0, v2=4)], NOW)
    assert known.rollouts == (), "it was declared before the first sample"
    known = fold(NOTHING, [seen(0, None, v1=4), seen(2, "v2", v2=4)], NOW)
    assert known.rollouts == (), "the fleet settled on what it served all the time"


def test_a_version_that_is_declared_again_goes_on() -> None:
    known = fold(NOTHING, [seen(0, "v1", v1=4), seen(1, "v2", 1, v1=4), seen(2, "v2", 2, v1=2, v2=2)], NOW)
    assert (only(known).at, only(known).after(50)) == (at(1), Milestone(50, STEP))


def test_while_it_is_not_known_which_version_is_current_nothing_is_reached() -> None:
    known = fold(NOTHING, [seen(0, "v1", v1=4), seen(1, "v2", 1, v1=4), seen(2, None, v2=4)], NOW)
    assert (only(known).state, only(known).reached, only(known).partial) == ("running", (), True)
    known = fold(known, [seen(3, "v2", 1, v2=4)], NOW)
    assert only(known).after(99) == Milestone(99, 2 * STEP), "the sample before shows its pages, too"


def test_a_replaced_rollout_says_so_and_a_roll_back_is_one_of_its_own() -> None:
    known = fold(NOTHING, [seen(0, "v1", v1=4), seen(1, "v2", 1, v1=3, v2=1), seen(2, "v1", 2, v1=3, v2=1)], NOW)
    replaced, back = known.rollouts
    assert (replaced.state, replaced.ended) == ("replaced", at(2))
    assert (back.version, back.previous, back.at, back.after(50)) == ("v1", "v2", at(2), Milestone(50, 0))
    told = to_list(known)
    assert [each["version"] for each in told] == ["v1", "v2"], "newest first"
    assert (told[1]["endedAt"], told[1]["state"]) == (at(2), "replaced")


def test_partial_samples_reach_nothing_and_what_follows_them_may_have_been_earlier() -> None:
    known = fold(NOTHING, [seen(0, "v1", v1=9), seen(1, "v2", 1, v1=9), seen(2, "v2", 1, partial=True, v2=2)], NOW)
    assert (only(known).reached, only(known).half_life, only(known).partial) == ((), None, True)
    assert to_list(known)[0]["partial"] is True
    known = fold(known, [seen(3, "v2", 1, v2=9)], NOW)
    assert only(known).reached == tuple(Milestone(percent, 2 * STEP, True) for percent in PERCENTS)
    assert only(known).half_life == Milestone(50, 2 * STEP, True)
    assert to_list(known)[0]["reached"][2] == {"percent": 99, "afterMs": 2 * STEP, "partial": True}
    known = fold(known, [seen(4, "v2", 1, partial=True, v2=2)], NOW)
    assert "partial" not in to_list(known)[0], "the curve that is over is known"


@pytest.mark.parametrize(("step", "partial"), [(LONGEST_STEP, False), (LONGEST_STEP + 1, True)])
def test_what_is_reached_after_a_gap_may_have_been_earlier(step: int, partial: bool) -> None:
    before = [seen(0, "v1", v1=9), seen(1, "v2", 1, v1=9)]
    later = sample(at(1) + step, {"v2": 9}, current=Current("v2", at(1)))
    assert only(fold(NOTHING, [*before, later], NOW)).after(99) == Milestone(99, step, partial)


def test_no_connections_are_no_share() -> None:
    known = fold(NOTHING, [seen(0, "v1", v1=1), seen(1, "v2", 1)], NOW)
    assert only(known).reached == ()


def test_a_version_under_other_is_not_taken_for_absent() -> None:
    known = fold(
        NOTHING, [sample(at(0), {"v1": 6, OTHER: 3}, current=Current("v1")), seen(1, "v2", 1, v1=5, v2=4)], NOW
    )
    assert (only(known).old, only(known).old_late) == (5, True)
    known = fold(known, [seen(2, "v2", 1, v1=2, v2=7)], NOW)
    assert only(known).half_life == Milestone(50, STEP, True), "there may have been other old ones at the release"


def test_samples_of_a_clock_that_was_wrong_do_not_stop_the_history() -> None:
    good = [seen(0, "v1", v1=4), seen(1, "v2", 1, v1=4)]
    wrong = seen(10**6, "v3", 10**6, v3=4)
    known = fold(fold(NOTHING, good, NOW), [wrong], at(10**6))
    assert len(known.rollouts) == 2
    known = fold(known, [seen(3, "v3", 3, v3=4)], at(3))
    assert known.last == seen(3, "v3", 3, v3=4)
    assert all(each.at <= at(3) for each in known.rollouts)
    assert fold(NOTHING, [wrong], at(3)) == NOTHING, "and none is applied"


def long_names(number: int) -> str:
    return f"{number:03}" + "\U0001f986" * 125


def test_the_number_of_rollouts_and_their_size_are_bounded() -> None:
    known, step = NOTHING, 0
    known = fold(known, [sample(at(0), {long_names(0): 2**40}, current=Current(long_names(0)))], 2**53)
    for number in range(1, MAX_ROLLOUTS + 6):
        name, before = long_names(number), long_names(number - 1)
        for after in range(max(GRID) // 10 + 2):
            if after * 10 in GRID or after % 997 == 0:
                on = min(2**40, after * 2**24)
                counts = {name: on, before: 2**40 - on}
                known = fold(known, [sample(at(step + after), counts, current=Current(name, at(step)))], 2**53)
        step += max(GRID) // 10 + 2
    assert [each.version for each in known.rollouts] == [long_names(6 + n) for n in range(MAX_ROLLOUTS)]
    assert max(len(each.points) for each in known.rollouts) in range(len(GRID), MAX_POINTS + 1)
    assert MAX_ENCODED / 2 < len(encode(known)) <= MAX_ENCODED
    assert decode(encode(known)) == known


@pytest.mark.parametrize(
    "data", [None, b"", b"\x80\x80", b"\xc1", b"{}", b"\x81\xa7version\x01", b"x" * (MAX_ENCODED + 1), b"\x91" * 9_000]
)
def test_what_is_malformed_is_nothing(data: bytes | None) -> None:
    assert decode(data) == NOTHING


COUNTS = st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.integers(0, 300), max_size=3)
MOMENTS = st.tuples(st.integers(1, 12), COUNTS, st.booleans(), st.sampled_from([None, "v1", "v2", "v3"]), st.booleans())


@st.composite
def histories(draw: Any) -> list[Sample]:
    step, declared, current, found = 0, 0, "v1", []
    for pause, counts, partial, version, is_declared in draw(st.lists(MOMENTS, max_size=40)):
        step += pause
        if version is not None and version != current:
            current, declared = version, at(step) if is_declared else 0
        shown = current if version is not None else None
        found.append(sample(at(step), counts, partial=partial, current=Current(shown, declared)))
    return found


@given(histories(), st.lists(st.integers(0, 40), max_size=4))
def test_it_makes_no_difference_when_samples_are_applied_and_how_often(samples: list[Sample], cuts: list[int]) -> None:
    whole = fold(NOTHING, samples, NOW)
    known = NOTHING
    for end in [*sorted(cuts), len(samples)]:
        known = decode(encode(fold(known, samples[:end], NOW)))
    assert known == whole


@given(histories())
def test_each_milestone_is_the_first_whole_sample_that_shows_it(samples: list[Sample]) -> None:
    for rollout in fold(NOTHING, samples, NOW).rollouts:
        mine = [
            each
            for each in samples
            if rollout.at <= each.at < (rollout.ended or NOW) and each.current == rollout.version and not each.partial
        ]
        for percent in PERCENTS:
            shows = [
                each
                for each in mine
                if each.total and each.versions.get(rollout.version, 0) * 100 >= percent * each.total
            ]
            found = rollout.after(percent)
            if found is not None and found.after == 0:
                continue  # it was so before
            assert (None if found is None else found.after) == (shows[0].at - rollout.at if shows else None)
        times = [each.after for each in rollout.reached]
        assert times == sorted(times)
        assert [point.after for point in rollout.curve] == sorted(point.after for point in rollout.curve)
        assert rollout.state == ("done" if rollout.after(99) else "replaced" if rollout.ended else "running")


def done(version: str, *after: int) -> AdoptionCurve:
    reached = tuple(Milestone(percent, time) for percent, time in zip(PERCENTS, after, strict=False))
    return AdoptionCurve(version, "v0", 1, reached=reached)


def test_the_newest_is_compared_with_the_last_five_that_were_done() -> None:
    others = [done(f"v{number}", number, 2 * number, 3 * number) for number in range(9, 1, -1)]
    replaced = msgspec.structs.replace(done("v10", 5, 6), ended=7)
    newest = done("v11", 1, 2, 3)
    assert [each.version for each in compared([newest, replaced, *others])] == ["v9", "v8", "v7", "v6", "v5"]
    assert [typical(compared([newest, replaced, *others]), percent) for percent in PERCENTS] == [7, 14, 21]
    assert typical(others[:2], 50) == 8.5
    assert typical(compared([newest, replaced]), 50) is None


def test_the_collected_rules_have_a_point_for_each_step_of_the_grid() -> None:
    assert list(GRID) == sorted(set(GRID))
    assert rollouts.HALF in PERCENTS


def with_curve(*points: tuple[int, int, int]) -> AdoptionCurve:
    return AdoptionCurve("v2", "v1", 1, points=tuple(Point(*point) for point in points))


def test_the_usual_time_is_the_median_of_what_others_took_between_two_shares() -> None:
    slow = with_curve((0, 0, 100), (100_000, 50, 100), (300_000, 100, 100))
    quick = with_curve((0, 0, 100), (10_000, 100, 100))
    assert usual_time([slow], 0.5, 1.0) == 200_000
    assert usual_time([slow], 0.25, 0.75) == 150_000, "on straight lines between the points"
    assert usual_time([slow, quick], 0.5, 1.0) == pytest.approx(102_500)
    assert usual_time([slow], 0.9, 0.5) == 0.0, "it is reached already"


@pytest.mark.parametrize("curve", [(), ((0, 0, 0),), ((0, 0, 100), (10_000, 98, 100))])
def test_a_curve_that_does_not_show_both_shares_says_nothing(curve: tuple[tuple[int, int, int], ...]) -> None:
    assert usual_time([with_curve(*curve)], 0.5, 0.99) is None
