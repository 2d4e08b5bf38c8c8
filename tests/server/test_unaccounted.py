"""
Nodes that are gone, one way or another, in real processes: what is said of their pages until they are back.

Redis's seconds are shortened by `FLEET_CLOCK`, the grace by its setting.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx2
import psutil
import pytest

from kit.pages import BASE, Sse, WebSocket, all_of, ask
from kit.stores import Store

from .fleet import TOKEN, node_counts
from .serving import Server

pytestmark = pytest.mark.anyio

GRACE = 16.0
"""More than the nine seconds after which a listener gives up a silent node by its own clock."""
CLOCK = 0.3
PATIENCE = 60.0
"""Seconds for what happens sooner, unless the machine is busy."""


class Nodes:
    """Servers of one fleet."""

    def __init__(self, stack: ExitStack, store: Store, count: int = 3, **settings: Any) -> None:
        self.store = store
        self.servers = [
            stack.enter_context(
                Server(
                    "uvicorn",
                    admin_token="s3cret-of-the-tests",
                    backend=store.url,
                    fleet_name="test",
                    environment={"FLEET_CLOCK": str(CLOCK)},
                    **{"unaccounted_grace": GRACE, **settings},
                )
            )
            for _ in range(count)
        ]

    async def ready(self) -> "Nodes":
        for server in self.servers:
            await asyncio.to_thread(server.wait_ready)
        await until_figures(self.servers[0], lambda seen: node_counts(seen) == (len(self.servers), len(self.servers)))
        return self


async def stats(server: Server) -> dict[str, Any]:
    status, seen = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
    assert status == 200, seen
    answer: dict[str, Any] = seen
    return answer


async def until_figures(server: Server, condition: Callable[[dict[str, Any]], bool], what: str = "") -> dict[str, Any]:
    seen: dict[str, Any] = {}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        seen = await stats(server)
        if condition(seen):
            return seen
        await asyncio.sleep(0.05)
    log = "\n".join(line for line in server.log.splitlines() if "GET /__skew/admin" not in line)
    raise AssertionError(f"{what}: at last {seen}; {log[-3000:]}")


async def pages_of(server: Server, count: int, version: str = "v1") -> list[Sse | WebSocket]:
    kinds = [Sse if number % 2 else WebSocket for number in range(count)]
    return await all_of([kind.open(server.url, version=version, route="/") for kind in kinds])


async def metrics(server: Server) -> dict[str, float]:
    """Return what Prometheus gets, of what is unaccounted for: connections by state, and nodes."""
    text = await asyncio.to_thread(_scrape, server)
    found = re.findall(r'^headcount_(?:nodes_)?unaccounted(?:_connections\{state="(.+)"\})? (\S+)$', text, re.MULTILINE)
    return {state or "nodes": float(value) for state, value in found}


def _scrape(server: Server) -> str:
    return httpx2.get(f"{server.url}{BASE}/metrics", headers=TOKEN, timeout=30).text


def gone(seen: dict[str, Any]) -> list[tuple[int | None, dict[str, int], str]]:
    return [(one["total"], one["versions"], one["state"]) for one in seen.get("absences", [])]


def never_silent(seen: list[dict[str, Any]], pages: int) -> None:
    """Whoever takes these figures for the truth knows of every page."""
    for one in seen:
        assert one["partial"] or one["total"] + one.get("unaccounted", 0) >= pages, one


async def test_pages_of_a_killed_node_are_unaccounted_for_until_they_are_back_or_the_grace_is_over() -> None:
    with ExitStack() as stack:
        nodes = await Nodes(stack, stack.enter_context(Store())).ready()
        dying, *others = nodes.servers
        pages = await pages_of(dying, 4) + await pages_of(dying, 2, "v2")
        await until_figures(others[0], lambda seen: seen["total"] == 6)
        await asyncio.sleep(2 * 3 * CLOCK)  # two signs of life, the last of which has all pages
        dying.process.kill()
        killed = time.monotonic()
        seen: list[dict[str, Any]] = []

        def is_out(figures: dict[str, Any]) -> bool:
            seen.append(figures)
            return bool(figures["total"] == 0)

        await until_figures(others[0], is_out, "it leaves the figures")
        never_silent(seen, 6)
        for server in others:
            told = await until_figures(server, lambda figures: bool(figures.get("absences")), "whoever is asked")
            assert gone(told) == [(6, {"v1": 4, "v2": 2}, "vanished")]
            assert (told["unaccounted"], told["partial"]) == (6, True)
            assert await metrics(server) == {"vanished": 6, "cut-off": 0, "leaving": 0, "unanswered": 0, "nodes": 1}

        # Two come back, one of them twice, and somebody who knows nothing but the node's id.
        for page in (pages[0], pages[0], pages[5]):
            version = "v1" if page is pages[0] else "v2"
            await Sse.open(others[0].url, version=version, route="/", replaces=page.handle)
        forged = pages[1].handle[:-8] + "00000000"
        await Sse.open(others[0].url, version="v1", route="/", replaces=forged)
        told = await until_figures(others[1], lambda figures: figures.get("unaccounted") == 4, "those that came back")
        assert gone(told) == [(4, {"v1": 3, "v2": 1}, "vanished")]

        told = await until_figures(others[1], lambda figures: not figures["partial"], "the grace is over")
        assert "unaccounted" not in told
        assert time.monotonic() - killed > GRACE - 1.5, "counted from its last sign of life"
        assert (told["total"], node_counts(told)) == (4, (2, 2))


async def test_only_pages_that_their_node_counted_when_it_died_take_one_off() -> None:
    with ExitStack() as stack:
        nodes = await Nodes(stack, stack.enter_context(Store()), unaccounted_grace=60).ready()
        dying, other, _ = nodes.servers
        collected = [*await pages_of(dying, 5), await Sse.open(dying.url, viewer="1", version="v1", headers=TOKEN)]
        for stream in collected[:5]:
            await stream.leave()
        pages = await pages_of(dying, 4) + await pages_of(dying, 2, "v2")
        await until_figures(other, lambda seen: seen["total"] == 6)
        await asyncio.sleep(3 * 3 * CLOCK)  # some signs of life, the last of which has these pages only
        dying.process.kill()
        await until_figures(other, lambda figures: figures.get("unaccounted") == 6)
        # A stranger has handles of streams that ended, and of one that was not counted.
        for stream in collected:
            await Sse.open(other.url, version="v1", route="/", replaces=stream.handle)
        # One page comes back by itself, another one was reloaded meanwhile.
        await Sse.open(other.url, version="v1", route="/", replaces=pages[0].handle)
        await Sse.open(other.url, version="v3", route="/", replaces=pages[4].handle)
        await until_figures(other, lambda figures: figures.get("unaccounted", 6) <= 4, "those that came back")
        await asyncio.sleep(3 * 3 * CLOCK)
        assert gone(await stats(other)) == [(4, {"v1": 3, "v2": 1}, "vanished")]


async def test_whoever_asks_first_after_a_node_died_learns_of_it() -> None:
    with ExitStack() as stack:
        nodes = await Nodes(stack, stack.enter_context(Store()), unaccounted_grace=60).ready()
        dying, *others = nodes.servers
        await asyncio.sleep(10.5)  # until nobody listens any more
        await pages_of(dying, 3)
        await asyncio.sleep(2 * 3 * CLOCK)
        dying.process.kill()
        await asyncio.sleep(12.0)
        newcomer = stack.enter_context(
            Server(
                "uvicorn",
                admin_token="s3cret-of-the-tests",
                backend=nodes.store.url,
                fleet_name="test",
                environment={"FLEET_CLOCK": str(CLOCK)},
                unaccounted_grace=60,
            )
        )
        await asyncio.to_thread(newcomer.wait_ready)
        for server in (newcomer, others[1]):
            told = await until_figures(server, lambda figures: bool(figures.get("unaccounted")), "it was not there")
            assert gone(told) == [(3, {"v1": 3}, "vanished")]

        # The store is started empty: what it knew is written back by those who know it.
        nodes.store.kill()
        nodes.store.start()
        for server in (others[0], newcomer, others[1]):
            seen: list[dict[str, Any]] = []

            def back(figures: dict[str, Any], seen: list[dict[str, Any]] = seen) -> bool:
                seen.append(figures)
                return figures["nodes"]["reporting"] == 3 and bool(gone(figures))

            assert gone(await until_figures(server, back, "they are back")) == [(3, {"v1": 3}, "vanished")]
            never_silent(seen, 3)


async def test_a_stopped_node_is_cut_off_until_it_goes_on_or_an_operator_says_that_it_is_gone() -> None:
    with ExitStack() as stack:
        nodes = await Nodes(stack, stack.enter_context(Store()), unaccounted_grace=2).ready()
        one, two, other = nodes.servers
        await all_of([pages_of(one, 3), pages_of(two, 2)])
        await until_figures(other, lambda seen: seen["total"] == 5)
        await asyncio.sleep(2 * 3 * CLOCK)
        for server in (one, two):
            server.signal(signal.SIGSTOP)
        told = await until_figures(other, lambda figures: figures.get("unaccounted") == 5, "they are found out")
        await asyncio.sleep(2 * 2)
        told = await stats(other)
        assert sorted(gone(told)) == [(2, {"v1": 2}, "cut-off"), (3, {"v1": 3}, "cut-off")], "no grace ends that"
        assert await metrics(other) == {"vanished": 0, "cut-off": 5, "leaving": 0, "unanswered": 0, "nodes": 2}

        one.signal(signal.SIGCONT)
        told = await until_figures(
            other, lambda figures: figures["total"] == 3 and figures.get("unaccounted") == 2, "it is back"
        )
        (absence,) = told["absences"]
        status, _ = await ask(other.url, "POST", BASE + "/admin/nodes/forget", {"node": absence["node"]}, TOKEN)
        assert status == 200
        told = await until_figures(one, lambda figures: not figures["partial"], "it is forgotten everywhere")
        assert (told["total"], told["nodes"]["expected"]) == (3, 2)
        status, problem = await ask(other.url, "POST", BASE + "/admin/nodes/forget", {"node": "ab12"}, TOKEN)
        assert (status, "unaccounted" in problem["detail"]) == (404, True)

        two.signal(signal.SIGCONT)
        told = await until_figures(
            one, lambda figures: figures["total"] == 5 and not figures["partial"], "and it is back after all"
        )


async def test_the_grace_of_a_node_that_was_stopped_begins_when_it_is_killed() -> None:
    with ExitStack() as stack:
        nodes = await Nodes(stack, stack.enter_context(Store()), unaccounted_grace=3).ready()
        one, _, other = nodes.servers
        await pages_of(one, 3)
        await until_figures(other, lambda seen: seen["total"] == 3)
        await asyncio.sleep(2 * 3 * CLOCK)
        one.signal(signal.SIGSTOP)
        await until_figures(other, lambda figures: gone(figures) == [(3, {"v1": 3}, "cut-off")])
        await asyncio.sleep(4)
        one.process.kill()
        await until_figures(other, lambda figures: gone(figures) == [(3, {"v1": 3}, "vanished")])
        await until_figures(other, lambda figures: not figures["partial"])


async def test_pages_of_a_node_that_stops_are_on_their_way() -> None:
    with ExitStack() as stack:
        nodes = await Nodes(stack, stack.enter_context(Store()), reconnect_spread=3, unaccounted_grace=60).ready()
        stopping, *others = nodes.servers
        pages = await pages_of(stopping, 6)
        await until_figures(others[0], lambda seen: seen["total"] == 6)
        seen: list[dict[str, Any]] = []

        def is_out(figures: dict[str, Any]) -> bool:
            seen.append(figures)
            return bool(figures["nodes"]["expected"] == 2)

        stopping.process.terminate()
        await until_figures(others[0], is_out, "it is gone")
        never_silent(seen, 6)
        told = await stats(others[1])
        assert gone(told) == [(6, {"v1": 6}, "leaving")]
        assert await metrics(others[1]) == {"vanished": 0, "cut-off": 0, "leaving": 6, "unanswered": 0, "nodes": 1}
        for page in pages[:2]:
            await Sse.open(others[1].url, version="v1", route="/", replaces=page.handle)
        told = await until_figures(others[0], lambda figures: figures.get("unaccounted") == 4, "two are back")
        told = await until_figures(others[0], lambda figures: not figures["partial"], "their time is over")
        assert told["total"] == 2
        await asyncio.to_thread(stopping.wait, 10)


async def test_history_is_kept_though_nobody_watches_and_is_the_same_whichever_node_is_asked() -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        nodes = Nodes(stack, store, 2)
        for server in nodes.servers:
            await asyncio.to_thread(server.wait_ready)
        one, two = nodes.servers
        await all_of([pages_of(one, 3), pages_of(two, 2, "v2")])
        async with asyncio.timeout(PATIENCE):
            while not (lines := store.lines("LRANGE", "{headcount:test}:history", "0", "-1")):
                await asyncio.sleep(0.2)
            await ask(one.url, "POST", BASE + "/admin/release", {"version": "v2"}, TOKEN)
            while not any(b'"current":"v2"' in line for line in lines):
                await asyncio.sleep(0.2)
                lines = store.lines("LRANGE", "{headcount:test}:history", "0", "-1")
        told = [(await ask(server.url, "GET", BASE + "/admin/history", headers=TOKEN))[1] for server in (one, two, one)]
        assert told[0]["samples"][:2] == told[1]["samples"][:2] == told[2]["samples"][:2]
        assert (told[0]["intervalMs"], told[0]["minutes"]["intervalMs"]) == (10_000, 60_000)
        first, second = told[0]["samples"][:2]
        assert second["at"] - first["at"] == 10_000, "no interval is left out"
        assert (second["total"], second["versions"]) == (5, {"v1": 3, "v2": 2})
        assert second["outdated"] == 3
        assert told[0]["rollouts"] == told[1]["rollouts"] == told[2]["rollouts"]
        [rollout] = told[0]["rollouts"]
        assert (rollout["version"], rollout["declared"], rollout["state"]) == ("v2", True, "running")
        assert (rollout["old"], rollout["curve"][-1]["on"], rollout["curve"][-1]["total"]) == (3, 2, 5)
        one.process.kill()
        await asyncio.to_thread(one.wait, 10)
        again = (await ask(two.url, "GET", BASE + "/admin/history", headers=TOKEN))[1]
        assert again["samples"][:2] == [first, second], "it outlives a node"


@pytest.mark.parametrize("backend", ["auto", "redis"])
async def test_pages_of_a_fleet_that_was_away_for_longer_than_they_were_told_are_still_expected(backend: str) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(Store()).url if backend == "redis" else backend
        settings: dict[str, Any] = {"backend": url, "reconnect_spread": 0, "unaccounted_grace": 6}
        server = stack.enter_context(Server("headcount-serve", **settings))
        await asyncio.to_thread(server.wait_ready)
        pages = await pages_of(server, 3)
        await until_figures(server, lambda seen: seen["total"] == 3)
        server.process.terminate()
        await asyncio.to_thread(server.wait, 10)
        await asyncio.sleep(3.5)  # they were told to come at once, and TRANSIT_SLACK is over
        again = stack.enter_context(Server("headcount-serve", port=server.port, **settings))
        await asyncio.to_thread(again.wait_ready)
        seen: list[dict[str, Any]] = []

        def is_settled(figures: dict[str, Any]) -> bool:
            seen.append(figures)
            return not figures["partial"]

        first = await stats(again)
        assert gone(first) == [(3, {"v1": 3}, "leaving")], "the first answer says so"
        await Sse.open(again.url, version="v1", route="/", replaces=pages[0].handle)
        await until_figures(again, lambda figures: figures.get("unaccounted") == 2, "one is back")
        await until_figures(again, is_settled, "their time is over")
        never_silent(seen[:-1], 3)


def _worker_of(page: Sse | WebSocket, server: Server) -> psutil.Process:
    """Return the process that holds a page's stream."""
    port = page.transport.get_extra_info("sockname")[1]
    for process in server.processes():
        for connection in process.net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port:
                return process
    raise AssertionError("no process has the stream")


async def _workers(stack: ExitStack, **settings: Any) -> tuple[Server, list[Sse | WebSocket]]:
    server = stack.enter_context(Server("headcount-workers", **settings))
    await asyncio.to_thread(server.wait_ready)
    pages = await pages_of(server, 24)
    await until_figures(server, lambda seen: seen["total"] == 24 and not seen["partial"])
    await asyncio.sleep(2.5)
    return server, pages


def _of_one(pages: list[Sse | WebSocket]) -> list[Sse | WebSocket]:
    return [page for page in pages if page.handle[:12] == pages[0].handle[:12]]


async def test_pages_of_a_killed_worker_are_unaccounted_for() -> None:
    with ExitStack() as stack:
        server, pages = await _workers(stack, unaccounted_grace=15)
        lost = _of_one(pages)
        _worker_of(lost[0], server).kill()
        for _ in range(8):
            told = await until_figures(server, lambda seen: seen["total"] == 24 - len(lost), "whichever worker answers")
            assert gone(told) == [(len(lost), {"v1": len(lost)}, "vanished")]
        await Sse.open(server.url, version="v1", route="/", replaces=lost[0].handle)
        left = len(lost) - 1
        await until_figures(server, lambda seen: seen.get("unaccounted", 0) == left, "one is back")
        for _ in range(8):
            await until_figures(server, lambda seen: not seen["partial"], "the grace is over")


async def test_pages_of_a_stopped_worker_are_unaccounted_for_until_it_goes_on() -> None:
    with ExitStack() as stack:
        server, pages = await _workers(stack, unaccounted_grace=2)
        lost = _of_one(pages)
        worker = _worker_of(lost[0], server)
        worker.suspend()
        try:
            await _until_unaccounted(server, gone_as=[(len(lost), {"v1": len(lost)}, "cut-off")])
        finally:
            worker.resume()
        for _ in range(8):
            await until_figures(server, lambda seen: seen["total"] == 24 and not seen["partial"], "it is back")


async def _until_unaccounted(server: Server, gone_as: list[tuple[int | None, dict[str, int], str]]) -> None:
    """Ask until a worker that is not stopped says so; the others answer nothing."""
    deadline = time.monotonic() + PATIENCE
    told: Any = None
    while time.monotonic() < deadline:
        try:
            async with asyncio.timeout(3):
                told = await stats(server)
        except (TimeoutError, OSError):
            continue
        if gone(told) == gone_as:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(told)


async def test_a_machine_of_workers_that_is_gone_is_known_to_those_that_come_after() -> None:
    with ExitStack() as stack:
        server, pages = await _workers(stack, unaccounted_grace=20)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(10)
        again = stack.enter_context(Server("headcount-workers", port=server.port, unaccounted_grace=20))
        await asyncio.to_thread(again.wait_ready)
        told = await until_figures(again, lambda seen: seen.get("unaccounted") == 24, "its files are still there")
        assert {one["state"] for one in told["absences"]} == {"vanished"}
        await Sse.open(again.url, version="v1", route="/", replaces=pages[0].handle)
        await until_figures(again, lambda seen: seen.get("unaccounted") == 23, "one is back")
        for _ in range(8):
            await until_figures(again, lambda seen: not seen["partial"], "the grace is over")
