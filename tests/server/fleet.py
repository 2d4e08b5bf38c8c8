"""
Three nodes and one Redis or Valkey, with pages and viewers: what the tests of a fleet's faults share.

A fleet with a clock of 0.25 waits a quarter of the product's seconds for Redis.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from kit.pages import BASE, Sse, WebSocket, all_of, ask, history
from kit.proxy import Proxy
from kit.stores import Store

from .serving import Server

TOKEN = {"Authorization": "Bearer s3cret-of-the-tests"}
HEALED = 20.0
"""Seconds in which everything must be right again after a fault, most of which is back-off."""
CLOCK = 0.25
"""The fast one. Any faster, and a busy machine would take longer to answer than such a node waits."""


class Fleet:
    """
    Three nodes behind proxies of their own, a viewer and some pages at each.

    Attributes:
        pages: `{node: its pages}`.
        viewers: One at each node.
        clock: Seconds on its nodes for each real one.
        least: What every figure must come to that is not partial; a node that dies or cannot be heard takes from it.
    """

    def __init__(self, store: Store, servers: list[Server], proxies: list[Proxy], clock: float = 1.0) -> None:
        self.clock = clock
        self.store = store
        self.servers = servers
        self.proxies = proxies
        self.pages: list[list[Sse | WebSocket]] = []
        self.viewers: list[Sse] = []
        self.least = 0
        self._marks = [0] * len(servers)

    async def fill(self) -> None:
        for server in self.servers:
            self.pages.append(await all_of([Sse.open(server.url, version="v1", route="/") for _ in range(5)]))
        await self.until_all_listed()  # nobody can know of a node that has not reached Redis yet
        for server in self.servers:
            viewer = await Sse.open(server.url, token="s3cret-of-the-tests", viewer=1)
            status, _ = await ask(
                server.url, "POST", BASE + "/subscribe-stats", {"connectionId": viewer.handle, "deltas": True}, TOKEN
            )
            assert status == 200
            self.viewers.append(viewer)
        await self.until_exact()
        self.least = self.total

    async def open_page(self, node: int, version: str = "v1") -> Sse:
        page = await Sse.open(self.servers[node].url, version=version, route="/")
        self.pages[node].append(page)
        return page

    @property
    def total(self) -> int:
        return sum(map(len, self.pages))

    async def until_all_listed(self) -> None:
        """Wait until Redis lists every node."""
        deadline = time.monotonic() + 10
        while len(self.store.lines("SMEMBERS", "{headcount:test}:nodes")) < len(self.servers):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    async def until_exact(self) -> None:
        """Wait until every viewer has the sum and nothing is missing."""
        timeout = max(HEALED * self.clock, 10.0)
        for viewer in self.viewers:
            if not viewer.ended:
                await viewer.until(lambda s: self._is_exact(figures(s)), timeout)
                assert sum(figures(viewer)["versions"].values()) == self.total

    def _is_exact(self, shown: dict[str, Any]) -> bool:
        if shown["total"] != self.total or shown["partial"]:
            return False
        # The rows of a node may come after its totals.
        rows = len(shown["connections"])
        assert rows == self.total or shown["connectionsTruncated"], "a list that is not whole says so"
        return rows == self.total

    async def until_each_is_partial(self, timeout: float = 10) -> None:
        """Wait until every node marks its figures partial, and see that its own pages still count."""
        for number, viewer in enumerate(self.viewers):
            await viewer.until(lambda s: figures(s)["partial"] is True, timeout)
            name = f"during-{number}-{len(self.pages[number])}"
            await self.open_page(number, name)
            await viewer.until(lambda s: figures(s)["versions"].get(name) == 1, timeout)  # noqa: B023  awaited at once

    def mark_logs(self) -> None:
        """Let `logs` return what the nodes write from now on."""
        self._marks = [len(server.log) for server in self.servers]

    def logs(self) -> list[str]:
        """Return what each node has written since `mark_logs`."""
        return [server.log[mark:] for server, mark in zip(self.servers, self._marks, strict=True)]

    def without(self, node: int) -> int:
        """Return how many pages the other nodes have: what remains when one is lost."""
        self.least = min(self.least, self.total - len(self.pages[node]))
        return self.total - len(self.pages[node])

    def assert_never_wrong(self) -> None:
        """Assert that no figure was ever negative, more than there were, or less and yet said to be whole."""
        for viewer in self.viewers:
            for _, seen in history(viewer):
                assert 0 <= seen["total"] <= self.total
                assert all(0 <= count <= self.total for count in seen["versions"].values())
                assert seen["partial"] or seen["total"] >= self.least, seen


def figures(viewer: Sse) -> dict[str, Any]:
    if viewer.figures is None:
        return {"total": -1, "partial": None, "versions": {}, "connections": [], "nodes": {}}
    return viewer.figures


def node_counts(seen: dict[str, Any]) -> tuple[int, int]:
    """Return how many nodes of some figures report, and how many are expected."""
    return seen["nodes"]["reporting"], seen["nodes"]["expected"]


@asynccontextmanager
async def three_nodes(program: str, clock: float = 1.0) -> AsyncIterator[Fleet]:
    """Start a store and three nodes, each behind a proxy of its own, and fill them with pages and viewers."""
    with ExitStack() as stack:
        store = stack.enter_context(Store(program))
        proxies = [await Proxy(store.port).__aenter__() for _ in range(3)]
        servers = [
            stack.enter_context(
                Server(
                    "uvicorn",
                    admin_token="s3cret-of-the-tests",
                    backend=f"redis://127.0.0.1:{proxy.port}/0",
                    fleet_name="test",
                    environment={"FLEET_CLOCK": str(clock)},
                )
            )
            for proxy in proxies
        ]
        for server in servers:
            await asyncio.to_thread(server.wait_ready)
        fleet = Fleet(store, servers, proxies, clock)
        try:
            await fleet.fill()
            yield fleet
            fleet.assert_never_wrong()
            for server in servers:
                assert "Traceback" not in server.log, server.log[-3000:]
        finally:
            for proxy in proxies:
                await proxy.__aexit__()
