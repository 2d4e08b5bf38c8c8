"""When `headcount wait` may go on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.stats import Stats
from headcount.core.time_to_go import NEVER
from headcount.tools.rollout_gate import Bound, Judge, Selection, Verdict


def figures(*, partial: bool = False, **versions: int) -> Stats:
    return Stats(total=sum(versions.values()), versions=versions, partial=partial)


def judge(selection: Selection | None = None, bound: Bound | None = None, hold: float = 0) -> Judge:
    return Judge(selection or Selection("version", "old"), bound or Bound(0), hold, 0)


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection("version", "old"), 3),
        (Selection("version", "absent"), 0),
        (Selection("not-version", "new"), 4),
        (Selection("not-version", "absent"), 9),
        (Selection("outdated"), 4),
    ],
)
def test_what_is_waited_for(selection: Selection, left: int) -> None:
    assert selection.left(figures(old=3, new=5, unknown=1), "new") == left


def test_without_a_current_version_nothing_is_known_to_be_outdated() -> None:
    verdict = judge(Selection("outdated")).look(0, figures(), None)
    assert (verdict.left, verdict.done, verdict.unknown) == (None, False, "version unknown")


def test_versions_that_are_not_counted_apart_may_be_the_one() -> None:
    stats = Stats(total=7, versions={"new": 3, "(other)": 4})
    assert Selection("version", "old").left(stats, None) == 4
    assert Selection("version", "new").left(stats, None) == 3
    assert Selection("not-version", "new").left(stats, None) == 4


@pytest.mark.parametrize(
    ("bound", "left", "total", "allowed"),
    [
        (Bound(0), 0, 0, True),
        (Bound(0), 1, 5, False),
        (Bound(5), 5, 9, True),
        (Bound(5), 6, 9, False),
        (Bound(1, percent=True), 1, 100, True),
        (Bound(1, percent=True), 1, 99, False),
        (Bound(0.5, percent=True), 1, 200, True),
        (Bound(0, percent=True), 0, 0, True),
        (Bound(100, percent=True), 7, 7, True),
    ],
)
def test_at_the_bound_or_under_it_is_allowed(bound: Bound, left: int, total: int, allowed: bool) -> None:
    assert bound.allows(left, total) is allowed


def test_it_must_hold_without_a_break() -> None:
    watched = judge(hold=30)
    gone, left = figures(new=1), figures(old=1)
    assert watched.look(0, gone, None).held == 0
    assert watched.look(29, gone, None).done is False
    assert watched.look(29.5, left, None).held is None
    assert watched.look(40, gone, None).held == 0
    assert watched.look(69, gone, None).done is False
    assert watched.look(70, gone, None).done is True


@pytest.mark.parametrize("interruption", [None, figures(partial=True), figures(partial=True, new=3)])
def test_what_is_not_known_is_no_zero_and_a_break(interruption: Stats | None) -> None:
    watched = judge(hold=30)
    watched.look(0, figures(new=1), None)
    verdict = watched.look(20, interruption, None)
    assert (verdict.left, verdict.held, verdict.done) == (None, None, False)
    assert watched.look(31, figures(new=1), None).done is False
    assert watched.look(61, figures(new=1), None).done is True


def test_contact_is_lost_since_the_last_figures_partial_ones_included() -> None:
    watched = judge()
    watched.look(5, figures(old=1), None)
    watched.look(9, None, None)
    assert watched.lost(12) == 7
    watched.look(13, figures(partial=True), None)
    assert watched.lost(20) == 7


def test_rate_and_time_to_go() -> None:
    watched = judge(bound=Bound(10))
    verdict = watched.look(0, figures(old=168), None)
    assert (verdict.rate, verdict.to_go) == (None, None), "not enough data"
    # It halves every 30 s.
    for number in range(1, 4):
        verdict = watched.look(number * 30, figures(old=168 >> number), None)
    assert verdict.left == 21
    assert verdict.rate == pytest.approx(math.log(2) / 30 * 21 * 60)
    assert verdict.to_go == pytest.approx(30)
    assert watched.look(95, figures(old=10), None).to_go == 0
    verdict = watched.look(96, figures(old=200), None)
    assert (verdict.rate, verdict.to_go) == (0, NEVER), "more than before do not leave"
    assert watched.most == 200


def test_partial_figures_are_no_samples_and_do_not_void_the_others() -> None:
    watched = judge()
    for number in range(5):
        watched.look(number * 10, figures(old=64 >> number), None)
        watched.look(number * 10 + 5, figures(old=999, partial=True), None)
    verdict = watched.look(50, figures(old=2), None)
    assert verdict.to_go == pytest.approx(20)


def test_reset_starts_the_time_anew() -> None:
    watched = judge(hold=5)
    watched.look(0, figures(), None)
    watched.reset()
    assert watched.look(5, figures(), None).done is False


SAMPLES = st.lists(
    st.tuples(
        st.floats(0.1, 20),
        st.one_of(
            st.none(),
            st.builds(lambda old, partial: figures(old=old, new=1, partial=partial), st.integers(0, 2), st.booleans()),
        ),
    ),
    min_size=1,
    max_size=30,
)


@given(SAMPLES, st.floats(0, 30))
def test_done_means_that_every_sample_of_that_time_was_known_and_under_the_bound(
    samples: list[tuple[float, Stats | None]], hold: float
) -> None:
    watched, now = judge(hold=hold), 0.0
    seen: list[tuple[float, bool]] = []
    verdict: Verdict
    for step, stats in samples:
        now += step
        verdict = watched.look(now, stats, None)
        seen.append((now, stats is not None and not stats.partial and not stats.versions.get("old")))
        good_since = now
        for moment, good in reversed(seen):
            if not good:
                break
            good_since = moment
        assert verdict.done == (seen[-1][1] and now - good_since >= hold)
