"""Stored values are made for one key and field, and believed nowhere else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.tallies import MAX_VERSIONS, SeenAlive, Tally, encode
from headcount.fleet.backends.redis_values import MAX_STORED, STRANGER, RedisValues, pairs_of
from headcount.fleet.border import border_of

NODE, OTHER = "0123456789ab", "ba9876543210"


def values(*secrets: str, node: str = NODE) -> RedisValues:
    return RedisValues(border_of("shop", "shop", node, secrets, None), lambda: 1_000)


OPEN, SEALED, READER = values(), values("s" * 16), values("s" * 16, node=OTHER)


def test_a_sealed_value_is_read_in_its_context_alone() -> None:
    tally = Tally(at=5, versions={"v1": 1})
    data = SEALED.encode(NODE, tally)
    assert READER.read_tally(NODE, data) == tally
    assert READER.read_tally(OTHER, data) is STRANGER
    seen = SEALED.seal(f"doubts:{NODE}", encode(SeenAlive(7)))
    assert READER.read_seen_alive(NODE, seen) == SeenAlive(7)
    assert READER.read_seen_alive(OTHER, seen) is None
    assert READER.read_tally(NODE, seen) is STRANGER
    back = SEALED.mark_returned(NODE, "page", "v1")
    assert READER.count_returned(NODE, [b"page", back, b"other", back]) == {"v1": 1}
    assert READER.count_returned(OTHER, [b"page", back]) == {}
    assert READER.read_all("history", [SEALED.seal("history", b"x"), SEALED.seal("minutes", b"y"), b"z"]) == [b"x"]


def test_without_a_secret_values_are_what_they_were() -> None:
    """Nodes of an older version read and write them."""
    tally = Tally(at=5, versions={"v1": 1})
    assert OPEN.encode(NODE, tally) == encode(tally)
    assert OPEN.mark_returned(NODE, "page", "v1") == b"v1"
    assert OPEN.count_returned(NODE, {b"one": b"v1", b"two": b"v1", b"three": b"\n"}) == {"v1": 2}
    assert OPEN.seal("history", b"x") == b"x"
    assert OPEN.read_seen_alive(NODE, encode(SeenAlive(7, ended=True))) == SeenAlive(7, ended=True)
    assert OPEN.read_tally(NODE, b"noise") is None, "nonsense is no node"
    assert OPEN.read_tally(NODE, SEALED.encode(NODE, tally)) is STRANGER


@pytest.mark.parametrize("one", [OPEN, SEALED], ids=["open", "sealed"])
def test_what_is_too_long_is_nobody_s(one: RedisValues) -> None:
    long = one.seal(f"tallies:{NODE}", b"x" * MAX_STORED + b"x")
    assert one.read_tally(NODE, long) in (None, STRANGER)
    assert one.read_seen_alive(NODE, long) is None
    assert one.read_all(f"tallies:{NODE}", [long, None, 5]) == []
    assert one.count_returned(NODE, [b"page", long]) == {}


def test_the_largest_tally_fits() -> None:
    versions = {f"{number:0128}": 2**40 for number in range(MAX_VERSIONS + 2)}
    tally = Tally(versions=versions, departed=versions, key=b"k" * 64)
    assert READER.read_tally(NODE, SEALED.encode(NODE, tally)) == tally


@given(st.binary(max_size=100))
def test_noise_is_read_as_nothing_or_as_a_stranger(noise: bytes) -> None:
    for one in (OPEN, SEALED):
        found = one.read_tally(NODE, noise)
        assert found is None or isinstance(found, Tally)
        assert isinstance(one.read_seen_alive(NODE, noise), SeenAlive | None)
        assert sum(one.count_returned(NODE, [b"page", noise]).values()) <= 1
    assert SEALED.read_tally(NODE, noise) is STRANGER
    assert SEALED.count_returned(NODE, [b"page", noise]) == {}


@pytest.mark.parametrize("answer", [None, b"OK", [b"odd"], 5])
def test_an_answer_that_is_no_hash_has_no_pairs(answer: Any) -> None:
    assert pairs_of(answer) is None
    assert OPEN.count_returned(NODE, answer) == {}
