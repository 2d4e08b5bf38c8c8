"""How many connections each address has open."""

import pickle

import pytest

from headcount.node.address_limit import AddressLimit


def key(limit: AddressLimit, address: str) -> bytes:
    found = limit.key(address)
    assert found is not None
    return found


def test_an_address_is_full_when_it_has_as_many_connections_as_it_may() -> None:
    limit = AddressLimit(2)
    here, there = key(limit, "192.0.2.7"), key(limit, "192.0.2.8")
    limit.add("a", here, shared=False)
    assert not limit.is_full(here)
    limit.add("b", here, shared=False)
    assert limit.is_full(here)
    assert not limit.is_full(there)
    limit.discard("a")
    limit.discard("a")
    assert not limit.is_full(here)


def test_tabs_count_and_the_stream_that_they_share_does_not_count_twice() -> None:
    limit = AddressLimit(2)
    here = key(limit, "192.0.2.7")
    limit.add("stream", here, shared=True)
    limit.add_tab("a", "stream")
    assert not limit.is_full(here)
    assert limit.has_room("stream", 1)
    assert not limit.has_room("stream", 2)
    limit.add_tab("b", "stream")
    assert limit.is_full(here)
    limit.discard("stream")
    assert limit.is_full(here), "its tabs may be held for a moment"
    for tab in "ab":
        limit.discard(tab)
    assert not limit.is_full(here)


def test_streams_without_tabs_count() -> None:
    limit = AddressLimit(1)
    here = key(limit, "192.0.2.7")
    limit.add("stream", here, shared=True)
    assert limit.is_full(here)


@pytest.mark.parametrize("address", [None, "", "testclient", "unknown", "1.2.3"])
def test_an_address_that_is_not_known_is_not_limited(address: str | None) -> None:
    limit = AddressLimit(1)
    assert limit.key(address) is None
    assert limit.has_room("a stream without address", 64)
    limit.add_tab("a", "a stream without address")
    assert limit._pages == {}


def test_a_host_has_one_number_however_it_writes_its_address() -> None:
    limit = AddressLimit(1)
    assert limit.key("2001:db8::1") == limit.key("2001:db8::ffff:0:0:2") == limit.key("2001:db8:0:0:ffff::")
    assert limit.key("2001:db8::1") != limit.key("2001:db8:0:1::1")
    assert limit.key("::ffff:192.0.2.7") == limit.key("192.0.2.7")


def test_no_address_is_kept_and_no_two_processes_agree_on_a_hash() -> None:
    limit = AddressLimit(1)
    limit.add("a", key(limit, "203.0.113.77"), shared=False)
    kept = pickle.dumps([limit._of, limit._streams, limit._pages])
    assert b"203.0.113.77" not in kept
    assert bytes((203, 0, 113, 77)) not in kept
    assert limit.key("203.0.113.77") != AddressLimit(1).key("203.0.113.77")


def test_nothing_is_left_when_all_have_gone() -> None:
    limit = AddressLimit(5)
    for number in range(5):
        limit.add(f"s{number}", key(limit, f"192.0.2.{number}"), shared=number % 2 == 0)
        limit.add_tab(f"t{number}", f"s{number}")
    for number in range(5):
        limit.discard(f"t{number}")
        limit.discard(f"s{number}")
    assert (limit._of, limit._streams, limit._pages) == ({}, {}, {})
