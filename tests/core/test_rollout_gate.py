"""When `headcount wait` may go on."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.current_version import CurrentRelease, State
from headcount.core.rollout_gate import (
    BASE_HELD,
    HOLD,
    KNOWN_HOLD,
    Base,
    Bound,
    Judge,
    Selection,
    Verdict,
    away_sentence,
    pages_that_broke_off,
    unknown_sentence,
)
from headcount.core.stats import Absence, Nodes, Stats, VersionCount
from headcount.core.time_to_go import NEVER


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


def test_an_unknown_current_version_is_lost_contact_only_for_who_waits_for_outdated_connections() -> None:
    for selection, lost in ((Selection("outdated"), 50.0), (Selection("version", "old"), 0.0)):
        gate = judge(selection)
        gate.look(10, figures(), "new")
        for now in range(10, 61):
            gate.look(now, figures(), None)
        assert gate.lost(60) == lost
        gate.look(61, figures(), "new")
        assert gate.lost(61) == 0.0


def test_versions_that_are_not_counted_apart_may_be_the_one() -> None:
    stats = Stats(total=8, versions={"new": 3, "unknown": 1, "(other)": 4})
    assert Selection("version", "old").left(stats, None) == 4
    assert Selection("version", "new").left(stats, None) == 7, "also when some of it are counted apart"
    assert Selection("version", "unknown").left(stats, None) == 1, "which is always counted apart"
    assert Selection("not-version", "new").left(stats, None) == 5
    assert Selection("outdated").left(stats, "new") == 5


@pytest.mark.parametrize(("least", "most"), [(3, 3), (3, 5)])
def test_what_the_server_says_of_one_version_replaces_what_may_be(least: int, most: int) -> None:
    stats = Stats(total=7, versions={"v1": 3, "(other)": 4}, of_version=VersionCount("v1", least, most))
    assert Selection("version", "v1").left(stats, None) == most
    assert Selection("not-version", "v1").left(stats, None) == 7 - least
    assert Selection("outdated").left(stats, "v1") == 7 - least
    assert Selection("version", "v2").left(stats, None) == 4, "it says nothing of another"
    assert Selection("outdated").left(stats, "v2") == 7


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


def test_while_connections_are_unaccounted_for_nothing_holds_whatever_their_version() -> None:
    for absence in (
        Absence("aa", 3, {"old": 3}, "vanished"),
        Absence("aa", 3, {"new": 3}, "leaving"),
        Absence("aa", 3, {"new": 3}, "unanswered"),
        Absence("aa", None, {}, "vanished"),
        Absence("aa", 0, {}, "cut-off"),
    ):
        watched = judge(hold=5)
        assert watched.look(0, figures(new=9), None).held == 0
        lost = Stats(total=9, versions={"new": 9}, partial=True, absences=(absence,))
        verdict = watched.look(6, lost, None)
        assert (verdict.done, verdict.held, verdict.unknown) == (False, None, "unaccounted")
        assert verdict.unaccounted == (absence.total or 0)
        assert watched.lost(7) == 1, "the server is there"
        assert watched.look(8, figures(new=9), None).done, "the time went on: whoever comes back had as much of it"


def test_the_time_starts_anew_when_pages_come_back_of_those_that_were_unaccounted_for() -> None:
    absences = (Absence("aa", 3, {"old": 3}, "vanished"),)
    watched = judge(hold=5)
    watched.look(0, figures(new=9), None)
    lost = Stats(total=9, versions={"new": 9}, partial=True, absences=absences)
    back = Stats(total=10, versions={"new": 9, "old": 1}, partial=True, absences=absences)
    for number, seen in enumerate((lost, back, lost)):
        assert watched.look(2 + number, seen, None).unknown == "unaccounted"
    verdict = watched.look(8, figures(new=9), None)
    assert (verdict.held, verdict.done) == (4, False)
    assert watched.look(9, figures(new=9), None).done
    missing = Stats(total=9, versions={"new": 9}, nodes=Nodes(1, 2), partial=True, absences=absences)
    watched.look(10, missing, None)
    assert watched.look(11, figures(new=9), None).held == 0, "a node that does not report may have any number"


def test_a_share_is_of_those_that_were_left_not_of_all_connections() -> None:
    watched = judge(bound=Bound(50, percent=True))
    assert not watched.look(0, figures(old=10), None).done
    flooded = watched.look(BASE_HELD, figures(old=10, new=1_000), None)
    assert (flooded.done, flooded.bound, flooded.base) == (False, 5, 10), "no old page has gone"
    assert not watched.look(31, figures(old=6, new=1_000), None).done
    assert watched.look(32, figures(old=5), None).done


@pytest.mark.parametrize("selection", [Selection("version", "old"), Selection("not-version", "new")])
def test_a_burst_of_made_up_connections_raises_no_share(selection: Selection) -> None:
    watched = judge(selection, Bound(1, percent=True))
    for second in range(60):
        assert not watched.look(second, figures(old=50, new=9), None).done
    assert not watched.look(60, figures(old=100_000, new=9), None).done
    assert not watched.look(60 + BASE_HELD - 1, figures(old=100_000, new=9), None).done
    verdict = watched.look(60 + BASE_HELD - 0.5, figures(old=50, new=9), None)
    assert (verdict.done, verdict.base, verdict.bound) == (False, 50, 0)
    assert watched.most == 100_000, "it was seen all the same"


def test_a_share_of_a_named_number_is_moved_by_nobody() -> None:
    watched = judge(bound=Bound(1, percent=True, of=2_000))
    verdict = watched.look(0, figures(old=21), None)
    assert (verdict.done, verdict.base, verdict.bound) == (False, 2_000, 20)
    for second in range(1, 90):
        assert not watched.look(second, figures(old=90_000), None).done
    assert watched.look(90, figures(old=20), None).done


def base_of(*numbers: tuple[float, int | None]) -> int:
    base = Base()
    for now, left in numbers:
        if left is None:
            base.interrupt()
        else:
            base.add(now, left)
    return base.count


@pytest.mark.parametrize(
    ("numbers", "base"),
    [
        ([], 0),
        ([(0, 10)], 10),
        ([(0, 10), (1, 900)], 10),  # not held yet: the least that was seen
        ([(0, 10), (1, 900), (30, 900)], 10),
        ([(0, 10), (1, 900), (31, 900)], 900),
        ([(0, 10), (1, 900), (20, 899), (30, 5)], 10),
        ([(0, 1_000), (29, 4)], 4),  # they went before it was known that they had been there
        ([(0, 1_000), (30, 1_000), (31, 4), (90, 4)], 1_000),
        ([(0, 1_000), (40, 4)], 1_000),
        ([(0, 1_000), (1, None), (40, 1_000), (41, 4)], 4),  # nobody knows what was between
        ([(0, 1_000), (1, None), (40, 1_000), (70, 1_000), (71, 4)], 1_000),
    ],
)
def test_the_base_is_the_largest_number_that_was_left_for_a_while(
    numbers: list[tuple[float, int | None]], base: int
) -> None:
    assert base_of(*numbers) == base


@given(st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_base_agrees_with_every_window(steps: list[tuple[float, int]]) -> None:
    now, samples = 0.0, list[tuple[float, int]]()
    for step, left in steps:
        now += step
        samples.append((now, left))

    def least(at: float) -> int:
        """Return the smallest number that was left in the window that ends with a sample."""
        began = max(moment for moment, _ in samples if moment <= at - BASE_HELD)
        return min(left for moment, left in samples if began <= moment < at)

    held = [least(at) for at, _ in samples if at - BASE_HELD >= samples[0][0]]
    assert base_of(*samples) == (max(held) if held else min(left for _, left in samples))


def away(known: bool = True, **versions: int) -> Stats:
    return Stats(total=1, versions={"new": 1}, away=versions, away_known=known)


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (Selection("version", "old"), 5),
        (Selection("version", "unknown"), 4),
        (Selection("version", "absent"), 3),
        (Selection("not-version", "new"), 6),
        (Selection("not-version", "absent"), 8),
        (Selection("outdated"), 6),
    ],
)
def test_pages_that_broke_off_count_like_those_that_are_left(selection: Selection, count: int) -> None:
    stats = Stats(away={"old": 2, "new": 2, "unknown": 1, "(other)": 3})
    assert selection.away(stats, "new") == count


def test_without_a_current_version_nobody_who_broke_off_is_known_to_be_outdated() -> None:
    assert Selection("outdated").away(Stats(away={"old": 2}), None) == 0


def test_it_does_not_hold_while_a_page_may_come_back() -> None:
    watched = judge(hold=1)
    verdict = watched.look(0, away(old=2), None)
    assert (verdict.left, verdict.away, verdict.held, verdict.done) == (0, 2, None, False)
    assert watched.look(40, away(old=1), None).done is False
    assert watched.look(48, away(), None).held == 0
    assert watched.look(49, away(), None).done is True


def test_a_bound_and_a_share_are_of_those_that_are_left_and_those_that_broke_off() -> None:
    stats = Stats(total=1, versions={"old": 1}, away={"old": 2}, away_known=True)
    assert judge(bound=Bound(3)).look(0, stats, None).done is True
    assert judge(bound=Bound(2)).look(0, stats, None).done is False
    assert judge(bound=Bound(3, percent=True, of=100)).look(0, stats, None).done is True
    assert judge(bound=Bound(2, percent=True, of=100)).look(0, stats, None).done is False


def test_who_says_how_long_it_must_hold_waits_for_nobody_who_broke_off() -> None:
    stats = Stats(away={"old": 2}, away_known=True)
    watched = Judge(Selection("version", "old"), Bound(0), 3.0, 0, include_away=False)
    assert watched.look(0, stats, None).held == 0
    verdict = watched.look(3, stats, None)
    assert (verdict.done, verdict.away) == (True, 2)


def test_it_holds_longer_while_a_node_cannot_say_who_broke_off() -> None:
    watched = Judge(Selection("version", "old"), Bound(0), HOLD, 0, KNOWN_HOLD)
    assert watched.look(0, away(known=False), None).held == 0
    assert watched.look(47, away(known=False), None).done is False
    assert watched.hold == HOLD
    assert watched.look(47.5, away(), None).done is True, "now every node says so"
    assert watched.hold == KNOWN_HOLD
    unknown = Judge(Selection("version", "old"), Bound(0), HOLD, 0, KNOWN_HOLD)
    unknown.look(0, away(known=False), None)
    assert unknown.look(HOLD, away(known=False), None).done is True


def test_pages_that_were_told_to_reconnect_have_as_long_as_those_that_broke_off() -> None:
    """Their first attempt may fail, and the next is later than the time for which they are on their way."""
    left = Absence("a", 1, {"old": 1}, "leaving", 0)
    watched = Judge(Selection("version", "old"), Bound(0), HOLD, 0, KNOWN_HOLD)
    watched.look(0, msgspec.structs.replace(away(), partial=True, absences=(left,)), None)
    assert watched.look(13, away(), None).done is False
    assert watched.look(HOLD - 0.1, away(), None).done is False
    assert watched.look(HOLD, away(), None).done is True
    watched.look(60, msgspec.structs.replace(away(), partial=True, absences=(left,)), None)
    watched.look(70, Stats(total=1, versions={"old": 1}, away_known=True), None)
    assert watched.look(100, away(), None).held == 0
    assert watched.look(107, away(), None).done is False
    assert watched.look(108, away(), None).done is True


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (1, "1 page broke off and may return within 48 s"),
        (1200, "1,200 pages broke off and may return within 48 s"),
    ],
)
def test_how_many_broke_off_in_words(count: int, sentence: str) -> None:
    assert away_sentence(count) == sentence


def test_pages_that_broke_off_as_the_object_of_a_sentence() -> None:
    assert pages_that_broke_off(1) == "1 page that broke off; it may return within 48 s"
    assert pages_that_broke_off(1200) == "1,200 pages that broke off; they may return within 48 s"


def released(version: str | None, state: State = "declared", *, partial: bool = False, **versions: int) -> Stats:
    release = CurrentRelease(state, version)
    nodes = Nodes(1, 1, {"v2": 1})
    return Stats(total=sum(versions.values()), versions=versions, release=release, partial=partial, nodes=nodes)


def awaiting(*looks: Stats) -> tuple[Judge, Verdict]:
    """Judge some figures, one a second, for who waits for the release of v2."""
    gate = judge(Selection("release", "v2"))
    verdict = gate.look(0, None, None)
    for now, stats in enumerate(looks, 1):
        verdict = gate.look(now, stats, stats.current_version)
    return gate, verdict


@pytest.mark.parametrize("state", ["declared", "settled"])
def test_who_waits_for_a_release_waits_for_the_outdated_once_it_is_current(state: State) -> None:
    _, verdict = awaiting(released("v2", state, v1=2, v2=5))
    assert (verdict.left, verdict.done, verdict.unknown) == (2, False, None)
    _, verdict = awaiting(released("v2", state, v2=5))
    assert (verdict.left, verdict.done) == (0, True)


@pytest.mark.parametrize(
    ("stats", "sentence"),
    [
        (released("v1", v2=5), "v1 is current, not v2"),
        (released("v1", "settled", v2=5), "v1 is current, not v2"),
        (
            released("v2", "orphaned", v2=5),
            "v2 is not current: no node serves v2, which was declared; declare the version that nodes serve: headcount "
            "release VERSION URL",
        ),
        (
            released(None, "unsettled"),
            "v2 is not current: nodes have not served v2 for long enough, and no release was declared; wait, or "
            "declare one: headcount release VERSION URL",
        ),
    ],
)
def test_while_another_version_is_current_nothing_holds_and_that_is_no_lost_contact(
    stats: Stats, sentence: str
) -> None:
    gate, verdict = awaiting(stats, stats, stats)
    assert (verdict.left, verdict.held, verdict.done, verdict.unknown) == (None, None, False, "not current")
    assert gate.lost(3) == 0, "a deploy may take longer than --lost-after"
    assert gate.declared_instead is None, "it was declared before"
    assert unknown_sentence(verdict, stats.nodes, stats.release, "v2", 0) == sentence


@pytest.mark.parametrize(
    ("looks", "instead"),
    [
        ([released("v1"), released("v2", v1=1)], None),
        ([released("v1", "settled"), released("v3", "settled")], None),
        ([released("v2", v1=1), released("v3")], "v3"),
        ([released("v1"), released("v3")], "v3"),
        ([released("v1"), released("v2", v1=1), released("v1")], "v1"),
        ([released(None, "unsettled"), released("v3")], "v3"),
        ([released("v2", v1=1), released("v3", "orphaned")], "v3"),
        # A node that was cut off, or that forgot the declaration, is no operator.
        ([released("v2", v1=1), released("v1", partial=True), released("v2", v1=1)], None),
        ([released("v1"), released(None, "unsettled"), released("v1")], None),
        ([released("v3", partial=True), released("v1")], None),
    ],
)
def test_a_declaration_in_its_place_is_noticed(looks: list[Stats], instead: str | None) -> None:
    assert awaiting(*looks)[0].declared_instead == instead
