"""
Pull the cable between nodes and Redis. Run by test_cut_off.py, as a program, in a network namespace of its own.

Each node is in a namespace with its pages and a viewer, Redis in another: a pulled cable takes Redis from a node, or
from all, and nobody's pages. Writes one JSON object: by cut, what the viewers said.
"""

import asyncio
import json
import time
from contextlib import ExitStack
from typing import Any

import uvloop

from kit.pages import Sse, WebSocket, all_of, apply_delta
from kit.stores import Store

from .fleet import node_counts
from .namespaces import Namespace, make_bridge
from .serving import Server

STORE = 2
"""Last byte of the address of Redis; those of the nodes follow."""
HEALED = 20.0
"""Seconds in which everything must be right again, most of which is back-off."""
NOTICED = 10.0
"""Seconds in which a node that is cut off must say so: it expects an answer to a heartbeat of three within three."""
GRACE = 1.0
"""Seconds; what serving.py sets `unaccounted_grace` to."""
EXPIRED = 11.0
"""Seconds in which a node that cannot be heard must be out: 10, and one for this machine."""


class Machine:
    """
    A node, its pages, whose version is the machine's name, and a viewer, all behind one cable.

    Attributes:
        most: Pages that were ever open at once.
    """

    def __init__(self, name: str, number: int, stack: ExitStack) -> None:
        self.name = name
        self.wire = Namespace(name, number)
        backend = f"redis://10.231.0.{STORE}:6379/0"
        with self.wire.inside():
            self.server = stack.enter_context(Server("uvicorn", backend=backend, fleet_name="cut"))
        self.pages: list[Sse] = []
        self.most = 0
        self.viewer: WebSocket

    async def fill(self) -> None:
        with self.wire.inside():
            self.server.wait_ready()
            cookie = self.server.sign_in()
        await self.open_pages(5)
        self.viewer = await WebSocket.open(self.server.url, cookie=cookie, viewer=1, inside=self.wire.inside)
        await self.viewer.subscribe(self.server.url)

    async def open_pages(self, count: int) -> None:
        self.pages += await all_of(
            [Sse.open(self.server.url, version=self.name, inside=self.wire.inside) for _ in range(count)]
        )
        self.most = max(self.most, len(self.pages))

    def leave(self) -> None:
        self.pages.pop().fin()

    async def says(self, timeout: float, *, nodes: tuple[int, int], partial: bool, pages: "list[Machine]") -> float:
        """Wait until the viewer has exactly the pages of some machines; returns how many seconds it took."""
        started = time.monotonic()
        expected = {
            "partial": partial,
            "total": sum(len(machine.pages) for machine in pages),
            "versions": {machine.name: len(machine.pages) for machine in pages},
        }

        def matches(seen: Sse | WebSocket) -> bool:
            if (figures := seen.figures) is None:
                return False
            return node_counts(figures) == nodes and expected == {name: figures[name] for name in expected}

        try:
            await self.viewer.until(matches, timeout)
        except AssertionError as error:
            raise AssertionError(
                f"{self.name} does not say {expected} of {nodes} nodes: {error}; {self.server.log}"
            ) from None
        return time.monotonic() - started


async def all_say(machines: list[Machine], timeout: float = HEALED) -> float:
    """Wait until every viewer has all pages and misses nobody; returns how many seconds it took."""
    whole = (len(machines), len(machines))
    return max(
        await asyncio.gather(*(one.says(timeout, nodes=whole, partial=False, pages=machines) for one in machines))
    )


async def short(machines: list[Machine]) -> dict[str, Any]:
    """Cut a node off for too short a time for anybody to notice: what was sent comes late."""
    cut, other, _ = machines
    cut.wire.pull()
    await cut.open_pages(2)
    await other.open_pages(2)
    other.leave()
    await cut.viewer.until(lambda s: s.figures is not None and s.figures["versions"].get(cut.name) == len(cut.pages))
    await asyncio.sleep(1.0)  # the cut itself
    cut.wire.plug()
    return {"healed": await all_say(machines), "log": cut.server.log}


async def long(machines: list[Machine]) -> dict[str, Any]:
    """Cut a node off until the others have let go of it, and it of them."""
    cut, *others = machines
    await asyncio.sleep(4)  # until its tally has all of them
    pages = len(cut.pages)
    started = time.monotonic()
    cut.wire.pull()
    noticed, *_ = await asyncio.gather(
        _partial(cut),
        *(one.says(EXPIRED, nodes=(2, 2), partial=True, pages=others) for one in others),
    )
    gone = time.monotonic() - started
    # The network swallows its packets, and its pages are open: however long it takes, it is no node that died.
    absences = [one.viewer.figures["absences"] for one in others if one.viewer.figures is not None]
    held = [(each["state"], each["total"]) for found in absences for each in found]
    await asyncio.sleep(2 * GRACE)
    cut.leave()
    await others[0].open_pages(2)
    await cut.says(EXPIRED, nodes=(1, 3), partial=True, pages=[cut])
    await all_of([one.says(5, nodes=(2, 2), partial=True, pages=others) for one in others])
    cut.wire.plug()
    return {
        "noticed": noticed,
        "gone": gone,
        "held": held,
        "pages": pages,
        "healed": await all_say(machines),
        "log": cut.server.log,
    }


async def store(machines: list[Machine], wire: Namespace) -> dict[str, Any]:
    """Cut Redis off from everybody."""
    wire.pull()
    await asyncio.gather(*map(_partial, machines))
    for machine in machines:
        await machine.open_pages(1)
    await asyncio.gather(*(one.says(EXPIRED, nodes=(1, 3), partial=True, pages=[one]) for one in machines))
    wire.plug()
    return {"healed": await all_say(machines)}


async def _partial(machine: Machine) -> float:
    started = time.monotonic()
    await machine.viewer.until(lambda s: s.figures is not None and s.figures["partial"], NOTICED)
    return time.monotonic() - started


def wrong(machines: list[Machine]) -> list[str]:
    """Return what no viewer may ever have said: more pages than there ever were, or less than none."""
    most = {machine.name: machine.most for machine in machines}
    found = []
    for machine in machines:
        figures: dict[str, Any] = {}
        for message in machine.viewer.messages:
            if message["type"] == "stats":
                figures = message
            elif message["type"] == "stats-delta":
                figures = apply_delta(figures, message)
            else:
                continue
            counts = figures["versions"]
            if figures["total"] != sum(counts.values()) or not all(
                0 <= count <= most[name] for name, count in counts.items()
            ):
                found.append(f"{machine.name}: {figures['total']}, {counts}, there never were more than {most}")
    return found


async def main() -> dict[str, Any]:
    """Cut, heal, and cut again."""
    make_bridge()
    wire = Namespace("store", STORE)
    with ExitStack() as stack:
        with wire.inside():
            stack.enter_context(Store("valkey", port=6379, bind="0.0.0.0", protected_mode="no"))
        machines = [Machine(name, STORE + number, stack) for number, name in enumerate(("a", "b", "c"), 1)]
        for machine in machines:
            await machine.fill()
        await all_say(machines)
        return {
            "short": await short(machines),
            "long": await long(machines),
            "store": await store(machines, wire),
            "wrong": wrong(machines),
            "errors": [machine.server.log for machine in machines if "Traceback" in machine.server.log],
        }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main())))
