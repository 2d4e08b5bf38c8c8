"""Paging through the connections of one node, without a server."""

import asyncio
import threading

import pytest

from headcount.core.paging import Order
from headcount.core.registry import Registry
from headcount.node import listing
from headcount.node.listing import Listing

pytestmark = pytest.mark.anyio


def made(count: int) -> tuple[Registry, Listing]:
    registry = Registry()
    for number in range(count):
        registry.open(f"id{number}", f"v{number % 2}", f"/{count - number}")
    return registry, Listing(registry, threading.RLock(), lambda: None)


def test_pages_are_oldest_first_and_end() -> None:
    _, pages = made(5)
    first = pages.list_connections(version=None, route=None, limit=3, after=0)
    assert [row.id for row in first.rows] == ["id0", "id1", "id2"]
    assert first.next is not None
    last = pages.list_connections(version=None, route=None, limit=3, after=first.next)
    assert ([row.id for row in last.rows], last.next) == (["id3", "id4"], None)


def test_a_page_can_be_of_one_version() -> None:
    _, pages = made(5)
    page = pages.list_connections(version="v1", route=None, limit=10, after=0)
    assert [row.id for row in page.rows] == ["id1", "id3"]


async def test_sorted_connections_come_in_order_and_say_whether_there_are_more() -> None:
    _, pages = made(5)
    order = Order("route", descending=False)
    found = await pages.list_sorted(order, version=None, route=None, limit=2, after=None)
    assert ([row.route for row in found.rows], found.more) == (["/1", "/2"], True)
    rest = await pages.list_sorted(order, version=None, route=None, limit=9, after=order.position(found.rows[-1]))
    assert ([row.route for row in rest.rows], rest.more) == (["/3", "/4", "/5"], False)


async def test_other_work_has_its_turn_while_connections_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CONNECTIONS_PER_STEP", 1)
    registry, pages = made(4)
    order = Order("id", descending=True)
    sorting = asyncio.create_task(pages.list_sorted(order, version=None, route=None, limit=9, after=None))
    await asyncio.sleep(0)
    assert not sorting.done()
    registry.close("id3")
    assert [row.id for row in (await sorting).rows] == ["id3", "id2", "id1", "id0"], "as it was when it began"
