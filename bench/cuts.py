"""
Pages behind a proxy that ends every stream after the same time: how many of them are in the figures.

    python bench/cuts.py
    python bench/cuts.py --cut 15 --strategy sse --minutes 3 --pages 50

The pages are those of `headcount swarm`, which reconnect by the rule of protocol/README.md. A relay on this machine
ends each TCP connection at its time. A viewer that is not behind the relay samples the total ten times a second. All
times and kinds of stream are tried side by side, each in two processes: one with the server, one with its pages. Prints
a row for each: the share of the pages that was counted, and the lowest share of a minute. Exits with 1 if one is below
97 %.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from load import Viewer, open_peers, raise_file_limit
from measure import machine
from servers import TOKEN, serve

from headcount.tools.swarm import Plan, Swarm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kit.proxy import Proxy

WANTED = 0.97
SAMPLE = 0.1
"""Seconds."""


async def count(cut: float, strategy: str, minutes: float, pages: int) -> bool:
    """Try one time and one kind of stream; print its row, and return whether enough was counted and never too much."""
    async with serve(keepalive_interval=15) as server, Proxy(server.port) as relay:
        relay.life = cut
        plan = Plan(pages, {"v1": 1}, ("/", "/a", "/b"), navigate=10.0, rate=200.0, strategy=strategy)  # type: ignore[arg-type]
        swarm = Swarm(f"http://127.0.0.1:{relay.port}/__skew", plan)
        [viewer] = await open_peers(Viewer, server.port, 1, "/__skew/ws?viewer=1", [f"Authorization: Bearer {TOKEN}"])
        viewer.send({"type": "subscribe-stats", "deltas": True})
        running = asyncio.create_task(swarm.run())
        while viewer.stats.get("total", 0) < pages:
            await asyncio.sleep(SAMPLE)
        begun, shares, most = time.monotonic(), [], 0
        by_minute: list[list[float]] = []
        while (passed := time.monotonic() - begun) < minutes * 60:
            total = viewer.stats["total"]
            shares.append(total / pages)
            most = max(most, total)
            if passed >= len(by_minute) * 60:
                by_minute.append([])
            by_minute[-1].append(total / pages)
            await asyncio.sleep(SAMPLE)
        running.cancel()
        await asyncio.wait([running])
    mean, lowest = statistics.mean(shares), min(map(statistics.mean, by_minute))
    renewed, lost = (swarm.tally.events[name] for name in ("renewals", "lost"))
    print(f"| {cut:g} s | {strategy} | {mean:.2%} | {lowest:.1%} | {most} | {renewed:,} | {lost:,} |", flush=True)
    return mean >= WANTED and most <= pages


def run_one(cut: float, strategy: str, minutes: float, pages: int) -> bool:
    """Try one in this process. In one process for all, pages would notice late that their streams have ended."""
    return asyncio.run(count(cut, strategy, minutes, pages))


def run(cuts: list[float], strategies: list[str], minutes: float, pages: int) -> int:
    """Try all, and return the exit code."""
    print(machine())
    print(f"{pages} pages for {minutes:g} minutes; wanted: {WANTED:.0%} counted, and never more than {pages}.\n")
    print("| ended after | stream | counted | lowest minute | most at once | renewed in time | lost |")
    print("|--:|---|--:|--:|--:|--:|--:|", flush=True)
    tries = [(cut, strategy, minutes, pages) for cut in cuts for strategy in strategies]
    with ProcessPoolExecutor(len(tries), multiprocessing.get_context("spawn")) as processes:
        return 0 if all(processes.map(run_one, *zip(*tries, strict=True))) else 1


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cut",
        type=float,
        nargs="+",
        default=[10, 15, 20, 29, 30, 60],
        help="seconds after which a stream is ended (default 10 15 20 29 30 60)",
    )
    parser.add_argument(
        "--strategy", choices=["sse", "ws", "auto"], nargs="+", default=["sse", "ws"], help="default: sse ws"
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long (default 10)")
    parser.add_argument("--pages", type=int, default=200, help="how many pages (default 200)")
    options = parser.parse_args()
    if raise_file_limit() < 6 * options.pages + 500:
        parser.error(f"{options.pages:,} pages need more open files than this system allows; raise ulimit -Hn")
    try:
        return run(options.cut, options.strategy, options.minutes, options.pages)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
