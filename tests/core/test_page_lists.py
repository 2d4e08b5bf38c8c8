"""Which pages a node had: marks of ids, bounded, and hostile input."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headcount.core.identity import ID_BYTES, public_id
from headcount.core.page_lists import MARK_BYTES, MAX_LIST, MAX_PAGES, PageList, decode, encode, marks


def ids(count: int) -> list[str]:
    return [public_id("0a1b2c3d4e5f", os.urandom(ID_BYTES)) for _ in range(count)]


def read(pages: PageList) -> PageList:
    data = encode(pages)
    assert data is not None
    found = decode(data)
    assert found is not None
    return found


def test_a_page_is_found_under_the_version_that_it_is_counted_under() -> None:
    one, two, gone, closed = ids(4)
    pages = read(PageList(7, {"v1": marks([one]), "(other)": marks([two])}, {"v1": marks([gone])}))
    assert pages.number == 7
    versions = pages.versions(departed=False)
    assert [versions.of(page) for page in (one, two, gone, closed)] == ["v1", "(other)", "v1", None]
    versions = pages.versions(departed=True)
    assert [versions.of(page) for page in (one, two, gone, closed)] == [None, None, "v1", None]


def test_the_marks_of_ten_thousand_pages_are_apart() -> None:
    open_pages, closed = ids(10_000), ids(1_000)
    versions = PageList(1, {"v1": marks(open_pages)}, {}).versions(departed=False)
    assert all(versions.of(page) == "v1" for page in open_pages)
    assert sum(versions.of(page) is not None for page in closed) < 3


def test_a_list_that_is_too_long_is_not_written() -> None:
    full = PageList(1, {"v1": bytes(MARK_BYTES * (MAX_PAGES - 1))}, {"v1": bytes(MARK_BYTES)})
    data = encode(full)
    assert data is not None
    assert len(data) < MAX_LIST
    assert encode(PageList(1, {"v1": bytes(MARK_BYTES * MAX_PAGES)}, {"v1": bytes(MARK_BYTES)})) is None


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x93\x01\x80", b"\x93\x01\x80\x01", b"\x93\x01\x81\xa0\xc4\x00\x80", bytes(MAX_LIST + 1)]
)
def test_a_malformed_list_is_none(data: bytes) -> None:
    assert decode(data) is None


@given(st.binary(max_size=60))
def test_no_bytes_break_anything(data: bytes) -> None:
    pages = decode(data)
    if pages is not None:
        pages.versions(departed=False)


@pytest.mark.parametrize("public", ["", "aa1", "🦆" * 8, "zzzzzzzz", "0a1b2c3d4e5f" + "é" * 8])
def test_what_is_no_id_is_no_page(public: str) -> None:
    assert PageList(1, {"v1": bytes(4)}, {}).versions(departed=False).of(public) is None


@pytest.mark.parametrize("other", ["", "c1", "page-one-of-many", "🦆" * 8, "0" * 7, "g" * 8])
def test_an_id_that_no_node_makes_has_no_mark_and_shifts_no_other(other: str) -> None:
    one, two = ids(2)
    assert marks([one, other, two]) == marks([one]) + marks([two])


@pytest.mark.parametrize("length", range(1, 9))
def test_marks_that_are_cut_off_are_read_as_far_as_they_go(length: int) -> None:
    assert len(PageList(1, {"v1": bytes(range(length))}, {}).versions(departed=False).by_mark) == length // MARK_BYTES
