"""Which pages a node records in the store as returned, and when. The store is a dictionary, and time is an argument."""

import asyncio
import os
import threading
from collections.abc import Collection, Iterable

import pytest

from headcount.config import Config
from headcount.core import page_lists
from headcount.core.fleet_figures import FleetFigures
from headcount.core.identity import ID_BYTES, handle_for, public_id, return_key
from headcount.core.page_lists import PageList
from headcount.core.tallies import Entry, Tally
from headcount.fleet.accounting import Accounting
from headcount.fleet.fleet_history import FleetHistory
from headcount.fleet.link import FleetLink
from headcount.node.releases import Releases

pytestmark = pytest.mark.anyio

OTHER_NODE, KEY = "0a1b2c3d4e5f", b"k" * 32
HEARTBEAT = 1.0


class Store:
    """A backend as far as tallies go: what another node wrote, and what is recorded about it."""

    heartbeat = HEARTBEAT
    detects_failures = False

    def __init__(self) -> None:
        self.tallies = self
        self.present = True
        self.open: dict[str, list[str]] = {}
        self.departed: dict[str, list[str]] = {}
        self.number = 0
        self.recorded: dict[str, str] = {}
        self.tallies_written = 0

    def write(self, *, open_pages: dict[str, list[str]], departed: dict[str, list[str]]) -> None:
        """Let the other node write its list and its tally."""
        self.open, self.departed, self.number = open_pages, departed, self.number + 1

    def now(self) -> int | None:
        return None

    async def entries(self, nodes: Collection[str] | None = None) -> dict[str, Entry]:
        tally = Tally(
            at=1_000_000,
            versions={version: len(pages) for version, pages in self.open.items()},
            departed={version: len(pages) for version, pages in self.departed.items()},
            key=return_key(KEY),
            pages=self.number,
        )
        return {OTHER_NODE: Entry(tally, now=1_000_000, has_heartbeat=self.present)}

    async def pages(self, node: str) -> bytes | None:
        open_marks, away_marks = (
            {version: page_lists.marks(pages) for version, pages in group.items()}
            for group in (self.open, self.departed)
        )
        return page_lists.encode(PageList(self.number, open_marks, away_marks))

    def write_tally(self) -> None:
        self.tallies_written += 1

    async def note_returned(self, node: str, found: dict[str, str]) -> None:
        assert node == OTHER_NODE
        assert self.tallies_written  # else a page that is lost now would be in no tally
        self.recorded |= found


class Host:
    """A node as far as its accounting goes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store = Store()
        self.link = FleetLink("ffffffffffff")
        self.link.loop = asyncio.get_running_loop()
        self.link.backend = self.store  # type: ignore[assignment]  # as much of a backend as accounting uses
        config = Config(version="v2")
        lock, figures = threading.RLock(), FleetFigures("ffffffffffff")
        history = FleetHistory(self.link, figures, Releases("v2", print), lock)
        self.accounting = Accounting(self.link, figures, lock, lambda: self.now, config, lambda: None, self, history)
        self.known_versions = frozenset({"v2"})

    def learn_versions(self, versions: Iterable[str]) -> None:
        self.known_versions |= set(versions)

    def page(self, version: str = "v1") -> tuple[str, str]:
        """Return the id and the handle of a page that the other node sent away."""
        page = public_id(OTHER_NODE, os.urandom(ID_BYTES))
        self.store.write(open_pages={}, departed={version: [page]})
        return page, handle_for(page, KEY)

    async def beat(self) -> None:
        self.accounting.on_own_heartbeat()
        await asyncio.gather(*self.link.tasks)


async def test_a_living_node_has_half_a_heartbeat_to_remove_a_returned_page_from_its_list() -> None:
    host = Host()
    page, handle = host.page()
    host.accounting.page_returned(OTHER_NODE, handle, "v1")
    host.now += HEARTBEAT / 2 - 0.01
    await host.beat()
    assert host.store.recorded == {}
    host.now += 0.02
    await host.beat()
    assert host.store.recorded == {page: "v1"}


async def test_a_page_that_its_living_node_took_off_its_list_is_not_recorded_as_well() -> None:
    host = Host()
    _, handle = host.page()
    host.accounting.page_returned(OTHER_NODE, handle, "v1")
    await host.beat()  # as soon as it can be
    host.store.write(open_pages={}, departed={"v1": [public_id(OTHER_NODE, os.urandom(ID_BYTES))]})
    host.now += HEARTBEAT
    await host.beat()
    assert host.store.recorded == {}


async def test_a_returned_page_of_a_node_that_is_gone_is_recorded_at_once() -> None:
    host = Host()
    page, handle = host.page()
    host.store.present = False
    host.store.write(open_pages={"v1": [page]}, departed={})
    host.accounting.page_returned(OTHER_NODE, handle, "v1")
    await host.beat()
    assert host.store.recorded == {page: "v1"}


async def test_a_page_may_return_before_its_node_has_written_that_it_sent_the_page_away() -> None:
    host = Host()
    page = public_id(OTHER_NODE, os.urandom(ID_BYTES))
    other = public_id(OTHER_NODE, os.urandom(ID_BYTES))
    host.store.write(open_pages={"v1": [page]}, departed={"v1": [other]})
    host.accounting.page_returned(OTHER_NODE, handle_for(page, KEY), "v1")
    host.now += HEARTBEAT
    await host.beat()
    assert host.store.recorded == {}  # it is still counted as open
    host.store.write(open_pages={}, departed={"v1": [page, other]})
    await host.beat()
    assert host.store.recorded == {page: "v1"}


async def test_a_page_counts_for_the_version_of_the_list_whatever_it_says_itself() -> None:
    host = Host()
    page, handle = host.page("v1")
    host.accounting.page_returned(OTHER_NODE, handle, "v2")
    host.now += HEARTBEAT
    await host.beat()
    assert host.store.recorded == {page: "v1"}


async def test_a_made_up_handle_is_never_recorded() -> None:
    host = Host()
    page, _ = host.page()
    host.accounting.page_returned(OTHER_NODE, handle_for(page, b"x" * 32), "v1")
    host.now += HEARTBEAT
    await host.beat()
    assert host.store.recorded == {}
