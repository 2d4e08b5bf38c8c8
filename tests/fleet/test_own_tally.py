"""What a node says about itself: counts, and which pages it counts."""

import os
import threading

import pytest

from headcount.core import page_lists
from headcount.core.away_pages import AwayPages
from headcount.core.departures import Departures
from headcount.core.identity import ID_BYTES, public_id
from headcount.core.labels import OTHER
from headcount.core.page_lists import PageVersions
from headcount.core.registry import Registry
from headcount.core.tallies import MAX_VERSIONS, Tally
from headcount.fleet.own_tally import OwnTally

NODE = "0a1b2c3d4e5f"


class Host:
    """A node as far as its tally goes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.registry = Registry()
        self.departures = Departures(8.0)
        self.away_pages = AwayPages()
        self.shared: dict[str, str] = {}
        self.current: str | None = None
        lock = threading.RLock()
        self.own = OwnTally(
            self.registry,
            self.departures,
            self.away_pages,
            lock,
            lambda: self.now,
            "v2",
            b"k" * 16,
            lambda: dict(self.shared),
            lambda: self.current,
        )

    def open(self, version: str) -> str:
        page = public_id(NODE, os.urandom(ID_BYTES))
        self.registry.open(page, version, "/")
        return page

    def send_away(self, page: str) -> None:
        row = self.registry.close(page)
        assert row is not None
        self.departures.add(row.version, self.now, page)

    def write(self, *, leaving: bool = False) -> Tally:
        tally = self.own.make(leaving=leaving)
        assert bool(self.own.pages) is bool(tally.pages)
        return tally

    def versions(self, *, departed: bool = False) -> PageVersions:
        found = page_lists.decode(self.own.pages)
        assert found is not None
        return found.versions(departed=departed)


def test_the_list_has_the_pages_that_the_tally_counts() -> None:
    host = Host()
    one, two, gone, closed = (host.open(version) for version in ("v1", "v2", "v1", "v1"))
    host.registry.close(closed)
    host.send_away(gone)
    tally = host.write()
    assert (tally.versions, tally.departed) == ({"v1": 1, "v2": 1}, {"v1": 1})
    assert [host.versions().of(page) for page in (one, two, gone, closed)] == ["v1", "v2", "v1", None]
    assert [host.versions(departed=True).of(page) for page in (one, two, gone, closed)] == [None, None, "v1", None]
    host.now += 20
    assert host.write().departed == {}
    assert host.versions().of(gone) is None


def test_on_leaving_all_pages_have_departed() -> None:
    host = Host()
    one, gone = host.open("v1"), host.open("v1")
    host.send_away(gone)
    tally = host.write(leaving=True)
    assert (tally.left, tally.versions, tally.departed) == (True, {}, {"v1": 2})
    assert [host.versions(departed=True).of(page) for page in (one, gone)] == ["v1", "v1"]


def test_versions_that_the_tally_does_not_count_apart_are_under_other() -> None:
    host = Host()
    pages = {version: [host.open(version) for _ in range(2)] for version in (f"v{n}" for n in range(MAX_VERSIONS))}
    rare = host.open("rare")
    assert host.write().versions[OTHER] == 1
    assert host.versions().of(rare) == OTHER
    assert all(host.versions().of(page) == version for version, some in pages.items() for page in some)


def test_the_current_version_and_the_node_s_own_are_counted_apart_however_many_others_there_are() -> None:
    host = Host()
    for version in (f"made-up-{number}" for number in range(MAX_VERSIONS + 4)):
        host.open(version)
        host.open(version)
    current, own = host.open("v3"), host.open("v2")
    assert "v3" not in host.write().versions
    host.current = "v3"
    tally = host.write()
    assert (tally.versions["v3"], tally.versions["v2"]) == (1, 1)
    assert len(tally.versions) == MAX_VERSIONS + 1
    assert (host.versions().of(current), host.versions().of(own)) == ("v3", "v2")


def test_a_shared_stream_stands_for_one_of_its_tabs() -> None:
    host = Host()
    host.open("v1")
    stream, successor = (public_id(NODE, os.urandom(ID_BYTES)) for _ in range(2))
    host.shared[stream] = "v1"
    host.write()
    assert host.versions().of(stream) == "v1"
    host.shared = {successor: "v1"}
    host.write()
    assert (host.versions().of(stream), host.versions().of(successor)) == (None, "v1"), "although no count moved"


def test_the_list_has_a_new_number_when_it_has_changed() -> None:
    host = Host()
    page = host.open("v1")
    first = host.write().pages
    assert host.write().pages == first
    host.registry.navigate(page, "/a")
    assert host.write().pages == first
    host.open("v1")
    assert host.write().pages not in (0, first)


def test_of_no_pages_there_is_no_list() -> None:
    host = Host()
    assert host.write().pages == 0
    page = host.open("v1")
    assert host.write().pages
    host.registry.close(page)
    assert host.write().pages == host.write().pages == 0
    assert host.write(leaving=True).pages == 0


def test_of_too_many_pages_there_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_lists, "MAX_PAGES", 3)
    host = Host()
    pages = [host.open("v1") for _ in range(3)]
    before = host.write().pages
    assert before
    page = host.open("v1")
    assert (host.write().pages, host.write().pages) == (0, 0)
    host.registry.close(page)
    assert host.write().pages not in (0, before)
    assert host.versions().of(pages[0]) == "v1"
