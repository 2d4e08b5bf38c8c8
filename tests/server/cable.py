"""
Pull the cable of some peers. Run by test_vanished.py, as a program, in a network namespace of its own.

To the servers it looks like a tab on a laptop that was shut or a phone in a tunnel: no FIN, no RST, no ICMP, just
nothing. Writes one JSON object: by server, after how many seconds viewers had the right figures again, or null.
"""

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from typing import Any

import uvloop

from kit.pages import Sse, WebSocket, all_of

from .namespaces import ADDRESS, Namespace, make_bridge
from .serving import Server


async def vanish(server: Server, gone: Namespace, kept: Namespace, pulled: asyncio.Event, patience: float) -> Any:
    """Open pages in both namespaces, and say how long after the cut those in `gone` were in the figures."""
    server.wait_ready()
    url, cookie = server.url, server.sign_in()
    viewer = await WebSocket.open(url, cookie=cookie, version="kept", inside=kept.inside)
    await viewer.subscribe(url, cookie)
    pages: list[Sse | WebSocket] = [
        *(await all_of([Sse.open(url, version="kept", inside=kept.inside) for _ in range(3)])),
        *(await all_of([WebSocket.open(url, version="kept", inside=kept.inside) for _ in range(3)])),
        *(await all_of([Sse.open(url, version="sse", inside=gone.inside) for _ in range(5)])),
        *(await all_of([WebSocket.open(url, version="ws", cookie=cookie, inside=gone.inside) for _ in range(5)])),
    ]
    await pages[-1].subscribe(url)  # a viewer can vanish, too
    everybody = [*[("kept", "/")] * 7, *[("sse", "/")] * 5, *[("ws", "/")] * 5]
    await viewer.until_figures(everybody)
    timeouts = server.get("/debug/peer-timeouts")[1]
    ready[server.name].set()
    await pulled.wait()

    started = time.monotonic()
    seconds: dict[str, float | None] = {}

    async def leaves(version: str) -> None:
        try:
            await viewer.until(lambda s: s.figures is not None and version not in s.figures["versions"], patience)
            seconds[version] = time.monotonic() - started
        except AssertionError:
            seconds[version] = None

    await asyncio.gather(leaves("sse"), leaves("ws"))
    kept_open = not any(page.ended for page in [viewer, *pages[:6]])
    return {**seconds, "kept": kept_open, "counts": viewer.counts, "timeouts": timeouts, "log": server.log}


async def main(plan: dict[str, Any]) -> dict[str, Any]:
    """Carry out a plan: `{"servers": {name: [command, settings]}, "patience": seconds}`."""
    make_bridge()
    gone, kept = (
        Namespace("gone", 2),
        Namespace("kept", 3),
    )  # two, so that the bridge keeps its carrier, as a switch does
    pulled = asyncio.Event()
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(Server(command, host=ADDRESS, **settings))
            for name, (command, settings) in plan["servers"].items()
        }
        for name, server in servers.items():
            server.name = name
            ready[name] = asyncio.Event()
        jobs = {
            name: asyncio.create_task(vanish(server, gone, kept, pulled, plan["patience"]))
            for name, server in servers.items()
        }
        waiting = [asyncio.create_task(ready[name].wait()) for name in jobs]
        everyone = asyncio.gather(*waiting)
        # Whoever fails before it is ready must not leave the others waiting.
        await asyncio.wait([everyone, *jobs.values()], return_when=asyncio.FIRST_COMPLETED)
        if not everyone.done():
            for job in jobs.values():
                if job.done():
                    job.result()
        gone.pull()
        pulled.set()
        return dict(zip(jobs, await asyncio.gather(*jobs.values()), strict=True))


ready: dict[str, asyncio.Event] = {}

if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))
