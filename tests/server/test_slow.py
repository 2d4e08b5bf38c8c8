"""Viewers that do not read: they cost a bounded amount, they are dropped, and nobody else waits for them."""

import asyncio
import time
from typing import Any

import pytest

from kit.pages import Sse, Stream, WebSocket, all_of

from .serving import TAKEN_OVER, Server

pytestmark = [pytest.mark.anyio, pytest.mark.exclusive]

PAGES = 1_000
SEND_TIMEOUT = 2
PEER_TIMEOUT = 3
SETTINGS: dict[str, Any] = {"stats_interval": 0.05, "send_timeout": SEND_TIMEOUT, "peer_timeout": 60}
# A kernel with a peer_timeout gives up a peer that does not read, too, so the longer of the two must not be tested.
MEGABYTE = 2**20


class _Crowd:
    """Pages that navigate, with routes so long that a snapshot has 200 kB, and one viewer that reads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cookie = server.sign_in()
        self.number = 0
        self.latencies: list[float] = []

    async def gather(self) -> None:
        self.pages = await all_of([WebSocket.open(self.server.url, version="page", route="/") for _ in range(PAGES)])
        self.viewer = await self.watch(WebSocket)
        await self.viewer.until(lambda s: s.figures is not None and s.figures["total"] == PAGES)

    async def watch(self, kind: type[WebSocket] | type[Sse]) -> WebSocket | Sse:
        viewer = await kind.open(self.server.url, cookie=self.cookie, viewer=1)
        await viewer.subscribe(self.server.url, self.cookie)
        return viewer

    async def stuck(self, kind: type[WebSocket] | type[Sse], version: str) -> WebSocket | Sse:
        """Open a page that watches, gets its first snapshot, and then reads no more."""
        page = await kind.open(self.server.url, cookie=self.cookie, version=version, receive_buffer=4096)
        await page.subscribe(self.server.url, self.cookie, deltas=False)
        await page.until(lambda s: s.figures is not None)
        page.pause_reading()
        return page

    async def move(self, pages: int = 20) -> None:
        """Let some pages navigate, and wait until the viewer has seen the last."""
        started = time.monotonic()
        for _ in range(pages):
            self.number += 1
            route = f"/{self.number}/" + "x" * 150
            await self.pages[self.number % PAGES].navigate(self.server.url, route)
        await self.viewer.until(lambda s: s.figures is not None and route in s.figures["routes"])
        self.latencies.append(time.monotonic() - started)

    def leave(self) -> None:
        for page in [*self.pages, self.viewer]:
            page.fin()


@pytest.mark.parametrize("command", ["uvicorn", "uvicorn-plain", "granian", "hypercorn", *TAKEN_OVER])
async def test_viewers_that_do_not_read_are_dropped_and_nobody_waits_for_them(command: str) -> None:
    with Server(command, **SETTINGS) as server:
        server.wait_ready()
        crowd = _Crowd(server)
        await crowd.gather()
        await crowd.move(2 * PAGES)  # so that every buffer has the size that long routes give it
        crowd.latencies.clear()
        memory = server.memory()
        stuck: list[Stream] = [await crowd.stuck(kind, "stuck") for kind in (Sse, WebSocket) for _ in range(3)]
        paused = time.monotonic()
        grown = 0
        while crowd.viewer.figures is None or "stuck" in crowd.viewer.figures["versions"]:
            for _ in range(5):
                await crowd.move()
            grown = max(grown, server.memory() - memory)
            assert time.monotonic() - paused < 30, "they are still counted"
        assert time.monotonic() - paused > SEND_TIMEOUT

        # Unbounded, it would be 200 kB for each of six viewers, twenty times a second: 24 MB/s. granian takes ten
        # messages before it lets the sender wait, the others one.
        assert grown < 16 * MEGABYTE, f"{grown / MEGABYTE:.1f} MB"
        assert len(crowd.latencies) > 20
        assert max(crowd.latencies) < 2, crowd.latencies
        inside = server.debug()
        assert inside["counters"]["closed:slow"] == len(stuck)
        assert inside["counters"]["conflated"] > len(stuck)
        assert inside["sizes"]["LoopTimers.busy_deadlines"] == 0
        assert inside["sessions"] == PAGES + 1

        # They find their streams ended when they read again, though no last message could reach them.
        for page in stuck:
            page.resume_reading()
        for page in stuck:
            await page.until(lambda s: s.ended or s.finished)
        crowd.leave()


@pytest.mark.parametrize("command", ["uvicorn", *TAKEN_OVER])
async def test_a_viewer_that_reads_again_in_time_stays_and_gets_the_newest_figures(command: str) -> None:
    with Server(command, **{**SETTINGS, "send_timeout": 30}) as server:
        server.wait_ready()
        crowd = _Crowd(server)
        await crowd.gather()
        slow = [await crowd.stuck(kind, "slow") for kind in (Sse, WebSocket)]
        while server.debug()["sizes"]["LoopTimers.busy_deadlines"] < 2:
            await crowd.move()
        sent = server.debug()["counters"]["flushes"]
        for _ in range(40):
            await crowd.move()
        inside = server.debug()
        assert inside["sizes"]["LoopTimers.busy_deadlines"] == 2
        assert inside["counters"]["flushes"] > sent + 30
        for page in slow:
            page.resume_reading()
        for page in slow:
            await page.until(lambda s: s.counts == crowd.viewer.counts)
            # Of what was pushed while it did not read, it gets the newest only.
            assert len(page.of_type("stats")) <= sent + 3
            page.fin()
        assert "closed:slow" not in server.debug()["counters"]
        crowd.leave()


@pytest.mark.parametrize("command", ["uvicorn", *TAKEN_OVER])
async def test_a_viewer_that_does_not_read_holds_up_a_stop_no_longer_than_peer_timeout(command: str) -> None:
    with Server(command, **{**SETTINGS, "send_timeout": 60, "peer_timeout": PEER_TIMEOUT}) as server:
        server.wait_ready()
        crowd = _Crowd(server)
        await crowd.gather()
        stuck = await crowd.stuck(Sse, "stuck")
        await crowd.viewer.until(lambda s: s.figures is not None and "stuck" in s.figures["versions"])
        while not server.debug()["sizes"]["LoopTimers.busy_deadlines"]:
            await crowd.move()
            assert crowd.viewer.figures is not None
            if "stuck" not in crowd.viewer.figures["versions"]:
                stuck.fin()  # the kernel gave it up before we looked
                stuck = await crowd.stuck(Sse, "stuck")
                await crowd.viewer.until(lambda s: s.figures is not None and "stuck" in s.figures["versions"])
        server.process.terminate()
        # uvicorn waits until the bytes have left that it took; then only the kernel can give up.
        await asyncio.to_thread(server.wait, PEER_TIMEOUT + 3)
        assert server.marks == ["started", "stopped"]
        stuck.fin()
        crowd.leave()
