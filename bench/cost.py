"""
What one route update costs, at 100 and at 10,000 open connections.

    python bench/cost.py

Starts `headcount serve`, opens WebSockets and viewers that take deltas, lets random connections navigate at a steady
rate, and reads the server's CPU time from the kernel. Keepalives, which cost the same whether anybody navigates or not,
are put off for longer than a run, and what the idle server costs is taken off. Exits with 1 when an update costs more
than 1.3 times as much, in CPU or in bytes to a viewer, with many connections as with few.
"""

import argparse
import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import urllib.request
from typing import NamedTuple

from load import Peer, close_peers, open_peers, raise_file_limit
from measure import cpu_seconds, machine, pss_kib

TOKEN = "a token for the benchmark only"
ROUTES = [f"/products/category-{number:02}" for number in range(50)]
LIMIT = 1.3


class Cost(NamedTuple):
    """Medians over the repeats."""

    connections: int
    viewers: int
    cpu: float
    """Microseconds of server CPU an update."""
    bytes: float
    """To each viewer, an update."""
    memory: float
    """KiB a connection, with all of them open."""


def start(port: int) -> subprocess.Popen[bytes]:
    """Start the server and wait until it answers."""
    command = [sys.executable, "-m", "headcount", "serve", "--port", str(port), "--version", "v1", "--route-tracking"]
    environment = {**os.environ, "HEADCOUNT_ADMIN_TOKEN": TOKEN, "HEADCOUNT_KEEPALIVE_INTERVAL": "3600"}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    for _ in range(200):
        if server.poll() is not None:
            sys.exit("The server did not start; its message stands above.")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/__skew/health", timeout=1):
                return server
        except OSError:
            try:
                server.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    sys.exit("The server did not answer within 10 s.")


async def navigate(peers: list[Peer], rate: int, seconds: float, seed: int) -> int:
    """Let random peers navigate, `rate` times a second, and return how many updates that were."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    begin, sent = loop.time(), 0
    while (passed := loop.time() - begin) < seconds:
        while sent < passed * rate:
            chance.choice(peers).send({"type": "route-update", "route": chance.choice(ROUTES)})
            sent += 1
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.5)  # the last push
    return sent


async def measure(connections: int, viewers: int, options: argparse.Namespace) -> Cost:
    """Measure one cell of the table, on a server of its own."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    server = start(port)
    try:
        empty = pss_kib(server.pid)
        peers = await open_peers(port, connections, "/__skew/ws?version=v1&route=/")
        memory = (pss_kib(server.pid) - empty) / connections
        headers = [f"Authorization: Bearer {TOKEN}"]
        watching = await open_peers(port, viewers, "/__skew/ws?viewer=1", headers)
        for viewer in watching:
            viewer.send({"type": "subscribe-stats", "deltas": True})
        await asyncio.sleep(1)
        before = cpu_seconds(server.pid)
        await asyncio.sleep(options.seconds)
        idle = (cpu_seconds(server.pid) - before) / options.seconds
        cpus: list[float] = []
        sizes: list[float] = []
        for repeat in range(options.repeats):
            received = [viewer.received for viewer in watching]
            before = cpu_seconds(server.pid)
            updates = await navigate(peers, options.rate, options.seconds, repeat)
            spent = cpu_seconds(server.pid) - before - idle * (options.seconds + 0.5)
            cpus.append(spent / updates * 1e6)
            got = [viewer.received - count for viewer, count in zip(watching, received, strict=True)]
            sizes.append(statistics.mean(got) / updates)
        close_peers(peers + watching)
    finally:
        server.terminate()
        server.wait(10)
    return Cost(connections, viewers, statistics.median(cpus), statistics.median(sizes), memory)


async def run(options: argparse.Namespace) -> int:
    """Measure all cells, print the table and return the exit code."""
    few, many = options.few, options.many
    costs: dict[tuple[int, int], Cost] = {}
    for viewers in options.viewers:
        for connections in (few, many):
            print(f"… {connections:,} connections, {viewers} viewers", file=sys.stderr, flush=True)
            costs[connections, viewers] = await measure(connections, viewers, options)
    print(f"\nOne route update over WebSocket, {options.rate}/s, viewers take deltas. {machine()}\n")
    print("| connections | viewers | CPU us | bytes to a viewer | KiB a connection |")
    print("|--:|--:|--:|--:|--:|")
    for cost in costs.values():
        print(f"| {cost.connections:,} | {cost.viewers} | {cost.cpu:.1f} | {cost.bytes:.0f} | {cost.memory:.1f} |")
    worst = 0.0
    print()
    for viewers in options.viewers:
        small, large = costs[few, viewers], costs[many, viewers]
        cpu, size = large.cpu / small.cpu, large.bytes / small.bytes
        worst = max(worst, cpu, size)
        print(f"{viewers} viewers: {many:,} against {few:,}: CPU x {cpu:.2f}, bytes x {size:.2f} (at most {LIMIT})")
    if worst > LIMIT:
        print(f"An update costs {worst:.2f} times as much with {many:,} connections.", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=100, help="connections (default 100)")
    parser.add_argument("--many", type=int, default=10_000, help="connections (default 10,000)")
    parser.add_argument("--viewers", type=int, nargs="+", default=[1, 5], help="viewers (default 1 and 5)")
    parser.add_argument("--rate", type=int, default=500, help="updates a second (default 500)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each repeat (default 4)")
    parser.add_argument("--repeats", type=int, default=5, help="medians are over these (default 5)")
    options = parser.parse_args()
    if options.many + 100 > raise_file_limit():
        parser.error(
            f"--many {options.many} needs more open files than this system allows; lower it or raise ulimit -Hn."
        )
    try:
        return asyncio.run(run(options))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
