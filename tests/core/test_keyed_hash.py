"""Hashes in place of credentials and addresses."""

import os
from itertools import combinations

from headcount.core.keyed_hash import HASH_BYTES, KEY_BYTES, keyed_hash


def test_the_same_parts_have_the_same_hash_under_one_key_only() -> None:
    key, other = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
    assert keyed_hash(key, b"cookie", b"sid=1") == keyed_hash(key, b"cookie", b"sid=1")
    assert keyed_hash(key, b"cookie", b"sid=1") != keyed_hash(other, b"cookie", b"sid=1")
    assert len(keyed_hash(key)) == HASH_BYTES


def test_parts_are_told_apart() -> None:
    key = os.urandom(KEY_BYTES)
    inputs: list[tuple[bytes, ...]] = [(), (b"",), (b"", b""), (b"abc",), (b"ab", b"c"), (b"a", b"bc"), (b"2:ab", b"c")]
    inputs += [(b"2:ab1:c",), (b"ab1:c",)]
    for one, two in combinations(inputs, 2):
        assert keyed_hash(key, *one) != keyed_hash(key, *two), (one, two)
