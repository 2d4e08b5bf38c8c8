"""Pages whose streams broke off: counted until they come back, say goodbye, or the grace is over."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core import away_pages
from headcount.core.away_pages import GRACE, AwayPages
from headcount.core.labels import OTHER, UNKNOWN

VERSIONS = ("v1", "v2", UNKNOWN)
KEYS = tuple(f"page{number}" for number in range(6))

events = st.lists(
    st.one_of(
        st.tuples(st.just("break"), st.sampled_from(KEYS), st.sampled_from(VERSIONS)),
        st.tuples(st.just("return"), st.sampled_from(KEYS), st.just("")),
        st.tuples(st.just("wait"), st.floats(0, GRACE), st.just("")),
    ),
    max_size=40,
)


@given(events)
def test_what_is_away_is_what_broke_off_and_neither_came_back_nor_had_its_time(happened: list[tuple]) -> None:  # type: ignore[type-arg]
    pages, away, now = AwayPages(), dict[str, tuple[str, float]](), 0.0
    for what, which, version in happened:
        if what == "wait":
            now += which
        elif what == "break":
            pages.add(which, version, f"stream of {which}", now)
            away[which] = (version, now)
        else:
            is_away = which in away and now - away[which][1] < GRACE
            pages.counts(now)
            assert pages.discard(which) is is_away
            away.pop(which, None)
        left = {key: page for key, page in away.items() if now - page[1] < GRACE}
        assert pages.counts(now) == Counter(version for version, _ in left.values())
        assert bool(pages) is bool(left)
        assert Counter(len(streams) for streams in pages.streams(now).values()).total() == len(pages.counts(now))
        newest = max((since for _, since in left.values()), default=None)
        assert pages.remaining(now) == (0.0 if newest is None else newest + GRACE - now)


def test_the_grace_is_over_48_seconds_after_the_page_broke_off() -> None:
    pages = AwayPages()
    pages.add("page", "v1", "page", 100.0)
    assert pages.counts(147.9) == {"v1": 1}
    assert pages.counts(148.0) == {}
    assert not pages.discard("page")


def test_a_key_counts_once() -> None:
    pages = AwayPages()
    pages.add("page", "v1", "first", 0.0)
    pages.add("page", "v2", "second", 40.0)
    assert pages.counts(50.0) == {"v2": 1}
    assert pages.streams(50.0) == {"v2": ["second"]}


def test_versions_of_strangers_never_push_out_a_known_one() -> None:
    pages = AwayPages()
    for number in range(away_pages.MAX_VERSIONS + 20):
        for page in range(2):
            pages.add(f"{number}/{page}", f"made up {number}", "", 0.0)
    pages.add("page", "v1", "", 0.0)
    assert "v1" not in pages.counts(0.0), "strangers were first"
    pages.set_known_versions(frozenset({"v1"}))
    counts = pages.counts(0.0)
    assert counts["v1"] == 1
    assert len(counts) <= away_pages.MAX_VERSIONS + 2
    assert sum(counts.values()) == 2 * (away_pages.MAX_VERSIONS + 20) + 1
    assert pages.counts(0.0, only_known=True) == {"v1": 1, UNKNOWN: 2 * (away_pages.MAX_VERSIONS + 20)}


def test_above_the_limit_the_oldest_are_counted_without_a_key_until_their_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(away_pages, "MAX_PAGES", 3)
    pages = AwayPages()
    for number in range(5):
        pages.add(f"page{number}", "v1", "", number / 4)
    assert pages.counts(1.0) == {"v1": 3, OTHER: 2}
    assert not pages.discard("page0"), "nothing can take it off"
    assert pages.discard("page4")
    assert pages.counts(GRACE + 0.3) == {"v1": 2, OTHER: 1}, "those of a second, to its end"
    assert pages.remaining(GRACE + 0.6) == pytest.approx(0.4)
    assert pages.counts(GRACE + 1.0) == {}
    assert not pages
