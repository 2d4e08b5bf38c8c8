"""
Real processes, a real Redis, thousands of connections, and everything that can go wrong, one thing upon another.

Short in `make test`; `make chaos` sets CHAOS_SECONDS and CHAOS_PAGES for a long one. What is true is counted apart from
all of it: a page is there while its stream is open, and shows what it last said. Whenever the faults pause, every
viewer must come to exactly that. At no time, faults or not, may it be told

- less than nothing, or more than there were at each node since it must have been heard of;
- less than its own node has;
- that its figures are whole, when somebody is missing who was there all the time;

nor may a stream end of a server that lives.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from headcount.core.away_pages import GRACE
from kit.pages import BASE, Sse, WebSocket, all_of, ask, history
from kit.proxy import Proxy
from kit.stores import PROGRAMS, Store

from .serving import VERSION, Server
from .tally import Tally

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(int(os.environ.get("CHAOS_SECONDS", "25")) * 3 + 240),
]

SECONDS = int(os.environ.get("CHAOS_SECONDS", "25"))
PAGES = int(os.environ.get("CHAOS_PAGES", "1000"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
MINUTES = SECONDS >= 120
"""Whether there is time for faults that last a minute."""
TOKEN = {"Authorization": "Bearer s3cret-of-the-tests"}
LISTED = 1_000
"""Connections that a viewer is shown at most."""
WORKERS = 3
FLEET = 2 + WORKERS
"""Nodes: two machines with a server of one process, and one with workers."""

AWAY_GRACE = 3.0
"""Seconds for which a page that left without a farewell may come back, by servers of the tests' application."""
SETTLES = 30.0 + GRACE
"""
Seconds after the last fault: nodes expire after nine, back-off is five at most, and the machine is busy. Such pages of
`headcount serve` that stopped are unaccounted for as long as any may come back.
"""
GHOST = 10.0
"""Seconds in which a node that died must be out, while it can be heard who is silent."""
REPRIEVE = 9.0
"""Further seconds that those get, once, who had no chance to be heard because Redis was away."""
SILENT = 11.0
"""Seconds that the figures of a node may be old which is said to report: 4.5 without a word, and what it said may have
been under way for the 6 in which nobody knows that Redis hangs."""
AWAY = 10.0
"""Seconds after a fault for which Redis may still be away from a node: back-off is 7.5 at most, and it must connect."""
LATE = 3.0
"""Seconds that a node's own figures may be late on a busy machine."""

FAULTS = (
    *("kill node", "kill worker", "stop node", "restart node", "kill redis", "clients", "freeze", "pause", "oom"),
    *("flush", "read-only", "cut"),
)


class Chaos:
    """
    The fleet, its pages, and what is wrong at present.

    Attributes:
        pages: `{page: (its version, its route)}` of those that are open.
        tallies: `{(node, version): how many of them}`, and None in place of the version for all.
        deaf: When nodes could not hear one another, in order: start and end.
        unheard: Which nodes could not be heard, and when: start and end.
        met: When all viewers were exact, in order, and which nodes had pages then.
    """

    def __init__(self) -> None:
        self.chance = random.Random(SEED)
        self.kinds = ["uvicorn", "uvicorn", "headcount-chaos"]
        self.servers: list[Server] = []
        self.all_servers: list[Server] = []
        self.pages: dict[Sse | WebSocket, tuple[str, str]] = {}
        self.viewers: list[Sse] = []
        self.tallies: dict[tuple[str, str | None], Tally] = {}
        self.deaf: list[tuple[float, float]] = []
        self.unheard: list[tuple[str, float, float]] = []
        self.met: list[tuple[float, set[str]]] = []
        self.most = 0
        """Pages that were ever open at once."""
        self.log: list[str] = []
        self._deck: list[str] = []
        """The faults that are to come before any comes again."""
        self._ports: dict[str, int] = {}
        """`{node: port of its server}`, as far as streams told."""
        self._ending: set[int] = set()
        """Ports of servers that were told to end."""

    async def start(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.store = stack.enter_context(
            Store(self.chance.choice([name for name in ("redis", "valkey") if PROGRAMS[name]]))
        )
        self.proxies = [await stack.enter_async_context(Proxy(self.store.port)) for _ in self.kinds]
        for index in range(len(self.kinds)):
            self.servers.append(self._start(index))
        for server in self.servers:
            await asyncio.to_thread(server.wait_ready)

    def _start(self, index: int) -> Server:
        url = f"redis://127.0.0.1:{self.proxies[index].port}/0"
        server = self._stack.enter_context(
            Server(
                self.kinds[index],
                admin_token="s3cret-of-the-tests",
                backend=url,
                fleet_name="chaos",
                route_tracking="true",
                environment={"AWAY_GRACE": str(AWAY_GRACE)},
            )
        )
        self.all_servers.append(server)
        return server

    async def open_pages(self, count: int) -> None:
        alive = [server for server in self.servers if server.process.poll() is None]
        wishes = [
            (self.chance.choice((Sse, WebSocket)), self.chance.choice(alive), f"v{self.chance.randrange(4)}", "/")
            for _ in range(count)
        ]

        async def one(kind: Any, server: Server, version: str, route: str) -> None:
            try:
                page = await kind.open(server.url, version=version, route=route)
            except (OSError, AssertionError):  # a server that is being killed; it may have counted it, and told so
                self._tally("", version, 1)
                self._tally("", version, -1)
            else:
                self.pages[page] = (version, route)
                self._tally(page.handle[:12], version, 1)
                self._ports[page.handle[:12]] = server.port

        await all_of([one(*wish) for wish in wishes])
        self._count()

    def go(self, count: int) -> None:
        for page in self.chance.sample(list(self.pages), min(count, len(self.pages))):
            self._gone(page)
            self.chance.choice([page.fin, page.rst])()

    async def navigate(self, count: int) -> None:
        # Half open sockets of killed servers say nothing any more; only those that answer are taken at their word.
        for page in self.chance.sample(list(self.pages), min(count, len(self.pages))):
            route = f"/{self.chance.randrange(10)}"
            if page not in self.pages:
                continue  # its server was killed meanwhile
            version, _ = self.pages[page]
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
            if page not in self.pages:
                continue
            if status == 200:
                self.pages[page] = (version, route)
            else:
                # Nobody knows whether it arrived, so this page is asked to leave.
                self._gone(page)
                page.fin()

    def _gone(self, page: Sse | WebSocket) -> None:
        version, _ = self.pages.pop(page)
        self._tally(page.handle[:12], version, -1)

    def _tally(self, node: str, version: str, by: int) -> None:
        for label in (version, None):
            self.tallies.setdefault((node, label), Tally()).add(by)

    def _count(self) -> None:
        for page in [page for page in self.pages if page.ended]:
            self._check_cause(page)
            self._gone(page)
        self.most = max(self.most, len(self.pages))

    def _check_cause(self, stream: Sse | WebSocket) -> None:
        port = self._ports[stream.handle[:12]]
        assert port in self._ending or port == self.servers[2].port, (
            f"a stream of a server that lives has ended: {stream.close_code}, {stream.messages[-1:]}; {self.log}"
        )

    async def look(self) -> None:
        """Go on noticing which streams have ended."""
        while True:
            self._count()
            for viewer in self.viewers:
                if viewer.ended:
                    self._check_cause(viewer)
            await asyncio.sleep(0.1)

    async def fault(self) -> None:
        self._deck = self._deck or self.chance.sample(FAULTS, len(FAULTS))
        kind = self._deck.pop()
        self.log.append(kind)
        started = time.monotonic()
        await self._do(kind)
        if kind not in ("kill node", "restart node", "kill worker", "flush"):
            self.deaf.append((started, time.monotonic() + AWAY))

    async def _do(self, kind: str) -> None:
        store, started = self.store, time.monotonic()
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
                server = self.chance.choice(self.servers[:2])
                server.process.send_signal(signal.SIGSTOP)
                await self._while([1.0, 5.0, 11.0], 60.0)
                server.process.send_signal(signal.SIGCONT)
                self._unheard(server, started)
            case "kill redis":
                store.kill()
                await self._while([0.2, 2.0, 10.0], 30.0)
                await asyncio.to_thread(store.start)
            case "clients":
                for what in ("normal", "pubsub"):
                    store.ask("CLIENT", "KILL", "TYPE", what)
            case "freeze":
                store.signal(signal.SIGSTOP)
                await self._while([1.0, 4.0], 60.0)
                store.signal(signal.SIGCONT)
            case "pause":
                store.ask("CLIENT", "PAUSE", "4000", "WRITE")
                await asyncio.sleep(4)
                self._no_signs(started)
            case "oom":
                store.ask("CONFIG", "SET", "maxmemory", "1")
                await asyncio.sleep(4)
                store.ask("CONFIG", "SET", "maxmemory", "0")
                self._no_signs(started)
            case "read-only":
                store.ask("CONFIG", "SET", "min-replicas-to-write", "1")
                await asyncio.sleep(4)
                store.ask("CONFIG", "SET", "min-replicas-to-write", "0")
                self._no_signs(started)
            case "flush":
                store.ask("FLUSHALL")
            case "cut":
                index = self.chance.randrange(len(self.proxies))
                self.proxies[index].cut = True
                await self._while([2.0, 6.0, 12.0], 30.0)
                self.proxies[index].cut = False
                self._unheard(self.servers[index], started)

    def _no_signs(self, since: float) -> None:
        """
        Note that no node could write its sign of life.

        After two such faults in a row the others take it for vanished, and after `unaccounted_grace` for gone. That is
        two minutes, in which figures are partial; only here it is a second.
        """
        for server in self.servers:
            self._unheard(server, since)

    def _unheard(self, server: Server, since: float) -> None:
        self.unheard += [
            (node, since, time.monotonic() + AWAY) for node, port in self._ports.items() if port == server.port
        ]

    async def _while(self, durations: list[float], long: float) -> None:
        await asyncio.sleep(self.chance.choice([*durations, long] if MINUTES else durations))

    async def _replace(self, number: signal.Signals) -> None:
        index = self.chance.randrange(2)
        self._ending.add(self.servers[index].port)
        self.servers[index].process.send_signal(number)
        await asyncio.to_thread(self.servers[index].process.wait, 30)
        self._count()
        self.servers[index] = self._start(index)
        await asyncio.to_thread(self.servers[index].wait_ready)

    async def watch(self) -> None:
        """See to it that each server has a viewer that reads."""
        for server in self.servers:
            if any(viewer.transport.get_extra_info("peername")[1:2] == (server.port,) for viewer in self._reading()):
                continue
            async with asyncio.timeout(SETTLES):
                while True:
                    viewer = await Sse.open(server.url, token="s3cret-of-the-tests", viewer=1)
                    body = {"connectionId": viewer.handle, "deltas": True}
                    status, _ = await ask(server.url, "POST", BASE + "/subscribe-stats", body, TOKEN)
                    if status == 200:
                        break
                    # It came to another worker, which cannot reach the owner yet: as clients do, begin anew.
                    assert status == 404
                    viewer.fin()
            self._ports[viewer.handle[:12]] = server.port
            self.viewers.append(viewer)

    def _reading(self) -> list[Sse]:
        return [viewer for viewer in self.viewers if not viewer.ended and not viewer.transport.is_closing()]

    async def until_exact(self) -> None:
        """Wait until every viewer has exactly what is there."""
        await self.watch()
        deadline = time.monotonic() + SETTLES
        while True:
            self._count()
            viewers = self._reading()
            wrong = {viewer: error for viewer in viewers if (error := self._error(viewer)) is not None}
            if viewers and not wrong:
                self.met.append((time.monotonic(), {page.handle[:12] for page in self.pages}))
                return
            assert time.monotonic() < deadline, (
                f"{len(wrong)} of {len(viewers)} viewers are wrong after {self.log}: {len(self.pages)} pages; "
                + "; ".join(wrong.values())
            )
            await asyncio.sleep(0.1)

    def _error(self, viewer: Sse) -> str | None:
        """Return what is wrong with what a viewer knows now, if anything is."""
        figures = viewer.figures
        if figures is None:
            return "nothing is known"
        versions = Counter(version for version, _ in self.pages.values())
        routes = Counter(route for _, route in self.pages.values())
        expected = {
            "total": len(self.pages),
            "versions": versions,
            "routes": routes,
            "nodes": {"reporting": FLEET, "expected": FLEET, "versions": {VERSION: FLEET}},
            "partial": False,
        }
        for name, value in expected.items():
            if figures[name] != value:
                return f"{name} {figures[name]}, not {value}"
        rows = {row["id"]: (row["version"], row["route"]) for row in figures["connections"]}
        if len(rows) != min(LISTED, len(self.pages)) or len(rows) != len(figures["connections"]):
            return f"{len(rows)} rows of {len(figures['connections'])}"
        shown = {page.handle.partition(".")[0]: seen for page, seen in self.pages.items()}
        if false := {key: row for key, row in rows.items() if shown.get(key) != row}:
            return f"rows {false}"
        return None

    def assert_never_wrong(self) -> int:
        """Hold everything that viewers were told against what was there; returns how many figures that were."""
        held = 0
        for viewer in self.viewers:
            own = viewer.handle[:12]
            for moment, figures in history(viewer):
                held += 1
                since, until = self._since(moment) - LATE, moment + LATE
                heard = moment - SILENT - LATE
                met = next((nodes for then, nodes in reversed(self.met) if then <= moment), set())
                met = met - {node for node, start, end in self.unheard if start < moment and end > heard}
                told = {None: figures["total"], **figures["versions"]}
                for label in {label for _, label in self.tallies}:
                    tallies = {node: tally for (node, name), tally in self.tallies.items() if name == label}
                    count = told.get(label, 0)
                    most = sum(tally.most(since, until) for tally in tallies.values())
                    local = tallies[own].least(moment - LATE, until) if own in tallies else 0
                    whole = sum(tally.least(heard, until) for node, tally in tallies.items() if node in met)
                    where = (
                        f"{own} said {count} of {label or 'all'} at {moment:.1f}, {figures['nodes']}, "
                        f"partial {figures['partial']}; {self.log}, deaf {self.deaf}"
                    )
                    assert 0 <= count <= most, f"there were at most {most}: {where}"
                    assert count >= local, f"it had at least {local} itself: {where}"
                    assert figures["partial"] or count >= whole, f"there were at least {whole}: {where}"
                assert all(count > 0 for count in figures["routes"].values())
        return held

    def _since(self, moment: float) -> float:
        """Return since when every node must have been heard by another, or have been dropped by it."""
        left, reprieve = GHOST, REPRIEVE
        for start, end in reversed(self.deaf):
            if end < moment - left:
                break
            if start < moment:
                left -= max(0.0, moment - end)
                moment = min(moment, start)
                left, reprieve = left + reprieve, 0.0
        return moment - left


async def test_whatever_happens_it_ends_exact() -> None:
    chaos = Chaos()
    async with AsyncExitStack() as stack:
        await chaos.start(stack)
        looking = asyncio.ensure_future(chaos.look())
        stack.callback(looking.cancel)
        await chaos.open_pages(PAGES)
        await chaos.until_exact()
        memory = {server.port: _memory(server) for server in chaos.servers}
        end = time.monotonic() + SECONDS
        rounds = 0
        while time.monotonic() < end:
            rounds += 1
            for _ in range(chaos.chance.randrange(1, 4)):
                fault = asyncio.ensure_future(chaos.fault())
                while not fault.done():
                    await chaos.open_pages(PAGES // 50)
                    chaos.go(PAGES // 60)
                    await chaos.navigate(4)
                    await asyncio.sleep(0.1)
                await fault
            await chaos.open_pages(max(0, PAGES - len(chaos.pages)))
            await chaos.until_exact()
        if looking.done():
            await looking
        held = chaos.assert_never_wrong()
        for server in chaos.all_servers:
            assert "Traceback" not in server.log, server.log[-4000:]
        for server in chaos.servers:
            if server.port in memory:
                grown = _memory(server) - memory[server.port]
                assert grown < 60 * 2**20, f"{server.name} has grown by {grown >> 20} MB after {chaos.log}"
        print(f"seed {SEED}: {rounds} rounds of {', '.join(chaos.log)}; up to {chaos.most} pages, {held} figures told")


def _memory(server: Server) -> int:
    size = 0
    for process in server.processes():
        size += process.memory_info().rss
    return size
