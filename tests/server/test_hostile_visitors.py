"""
A deploy while strangers try everything that a visitor can do, all at once, from one address over 64 sockets.

200 real pages go from v1 to v2, one after the other, and `headcount wait` waits for the last. What is true is counted
here, from the pages. Who attacks, and how, is in strangers.py.

`make test` attacks for 12 s, `make hostile` for 60. HOSTILE_SECONDS says how long.
"""

import asyncio
import http.client
import json
import math
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kit.machine import slowdown
from kit.pages import BASE, Sse, WebSocket, all_of, ask, until

from .serving import Server
from .strangers import ATTACKS, TICKET

SECONDS: Final = float(os.environ.get("HOSTILE_SECONDS", "12"))
PAGES: Final = 200
HOLD: Final = 0.5
"""Seconds for which the gate holds. Its default covers pages that are on their way; here the test knows of none."""
LATE: Final = 2.0
"""Seconds after which the gate must have opened, besides. It takes 0.3."""
STAYS: Final = 3.0
"""Seconds for which the last page stays alone on v1: a gate that is satisfied with one page would open meanwhile."""
LATENCY: Final = 0.5
"""Seconds within which a viewer sees what happened, in 99 of 100 cases."""
GROWTH: Final = 20 * 2**20
"""Bytes by which the server may grow."""
LABELS: Final = 50
"""`max_metric_labels`."""
KNOWN: Final = 3
"""Versions that the fleet knows, which are listed whatever strangers do: v1, v2 and `unknown`."""

TOKEN: Final = "s3cret-of-the-tests"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
SERVERS: Final = ("headcount-serve", "uvicorn-bounded", "uvicorn-takeover")
ROOT: Final = Path(__file__).parents[(__package__ or "").count(".") + 1]

pytestmark = [pytest.mark.anyio, pytest.mark.exclusive, pytest.mark.timeout(90 + int(2 * SECONDS))]


class Change(NamedTuple):
    """So many pages were on v1, or on v2, from a time on."""

    time: float
    version: str
    pages: int


class Told(msgspec.Struct, rename="camel"):
    """Of a message, what the test looks at. The lists of connections are megabytes a second, and are skipped."""

    type: str
    connection_id: str | None = None
    versions: dict[str, int] = {}
    current_version: str | None = None


read_message = msgspec.json.Decoder(Told).decode


class Viewer(WebSocket):
    """A legitimate viewer, which keeps the counts of v1 and v2 only."""

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        super().__init__(path, headers)
        self.seen: list[Change] = []
        self.counts_now: dict[str, int] = {}
        self.current: set[str] = set()
        self.denied = 0

    def _on_message(self, text: bytes) -> None:
        message = read_message(text)
        match message.type:
            case "connected":
                self.messages.append({"type": "connected", "connectionId": message.connection_id})
            case "stats" | "stats-delta":
                for version in ("v1", "v2"):
                    count = message.versions.get(version, 0 if message.type == "stats" else None)
                    if count is not None:
                        self.counts_now[version] = count
                        self.seen.append(Change(time.monotonic(), version, count))
                if message.current_version is not None:
                    self.current.add(message.current_version)
            case "stats-unauthorized":
                self.denied += 1

    def seen_at(self, change: Change) -> float:
        """Return when the viewer saw a change, or a later one of the same version; infinite if it has not."""
        further = range(change.pages + 1) if change.version == "v1" else range(change.pages, PAGES + 1)
        return next(
            (
                seen.time
                for seen in self.seen
                if seen.version == change.version and seen.pages in further and seen.time >= change.time
            ),
            math.inf,
        )


class Deploy:
    """200 pages that go from v1 to v2 one after the other, and what is true meanwhile."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.chance = random.Random(13)
        self.pages: list[Sse | WebSocket] = []
        self.old = 0
        self.new = 0
        self.last_left = 0.0
        self.changes: list[Change] = []
        self.broken: list[str] = []
        """Pages whose stream ended before they left."""

    async def open(self, version: str) -> Sse | WebSocket:
        kind = self.chance.choice((Sse, WebSocket))
        return await kind.open(self.server.url, version=version, route=f"/{self.chance.randrange(5)}")

    async def fill(self) -> None:
        self.pages = await all_of([self.open("v1") for _ in range(PAGES)])
        self.old = PAGES

    async def run(self, seconds: float) -> None:
        began = time.monotonic()
        back: list[asyncio.Task[None]] = []
        for number in range(PAGES):
            await asyncio.sleep(max(0.0, began + seconds * (number + 1) / PAGES - time.monotonic()))
            if number == PAGES - 1:
                await asyncio.sleep(STAYS)
            page = self.pages[number]
            if page.ended:
                self.broken.append(f"page {number}: close code {page.close_code}")
            self.old -= 1
            self.last_left = time.monotonic()
            self.changes.append(Change(self.last_left, "v1", self.old))
            self.chance.choice((page.fin, page.rst))()
            back.append(asyncio.create_task(self._come_back(number)))
        await asyncio.gather(*back)

    async def _come_back(self, number: int) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        self.pages[number] = await self.open("v2")
        self.new += 1
        self.changes.append(Change(time.monotonic(), "v2", self.new))


class Gate:
    """`headcount wait`, and how many pages were on v1 when it returned."""

    def __init__(self, process: asyncio.subprocess.Process, deploy: Deploy) -> None:
        self.process = process
        self.left: int | None = None
        self.returned_at = 0.0
        self.returned = asyncio.create_task(self._watch(deploy))

    async def _watch(self, deploy: Deploy) -> int:
        code = await self.process.wait()
        self.left, self.returned_at = deploy.old, time.monotonic()
        return code

    async def output(self) -> str:
        """Return the end of what it wrote."""
        return (await self.process.communicate())[0].decode()[-1500:]


class Watch:
    """What is looked at regularly while strangers attack: metrics, memory, and whether the operator is served."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.process = psutil.Process(server.process.pid)
        self.series: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        self.without_v1: list[str] = []
        self.memory: list[int] = []
        self.slowdowns: list[float] = []

    def scrape(self) -> None:
        """Read the metrics and note which series there are."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)
        try:
            connection.request("GET", f"{BASE}/metrics", headers=BEARER)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        assert response.status == 200, "the operator is denied"
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.series[sample.name].add(tuple(sorted(sample.labels.values())))

    async def run(self, deploy: Deploy) -> None:
        turn = 0
        while True:
            self.memory.append(self.process.memory_info().rss)
            if turn % 4 == 0:
                await asyncio.to_thread(self.scrape)
                now = await versions(self.server)
                if deploy.old > 5 and not now.get("v1"):
                    self.without_v1.append(str(now)[:200])
            if turn % 8 == 2:
                self.slowdowns.append(await asyncio.to_thread(slowdown))
            turn += 1
            await asyncio.sleep(0.25)


@asynccontextmanager
async def strangers(server: Server, seconds: float) -> AsyncIterator[dict[str, Any]]:
    """Attack meanwhile. What the strangers report is in the dictionary afterwards."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", f"{__package__}.strangers", server.url, str(seconds)],
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    report: dict[str, Any] = {}
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield report
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 10)
            report |= json.loads(output)
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def gate(deploy: Deploy) -> AsyncIterator[Gate]:
    """Wait until the pages have left v1, as a deploy does."""
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "headcount"), "wait", deploy.server.url, "--token", TOKEN),
        *("--version", "v1", "--for", f"{HOLD}s", "--timeout", "5m"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    one = Gate(process, deploy)
    try:
        yield one
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await one.returned


async def open_viewer(server: Server) -> Viewer:
    """Watch with a right that is checked again and again: the hook's, or the token's where there is no hook."""
    if server.name.startswith("headcount"):
        viewer = await Viewer.open(server.url, token=TOKEN, viewer=1)
    else:
        viewer = await Viewer.open(server.url, cookie=server.sign_in(), viewer=1)
    await viewer.subscribe(server.url)
    return viewer


async def versions(server: Server) -> dict[str, int]:
    """Return the counts by version, as the operator sees them."""
    status, figures = await ask(server.url, "GET", f"{BASE}/admin/stats", headers=BEARER)
    assert status == 200
    counts: dict[str, int] = figures["versions"]
    return counts


async def warm_up(server: Server, watch: Watch) -> None:
    """Have the server do once what it does later, so that its code and first buffers are not taken for growth."""
    for kind in (Sse, WebSocket):
        for page in await all_of([kind.open(server.url, version=f"warm-{number}") for number in range(64)]):
            page.rst()
    for _ in range(3):
        await asyncio.to_thread(watch.scrape)
    await ask(server.url, "POST", f"{BASE}/log-in", {"token": "wrong"}, {"Origin": server.url})
    # The key of tickets is derived at the first ticket that is checked, in 16 MiB.
    await ask(server.url, "GET", f"{BASE}/admin/stats", headers={"Cookie": f"headcount_admin={TICKET}"})


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of them do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


@pytest.mark.parametrize("command", SERVERS)
async def test_strangers_neither_bend_a_deploy_nor_hold_up_its_viewers(command: str) -> None:
    # Few enough for strangers to fill all counts, and a right that is checked again several times.
    settings: dict[str, Any] = {"max_versions": 100, "max_routes": 400, "reauthorize_interval": 3}
    with Server(command, version="v1", admin_token=TOKEN, max_metric_labels=LABELS, **settings) as server:
        await asyncio.to_thread(server.wait_ready)
        deploy, watch = Deploy(server), Watch(server)
        await deploy.fill()
        viewer = await open_viewer(server)
        await viewer.until(lambda one: one.counts_now.get("v1") == PAGES)
        status, _ = await ask(server.url, "POST", f"{BASE}/admin/release", {"version": "v2"}, BEARER)
        assert status == 200
        await viewer.until(lambda one: "v2" in one.current)
        viewer.current.clear()
        await warm_up(server, watch)
        memory = watch.process.memory_info().rss
        async with strangers(server, SECONDS + STAYS + 10) as report, gate(deploy) as opened:
            watching = asyncio.create_task(watch.run(deploy))
            await deploy.run(SECONDS)
            slow = max(slowdown(), sum(watch.slowdowns) / len(watch.slowdowns))
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(opened.returned), HOLD + LATE * slow)
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            code = opened.returned.result() if opened.returned.done() else None
        delays = [viewer.seen_at(change) - change.time for change in deploy.changes]
        p99 = percentile(delays, 0.99)
        growth = max(watch.memory) - memory
        series = {name: len(labels) for name, labels in watch.series.items()}
        print(
            f"{command}: open {opened.returned_at - deploy.last_left:.2f} s after the last page, p50 "
            f"{percentile(delays, 0.5) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, {growth / 2**20:+.1f} MB, "
            f"{max(series.values())} series, slowdown {slow:.1f}; strangers: {report}"
        )

        # Nothing is proved by attacks that did not take place.
        assert not report["broken"]
        assert all(report["rounds"].get(name) for name in (attack.__name__ for attack in ATTACKS)), report

        assert opened.left in (0, None), f"the gate returned {code} while {opened.left} pages were on v1"
        assert code == 0, f"the gate is shut or failed ({code}): {await opened.output()}"
        assert max(series.values()) <= 2 * LABELS + KNOWN, series
        assert growth < GROWTH, f"{growth / 2**20:.1f} MB"
        assert not viewer.denied
        assert not viewer.ended
        assert p99 < LATENCY * slow, f"p99 {p99:.3f} s with slowdown {slow:.1f}"
        assert not watch.without_v1
        assert not deploy.broken
        assert viewer.current <= {"v2"}, "a stranger declared a release"

        # Nothing of them is left. Tabs whose stream ended are counted for up to two seconds more.
        deadline = time.monotonic() + 10 * slow
        while (left := await versions(server)) != {"v2": PAGES}:
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.2)
        await until(lambda: viewer.counts_now == {"v1": 0, "v2": PAGES}, "the viewer sees what is left")
        assert "Traceback" not in server.log, server.log[-4000:]
