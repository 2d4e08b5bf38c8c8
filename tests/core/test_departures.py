"""Pages that were told to reconnect elsewhere: counted for as long as they may be on their way, and no longer."""

from hypothesis import given
from hypothesis import strategies as st

from headcount.core.departures import Departures
from headcount.core.labels import OTHER
from headcount.core.tallies import MAX_VERSIONS


def test_a_page_is_on_its_way_for_a_while() -> None:
    departures = Departures(8.0)
    assert departures.counts(0.0) == {}
    departures.add("v1", 10.0, "one")
    departures.add("v1", 10.9, "two")
    departures.add("v2", 14.0, "three")
    assert departures.revision == 3
    assert departures.counts(17.9) == {"v1": 2, "v2": 1}
    assert departures.pages(17.9) == {"v1": ["one", "two"], "v2": ["three"]}
    assert departures.counts(19.0) == {"v2": 1}
    assert departures.pages(19.0) == {"v2": ["three"]}
    assert departures.counts(23.0) == {}
    assert departures.pages(23.0) == {}


def test_many_versions_are_as_many_as_a_tally_holds() -> None:
    departures = Departures(8.0)
    for number in range(100):
        departures.add(f"v{number:03}", 0.0, f"{number}")
    counts = departures.counts(1.0)
    assert len(counts) == MAX_VERSIONS + 1
    assert counts[OTHER] == 100 - MAX_VERSIONS


def test_a_page_that_did_not_answer_may_be_there_until_the_grace_is_over() -> None:
    departures = Departures(8.0, 120.0)
    departures.add("v1", 10.0, "frozen", unanswered=True)
    assert (departures.counts(20.0), departures.unanswered(20.0)) == ({"v1": 1}, {"v1": 1})
    assert departures.only_unanswered(20.0)
    departures.add("v1", 20.0, "sent away")
    assert not departures.only_unanswered(20.0), "the state that says least is for both"
    assert departures.counts(20.0) == {"v1": 2}
    assert departures.pages(20.0) == {"v1": ["sent away", "frozen"]}
    assert departures.transit(20.0) >= 110.0
    assert departures.counts(30.0) == departures.unanswered(30.0) == {"v1": 1}
    assert departures.transit(130.0) == 8.0
    assert (departures.counts(131.0), departures.unanswered(131.0)) == ({}, {})


def test_a_page_that_comes_back_to_its_node_is_accounted_for() -> None:
    departures = Departures(8.0, 120.0)
    for tab in ("v1", "v1", "v2"):
        departures.add(tab, 10.0, "shared", unanswered=True)
    departures.add("v1", 12.0, "other", unanswered=True)
    assert departures.counts(13.0) == {"v1": 3, "v2": 1}
    assert departures.discard("shared")
    assert not departures.discard("shared"), "once"
    assert departures.counts(13.0) == {"v1": 1}
    assert departures.pages(13.0) == {"v1": ["other"]}


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["v1", "v2"])), max_size=30), st.floats(0, 20))
def test_no_page_is_forgotten_early_and_none_is_kept_for_long(steps: list[tuple[float, str]], wait: float) -> None:
    departures, now, added = Departures(8.0), 0.0, []
    for step, version in steps:
        now += step
        departures.add(version, now, "one")
        added.append(now)
    now += wait
    count = sum(departures.counts(now).values())
    assert sum(now - one < 8.0 for one in added) <= count <= sum(now - one < 9.0 for one in added)
