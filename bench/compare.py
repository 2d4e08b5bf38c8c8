"""
What Headcount costs beside what exists, in one table: the reference server and python-socketio's admin instrumentation.

    make bench-peers                  everything, about 9 minutes
    python bench/compare.py --quick   a few connections, to see that it works

Each server is a process of its own and gets the same load from here; CPU is the server's as the kernel accounts for it
and memory is PSS. The table goes to bench/results/peers.md. bench/peers/README.md says what is compared and how fairly.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import uvloop
from contenders import (
    SCRATCH,
    Contender,
    Impossible,
    Onlooker,
    headcount,
    install_reference,
    install_socket_io,
    open_poster,
    reference,
    socket_io,
    watch,
)
from load import Peer, close_peers, open_peers, raise_file_limit
from measure import machine
from servers import Server
from suite import ROUTES

from kit.frames import frame

NAMES = {
    "ours": "headcount serve",
    "ours, whole": "headcount serve, viewers without deltas",
    "ours, few": "headcount serve, 1,000 listed",
    "reference": "nuxt-skew-protection",
    "socket.io": "python-socketio, admin",
}
VIEWERS = 5
ALL = 100_000
"""More than there ever are: every connection is listed, as by the reference."""


class Plan(NamedTuple):
    """How much is measured."""

    sizes: Sequence[int] = (100, 1_000, 5_000)
    """Connections."""
    storms: Sequence[int] = (1_000, 5_000)
    """Sizes at which all reconnect."""
    seconds: float = 5
    """For which pages navigate."""
    watched_rate: float = 20
    """Route updates a second while viewers watch; the reference cannot keep many more with 5,000 connections."""
    unwatched_rate: float = 500
    limit: float = 40
    """Seconds after which anything is given up."""


QUICK = Plan(sizes=(20, 100), storms=(100,), seconds=1, limit=20)


class Value(NamedTuple):
    """A figure of one contender."""

    number: float
    finished: bool = True
    """False: at least so much; it was given up then."""


class Row(NamedTuple):
    """One line of the table; None: there is no such figure."""

    figure: str
    unit: str
    ours: Value
    others: Sequence[Value | None]


Cell = dict[str, Value]
"""What was found of one contender at one size: memory and bytes in B, open, unwatched and update in µs, storms in s."""


async def measure(contender: Contender, count: int, plan: Plan, found: Cell) -> None:
    """Measure one contender at one size, in a server of its own."""
    async with contender.start() as server:
        await warm(contender, server)
        await server.quiet()
        cpu, memory = server.cpu, server.memory
        pages: Sequence[Peer] = await open_peers(contender.page, server.port, count, contender.path)
        await server.quiet()
        found["open"] = Value((server.cpu - cpu) / count * 1e6)
        found["memory"] = Value((server.memory - memory) / count)
        if count == max(plan.sizes) and plan.unwatched_rate:
            await within(plan, found, "unwatched", cost_of_updates(contender, server, pages, [], plan))
        watching = await watch(contender, server, VIEWERS)
        await within(plan, found, "update", cost_of_updates(contender, server, pages, watching, plan))
        if count in plan.storms:
            await storm(contender, server, pages, watching, plan, found)


async def warm(contender: Contender, server: Server) -> None:
    """Open, use and close some, so that what is made or compiled once is not counted."""
    some = await open_peers(contender.page, server.port, 300, contender.path)
    await navigate(contender, server, some, 300, 2, seed=1)
    close_peers(some)


async def within(plan: Plan, found: Cell, name: str, measuring: Awaitable[Cell]) -> None:
    """Add what is found in time; else that the time was over."""
    try:
        async with asyncio.timeout(plan.limit):
            found.update(await measuring)
    except TimeoutError:
        found[name] = Value(plan.limit * 1e6, finished=False)


async def cost_of_updates(
    contender: Contender, server: Server, pages: Sequence[Peer], watching: Sequence[Peer], plan: Plan
) -> Cell:
    """Let pages navigate, and return CPU in µs and bytes to each viewer a route update, without those of idleness."""
    rate, seed = (plan.watched_rate, 4) if watching else (plan.unwatched_rate, 2)
    await navigate(contender, server, pages, rate, 1, seed=seed)
    await asyncio.sleep(0.6)
    await server.quiet()
    # Two seconds are the period of python-socketio's own statistics.
    cpu, received, begun = server.cpu, _received(watching), time.monotonic()
    await asyncio.sleep(2)
    passed = time.monotonic() - begun
    idle_cpu, idle_bytes = (server.cpu - cpu) / passed, (_received(watching) - received) / passed
    cpu, received, begun = server.cpu, _received(watching), time.monotonic()
    updates = await navigate(contender, server, pages, rate, plan.seconds, seed=seed + 1)
    await asyncio.sleep(0.6)  # the last push
    await server.quiet()
    passed = time.monotonic() - begun
    spent = Value((server.cpu - cpu - idle_cpu * passed) / updates * 1e6)
    if not watching:
        return {"unwatched": spent}
    sent = _received(watching) - received - idle_bytes * passed
    return {"update": spent, "bytes": Value(sent / len(watching) / updates)}


def _received(peers: Sequence[Peer]) -> int:
    return sum(peer.received for peer in peers)


async def navigate(
    contender: Contender, server: Server, pages: Sequence[Peer], rate: float, seconds: float, *, seed: int
) -> int:
    """
    Let random pages navigate, `rate` times a second.

    Args:
        contender: How pages say so.
        server: Where to.
        pages: Who may.
        rate: Updates a second; the same number is sent to all contenders, if need be for longer than `seconds`.
        seconds: For how long.
        seed: Another one each time: who goes where they are already changes nothing.

    Returns:
        How many updates were sent.
    """
    chance = random.Random(seed)
    begun, updates, sent = time.monotonic(), round(rate * seconds), 0

    async def walk(send: Callable[[Peer, str], Awaitable[None]]) -> None:
        nonlocal sent
        while sent < updates:
            due, page, route = begun + sent / rate, chance.choice(pages), chance.choice(ROUTES)
            sent += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await send(page, route)

    if contender.update is None:
        posters = [await open_poster(server) for _ in range(16)]
        try:
            async with asyncio.TaskGroup() as group:
                for poster in posters:

                    async def post(page: Peer, route: str, post: Callable[..., Awaitable[None]] = poster.post) -> None:
                        await post("/__skew/route", {"connectionId": page.handle, "route": route})

                    group.create_task(walk(post))
        finally:
            for poster in posters:
                poster.close()
    else:
        text = contender.update

        async def write(page: Peer, route: str) -> None:
            page.transport.write(frame(1, text(route).encode()))

        await walk(write)
    return updates


async def storm(
    contender: Contender, server: Server, pages: Sequence[Peer], watching: Sequence[Peer], plan: Plan, found: Cell
) -> None:
    """Let all pages reconnect at once, and note the CPU in all and after how long the viewers knew, both in s."""
    expected = len(pages) + VIEWERS * contender.viewers_counted
    await server.quiet()
    cpu, begun = server.cpu, time.monotonic()

    async def come_back(some: Sequence[Peer]) -> None:
        close_peers(some)
        await open_peers(contender.page, server.port, len(some), contender.path)

    def exact() -> bool:
        return all(viewer.total == expected for viewer in watching if isinstance(viewer, Onlooker))

    try:
        async with asyncio.timeout(plan.limit):
            parts = [pages[start : start + 1_000] for start in range(0, len(pages), 1_000)]
            await asyncio.gather(*map(come_back, parts))
            while True:
                while not exact():
                    await asyncio.sleep(0.01)
                known = time.monotonic() - begun
                await server.quiet()
                if exact():  # and not so only on the way from one figure to another
                    break
    except TimeoutError:
        found["storm"] = Value(server.cpu - cpu, finished=False)
        if contender.totals:
            found["exact"] = Value(plan.limit, finished=False)
        return
    found["storm"] = Value(server.cpu - cpu)
    if contender.totals:
        found["exact"] = Value(known)


async def compare(plan: Plan, others: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Measure all, one after the other; returns the table's rows, and a line about each that was given up."""
    rows: list[Row] = []
    failures: list[str] = []
    for transport in ("SSE", "WebSocket"):
        found: dict[tuple[str, int], Cell] = {}
        for count in plan.sizes:
            contenders = {"ours": headcount(transport, listed=ALL)}
            if count == max(plan.sizes):
                contenders["ours, whole"] = headcount(transport, listed=ALL, deltas=False)
                contenders["ours, few"] = headcount(transport)
            if "reference" in others:
                contenders["reference"] = reference(transport)
            if "socket.io" in others and transport == "WebSocket":
                contenders["socket.io"] = socket_io()
            for name, contender in contenders.items():
                print(f"… {transport}, {count:,} connections: {NAMES[name]}", file=sys.stderr, flush=True)
                # Once is enough for what viewers have no part in, and for storms.
                some = plan._replace(storms=(), unwatched_rate=0) if name.startswith("ours, ") else plan
                cell = found[name, count] = {}
                try:
                    await measure(contender, count, some, cell)
                except (TimeoutError, ConnectionError) as error:
                    failures.append(f"{NAMES[name]}, {transport}, {count:,} connections: given up; {error!r}")
                    print(f"    {failures[-1]}", file=sys.stderr, flush=True)
                print(f"    {_summary(cell)}", file=sys.stderr, flush=True)
        rows += rows_of(transport, found, plan, others)
    return rows, failures


def rows_of(transport: str, found: Mapping[tuple[str, int], Cell], plan: Plan, others: Sequence[str]) -> list[Row]:
    """Put the figures of one transport side by side."""
    rows: list[Row] = []

    def row(figure: str, unit: str, name: str, count: int, ours: str = "ours") -> None:
        if value := found.get((ours, count), {}).get(name):
            rows.append(Row(figure, unit, value, [found.get((other, count), {}).get(name) for other in others]))

    most = max(plan.sizes)
    row(f"{transport}, {most:,} connections: memory of one, idle", "B", "memory", most)
    row("… CPU to open one", "µs", "open", most)
    row("… CPU a route update, nobody watching", "µs", "unwatched", most)
    for count in plan.sizes:
        row(f"{transport}, {count:,} connections, {VIEWERS} viewers: CPU a route update", "µs", "update", count)
        row("… bytes to each viewer", "B", "bytes", count)
        for ours, how in (("ours, whole", "our viewers without deltas"), ("ours, few", "1,000 of ours listed")):
            row(f"… CPU, {how}", "µs", "update", count, ours)
            row(f"… bytes to each viewer, {how}", "B", "bytes", count, ours)
    for count in plan.storms:
        row(f"{transport}, {count:,} reconnect at once, {VIEWERS} viewers: CPU in all", "s", "storm", count)
        row("… until the viewers' totals were exact", "s", "exact", count)
    return rows


def _summary(cell: Cell) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in cell.items())


def table(rows: Sequence[Row], others: Sequence[str]) -> str:
    """Make Markdown of it; each of the others has a column for its figure and one for how many times ours that is."""
    lines = [
        "| figure | `headcount serve` |" + "".join(f" {name} | × |" for name in others),
        "|---|--:|" + "--:|--:|" * len(others),
    ]
    for row in rows:
        cells = [f"{_shown(row.ours)} {row.unit}"]
        for value in row.others:
            cells += [f"{_shown(value)} {row.unit}", _ratio(value, row.ours)] if value else ["–", ""]
        lines.append(f"| {row.figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: Value) -> str:
    return ("" if value.finished else "> ") + _short(value.number)


def _ratio(value: Value, ours: Value) -> str:
    """Say how many times ours it is, if ours is known."""
    if not ours.finished or ours.number <= 0:
        return ""
    return ("" if value.finished else "> ") + _short(value.number / ours.number)


def _short(number: float) -> str:
    size = abs(number)
    if size < 0.1:
        return f"{number:.2g}"
    return f"{number:,.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"


def installed() -> tuple[list[str], list[str]]:
    """Install the others; returns who could be, and a line about each."""
    others: list[str] = []
    about: list[str] = []
    for name, install in (("reference", install_reference), ("socket.io", install_socket_io)):
        try:
            about.append(install())
            others.append(name)
        except Impossible as error:
            about.append(f"{NAMES[name]} is left out: {error}")
            print(about[-1], file=sys.stderr)
    return others, about


def main() -> int:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that it works; the figures say nothing")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    if raise_file_limit() < max(plan.sizes) * 2 + 1_000:
        parser.error(f"{max(plan.sizes):,} connections need more open files than this allows; raise ulimit -Hn")
    others, about = installed()
    if not others:
        return 1
    uvloop.install()
    try:
        rows, failures = asyncio.run(compare(plan, others))
    except KeyboardInterrupt:
        return 130
    head = "\n".join([f"{machine()}, {datetime.now(UTC):%Y-%m-%d}", *about, *failures])
    text = f"{head}\n\n{table(rows, [NAMES[name] for name in others])}\n"
    # A quick one must not be taken for the table.
    (SCRATCH.parent / ("peers-quick.md" if options.quick else "peers.md")).write_text(text)
    print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
