"""
What being one of a hundred nodes costs, on a real Valkey: CPU of one node's process as the kernel accounts for it.

    python bench/fleet_cost.py

A hundred nodes with a thousand cells each; 99 of them share a process, which changes 42 cells of each four times a
second. The one that is measured has a process of its own: first nobody watches, then it does. Also how long a change at
one node takes to be in the figures of another.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import cast

from fleet_simulation import Cells, NoReleases
from measure import cpu_seconds, machine

from headcount.config import Config
from headcount.core import fleet_messages
from headcount.core.away_pages import AwayPages
from headcount.core.departures import Departures
from headcount.core.registry import Registry
from headcount.fleet.backends.redis import RedisBackend
from headcount.fleet.view import FleetView

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

SECONDS = 15


def _node(url: str, number: int, cells: int) -> tuple[FleetView, Cells]:
    name = f"{number:012x}"
    counted = Cells(name, 1_000, cells, random.Random(number))
    view = FleetView(
        name,
        Config.load({"version": "v1"}, {}),
        cast(Registry, counted),
        threading.RLock(),
        time.monotonic,
        releases=NoReleases(),
        known_versions=NoReleases(),
        mark_dirty=lambda: None,
        shows_rows=lambda: False,
        run_command=_never,
        departures=Departures(8.0),
        away_pages=AwayPages(),
        refresh_departed=lambda: None,
        return_key=b"",
    )
    view.start(RedisBackend(name, url, "bench", url))
    return view, counted


async def _never(command: fleet_messages.Command) -> fleet_messages.Answer:
    raise AssertionError(command)


async def others(url: str, nodes: int, cells: int) -> None:
    """The 99: change cells until standard input ends."""
    crowd = [_node(url, number + 1, cells) for number in range(nodes - 1)]
    ending = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not ending.done():
        for view, counted in crowd:
            counted.move(42)
            view.publish_soon()
            await asyncio.sleep(0.25 / nodes)
    for view, _ in crowd:
        await view.stop()


async def measured(url: str, cells: int) -> None:
    """The one: watches when it is told to on standard input, and takes the figures four times a second."""
    view, counted = _node(url, 0xABCDEF, cells)
    line = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    while True:
        counted.move(42)
        view.publish_soon()
        if counted.noted:
            view.pop_changes()
        if line.done():
            if not line.result():
                break
            view.note_changes(on=True)
            line = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await asyncio.sleep(0.25)
    print(json.dumps({"nodes": len(view._figures), "total": view.snapshot().total}))
    await view.stop()


async def propagation(url: str) -> list[float]:
    """Return seconds from a change at one node to the figures of another, for changes at random moments."""
    (one, counted), (two, _) = _node(url, 0xF1, 10), _node(url, 0xF2, 10)
    with two._lock:
        two.note_changes(on=True)
    await asyncio.sleep(2)
    times = []
    for _ in range(150):
        await asyncio.sleep(random.uniform(0.02, 0.4))
        counted.move(1)
        counted.total += 1_000
        expected = counted.total
        started = time.perf_counter()
        one.publish_soon()
        while two._figures._reports[one.node].total != expected:
            await asyncio.sleep(0.001)
        times.append(time.perf_counter() - started)
    await one.stop()
    await two.stop()
    return sorted(times)


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--cells", type=int, default=1_000)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "others":
        asyncio.run(others(options.url, options.nodes, options.cells))
        return
    if options.part == "measured":
        asyncio.run(measured(options.url, options.cells))
        return
    from kit.stores import Store

    with Store("valkey") as store:
        command = [sys.executable, __file__, "--url", store.url, "--nodes", str(options.nodes)]
        command += ["--cells", str(options.cells), "--part"]
        crowd = subprocess.Popen([*command, "others"], stdin=subprocess.PIPE)
        one = subprocess.Popen([*command, "measured"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert one.stdin is not None
        try:
            time.sleep(5)
            found = {"machine": machine(), "nobody watches, % of a core": _percent(one.pid)}
            before = _operations(store)
            one.stdin.write("watch\n")
            one.stdin.flush()
            time.sleep(4)
            operations = _operations(store)
            found["it watches, % of a core"] = _percent(one.pid)
            found["operations/s"] = str(round((_operations(store) - operations) / SECONDS))
            assert _operations(store) > before
            one.stdin.close()
            assert one.stdout is not None
            found["at the end"] = one.stdout.read().strip()
        finally:
            assert crowd.stdin is not None
            crowd.stdin.close()
            one.wait(20)
            crowd.wait(20)
        times = asyncio.run(propagation(store.url))
        found["propagation, ms"] = f"p50 {times[len(times) // 2] * 1e3:.0f}, p99 {times[-2] * 1e3:.0f}"
    print(json.dumps(found, indent=2))


def _percent(pid: int) -> str:
    before = cpu_seconds(pid)
    time.sleep(SECONDS)
    return f"{100 * (cpu_seconds(pid) - before) / SECONDS:.2f}"


def _operations(store: object) -> int:
    return int(store.info("stats")["total_commands_processed"])  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
