"""Whether connections of a node are unaccounted for: every rule of core/tallies.py."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.labels import OTHER
from headcount.core.tallies import (
    LISTED,
    MAX_TALLY,
    MAX_VERSIONS,
    RETURN,
    Entry,
    SeenAlive,
    Tally,
    decode_seen_alive,
    decode_tally,
    encode,
    first_joined,
    judge,
    limited,
    remaining,
)

NODE = "aaaaaaaaaaaa"
GRACE = 120.0


def entry(age: float, tally: Tally | None = None, **more: Any) -> Entry:
    tally = tally or Tally(at=1_000_000, versions={"v1": 3, "v2": 1})
    return Entry(tally, tally.at + round(age * 1000), more.pop("has_heartbeat", False), **more)


def unaccounted(age: float, tally: Tally | None = None, joined: int = 0, **more: Any) -> tuple[int | None, str] | None:
    absence = judge(NODE, entry(age, tally, **more), GRACE, joined).absence
    return None if absence is None else (absence.total, absence.state)


def test_nothing_of_a_node_that_gives_signs_of_life_is_unaccounted_for() -> None:
    assert unaccounted(3, has_heartbeat=True) is None
    assert not judge(NODE, entry(3, has_heartbeat=True), GRACE).over


@pytest.mark.parametrize("lives", [None, False])
def test_a_node_that_vanished_is_unaccounted_for_until_the_grace_is_over(lives: bool | None) -> None:
    assert unaccounted(9, process_lives=lives) == (4, "vanished")
    assert unaccounted(119.9, process_lives=lives) == (4, "vanished")
    assert unaccounted(120, process_lives=lives) is None
    assert judge(NODE, entry(120, process_lives=lives), GRACE).over


def test_a_node_that_is_known_to_live_is_unaccounted_for_however_long_it_takes() -> None:
    for age in (9, 121, 86_400):
        assert unaccounted(age, process_lives=True) == (4, "cut-off")
        assert not judge(NODE, entry(age, process_lives=True), GRACE).over


def test_the_grace_of_a_node_that_was_stopped_and_then_killed_begins_with_its_end() -> None:
    stopped = judge(NODE, entry(200, process_lives=True), GRACE)
    killed = judge(NODE, entry(203, process_lives=False, seen_alive=stopped.seen_alive), GRACE)
    assert killed.absence is not None
    assert killed.absence.state == "vanished"
    assert unaccounted(319, process_lives=None, seen_alive=killed.seen_alive) == (4, "vanished"), (
        "an end that was seen stays an end"
    )
    assert unaccounted(321, process_lives=None, seen_alive=killed.seen_alive) is None


def test_a_connection_whose_end_nobody_saw_says_nothing_of_its_process() -> None:
    listed = judge(NODE, entry(20, process_lives=True), GRACE)
    for age in (21, 700, 86_400):
        assert unaccounted(age, process_lives=None, seen_alive=listed.seen_alive) == (4, "cut-off")


def test_however_many_come_back_a_node_that_lives_may_have_more() -> None:
    assert unaccounted(9, process_lives=True, back={"v1": 1}) == (3, "cut-off")
    assert unaccounted(9, process_lives=True, back={"v1": 3, "v2": 1}) == (None, "cut-off")
    assert unaccounted(9, Tally(at=1_000_000), process_lives=True) == (None, "cut-off"), "it may have got pages since"
    assert unaccounted(9, process_lives=None, seen_alive=SeenAlive(1_000_000), back={"v1": 3, "v2": 1}) == (
        None,
        "cut-off",
    )


def test_pages_of_a_node_that_left_are_on_their_way_for_as_long_as_they_were_told() -> None:
    left = Tally(at=1_000_000, departed={"v1": 3}, transit=8.0, left=True)
    assert unaccounted(7.9, left) == (3, "leaving")
    assert unaccounted(8, left) is None
    assert not judge(NODE, entry(8, left), GRACE).over
    assert judge(NODE, entry(LISTED, left), GRACE).over


def test_pages_that_found_no_node_have_the_time_that_their_next_attempt_takes() -> None:
    """The first node came 100 s after the only one before had left, or died."""
    left, joined = Tally(at=1_000_000, departed={"v1": 3}, transit=8.0, left=True), 1_100_000
    assert unaccounted(100, left, joined) == (3, "leaving")
    assert unaccounted(100, left, joined, back={"v1": 1}) == (2, "leaving")
    assert unaccounted(100 + RETURN - 0.1, left, joined) == (3, "leaving")
    assert unaccounted(100 + RETURN, left, joined) is None
    assert judge(NODE, entry(110, left), GRACE, joined).remaining == RETURN - 10
    assert unaccounted(100, left, 999_999) is None, "a node was there when it left"
    assert unaccounted(10, left, 1_002_000) == (3, "leaving")
    assert unaccounted(2 + 3 + 4 * 2, left, 1_002_000) is None, "after two seconds few attempts have failed"
    joined = 1_500_000
    assert unaccounted(500, joined=joined) == (4, "vanished")
    assert unaccounted(500 + RETURN, joined=joined) is None
    day = 86_400
    joined = 1_000_000 + day * 1000
    assert unaccounted(day, joined=joined) == (4, "vanished"), "pages that are left open retry for ever"
    assert unaccounted(day + RETURN, joined=joined) is None
    assert unaccounted(119, joined=1_001_000) == (4, "vanished"), "the grace is longer"
    short = judge(NODE, entry(12, left), 5, 1_010_000)
    assert short.remaining == 3, "who shortens the grace shortens this"


def test_a_node_that_says_nothing_of_its_start_may_always_have_been_there() -> None:
    old, new = Tally(at=9), Tally(at=9, joined=7)
    assert first_joined(5, []) == 5
    assert first_joined(9, [entry(1, new, has_heartbeat=True), entry(1, Tally(joined=3))]) == 7, "only who is there"
    assert first_joined(9, [entry(1, new, has_heartbeat=True), entry(1, old, has_heartbeat=True)]) == 0


def test_pages_that_a_live_node_sends_away_are_on_their_way_too() -> None:
    draining = Tally(at=1_000_000, versions={"v1": 5}, departed={"v1": 3}, transit=8.0)
    assert unaccounted(1, draining, has_heartbeat=True) == (3, "leaving")
    assert unaccounted(1, draining, has_heartbeat=True, back={"v1": 3}) is None
    assert unaccounted(9, draining) == (8, "vanished"), "it died while it drained"


def test_pages_that_did_not_answer_a_live_node_may_be_frozen() -> None:
    silent = Tally(at=1_000_000, versions={"v1": 5}, departed={"v1": 3}, transit=100.0, unanswered=True)
    assert unaccounted(1, silent, has_heartbeat=True) == (3, "unanswered")
    assert unaccounted(1, silent, has_heartbeat=True, back={"v1": 3}) is None
    assert unaccounted(100, silent, has_heartbeat=True) is None


def test_pages_that_came_back_are_taken_off() -> None:
    assert unaccounted(9, back={"v1": 1}) == (3, "vanished")
    assert unaccounted(9, back={"v1": 3, "v2": 1}) is None
    assert not judge(NODE, entry(9, back={"v1": 3, "v2": 1}), GRACE).over
    assert unaccounted(9, back={"v2": 9}) == (3, "vanished"), "nobody can take off more than there were"


def test_a_node_that_left_no_word_has_an_unknown_number() -> None:
    assert unaccounted(9, Tally(at=1_000_000, unknown=True)) == (None, "vanished")
    assert unaccounted(120, Tally(at=1_000_000, unknown=True)) is None


def test_an_operator_ends_a_doubt() -> None:
    assert unaccounted(9, Tally(at=1_000_000, forgotten=True), process_lives=True) is None
    assert judge(NODE, entry(121, Tally(at=1_000_000, forgotten=True)), GRACE).over


def test_a_clock_that_jumped_backwards_makes_no_negative_age() -> None:
    assert entry(-3_600).age == 0
    assert unaccounted(-3_600) == (4, "vanished")


counts = st.dictionaries(st.sampled_from(["v1", "v2", "v3", OTHER]), st.integers(0, 5))


@given(counts, counts)
def test_what_remains_is_never_less_than_what_has_not_come_back(had: dict[str, int], back: dict[str, int]) -> None:
    left = remaining(had, back)
    assert all(count > 0 for count in left.values())
    assert sum(had.values()) - sum(back.values()) <= sum(left.values()) <= sum(had.values())
    for version, count in had.items():
        if version != OTHER:
            assert left.get(version, 0) == max(0, count - back.get(version, 0))


@given(
    st.floats(0, 1_000),
    counts,
    st.sampled_from([None, True, False]),
    st.none() | st.builds(SeenAlive, st.integers(1_000_000, 2_000_000), st.booleans()),
)
def test_within_the_grace_nothing_is_ever_taken_for_gone(
    age: float, had: dict[str, int], lives: bool | None, seen_alive: SeenAlive | None
) -> None:
    found = judge(
        NODE, entry(age, Tally(at=1_000_000, versions=had), process_lives=lives, seen_alive=seen_alive), GRACE
    )
    if age < GRACE - 0.001:
        assert not found.over
        total = found.absence.total if found.absence else 0
        assert total == sum(had.values()) or (total is None and not sum(had.values()))
    if found.over:
        assert found.absence is None


def test_a_tally_survives_its_encoding_and_is_small() -> None:
    many = limited({f"version-{n:03}": n for n in range(1, 200)})
    assert len(many) == MAX_VERSIONS + 1
    tally = Tally(
        at=5, versions=many, departed=many, transit=8.0, serves="v1", key=b"k" * 16, joined=4, liveness_ids=(1, 2)
    )
    assert decode_tally(encode(tally)) == tally
    assert len(encode(tally)) < 1_000
    assert decode_seen_alive(encode(SeenAlive(7, ended=True))) == SeenAlive(7, ended=True)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", encode(Tally(versions={"v1": 1}))[:-1], b"x" * (MAX_TALLY + 1), b"\x81\xa2at\xff"],
)
def test_what_is_no_tally_is_none(data: bytes) -> None:
    assert decode_tally(data) is None
    assert decode_seen_alive(b"\xc1") is None
    assert decode_seen_alive(None) is None
