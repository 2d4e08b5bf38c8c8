"""
How soon pages hear of a release, and how evenly a staged release asks them.

    python bench/release_reach.py
    python bench/release_reach.py --pages 2000 --over 20

Four server processes of one fleet on a real Valkey have the pages, half of them over SSE and half over WebSocket. One
declares a release: each page's time is that from the request to the arrival of the message, in this process. Then
another version is declared in stages; the messages of each second are counted, as they arrive.

Prints both. Exits with 1 if the 99th percentile of a release is above 1 s, or a second of the stages has more than
three times the mean.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from measure import machine
from servers import TOKEN

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kit.pages import BASE, Sse, Stream, WebSocket, ask
from kit.stores import Store
from server.serving import Server

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
NODES = 4
AT_ONCE = 100
"""Streams that are opened at the same time."""
SOON = 1.0
"""Seconds in which 99 of 100 pages hear of a release."""
UNEVEN = 3.0
"""How much more than the mean the fullest second of a stage may have."""


async def open_pages(nodes: list[Server], number: int) -> list[Stream]:
    """Open pages, the same number at each node."""
    pages: list[Stream] = []
    for begin in range(0, number, AT_ONCE):
        pages += await asyncio.gather(
            *(
                (Sse, WebSocket)[page // NODES % 2].open(nodes[page % NODES].url, version="v1", route="/")
                for page in range(begin, min(number, begin + AT_ONCE))
            )
        )
    return pages


async def declare(node: Server, **body: object) -> float:
    """Declare a version; return when the request began."""
    began = time.monotonic()
    status, answer = await ask(node.url, "POST", BASE + "/admin/release", {"unserved": True, **body}, HEADERS)
    assert (status, answer["nodes"]) == (200, {"reached": NODES, "expected": NODES}), answer
    return began


async def heard(pages: list[Stream], version: str, patience: float) -> list[float]:
    """Wait until all pages have heard of a version; return when each did."""
    times: list[float] = []
    async with asyncio.timeout(patience):
        for page in pages:
            await page.until(
                lambda stream: any(each["version"] == version for each in stream.of_type("version")), patience
            )
            times += [
                at
                for message, at in zip(page.messages, page.times, strict=True)
                if message["type"] == "version" and message["version"] == version
            ][:1]
    return sorted(times)


async def measure(nodes: list[Server], number: int, staged: int, over: float) -> bool:
    """Measure both, and print them. Returns whether they are as they should be."""
    for node in nodes:
        await asyncio.to_thread(node.wait_ready)
    pages = await open_pages(nodes, number)
    while (await ask(nodes[0].url, "GET", BASE + "/admin/stats", None, HEADERS))[1]["total"] < number:
        await asyncio.sleep(0.1)
    began = await declare(nodes[0], version="v2")
    delays = [at - began for at in await heard(pages, "v2", 60)]
    middle, late, last = delays[len(delays) // 2], delays[len(delays) * 99 // 100], delays[-1]
    reached = f"median {middle:.2f} s, p99 {late:.2f} s, last {last:.2f} s"
    print(f"a release reaches {number:,} pages at {NODES} nodes: {reached}")
    for page in pages[staged:]:
        await page.leave()
    began = await declare(nodes[1], version="v3", over=over)
    seconds = Counter(int(at - began) for at in await heard(pages[:staged], "v3", 2 * over + 30))
    mean = staged / over
    most = max(seconds.values())
    print(f"{staged:,} pages in stages of {over:g} s: {mean:.0f} a second, at most {most} ({most / mean:.1f} x)")
    return late <= SOON and most <= UNEVEN * mean


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0].strip())
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--staged", type=int, default=2_000)
    parser.add_argument("--over", type=float, default=60.0, metavar="SECONDS")
    options = parser.parse_args()
    print(machine())
    with ExitStack() as stack:
        store = stack.enter_context(Store())
        nodes = [
            stack.enter_context(Server("uvicorn", admin_token=TOKEN, backend=store.url, version="v2"))
            for _ in range(NODES)
        ]
        return 0 if asyncio.run(measure(nodes, options.pages, min(options.staged, options.pages), options.over)) else 1


if __name__ == "__main__":
    sys.exit(main())
