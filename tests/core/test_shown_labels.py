"""Strangers choose labels, but not how many time series there are."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.labels import OTHER
from headcount.core.shown_labels import DAY, HOLD, MAX_REMEMBERED, ShownLabels, versions_known_to_the_fleet

LIMIT = 50
SCRAPE = 15.0
KNOWN = ("v1", "v2", "unknown")


def day(start: float = 0.0, seconds: float = DAY) -> Iterator[float]:
    """Give the times of the scrapes of a day."""
    for number in range(int(seconds / SCRAPE)):
        yield start + number * SCRAPE


def test_a_small_deployment_sees_a_new_version_at_once() -> None:
    labels = ShownLabels(LIMIT)
    counts = {"v1": 100}
    for number, now in enumerate(day(seconds=3_600)):
        if number % 10 == 0:
            counts[f"release-{number}"] = 1
        expected = counts if len(counts) <= 20 else None
        shown = labels.choose(counts, now)
        assert shown == counts
        assert expected is None or shown == expected
    assert len(counts) == 25


@pytest.mark.parametrize("scrapes_held", [1, 20, 25])
def test_strangers_cause_at_most_twice_the_limit_of_series_a_day(scrapes_held: int) -> None:
    """Versions that change with each scrape, and such as stay long enough to be believed."""
    labels = ShownLabels(LIMIT)
    seen: set[str] = set()
    for number, now in enumerate(day()):
        generation = number // scrapes_held
        hostile = {f"fake-{generation}-{each}": 1_000 for each in range(70)}
        shown = labels.choose({**hostile, "v1": 3, "v2": 2}, now, KNOWN, ("v2",))
        assert (shown["v1"], shown["v2"]) == (3, 2)
        assert sum(shown.values()) == 70_005
        assert len(shown) <= LIMIT + 1
        seen |= shown.keys()
    assert len(seen) <= 2 * LIMIT


def test_the_bound_holds_for_every_day_and_not_only_for_the_first() -> None:
    labels = ShownLabels(4)
    shown_at: list[tuple[float, frozenset[str]]] = []
    source = random.Random(7)
    for step in range(3 * 288):
        now = step * 300.0
        counts = {f"fake-{source.randrange(500)}": source.randrange(1, 9) for _ in range(12)}
        counts["slow"] = 9
        shown_at.append((now, frozenset(labels.choose(counts, now))))
    for now, _ in shown_at[::7]:
        window = frozenset[str]().union(*(shown for at, shown in shown_at if now <= at <= now + DAY))
        assert len(window) <= 8
    assert "slow" in shown_at[-1][1]


def test_a_known_version_is_never_pushed_out() -> None:
    labels = ShownLabels(3)
    assert labels.choose({"a": 9, "b": 8, "c": 7, "old": 1}, 0.0, ["old"]) == {"old": 1, "a": 9, "b": 8, OTHER: 7}
    assert labels.choose({f"v{number}": 1 for number in range(9)}, 1.0, [f"v{number}" for number in range(9)]) == {
        f"v{number}": 1 for number in range(9)
    }


def test_a_version_that_was_known_is_remembered_for_as_long_as_there_is_room() -> None:
    labels = ShownLabels(3)
    strangers = {"a": 90, "b": 80, "c": 70}
    labels.choose({"v0": 1}, 0.0, ["v0"])
    for number in range(1, MAX_REMEMBERED + 1):
        now = number * 10 * DAY
        assert "v0" in labels.choose({**strangers, "v0": 1}, now, [f"v{number}"])
    for number in range(MAX_REMEMBERED + 1, MAX_REMEMBERED + 3):
        labels.choose(strangers, number * 10 * DAY, [f"v{number}"])
    assert "v0" not in labels.choose({**strangers, "v0": 1}, 1_000 * DAY, ["v99"])


def test_beyond_the_limit_a_label_must_stay_large_for_minutes() -> None:
    labels = ShownLabels(2)
    labels.choose({"a": 5, "b": 4}, 0.0)
    counts = {"a": 5, "b": 4, "new": 9}
    times = [now for now in day(seconds=10 * 60) if "new" in labels.choose(counts, now)]
    assert times[0] == 2 * HOLD
    assert labels.choose(counts, 601.0) == {"new": 9, "a": 5, OTHER: 4}


def test_one_that_was_large_for_a_moment_takes_no_place() -> None:
    labels = ShownLabels(2)
    labels.choose({"a": 5, "b": 4}, 0.0)
    for now in day(seconds=3_600):
        peak = {"new": 9} if now % 120 < 60 else {}
        assert "new" not in labels.choose({"a": 5, "b": 4, **peak}, now)


def test_two_that_change_ranks_do_not_change_places() -> None:
    labels = ShownLabels(2)
    for number, now in enumerate(day(seconds=3_600)):
        shown = labels.choose({"a": 9, "b": 5 + number % 2, "c": 6 - number % 2}, now)
        assert shown.keys() == {"a", "c", OTHER}


def test_what_was_shown_within_the_day_comes_back_at_once() -> None:
    labels = ShownLabels(2)
    labels.choose({"a": 5, "b": 4}, 0.0)
    labels.choose({"b": 4, "c": 1}, 10.0)
    assert labels.choose({"a": 1, "b": 4, "c": 9}, 20.0) == {"b": 4, "a": 1, OTHER: 9}
    assert "a" not in labels.choose({"c": 9, "d": 8, "e": 7}, 20.0 + 2 * DAY)


def test_a_day_later_there_is_room_for_new_ones_again() -> None:
    labels = ShownLabels(2)
    labels.choose({"a": 5, "b": 4}, 0.0)
    assert labels.choose({"c": 1}, 60.0) == {OTHER: 1}
    assert labels.choose({"d": 1}, DAY + 1.0) == {"d": 1}


def test_what_is_counted_under_other_stays_there() -> None:
    labels = ShownLabels(2)
    assert labels.choose({OTHER: 7, "a": 1}, 0.0, [OTHER]) == {"a": 1, OTHER: 7}


def test_the_fleet_knows_what_it_serves_and_what_was_declared() -> None:
    assert versions_known_to_the_fleet("v2", None, None) == {"v2"}
    assert versions_known_to_the_fleet("v2", "v3", {"v1": 1, "v2": 2, OTHER: 1}, ("unknown",)) == {
        "v1",
        "v2",
        "v3",
        "unknown",
    }


counts_of = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9)) | st.dictionaries(
    st.sampled_from(["a", "k1", "k2", OTHER, *(f"x{number}" for number in range(30))]), st.integers(1, 9)
)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from([0.0, 15.0, 151.0, 3_600.0, 50_000.0]), counts_of), min_size=1, max_size=40),
)
def test_whatever_is_counted(limit: int, scrapes: list[tuple[float, dict[str, int]]]) -> None:
    labels = ShownLabels(limit)
    known = {"k1", "k2"}
    now = 0.0
    history: list[tuple[float, set[str]]] = []
    for pause, counts in scrapes:
        now += pause
        shown = labels.choose(counts, now, known)
        assert sum(shown.values()) == sum(counts.values())
        assert known & counts.keys() <= shown.keys()
        assert all(counts[label] == count for label, count in shown.items() if label != OTHER)
        strangers = shown.keys() - known - {OTHER}
        assert len(strangers) <= max(0, limit - len(known & counts.keys()))
        history.append((now, {*shown}))
        within = set[str]().union(*(each for at, each in history if now - at <= DAY))
        assert len(within - known) <= 2 * limit
        if len(set[str]().union(*(each.keys() for _, each in scrapes))) <= limit:
            assert shown == counts
        assert len(labels._series) <= 2 * limit + len(known)
        assert len(labels._counted) <= len(counts)
        assert len(labels._large) <= limit
