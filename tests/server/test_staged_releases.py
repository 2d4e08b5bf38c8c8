"""Staged releases in a fleet: evenly over the pages of all nodes, whatever happens to some of them."""

import asyncio
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from kit.pages import Sse, ask, everybody_leaves
from kit.stores import Store

from .serving import Server

SECRET = "s3cret-of-the-tests"
AUTH = {"Authorization": f"Bearer {SECRET}"}
PAGES = 400
OVER = 20.0

pytestmark = pytest.mark.anyio


def node(store: Store) -> Server:
    """One server of the fleet, on the new version."""
    return Server("uvicorn", admin_token=SECRET, backend=store.url, version="v2", settle_time=0)


async def test_pages_of_four_nodes_are_asked_evenly_though_one_of_them_is_killed() -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        nodes = [stack.enter_context(node(store)) for _ in range(4)]
        for server in nodes:
            await asyncio.to_thread(server.wait_ready)
        pages = [await Sse.open(nodes[number % 4].url, version="v1", route="/") for number in range(PAGES)]
        await until_known(nodes[0], PAGES)
        began = time.monotonic()
        body = {"version": "v2", "over": OVER}
        status, answer = await ask(nodes[0].url, "POST", "/__skew/admin/release", body, AUTH)
        assert (status, answer["nodes"]) == (200, {"reached": 4, "expected": 4})
        await asyncio.sleep(OVER / 4)
        nodes[3].process.kill()
        moved = {}
        for number in range(3, PAGES, 4):
            old = pages[number]
            moved[number] = await Sse.open(
                nodes[number % 3].url, version="v1", route="/", replaces=old.messages[0]["connectionId"]
            )
        async with asyncio.timeout(OVER + 10):
            while len(times := heard(pages, moved)) < PAGES:
                await asyncio.sleep(0.1)
        # The stage of a page that came from the dead node may be up to the end, and the timer looks twice a second.
        assert max(times) - began <= OVER + 3
        seconds = Counter(int(at - began) for at in times)
        assert max(seconds.values()) <= 3 * PAGES / OVER, seconds
        assert len(seconds) >= OVER * 0.8, "they are spread over the whole time"
        status, rollout = await ask(nodes[1].url, "GET", "/__skew/admin/rollout", None, AUTH)
        assert (status, rollout["version"], rollout["state"], rollout["waiting"]) == (200, "v2", "done", 0)
        assert rollout["nodes"]["reached"] == 3
        assert 300 <= rollout["invited"] <= PAGES
        await everybody_leaves()


async def test_a_pause_holds_on_every_node_and_on_one_that_is_started_meanwhile() -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        one, two = (stack.enter_context(node(store)) for _ in range(2))
        for server in (one, two):
            await asyncio.to_thread(server.wait_ready)
        pages = [await Sse.open(server.url, version="v1", route="/") for server in (one, two) for _ in range(20)]
        await until_known(one, 40)
        await ask(one.url, "POST", "/__skew/admin/release", {"version": "v2", "over": 600}, AUTH)
        status, _ = await ask(two.url, "POST", "/__skew/admin/release", {"change": "pause"}, AUTH)
        assert status == 200
        late = stack.enter_context(node(store))
        await asyncio.to_thread(late.wait_ready)
        await until_known(late, 40)
        pages.append(await Sse.open(late.url, version="v1", route="/"))
        before = sum(bool(page.of_type("version")) for page in pages)
        status, rollout = await ask(late.url, "GET", "/__skew/admin/rollout", None, AUTH)
        assert (rollout["state"], rollout["nodes"], rollout["partial"]) == (
            "paused",
            {"reached": 3, "expected": 3},
            False,
        )
        assert rollout["waiting"] + rollout["invited"] == 41
        await ask(late.url, "POST", "/__skew/admin/release", {"change": "abort"}, AUTH)
        await asyncio.sleep(1.5)
        assert sum(bool(page.of_type("version")) for page in pages) == before
        await ask(one.url, "POST", "/__skew/admin/release", {"version": "v2"}, AUTH)
        for page in pages:
            await page.until(lambda one: bool(one.of_type("version")))
        await everybody_leaves()


def heard(pages: list[Sse], moved: dict[int, Sse]) -> list[float]:
    """When each page heard of the version first, on its old stream or on its new one."""
    found = []
    for number, page in enumerate(pages):
        streams = [page, moved[number]] if number in moved else [page]
        times = [
            at
            for stream in streams
            for message, at in zip(stream.messages, stream.times, strict=True)
            if message["type"] == "version"
        ]
        if times:
            found.append(min(times))
    return found


async def until_known(node: Server, total: int) -> None:
    """Wait until a node knows all pages of the fleet, and no node is missing."""
    async with asyncio.timeout(30):
        while True:
            _, stats = await ask(node.url, "GET", "/__skew/admin/stats", None, AUTH)
            if stats["total"] == total and not stats["partial"]:
                return
            await asyncio.sleep(0.05)
