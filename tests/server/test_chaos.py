"""
Real processes, a real Redis, thousands of connections, and everything that can go wrong, one thing upon another.

Short in `make test`; `make chaos` sets CHAOS_SECONDS and CHAOS_PAGES for a long one. What is true is counted apart from
all of it: a page is there while its stream is open, and shows what it last said. Whenever the faults pause, every
viewer must come to exactly that, and at no time may a figure be negative or more than there ever were at once.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from backends.stores import PROGRAMS, Store

from .peers import BASE, Sse, WebSocket, all_of, ask
from .serving import Server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(int(os.environ.get("CHAOS_SECONDS", "25")) * 3 + 240),
]

SECONDS = int(os.environ.get("CHAOS_SECONDS", "25"))
PAGES = int(os.environ.get("CHAOS_PAGES", "1000"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
NODES = 3
TOKEN = {"Authorization": "Bearer s3cret"}
SETTLES = 30.0
"""Seconds after the last fault: nodes expire after nine, back-off is five at most, and the machine is busy."""


class Chaos:
    """The fleet, its pages, and what is wrong at present."""

    def __init__(self, stack: ExitStack) -> None:
        self.chance = random.Random(SEED)
        self.store = stack.enter_context(
            Store(self.chance.choice([name for name in ("redis", "valkey") if PROGRAMS[name]]))
        )
        # Two machines with a server of one process, and one with three workers.
        self.kinds = ["uvicorn", "uvicorn", "headcount-chaos"]
        self.servers = [stack.enter_context(self._server(kind)) for kind in self.kinds]
        self.pages: dict[Sse | WebSocket, tuple[str, str]] = {}
        self.viewers: list[Sse] = []
        self.most = 0
        """Pages that were ever open at once; those that are being closed count."""
        self.log: list[str] = []
        self._stack = stack

    def _server(self, kind: str) -> Server:
        return Server(kind, admin_token="s3cret", backend=self.store.url, fleet_name="chaos", route_tracking="true")

    # ---- pages

    async def come(self, count: int) -> None:
        alive = [server for server in self.servers if server.process.poll() is None]
        wishes = [
            (self.chance.choice((Sse, WebSocket)), self.chance.choice(alive), f"v{self.chance.randrange(4)}", "/")
            for _ in range(count)
        ]

        async def one(kind: Any, server: Server, version: str, route: str) -> None:
            with suppress(OSError, AssertionError):  # a server that is being killed
                page = await kind.open(server.url, version=version, route=route)
                self.pages[page] = (version, route)

        await all_of([one(*wish) for wish in wishes])
        self._count()

    def go(self, count: int) -> None:
        for page in self.chance.sample(list(self.pages), min(count, len(self.pages))):
            self.chance.choice([page.fin, page.rst])()
            del self.pages[page]

    async def navigate(self, count: int) -> None:
        # Half open sockets of killed servers say nothing any more; only those that answer are taken at their word.
        for page in self.chance.sample(list(self.pages), min(count, len(self.pages))):
            route = f"/{self.chance.randrange(10)}"
            version, before = self.pages[page]
            if isinstance(page, WebSocket):
                if not page.ended:
                    await page.navigate("", route)
                    self.pages[page] = (version, route)
                continue
            server = self.chance.choice(self.servers)  # any POST may land anywhere
            try:
                async with asyncio.timeout(12):
                    status = await page.post(server.url, "/route", route=route)
            except (OSError, AssertionError, TimeoutError, ValueError, IndexError):
                status = 0
            if status == 200:
                self.pages[page] = (version, route)
            else:
                # Nobody knows whether it arrived, so this page is asked to leave.
                page.fin()
                self.pages.pop(page, None)
                assert before

    def _count(self) -> None:
        for page in [page for page in self.pages if page.ended]:
            del self.pages[page]
        self.most = max(self.most, len(self.pages))

    # ---- faults

    async def fault(self) -> None:
        kind = self.chance.choice(
            ["kill node", "kill worker", "stop node", "restart node", "kill redis", "clients", "sleep", "oom", "flush"]
        )
        self.log.append(kind)
        store = self.store
        match kind:
            case "kill node":
                await self._replace(signal.SIGKILL)
            case "restart node":
                await self._replace(signal.SIGTERM)
            case "kill worker":
                workers = self.servers[2].processes()[1:]
                if workers:
                    self.chance.choice(workers).kill()
            case "stop node":
                process = self.chance.choice(self.servers[:2]).process
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(self.chance.choice([1.0, 5.0, 11.0]))
                process.send_signal(signal.SIGCONT)
            case "kill redis":
                store.kill()
                await asyncio.sleep(self.chance.choice([0.2, 2.0, 10.0]))
                await asyncio.to_thread(store.start)
            case "clients":
                for what in ("normal", "pubsub"):
                    store.ask("CLIENT", "KILL", "TYPE", what)
            case "sleep":
                await asyncio.to_thread(store.ask, "DEBUG", "SLEEP", str(self.chance.choice([1, 4])))
            case "oom":
                store.ask("CONFIG", "SET", "maxmemory", "1")
                await asyncio.sleep(4)
                store.ask("CONFIG", "SET", "maxmemory", "0")
            case "flush":
                store.ask("FLUSHALL")

    async def _replace(self, number: signal.Signals) -> None:
        index = self.chance.randrange(2)
        self.servers[index].process.send_signal(number)
        await asyncio.to_thread(self.servers[index].process.wait, 30)
        self._count()
        self.servers[index] = self._stack.enter_context(self._server(self.kinds[index]))
        await asyncio.to_thread(self.servers[index].wait_ready)

    # ---- what must hold

    async def watch(self) -> None:
        """See to it that each server has a viewer that reads."""
        for server in self.servers:
            if any(viewer.transport.get_extra_info("peername")[1:2] == (server.port,) for viewer in self._reading()):
                continue
            async with asyncio.timeout(SETTLES):
                while True:
                    viewer = await Sse.open(server.url, token="s3cret", viewer=1)
                    body = {"connectionId": viewer.handle, "deltas": True}
                    status, _ = await ask(server.url, "POST", BASE + "/subscribe-stats", body, TOKEN)
                    if status == 200:
                        break
                    # It came to another worker, which cannot reach the owner yet: as clients do, begin anew.
                    assert status == 404
                    viewer.fin()
            self.viewers.append(viewer)

    def _reading(self) -> list[Sse]:
        return [viewer for viewer in self.viewers if not viewer.ended and not viewer.transport.is_closing()]

    async def exact(self) -> None:
        """Wait until every viewer has exactly what is there."""
        await self.watch()
        deadline = time.monotonic() + SETTLES
        while True:
            self._count()
            versions = Counter(version for version, _ in self.pages.values())
            routes = Counter(route for _, route in self.pages.values())
            viewers = self._reading()
            wrong = [
                viewer
                for viewer in viewers
                if viewer.figures is None
                or viewer.figures["partial"]
                or (viewer.figures["total"], viewer.figures["versions"], viewer.figures["routes"])
                != (len(self.pages), versions, routes)
            ]
            if viewers and not wrong:
                return
            assert time.monotonic() < deadline, (
                f"{len(wrong)} of {len(viewers)} viewers are wrong after {self.log}: {len(self.pages)} pages, "
                f"{versions}, {routes}; they say "
                + "; ".join(
                    str(
                        viewer.figures
                        and {name: viewer.figures[name] for name in ("total", "versions", "nodes", "partial")}
                    )
                    for viewer in wrong
                )
            )
            await asyncio.sleep(0.1)

    def never_wrong(self) -> None:
        for viewer in self.viewers:
            for message in viewer.messages:
                if message["type"] in ("stats", "stats-delta"):
                    # What is on its way out is still counted, and what came while we counted.
                    assert 0 <= message["total"] <= self.most + PAGES // 2, (message["total"], self.most, self.log)
                    assert all(count >= 0 for count in message["versions"].values())
                    assert all(count >= 0 for count in message["routes"].values())


async def test_whatever_happens_it_ends_exact() -> None:
    with ExitStack() as stack:
        chaos = Chaos(stack)
        for server in chaos.servers:
            await asyncio.to_thread(server.wait_ready)
        await chaos.come(PAGES)
        await chaos.exact()
        memory = {server.port: _memory(server) for server in chaos.servers}
        end = time.monotonic() + SECONDS
        rounds = 0
        while time.monotonic() < end:
            rounds += 1
            for _ in range(chaos.chance.randrange(1, 4)):
                fault = asyncio.ensure_future(chaos.fault())
                while not fault.done():
                    await chaos.come(PAGES // 50)
                    chaos.go(PAGES // 60)
                    await chaos.navigate(4)
                    await asyncio.sleep(0.1)
                await fault
            await chaos.come(max(0, PAGES - len(chaos.pages)))
            await chaos.exact()
        chaos.never_wrong()
        for server in chaos.servers:
            assert "Traceback" not in server.log, server.log[-4000:]
            if server.port in memory:
                grown = _memory(server) - memory[server.port]
                assert grown < 60 * 2**20, f"{server.name} has grown by {grown >> 20} MB after {chaos.log}"
        print(f"{rounds} rounds: {', '.join(chaos.log)}; {chaos.most} pages at once")


def _memory(server: Server) -> int:
    size = 0
    for process in server.processes():
        size += process.memory_info().rss
    return size
