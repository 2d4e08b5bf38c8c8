"""
What Headcount costs: memory, CPU, bytes and latency, against targets, in one table.

    make bench                        everything, about 25 minutes
    python bench/suite.py memory opening only these
    python bench/suite.py --list      what there is

Real server processes and real sockets on this machine. CPU is the server's as the kernel accounts for it and memory is
PSS, so a busy machine disturbs little; ratios are of one run. Exits with 1 when a figure misses its target.
docs/performance.md explains each figure and its limits.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import uvloop
from load import (
    Peer,
    Poster,
    SsePeer,
    Viewer,
    WebSocketPeer,
    close_peers,
    open_peers,
    raise_file_limit,
)
from measure import machine
from servers import TOKEN, Server, serve, uvicorn, workers

ROUTES = [f"/products/category-{number:02}" for number in range(50)]
SSE, WS = "/__skew/sse?version=v1&route=/", "/__skew/ws?version=v1&route=/"
MANY = 10_000


class Row(NamedTuple):
    """One line of the table."""

    figure: str
    value: float
    unit: str
    most: float | None = None
    """The target; None: for information."""

    @property
    def missed(self) -> bool:
        return self.most is not None and self.value > self.most


Scenario = Callable[[], Awaitable[list[Row]]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Add a function to the suite, under its name."""
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


def kind_and_path(transport: str) -> tuple[type[Peer], str]:
    return (SsePeer, SSE) if transport == "SSE" else (WebSocketPeer, WS)


@asynccontextmanager
async def crowd(server: Server, transport: str, count: int) -> AsyncIterator[Sequence[Peer]]:
    """Keep `count` pages open."""
    kind, path = kind_and_path(transport)
    peers = await open_peers(kind, server.port, count, path)
    try:
        yield peers
    finally:
        close_peers(peers)
        await server.quiet()


@asynccontextmanager
async def viewers(server: Server, count: int, *, deltas: bool = True) -> AsyncIterator[list[Viewer]]:
    """Let `count` viewers watch."""
    headers = [f"Authorization: Bearer {TOKEN}"]
    watching = await open_peers(Viewer, server.port, count, "/__skew/ws?viewer=1", headers)
    for viewer in watching:
        viewer.send({"type": "subscribe-stats", "deltas": deltas})
    await seconds_until(lambda: all(viewer.messages for viewer in watching))
    try:
        yield watching
    finally:
        close_peers(watching)
        await server.quiet()


async def seconds_until(condition: Callable[[], object], seconds: float = 60) -> float:
    """Wait until something holds; return for how many seconds."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise SystemExit("A benchmark waited in vain; see the traceback of the server above, if there is one.")
        await asyncio.sleep(0.002)
    return time.monotonic() - started


async def warm(server: Server) -> None:
    """Open and close some of each, so that what is made once is not counted."""
    for transport in ("SSE", "WebSocket"):
        async with crowd(server, transport, 300):
            pass


async def navigate(peers: Sequence[Peer], rate: float, seconds: float, seed: int = 1) -> int:
    """Let random pages navigate, `rate` times a second; returns how often."""
    chance = random.Random(seed)
    begin, sent = time.monotonic(), 0
    while (passed := time.monotonic() - begin) < seconds:
        while sent < passed * rate:
            peer = chance.choice(peers)
            assert isinstance(peer, WebSocketPeer)
            peer.send({"type": "route-update", "route": chance.choice(ROUTES)})
            sent += 1
        await asyncio.sleep(0.004)
    return sent


async def cost_of_navigating(
    server: Server, peers: Sequence[Peer], rate: float, seconds: float = 4, repeats: int = 3
) -> float:
    """Return microseconds of CPU a route update over WebSocket, without what the idle server costs."""
    await server.quiet()
    before = server.cpu
    await asyncio.sleep(2)
    idle = (server.cpu - before) / 2
    spent: list[float] = []
    for repeat in range(repeats):
        before, begun = server.cpu, time.monotonic()
        updates = await navigate(peers, rate, seconds, repeat)
        await asyncio.sleep(0.6)  # the last push
        spent.append((server.cpu - before - idle * (time.monotonic() - begun)) / updates * 1e6)
    return statistics.median(spent)


async def bytes_a_connection(server: Server, transport: str, count: int = MANY) -> float:
    await warm(server)
    before = server.memory
    async with crowd(server, transport, count):
        await server.quiet()
        await asyncio.sleep(5)  # what is done every few seconds is part of it: the list of pages for the other nodes
        return (server.memory - before) / count


@scenario
async def memory() -> list[Row]:
    rows: list[Row] = []
    for transport, most in (("SSE", 2_000), ("WebSocket", 2_500)):
        async with serve() as server:
            value = await bytes_a_connection(server, transport)
        rows.append(Row(f"`serve`, {transport}: PSS a connection, {MANY:,} idle", value, "B", most))
    return rows


@scenario
async def memory_on_asgi() -> list[Row]:
    rows: list[Row] = []
    for transport in ("SSE", "WebSocket"):
        values: dict[str, float] = {}
        for app in ("bare", "wrapped", "framework", "mounted"):
            async with uvicorn(app) as server:
                values[app] = await bytes_a_connection(server, transport)
            rows.append(Row(f"uvicorn, {app}, {transport}: PSS a connection", values[app], "B"))
        # The targets are for streams of one task, which is what "bare" is for either transport.
        for app, named, most in (("wrapped", "`wrap`", 1.10), ("mounted", "mounted in FastAPI with sessions", 1.5)):
            rows.append(Row(f"… {named} against bare, {transport}", values[app] / values["bare"], "x", most))
        rows.append(
            Row(
                f"… mounted against bare mounted likewise, {transport}",
                values["mounted"] / values["framework"],
                "x",
                1.10,
            )
        )
        async with uvicorn("mounted", "--http", "apps:mounted_headcount.protocol") as server:
            value = await bytes_a_connection(server, transport)
        rows.append(Row(f"uvicorn, mounted, `--http …headcount.protocol`, {transport}: PSS a connection", value, "B"))
    return rows


async def cost_of_opening(server: Server, transport: str, count: int) -> tuple[float, float]:
    """Return microseconds of CPU to open and to close one of `count`."""
    kind, path = kind_and_path(transport)
    await server.quiet()
    before = server.cpu
    peers = await open_peers(kind, server.port, count, path)
    await server.quiet()
    middle = server.cpu
    close_peers(peers)
    await server.quiet()
    return (middle - before) / count * 1e6, (server.cpu - middle) / count * 1e6


@scenario
async def opening() -> list[Row]:
    rows: list[Row] = []
    for transport in ("SSE", "WebSocket"):
        async with uvicorn("bare") as server:
            await warm(server)
            bare, _ = await cost_of_opening(server, transport, MANY)
        rows.append(Row(f"uvicorn, bare, {transport}: CPU to open", bare, "µs"))
        costs: dict[int, float] = {}
        for watching in (0, 50):
            opened: list[float] = []
            closed: list[float] = []
            async with serve() as server:
                await warm(server)
                async with viewers(server, watching):
                    for _ in range(3):
                        cost = await cost_of_opening(server, transport, MANY)
                        opened.append(cost[0])
                        closed.append(cost[1])
            costs[watching] = statistics.median(opened)
            named = f"`serve`, {transport}, {watching} viewers"
            rows.append(Row(f"{named}: CPU to open", costs[watching], "µs", None if watching else 50))
            rows.append(Row(f"{named}: CPU to close", statistics.median(closed), "µs"))
        rows.append(Row(f"… with 50 viewers against none, {transport}", costs[50] / costs[0], "x", 1.3))
    return rows


@scenario
async def broadcast() -> list[Row]:
    rows: list[Row] = []
    for transport in ("SSE", "WebSocket"):
        async with serve() as server:
            await warm(server)
            async with crowd(server, transport, MANY) as peers:
                costs: list[float] = []
                for _ in range(8):
                    await server.quiet()
                    before, received = server.cpu, sum(peer.received for peer in peers)
                    server.broadcast()
                    await seconds_until(lambda: sum(peer.received for peer in peers) >= received + MANY * 200)  # noqa: B023
                    await server.quiet()
                    costs.append((server.cpu - before) / MANY * 1e6)
                pause = (await server.observed())["gcPause"]
        rows.append(
            Row(f"`serve`, {transport}: CPU a connection of a broadcast of 200 B", statistics.median(costs), "µs", 9)
        )
        rows.append(
            Row(f"`serve`, {transport}: longest GC pause while {MANY:,} came and were sent to", pause * 1e3, "ms", 25)
        )
    return rows


@scenario
async def keepalive() -> list[Row]:
    rows: list[Row] = []
    for transport in ("SSE", "WebSocket"):
        async with serve(keepalive_interval=30) as server, crowd(server, transport, MANY):
            await asyncio.sleep(2)
            before, begun = server.cpu, time.monotonic()
            await asyncio.sleep(30)
            share = (server.cpu - before) / (time.monotonic() - begun)
        rows.append(
            Row(f"`serve`, {transport}: {MANY:,} idle with keepalives every 30 s", share * 100, "% of a core", 0.3)
        )
    return rows


@scenario
async def updates_unwatched() -> list[Row]:
    async with serve() as server:
        await warm(server)
        async with crowd(server, "WebSocket", MANY) as peers:
            socket = await cost_of_navigating(server, peers, 5_000)
        async with crowd(server, "SSE", MANY) as peers:
            post = await cost_of_posting(server, peers)
    async with uvicorn("bare") as server, crowd(server, "SSE", 100) as peers:
        bare = await cost_of_posting(server, peers)
    return [
        Row("`serve`, route update over WebSocket, nobody watching, 5,000/s", socket, "µs", 10),
        Row("`serve`, route update by POST, nobody watching, 16 connections one after the other", post, "µs", 20),
        Row("uvicorn, bare: a POST that does nothing, likewise", bare, "µs"),
    ]


async def cost_of_posting(server: Server, peers: Sequence[Peer], count: int = 20_000) -> float:
    """Return microseconds of CPU a POST, when each of 16 connections sends the next as soon as one is answered."""
    loop = asyncio.get_running_loop()
    posters = [(await loop.create_connection(Poster, "127.0.0.1", server.port))[1] for _ in range(16)]
    chance = random.Random(1)
    handles = [peer.handle for peer in peers]
    spent: list[float] = []
    for _ in range(3):
        await server.quiet()
        before, numbers = server.cpu, iter(range(count))

        async def post(poster: Poster, numbers: Iterator[int] = numbers) -> None:
            for _ in numbers:
                body: dict[str, object] = {"connectionId": chance.choice(handles), "route": chance.choice(ROUTES)}
                await poster.post("/__skew/route", body)

        await asyncio.gather(*map(post, posters))
        spent.append((server.cpu - before) / count * 1e6)
    for poster in posters:
        poster.close()
    return statistics.median(spent)


@scenario
async def updates_watched() -> list[Row]:
    rows: list[Row] = []
    for watching in (1, 5, 50):
        costs: dict[int, float] = {}
        sizes: dict[int, float] = {}
        for count in (100, 1_000, MANY):
            async with serve() as server:
                await warm(server)
                async with crowd(server, "WebSocket", count) as peers, viewers(server, watching) as seeing:
                    await navigate(peers, 500, 1)
                    received, updates = sum(viewer.received for viewer in seeing), 0
                    costs[count] = await cost_of_navigating(server, peers, 500)
                    updates = 3 * 500 * 4
                    sizes[count] = (sum(viewer.received for viewer in seeing) - received) / watching / updates
            named = f"`serve`, route update over WebSocket, {watching} delta viewers, {count:,} connections"
            target = 40 if (watching, count) == (5, MANY) else None
            rows.append(Row(f"{named}: CPU", costs[count], "µs", target))
            rows.append(Row(f"{named}: bytes to each viewer", sizes[count], "B", 200))
        ratio = 1.2 if watching == 5 else 1.3
        rows.append(Row(f"… {MANY:,} connections against 100: CPU", costs[MANY] / costs[100], "x", ratio))
        rows.append(Row(f"… {MANY:,} connections against 100: bytes", sizes[MANY] / sizes[100], "x", 1.3))
    return rows


@scenario
async def updates_whole() -> list[Row]:
    costs: dict[int, float] = {}
    async with serve() as server:
        await warm(server)
        async with crowd(server, "WebSocket", MANY) as peers, viewers(server, 5, deltas=False):
            for rate in (200, 1_000):
                costs[rate] = await cost_of_navigating(server, peers, rate)
    return [
        Row(f"`serve`, route update, 5 viewers of whole `stats`, {MANY:,} connections, 200/s", costs[200], "µs", 500),
        Row("… at 1,000/s against 200/s", costs[1_000] / costs[200], "x", 0.9),
    ]


async def latencies(peers: Sequence[Peer], viewer: Viewer, rate: float, seconds: float) -> list[float]:
    """Let pages navigate, each to a route nobody is on, and return after how many ms the viewer knew."""
    waiting: dict[str, float] = {}
    found: list[float] = []

    def seen(message: dict[str, object]) -> None:
        now = time.perf_counter()
        routes = message["routes"]
        assert isinstance(routes, dict)
        for route, count in routes.items():
            if count and (sent := waiting.pop(route, None)) is not None:
                found.append((now - sent) * 1e3)

    viewer.on_stats = seen
    begin, sent = time.monotonic(), 0
    while (passed := time.monotonic() - begin) < seconds:
        while sent < passed * rate:
            peer = peers[sent % len(peers)]
            assert isinstance(peer, WebSocketPeer)
            route = f"/at-{rate}/{sent}"
            waiting[route] = time.perf_counter()
            peer.send({"type": "route-update", "route": route})
            sent += 1
        await asyncio.sleep(0.001)
    await asyncio.sleep(1)
    if len(found) < sent:
        raise SystemExit(f"Of {sent} updates the viewer saw {len(found)}.")
    return sorted(found)


@scenario
async def latency() -> list[Row]:
    async with serve() as server, crowd(server, "WebSocket", 2_000) as peers, viewers(server, 1) as [viewer]:
        quiet = await latencies(peers, viewer, 2, 15)
        busy = await latencies(peers, viewer, 2_000, 8)
    return [
        Row("`serve`, from a route update to a viewer, quiet: p50", statistics.median(quiet), "ms", 5),
        Row("… at 2,000 updates/s: p50", statistics.median(busy), "ms"),
        Row("… at 2,000 updates/s: p99", busy[int(len(busy) * 0.99)], "ms", 300),
    ]


@scenario
async def stuck_viewer() -> list[Row]:
    async with serve(send_timeout=3_600) as server:
        await warm(server)
        async with crowd(server, "WebSocket", 2_000) as peers, viewers(server, 1, deltas=False) as [stuck]:
            await navigate(peers, 200, 2)
            stuck.transport.pause_reading()
            await navigate(peers, 200, 5)  # until the sockets' buffers are full
            before = server.memory
            await navigate(peers, 200, 40)
            grown = server.memory - before
    return [
        Row(
            "`serve`, a viewer that stops reading, 2,000 connections, 40 s of 200 updates/s: growth",
            grown / 1e6,
            "MB",
            5,
        )
    ]


@scenario
async def storm() -> list[Row]:
    async with serve() as server:
        await warm(server)
        peers = list(await open_peers(WebSocketPeer, server.port, MANY, WS))
        async with viewers(server, 5) as seeing:
            before, counts, begun = server.cpu, [viewer.messages for viewer in seeing], time.monotonic()

            async def come_back(some: Sequence[Peer]) -> Sequence[Peer]:
                close_peers(some)
                return await open_peers(WebSocketPeer, server.port, len(some), WS)

            parts = [peers[start : start + 1_000] for start in range(0, MANY, 1_000)]
            back = [peer for some in await asyncio.gather(*map(come_back, parts)) for peer in some]
            last = time.monotonic()
            exact = await seconds_until(lambda: all(viewer.stats["total"] == MANY for viewer in seeing))
            await asyncio.sleep(0.3)
            spent = server.cpu - before
            rate = max(
                (viewer.messages - count) / (last + exact - begun) for viewer, count in zip(seeing, counts, strict=True)
            )
            close_peers(back)
    return [
        Row(f"`serve`, {MANY:,} reconnect at once, 5 viewers: figures exact after the last", exact, "s", 2),
        Row("… messages a second to a viewer meanwhile", rate, "/s", 5),
        Row("… CPU in all", spent, "s"),
    ]


@scenario
async def hundred_thousand() -> list[Row]:
    count, processes = 100_000, 6
    async with workers(processes) as server:
        empty = server.memory
        crowds = [
            await asyncio.create_subprocess_exec(
                *[sys.executable, str(Path(__file__).with_name("crowd.py")), str(server.port), f"127.0.1.{number + 1}"],
                str(count // processes + (number < count % processes)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for number in range(processes)
        ]
        try:
            for one in crowds:
                assert one.stdout is not None
                async with asyncio.timeout(300):
                    if await one.stdout.readline() != b"open\n":
                        raise SystemExit("Not all of the pages could be opened; raise ulimit -Hn.")
            pages = await open_peers(WebSocketPeer, server.port, 200, WS)
            async with viewers(server, 1) as [viewer]:
                exact = await seconds_until(lambda: viewer.stats["total"] == count + 200)
                await server.quiet()
                total = server.memory
                delays = await latencies(pages, viewer, 20, 10)
                counted = viewer.stats["total"]
            close_peers(pages)
        finally:
            for one in crowds:
                if one.returncode is None:
                    one.terminate()
                await one.wait()
    return [
        Row(f"`serve --workers {processes}`, {count:,} connections: PSS of all processes", total / 1e6, "MB", 350),
        Row("… of which before the first", empty / 1e6, "MB"),
        Row("… connections counted that are not, or the other way round", abs(counted - count - 200), "", 0),
        Row("… viewer exact after it came", exact, "s", 2),
        Row("… from a route update to a viewer, 20/s: p99", delays[int(len(delays) * 0.99)], "ms", 300),
    ]


def table(rows: Sequence[Row]) -> str:
    lines = ["| figure | measured | target | |", "|---|--:|--:|---|"]
    for row in rows:
        target = "" if row.most is None else f"<= {row.most:g} {row.unit}"
        verdict = "" if row.most is None else "missed" if row.missed else "ok"
        lines.append(f"| {row.figure} | {_short(row.value)} {row.unit} | {target} | {verdict} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


async def run(names: Sequence[str]) -> int:
    rows: list[Row] = []
    for number, name in enumerate(names, 1):
        print(f"… {number}/{len(names)} {name}", file=sys.stderr, flush=True)
        found = await SCENARIOS[name]()
        rows += found
        for row in found:
            print(
                f"    {row.figure}: {_short(row.value)} {row.unit}{'  MISSED' if row.missed else ''}", file=sys.stderr
            )
    text = f"{machine()}, {datetime.now(UTC):%Y-%m-%d}\n\n{table(rows)}\n"
    results = Path(__file__).with_name("results")
    results.mkdir(exist_ok=True)
    (results / "latest.md").write_text(text)
    print(f"\n{text}")
    misses = sum(row.missed for row in rows)
    if misses:
        print(f"{misses} of {len(rows)} figures miss their targets.", file=sys.stderr)
    return 1 if misses else 0


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; all of them when none is named")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    options = parser.parse_args()
    if options.list:
        print("\n".join(SCENARIOS))
        return 0
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no {unknown[0]}; there are: {', '.join(SCENARIOS)}")
    if raise_file_limit() < MANY + 1_000:
        parser.error(f"{MANY:,} connections need more open files than this system allows; raise ulimit -Hn")
    uvloop.install()
    try:
        return asyncio.run(run(options.names or list(SCENARIOS)))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
