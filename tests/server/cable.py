"""
Pull the cable of some peers, in network namespaces of our own. Run as a program, by test_vanished.py.

    this namespace               a bridge, the servers, and the peers' sockets
      ├─ port-gone ═ eth-gone    the namespace whose cable is pulled
      └─ port-kept ═ eth-kept    the one that stays, so that the bridge keeps its carrier, like a real switch

To the servers it looks like a tab on a laptop that was shut or a phone in a tunnel: no FIN, no RST, no ICMP, just
nothing. Writes one JSON object: by server, after how many seconds viewers had the right figures again, or null.
"""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import uvloop

from .peers import Sse, WebSocket, all_of
from .serving import Server

CLONE_NEWNET = 0x40000000
ADDRESS = "10.231.0.1"
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace of its own, on a port of the bridge."""

    def __init__(self, name: str, number: int) -> None:
        with _returning():
            _check(_libc.unshare(CLONE_NEWNET))
            self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self._port = f"port-{name}"
        _ip(f"link add {self._port} type veth peer name eth-{name} netns {path}")
        _ip(f"link set {self._port} master bridge up")
        for command in (
            f"addr add 10.231.0.{number}/24 dev eth-{name}",
            f"link set eth-{name} up",
            "link set lo up",
        ):
            subprocess.run(["nsenter", f"--net={path}", "ip", *command.split()], check=True)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Make sockets here. Nothing may be awaited inside."""
        with _returning():
            _check(_libc.setns(self._fd, CLONE_NEWNET))
            yield

    def pull(self) -> None:
        """Pull the cable out of the switch."""
        _ip(f"link set {self._port} down")


@contextmanager
def _returning() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        _check(_libc.setns(home, CLONE_NEWNET))
        os.close(home)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


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
    _ip("link set lo up")
    _ip("link add name bridge type bridge")
    _ip(f"addr add {ADDRESS}/24 dev bridge")
    _ip("link set bridge up")
    gone, kept = Namespace("gone", 2), Namespace("kept", 3)
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
