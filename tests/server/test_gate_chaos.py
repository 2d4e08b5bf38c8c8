"""
The rollout gate while nodes and the store die, stop and are cut off: it never opens while an old page is alive.

Each rollout has nodes on one Valkey, pages on an old version, and faults drawn from a seed. All old pages are on one
node, and most faults strike that one: so nobody else has any, and whoever takes silence for departure opens the gate.
Others strike the node that is asked, or the store, which is started again empty. Pages behave as browsers do: a page
whose stream ended comes back to another node, names its old stream, and may be on its way for a while. So does one
whose stream a load balancer ended; no node knows that it is on its way. `headcount wait` runs all the time. What is
true is counted here, from the pages.

`make test` runs three seeds that contain every kind of fault, `make chaos` 20. GATE_SEED repeats one.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from kit.pages import BASE, Sse, ask
from kit.proxy import Proxy
from kit.stores import Store

from .serving import Server

CLOCK = 0.3
"""Part of the real seconds after which nodes notice a fault. Pages and graces have the same part, about."""
AWAY = 3.0
"""Seconds that a page is on its way at most: more than those after which a listener drops a silent node, 0.3 × 9."""
LONGEST = 3.5
"""Seconds that a node is stopped or cut off, or the store is away, at most: longer than that, too."""
GRACE = 9.0
"""Of the nodes: more than a page needs that comes back to a node which is stopped just then."""
NODES = 3
OLD = 12
FAULTS = 4
LATE = 5.0
"""Seconds for which the gate may stay shut when the last page has left and the grace is over. Mostly, it takes 0.2."""

KINDS: Final = (
    *("kill", "term", "freeze", "cut"),
    *("kill asked", "term asked", "freeze asked", "cut asked"),
    *("empty the store", "break the streams"),
)
QUESTIONS: Final = ("version", "outdated")
SEEDS: Final = (49, 50, 51)
"""Of `make test`."""

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


class Plan(NamedTuple):
    """What happens in a rollout."""

    faults: tuple[str, ...]
    question: str
    """What `headcount wait` waits for; `outdated` in a fleet of two versions, after a release."""


def plan(seed: int) -> Plan:
    chance = random.Random(seed)
    return Plan(tuple(chance.sample(KINDS, FAULTS)), chance.choice(QUESTIONS))


def seeds() -> Sequence[int]:
    if "GATE_SEED" in os.environ:
        return [int(os.environ["GATE_SEED"])]
    begin = int(os.environ.get("CHAOS_SEED", "1"))
    return range(begin, begin + int(os.environ["ROLLOUTS"])) if "ROLLOUTS" in os.environ else SEEDS


class Page:
    """One old page: where it is, or that it is on its way."""

    def __init__(self, stream: Sse) -> None:
        self.stream: Sse | None = stream
        self.handle = stream.handle
        self.alive = True


class Rollout:
    """Nodes, pages and faults of one rollout."""

    def __init__(self, seed: int, stack: ExitStack, store: Store, proxies: list[Proxy]) -> None:
        self.plan = plan(seed)
        self.chance = random.Random(seed)
        self.store = store
        self.stack = stack
        self.proxies = proxies
        self.servers = [self.start(index) for index in range(NODES)]
        self.pages: list[Page] = []
        self.log: list[str] = []
        self.last_left = 0.0
        self.home = 1
        """The node that pages come to; the gate asks the first."""

    def start(self, index: int, port: int | None = None) -> Server:
        # The gate asks a node of the old version: one that forgot the release would call nobody outdated.
        return self.stack.enter_context(
            Server(
                "uvicorn",
                version="old" if index == 0 else "new",
                admin_token="s3cret",
                backend=f"redis://127.0.0.1:{self.proxies[index].port}/0",
                fleet_name="gate",
                port=port,
                environment={"FLEET_CLOCK": str(CLOCK), "FLEET_SILENCE": str(CLOCK)},
                unaccounted_grace=GRACE,
                reconnect_spread=AWAY,
            )
        )

    @property
    def old(self) -> int:
        return sum(page.alive for page in self.pages)

    async def open(self, server: Server, version: str, replaces: str = "") -> Sse:
        if not replaces:
            return await Sse.open(server.url, version=version, route="/")
        return await Sse.open(server.url, version=version, route="/", replaces=replaces)

    async def fill(self) -> None:
        for _ in range(OLD):
            self.pages.append(Page(await self.open(self.servers[self.home], "old")))

    async def declare(self) -> None:
        """Declare the new version current, on all nodes."""
        async with asyncio.timeout(30):
            headers = {"Authorization": "Bearer s3cret"}
            while True:
                release = {"version": "new"}
                _, answer = await ask(self.servers[1].url, "POST", BASE + "/admin/release", release, headers)
                if answer["nodes"] == {"reached": NODES, "expected": NODES}:
                    return
                await asyncio.sleep(0.1)

    async def live(self, page: Page) -> None:
        """Be a page until it has gone: come back whenever the stream ends, at last reload or be closed."""
        leaves_at = time.monotonic() + self.chance.uniform(4, 13)
        while True:
            while page.stream is not None and not page.stream.ended and time.monotonic() < leaves_at:
                await asyncio.sleep(0.05)
            if page.stream is not None and page.stream.ended:
                page.stream = None
                await asyncio.sleep(self.chance.uniform(0, AWAY))
            if time.monotonic() >= leaves_at:
                page.alive = False
                self.last_left = time.monotonic()
                if page.stream is not None:
                    page.stream.fin()
                return
            with suppress(OSError, AssertionError, TimeoutError):
                async with asyncio.timeout(5):
                    page.stream = await self.open(self.servers[self.home], "old", page.handle)
                    page.handle = page.stream.handle

    async def fault(self, fault: str) -> None:
        kind, _, asked = fault.partition(" ")
        index = 0 if asked == "asked" else self.home
        server, seconds = self.servers[index], self.chance.uniform(0.3, LONGEST)
        self.log.append(f"{fault} ({seconds:.1f} s)" if kind not in ("kill", "term") else fault)
        match kind:
            case "break":  # those of the pages only: the gate has a way of its own
                for page in self.pages:
                    if page.stream is not None:
                        page.stream.fin()
            case "kill" | "term":
                if index == self.home:
                    self.home = 3 - index
                server.process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
                await asyncio.to_thread(server.wait, 30)
                self.servers[index] = self.start(index, server.port)
                await asyncio.to_thread(self.servers[index].wait_ready)
            case "freeze":  # its pages notice nothing
                server.signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                server.signal(signal.SIGCONT)
            case "cut":
                self.proxies[index].cut = True
                await asyncio.sleep(seconds)
                self.proxies[index].cut = False
            case "empty":
                await asyncio.to_thread(self.store.kill)
                await asyncio.sleep(seconds)
                await asyncio.to_thread(self.store.start)
        await asyncio.sleep(self.chance.uniform(0.2, 1.5))


async def _wait_for(server: Server, question: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "headcount"), "wait", server.url, "--token", "s3cret"),
        *(("--outdated",) if question == "outdated" else ("--version", "old")),
        *("--timeout", "3m", "--lost-after", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def test_the_seeds_of_make_test_contain_every_kind_of_fault_and_question() -> None:
    plans = [plan(seed) for seed in SEEDS]
    assert {fault for one in plans for fault in one.faults} == set(KINDS)
    assert {one.question for one in plans} == set(QUESTIONS)


@pytest.mark.parametrize("seed", seeds())
async def test_the_gate_never_opens_while_an_old_page_is_alive_and_opens_soon_after(seed: int) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store("valkey"))
        proxies = [await Proxy(store.port).__aenter__() for _ in range(NODES)]
        rollout = Rollout(seed, stack, store, proxies)
        gate: asyncio.subprocess.Process | None = None
        try:
            for server in rollout.servers:
                await asyncio.to_thread(server.wait_ready)
            await rollout.declare()
            await rollout.fill()
            gate = await _wait_for(rollout.servers[0], rollout.plan.question)
            pages = [asyncio.ensure_future(rollout.live(page)) for page in rollout.pages]
            watched = asyncio.ensure_future(gate.wait())
            left: list[int] = []
            watched.add_done_callback(lambda _: left.append(rollout.old))
            began = time.monotonic()
            for fault in rollout.plan.faults:
                if rollout.old and not watched.done():
                    await rollout.fault(fault)
            faults_over = time.monotonic()
            while rollout.old and not watched.done():
                await asyncio.sleep(0.02)
            assert left in ([], [0]), (
                f"seed {seed}: the gate returned {gate.returncode} with {left[0]} old pages after {rollout.log}: "
                f"{(await gate.communicate())[0].decode()[-1500:]}"
            )
            latest = max(rollout.last_left, faults_over) + GRACE + LATE
            async with asyncio.timeout(max(1.0, latest - time.monotonic())):
                await watched
            assert gate.returncode == 0, (rollout.log, (await gate.communicate())[0].decode()[-1500:])
            print(
                f"seed {seed}: {rollout.plan.question}, {', '.join(rollout.log)}; open "
                f"{time.monotonic() - max(rollout.last_left, faults_over):.1f} s after the last page and fault, "
                f"{time.monotonic() - began:.0f} s in all"
            )
            await asyncio.gather(*pages)
        finally:
            if gate is not None:
                with suppress(ProcessLookupError):
                    gate.kill()
            for proxy in proxies:
                proxy.cut = False
                await proxy.__aexit__()
