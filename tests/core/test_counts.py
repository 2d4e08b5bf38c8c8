"""Counts by label: bounded, exact in sum, and never under a label that is not there."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from headcount.core.counts import LabelCounts, LabelSums, bounded
from headcount.core.labels import OTHER, parse_version


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", OTHER]), st.booleans()), max_size=60))
def test_what_changed_is_what_differs_from_the_last_pop(events: list[tuple[str, bool]]) -> None:
    counts = LabelCounts(2, reserved=("d",))
    counts.note_changes(on=True)
    held: list[str] = []
    before: dict[str, int] = {}
    for label, comes in events:
        if comes or not held:
            held.append(counts.add(label))
        else:
            counts.remove(held.pop(0))
        if len(held) % 3 == 0:
            for changed, count in counts.pop_changes().items():
                assert before.get(changed, 0) != count
                before[changed] = count
            before = {each: count for each, count in before.items() if count}
            assert before == counts.counts
        assert counts.counts == Counter(held)
        assert len(counts.counts.keys() - {OTHER, "d"}) <= 2


def test_nothing_is_noted_before_it_is_asked_for() -> None:
    counts, sums = LabelCounts(2), LabelSums(2, parse_version)
    counts.add("a")
    sums.change("a", 1)
    assert (counts._before, sums._before) == (None, None)


def test_a_reserved_label_that_comes_and_goes_makes_room_for_nobody() -> None:
    sums = LabelSums(2, parse_version, reserved=("current",))
    for label in ("a", "b", "c", "d", "e"):
        sums.change(label, 1)
    for _ in range(5):
        sums.change("current", 1)
        sums.change("current", -1)
        assert sums.counts == {"a": 1, "b": 1, OTHER: 3}
    sums.change("current", 1)
    sums.change("a", -1)
    assert sums.counts == {"b": 1, "current": 1, OTHER: 3}
    sums.change("current", -1)
    assert sums.counts == {"b": 1, "c": 1, OTHER: 2}


def test_a_label_that_is_reserved_later_leaves_the_rest() -> None:
    sums = LabelSums(1, parse_version)
    for label in ("a", "b", "c"):
        sums.change(label, 2)
    sums.note_changes(on=True)
    assert sums.set_reserved(frozenset({"b", "z"}))
    assert sums.counts == {"a": 2, "b": 2, OTHER: 2}
    assert sums.pop_changes() == {"b": 2, OTHER: 2}
    assert not sums.set_reserved(frozenset({"b"}))


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "(other)", "unknown"]), st.integers(1, 9)),
    st.integers(1, 6),
    st.sets(st.sampled_from(["a", "z"])),
)
def test_nothing_is_lost_by_bounding(counts: dict[str, int], limit: int, kept: set[str]) -> None:
    shown = bounded(counts, limit, kept, always=("z",))
    assert sum(shown.values()) == sum(counts.values())
    assert len(set(shown) - {"(other)", "z"} - kept) <= limit
    assert shown["z"] == 0
    assert all(shown[label] == counts[label] for label in shown if label not in ("(other)", "z"))
