"""
Twenty minutes of a day: 19,000 pages of one process come, navigate and leave, and nothing piles up.

    make soak
    python bench/soak.py --minutes 2 --pages 5000

Prints a line a minute. Exits with 1 when the memory that the server allocated, after a warm-up, grew by more than 2 %
of itself over the run, or when the figures that a viewer has are not those of the pages that are open.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time

import uvloop
from load import SsePeer, Viewer, WebSocketPeer, close_peers, open_peers, raise_file_limit
from measure import machine
from servers import TOKEN, serve
from suite import ROUTES, navigate, seconds_until

PATH = "/__skew/{}?version=v{}&route=/"
WARM_UP = 0.25
"""Share of the run."""


async def churn(port: int, pages: list[WebSocketPeer | SsePeer], chance: random.Random, count: int) -> None:
    """Let some pages leave and as many come."""
    leaving = [pages.pop(chance.randrange(len(pages))) for _ in range(count)]
    close_peers(leaving)
    pages += await open_peers(WebSocketPeer, port, count // 2, PATH.format("ws", chance.randrange(3)))
    pages += await open_peers(SsePeer, port, count - count // 2, PATH.format("sse", chance.randrange(3)))


async def run(minutes: float, count: int) -> int:
    """Run, and return the exit code."""
    chance = random.Random(1)
    print(machine(), flush=True)
    async with serve() as server:
        pages: list[WebSocketPeer | SsePeer] = []
        pages += await open_peers(WebSocketPeer, server.port, count // 2, PATH.format("ws", 0))
        pages += await open_peers(SsePeer, server.port, count - count // 2, PATH.format("sse", 0))
        [viewer] = await open_peers(Viewer, server.port, 1, "/__skew/ws?viewer=1", [f"Authorization: Bearer {TOKEN}"])
        viewer.send({"type": "subscribe-stats", "deltas": True})
        samples: list[tuple[float, int]] = []
        begun, events, minute = time.monotonic(), 0, 1
        while (passed := time.monotonic() - begun) < minutes * 60:
            sockets = [page for page in pages if isinstance(page, WebSocketPeer)]
            events += await navigate(sockets, 200, 0.8, chance.randrange(1 << 30))
            await churn(server.port, pages, chance, 60)
            events += 120
            samples.append((passed, server.own_memory))
            if passed >= minute * 60:
                await seconds_until(lambda: viewer.stats["total"] == len(pages))
                print(f"{minute:3} min  {samples[-1][1] / 1e6:6.1f} MB  {events:,} events", flush=True)
                minute += 1
        await seconds_until(lambda: viewer.stats["total"] == len(pages))
        exact = sum(viewer.stats["versions"].values()) == sum(viewer.stats["routes"].values()) == len(pages)
        known = set(viewer.stats["routes"]) <= {"/", *ROUTES}
    kept = [(at, size) for at, size in samples if at > minutes * 60 * WARM_UP]
    slope, _ = statistics.linear_regression(*zip(*kept, strict=True))
    growth = slope * minutes * 60 / statistics.mean(size for _, size in kept)
    print(f"{len(pages):,} pages, {events:,} events; memory grew by {growth:.2%} of itself over the run; ", end="")
    print("figures exact" if exact and known else "figures WRONG")
    return 0 if exact and known and growth < 0.02 else 1


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="how long (default 20)")
    parser.add_argument("--pages", type=int, default=19_000, help="how many pages (default 19,000)")
    options = parser.parse_args()
    if raise_file_limit() < options.pages + 500:
        parser.error(f"{options.pages:,} pages need more open files than this system allows; raise ulimit -Hn")
    uvloop.install()
    try:
        return asyncio.run(run(options.minutes, options.pages))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
