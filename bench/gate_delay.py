"""
When gates open: never before the last outdated page has left, and how long after.

    python bench/gate_delay.py
    python bench/gate_delay.py --rollouts 5 --seed 7 --wait "--exclude-away --for 0s"

Two workers serve pages over SSE and WebSocket. Each rollout, drawn from its seed, declares another version; the pages
of the one before leave within seconds, and some come back on the new one. A third of them break off before that, as
when a Wi-Fi is lost, and are back up to four seconds later: they are open all the time, as users see it, but no server
has a stream of them. `headcount wait --release` runs with its defaults, and `GET /admin/gate` is asked twice a second.
Who is still there is counted here, from the pages. There are no other faults: tests/server/test_gate_chaos.py has them.

Prints a row for each rollout. Exits with 1 if a gate opened before the last page had left, or more than 2 s after.
`--wait` replaces the options of `headcount wait`: with those above it does not look for pages that broke off, and the
recount shows it.
"""

import argparse
import asyncio
import random
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from measure import machine
from servers import TOKEN, Server, workers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kit.pages import BASE, Sse, Stream, WebSocket, ask, everybody_leaves

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
WANTED = 2.0
"""Seconds after which a gate is open, at most."""
PAGES = 30
LIVES = (2.0, 6.0)
"""Seconds for which an outdated page stays, at least and at most."""
AWAY = (0.1, 4.0)
"""Seconds for which a page that breaks off is on its way."""
POLL = 0.5
"""Seconds between two requests to the gate."""


class Rollout:
    """One rollout: the pages of the version before, and when the last of them left."""

    def __init__(self, server: Server, number: int, seed: int) -> None:
        self.server = server
        self.old, self.new = f"v{number}", f"v{number + 1}"
        self.chance = random.Random(seed)
        self.left = 0
        """Outdated pages that users have open."""
        self.went = 0.0
        """When the last one began to leave."""
        self.broke_off = 0

    async def open(self, version: str, **query: Any) -> Stream:
        """Open a page."""
        kind = self.chance.choice((Sse, WebSocket))
        return await kind.open(self.server.origin, version=version, route="/", **query)

    async def live(self, page: Stream, seconds: float, *, breaks_off: bool, reloads: bool) -> None:
        """Be an outdated page to its end."""
        await asyncio.sleep(seconds)
        if breaks_off:
            self.broke_off += 1
            page.fin()
            await asyncio.sleep(self.chance.uniform(*AWAY))
            page = await self.open(self.old, replaces=page.handle)
        self.left -= 1
        self.went = time.monotonic()
        await page.leave()
        if reloads:
            await self.open(self.new)

    async def wait(self, options: list[str], ready: asyncio.Event) -> tuple[int, float, int]:
        """Run `headcount wait`; return its exit code, when it ended, and how many outdated pages were open then."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headcount", "wait", self.server.origin, "--token", TOKEN),
            *("--release", self.new, *options),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        async for line in process.stderr:
            if b"outdated" in line:
                ready.set()
        code = await process.wait()
        return code, time.monotonic(), self.left

    async def poll(self) -> tuple[float, int]:
        """Ask the gate until it is open; return when that was, and how many outdated pages were open then."""
        while True:
            status, _ = await ask(self.server.origin, "GET", f"{BASE}/admin/gate?release={self.new}", None, HEADERS)
            if status == 200:
                return time.monotonic(), self.left
            assert status == 409, status
            await asyncio.sleep(POLL)

    async def run(self, options: list[str]) -> tuple[bool, float, float]:
        """Run it, print its row; return whether the gates were right, and how long after the last page each opened."""
        pages = [await self.open(self.old) for _ in range(PAGES)]
        self.left = PAGES
        body = {"version": self.new, "unserved": True}
        status, _ = await ask(self.server.origin, "POST", f"{BASE}/admin/release", body, HEADERS)
        assert status == 200, status
        ready = asyncio.Event()
        waiting = asyncio.create_task(self.wait(options, ready))
        async with asyncio.timeout(30):
            await ready.wait()
        polling = asyncio.create_task(self.poll())
        chance = self.chance
        lives = [
            self.live(page, chance.uniform(*LIVES), breaks_off=chance.random() < 1 / 3, reloads=chance.random() < 1 / 3)
            for page in pages
        ]
        async with asyncio.timeout(60):
            await asyncio.gather(*lives)
            (code, ended, left), (opened, left_at_gate) = await asyncio.gather(waiting, polling)
        await everybody_leaves(politely=True)
        delays = ended - self.went, opened - self.went
        right = code == 0 and left == left_at_gate == 0 and max(delays) <= WANTED
        columns = (self.new, self.broke_off, left, f"{delays[0]:.2f} s", left_at_gate, f"{delays[1]:.2f} s")
        print(f"| {' | '.join(map(str, columns))} |", flush=True)
        return right, *delays


async def know_who_is_away(server: Server) -> None:
    """Wait until the servers know which pages are away: 48 s after their start."""
    async with asyncio.timeout(90):
        while "awayKnown" not in (await ask(server.origin, "GET", f"{BASE}/admin/stats", None, HEADERS))[1]:
            await asyncio.sleep(0.5)


async def main(rollouts: int, seed: int, options: list[str]) -> int:
    """Run all rollouts, and return the exit code."""
    print(machine())
    print(f"{rollouts} rollouts of {PAGES} pages, seeds from {seed}; wanted: 0 left, and at most {WANTED:g} s.\n")
    async with workers(2) as server:
        await know_who_is_away(server)
        print("| release | broke off | left, wait ended | wait ended after | left, gate opened | gate opened after |")
        print("|---|--:|--:|--:|--:|--:|", flush=True)
        results = [await Rollout(server, number, seed + number).run(options) for number in range(rollouts)]
    for name, delays in (("wait", [wait for _, wait, _ in results]), ("gate", [gate for _, _, gate in results])):
        print(f"{name}: median {statistics.median(delays):.2f} s, from {min(delays):.2f} s to {max(delays):.2f} s")
    return 0 if all(right for right, _, _ in results) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wait", type=shlex.split, default=[], help="options of `headcount wait`")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.rollouts, given.seed, given.wait)))
