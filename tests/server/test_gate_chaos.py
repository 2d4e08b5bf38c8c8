"""
The rollout gate while nodes, the store and the balancer die, stop and are cut off: it never opens while an old page is
alive.

Each rollout has nodes on one Valkey, pages on an old version, and faults drawn from a seed. All old pages are on one
node, and most faults strike that one: so nobody else has any, and whoever takes silence for departure opens the gate.
Others strike the node that is asked, or the store, which is started again empty. Pages behave as browsers do: a page
whose stream ended comes back to another node, names its old stream, and may be on its way for a while. So does one
whose stream a load balancer ended, or that cannot connect because the balancer is away: its node says that it is
away, for as long as such a page needs (`AWAY_GRACE`). Half of the pages that leave say goodbye, the others just vanish.
`headcount wait` runs all the time, and `GET /admin/gate` is asked again and again. What is true is counted here, from
the pages.

The gate holds only as long as the faults of its rollout need (`Plan.hold`): with the default, which outlasts the pages,
it would pass whatever it took silence for. That the recount catches a gate that does not look is a test as well.

`make test` runs three seeds that contain every kind of fault, `make chaos` 20. GATE_SEED repeats one.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
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
OUTAGE = 1.5
"""Seconds that the balancer is away: the part of 15 s that `AWAY` is of the 30 s that a browser waits at most."""
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
    *("empty the store", "break the streams", "balancer away"),
)
AWAY_GRACE: Final = OUTAGE + AWAY + 1.0
"""Seconds for which a page whose stream broke off is away."""
QUESTIONS: Final = ("version", "outdated")
BLIND: Final = str(Path(__file__).parent / "blind_gate.py")
SEEDS: Final = (6018, 6019, 6020)
"""Of `make test`."""

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


class Plan(NamedTuple):
    """What happens in a rollout."""

    faults: tuple[str, ...]
    question: str
    """What `headcount wait` waits for; `outdated` in a fleet of two versions, after a release."""
    longest: float = LONGEST
    """Seconds that a node is stopped or cut off, at most."""
    lives: tuple[float, float] = (4, 13)
    """Seconds that a page is open, at least and at most."""

    @property
    def outlasts_memory(self) -> bool:
        """
        Whether a page may need longer than its node says that it is away: a node told it to reconnect, and the balancer
        is away. `headcount wait` remembers that it was told so, and `GET /admin/gate` remembers nothing.
        """
        return any(fault.startswith("term") for fault in self.faults) and "balancer away" in self.faults

    @property
    def hold(self) -> float:
        """Seconds for which the gate holds, as short as the faults allow."""
        return AWAY_GRACE if self.outlasts_memory else 0.3


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

    def __init__(self, plan: Plan, seed: int, stack: ExitStack, store: Store, proxies: list[Proxy]) -> None:
        self.plan = plan
        self.chance = random.Random(seed)
        self.store = store
        self.stack = stack
        self.proxies = proxies
        self.servers = [self.start(index) for index in range(NODES)]
        self.balancers = [Proxy(server.port) for server in self.servers]
        """Between the pages and each node."""
        self.pages: list[Page] = []
        self.log: list[str] = []
        self.last_left = 0.0
        self.home = 1
        """The node that pages come to; the gate asks the first."""
        self.gates: list[Gate] = []

    def start(self, index: int, port: int | None = None) -> Server:
        # The gate asks a node of the old version: one that forgot the release would call nobody outdated.
        return self.stack.enter_context(
            Server(
                "uvicorn",
                version="old" if index == 0 else "new",
                admin_token="s3cret-of-the-tests",
                backend=f"redis://127.0.0.1:{self.proxies[index].port}/0",
                fleet_name="gate",
                port=port,
                environment={"FLEET_CLOCK": str(CLOCK), "FLEET_SILENCE": str(CLOCK), "AWAY_GRACE": str(AWAY_GRACE)},
                unaccounted_grace=GRACE,
                reconnect_spread=AWAY,
            )
        )

    @property
    def old(self) -> int:
        return sum(page.alive for page in self.pages)

    async def open(self, replaces: str = "") -> Sse:
        url = f"http://127.0.0.1:{self.balancers[self.home].port}"
        if not replaces:
            return await Sse.open(url, version="old", route="/")
        return await Sse.open(url, version="old", route="/", replaces=replaces)

    async def fill(self) -> None:
        for balancer in self.balancers:
            await balancer.__aenter__()
        for _ in range(OLD):
            self.pages.append(Page(await self.open()))

    async def declare(self) -> None:
        """Declare the new version current, on all nodes."""
        async with asyncio.timeout(30):
            headers = {"Authorization": "Bearer s3cret-of-the-tests"}
            while True:
                release = {"version": "new"}
                _, answer = await ask(self.servers[1].url, "POST", BASE + "/admin/release", release, headers)
                if answer["nodes"] == {"reached": NODES, "expected": NODES}:
                    return
                await asyncio.sleep(0.1)

    async def watch(self, *program: str) -> "Gate":
        """Start a gate: `headcount`, or another program."""
        gate = await Gate.start(self, *program)
        self.gates.append(gate)
        return gate

    async def live(self, page: Page) -> None:
        """Be a page until it has gone: come back whenever the stream ends, at last reload or be closed."""
        leaves_at = time.monotonic() + self.chance.uniform(*self.plan.lives)
        while True:
            while page.stream is not None and not page.stream.ended and time.monotonic() < leaves_at:
                await asyncio.sleep(0.05)
            if page.stream is None or page.stream.ended:
                page.stream = None
                await asyncio.sleep(self.chance.uniform(0, AWAY))
            if time.monotonic() >= leaves_at:
                page.alive = False
                self.last_left = time.monotonic()
                if page.stream is not None:
                    page.stream.fin()
                if self.chance.random() < 0.5:
                    with suppress(OSError, AssertionError, TimeoutError):
                        async with asyncio.timeout(5):
                            url = f"http://127.0.0.1:{self.balancers[self.home].port}"
                            await ask(url, "POST", BASE + "/bye", {"connectionId": page.handle})
                return
            with suppress(OSError, AssertionError, TimeoutError):
                async with asyncio.timeout(5):
                    page.stream = await self.open(page.handle)
                    page.handle = page.stream.handle

    async def poll(self) -> int:
        """Ask the gate until it is open; return how many old pages were alive then."""
        question = "outdated=1" if self.plan.question == "outdated" else "version=old"
        while True:
            with suppress(OSError, EOFError, AssertionError, TimeoutError):  # the node that is asked is dead
                async with asyncio.timeout(5):
                    url, headers = self.servers[0].url, {"Authorization": "Bearer s3cret-of-the-tests"}
                    status, _ = await ask(url, "GET", f"{BASE}/admin/gate?{question}", None, headers)
                    if status == 200:
                        return self.old
            await asyncio.sleep(0.1)

    async def fault(self, fault: str) -> None:
        kind, _, asked = fault.partition(" ")
        index = 0 if asked == "asked" else self.home
        server, seconds = self.servers[index], self.chance.uniform(0.3, self.plan.longest)
        self.log.append(f"{fault} ({seconds:.1f} s)" if kind not in ("kill", "term") else fault)
        match kind:
            case "break":  # those of the pages only: the gate has a way of its own
                for page in self.pages:
                    if page.stream is not None:
                        page.stream.fin()
            case "balancer":
                self.log[-1] = fault
                balancer = self.balancers[self.home]
                await balancer.__aexit__()
                await asyncio.sleep(OUTAGE)
                await balancer.__aenter__()
            case "kill" | "term":
                if index == self.home:
                    self.home = 3 - index
                server.process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
                await asyncio.to_thread(server.wait, 30)
                self.servers[index] = self.start(index, server.port)
                await asyncio.to_thread(self.servers[index].wait_ready)
            case "freeze":  # its pages notice nothing
                server.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(seconds)
                finally:
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


class Gate:
    """`headcount wait`, and how many old pages were alive when it returned."""

    def __init__(self, process: asyncio.subprocess.Process, rollout: Rollout) -> None:
        self.process = process
        self.left: int | None = None
        self.returned = asyncio.ensure_future(self._watch(rollout))

    @classmethod
    async def start(cls, rollout: Rollout, *program: str) -> "Gate":
        """Start the command, or another program in its place."""
        process = await asyncio.create_subprocess_exec(
            *(program or [str(Path(sys.executable).parent / "headcount")]),
            *("wait", rollout.servers[0].url, "--token", "s3cret-of-the-tests"),
            *(("--outdated",) if rollout.plan.question == "outdated" else ("--version", "old")),
            *("--for", f"{rollout.plan.hold:g}s", "--include-away", "--timeout", "3m", "--lost-after", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process, rollout)

    async def _watch(self, rollout: Rollout) -> int:
        code = await self.process.wait()
        self.left = rollout.old
        return code

    async def output(self) -> str:
        """Return the end of what it wrote."""
        return (await self.process.communicate())[0].decode()[-1500:]


@asynccontextmanager
async def rollout_of(plan: Plan, seed: int) -> AsyncIterator[Rollout]:
    """Start the nodes, with the old pages on one of them and the new version declared."""
    with ExitStack() as stack:
        store = stack.enter_context(Store("valkey"))
        proxies = [await Proxy(store.port).__aenter__() for _ in range(NODES)]
        rollout = Rollout(plan, seed, stack, store, proxies)
        try:
            for server in rollout.servers:
                await asyncio.to_thread(server.wait_ready)
            await rollout.declare()
            await rollout.fill()
            yield rollout
        finally:
            for gate in rollout.gates:
                with suppress(ProcessLookupError):
                    gate.process.kill()
                await gate.process.communicate()
            for proxy in proxies + rollout.balancers:
                proxy.cut = False
                with suppress(AttributeError):  # it was not reached
                    await proxy.__aexit__()


def test_the_seeds_of_make_test_contain_every_kind_of_fault_and_question() -> None:
    plans = [plan(seed) for seed in SEEDS]
    assert {fault for one in plans for fault in one.faults} == set(KINDS)
    assert {one.question for one in plans} == set(QUESTIONS)
    assert sum(one.hold < 1 for one in plans) >= 2, "a gate that holds for long hides what it takes silence for"


@pytest.mark.parametrize("seed", seeds())
async def test_the_gate_never_opens_while_an_old_page_is_alive_and_opens_soon_after(seed: int) -> None:
    async with rollout_of(plan(seed), seed) as rollout:
        gate, polling = await rollout.watch(), asyncio.ensure_future(rollout.poll())
        pages = [asyncio.ensure_future(rollout.live(page)) for page in rollout.pages]
        began = time.monotonic()
        for fault in rollout.plan.faults:
            if rollout.old and not gate.returned.done():
                await rollout.fault(fault)
        faults_over = time.monotonic()
        while rollout.old and not gate.returned.done():
            await asyncio.sleep(0.02)
        assert gate.left in (None, 0), (
            f"seed {seed}: the gate returned {gate.process.returncode} with {gate.left} old pages after "
            f"{rollout.log}: {await gate.output()}"
        )
        assert not any(page.done() and page.exception() for page in pages)
        latest = max(rollout.last_left, faults_over) + GRACE + LATE + rollout.plan.hold
        async with asyncio.timeout(max(1.0, latest - time.monotonic())):
            code = await gate.returned
        assert code == 0, (rollout.log, await gate.output())
        async with asyncio.timeout(GRACE + LATE):
            left = await polling
        assert left == 0 or rollout.plan.outlasts_memory, (
            f"seed {seed}: GET /admin/gate with {left} old pages: {rollout.log}"
        )
        print(
            f"seed {seed}: {rollout.plan.question}, {', '.join(rollout.log)}; open "
            f"{time.monotonic() - max(rollout.last_left, faults_over):.1f} s after the last page and fault, "
            f"{time.monotonic() - began:.0f} s in all"
        )
        await asyncio.gather(*pages)


async def test_the_recount_catches_a_gate_that_ignores_unaccounted_connections() -> None:
    """Both gates see the same. Without the blind one, nobody would know that the rollouts can fail."""
    frozen = Plan(("freeze",), "version", longest=60, lives=(60, 61))
    async with rollout_of(frozen, 0) as rollout:
        sound, blind = await rollout.watch(), await rollout.watch(sys.executable, BLIND)
        server = rollout.servers[rollout.home]
        server.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                assert await blind.returned == 0, await blind.output()
            assert blind.left == OLD
            assert sound.left is None, await sound.output()
        finally:
            server.signal(signal.SIGCONT)
