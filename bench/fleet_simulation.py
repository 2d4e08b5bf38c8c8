"""
A thousand nodes of ten thousand connections each, in virtual time.

What runs is the real exchange (`FleetView`, `FleetFigures`, `Publication`, the messages and their encoding). What is
simulated is the rest: time, in an event loop whose clock jumps to the next timer; Redis, as a hub that loses, repeats
and delays messages and counts operations; and connections, as counts of cells that move.

    python bench/fleet_simulation.py                      # 1,000 nodes, 10 million connections
    python bench/fleet_simulation.py --nodes 100 --cells 1000

It fails when viewers do not converge within 3 s, when a figure is wrong at the end, or when the store has more than
5,000 operations a second.
"""

import argparse
import asyncio
import heapq
import json
import os
import random
import selectors
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

from headcount.config import Config
from headcount.core import fleet_messages
from headcount.core.away_pages import AwayPages
from headcount.core.departures import Departures
from headcount.core.history import LENGTH, MINUTES
from headcount.core.kept_history import KeptHistory
from headcount.core.registry import Registry
from headcount.core.stats import ConnectionInfo, Stats, StatsDelta
from headcount.core.tallies import Entry, SeenAlive
from headcount.fleet.backends import Receiver, TallyStore
from headcount.fleet.backends.redis import HEARTBEATS_PER_SET_CHECK
from headcount.fleet.view import FleetView

CONVERGED_WITHIN = 3.0
OPERATIONS = 5_000
EXPIRE = 9.0


class _NoSelector(selectors.BaseSelector):
    """Nothing comes from outside; waiting is told to whoever keeps the time."""

    def __init__(self, waited: Callable[[float], None]) -> None:
        self._waited = waited

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[Any]:
        self._waited(timeout or 0.0)
        return []

    def get_map(self) -> Any:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        super().__init__(_NoSelector(self._wait))

    def time(self) -> float:
        return self.now

    def _wait(self, seconds: float) -> None:
        self.now += seconds


class Network:
    """Redis and the way to it: loses, repeats and delays; counts what it is asked to do."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, *, loss: float, repeat: float) -> None:
        self.loop = loop
        self.backends: dict[str, SimulatedBackend] = {}
        self.expires: dict[str, float] = {}
        self.operations: Counter[str] = Counter()
        self.peak = 0
        self.bytes_out: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()
        self._chance = chance
        self._loss = loss
        self._repeat = repeat
        self._second = 0
        self._in_second = 0

    def count(self, name: str) -> None:
        self.operations[name] += 1
        if int(self.loop.now) != self._second:
            self._second, self._in_second = int(self.loop.now), 0
        self._in_second += 1
        self.peak = max(self.peak, self._in_second)

    def carry(self, to: "SimulatedBackend", message: bytes) -> None:
        copies = 1
        if self._chance.random() < self._loss:
            copies = 0
        elif self._chance.random() < self._repeat:
            copies = 2
        for _ in range(copies):
            delay = self._chance.uniform(0.001, 0.01) if self._chance.random() < 0.99 else self._chance.uniform(0, 0.5)
            self.loop.call_later(delay, to.take, message)


class SimulatedBackend:
    """Implements `Backend` as fleet/backends/redis.py does, on a `Network`."""

    heartbeat = 3.0
    detects_failures = False

    def __init__(self, node: str, network: Network) -> None:
        self.node = node
        self.listens = False
        self.receiver: Receiver | None = None
        self._network = network
        self._heartbeats = random.randrange(HEARTBEATS_PER_SET_CHECK)

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._network.backends[self.node] = self
        self._send_heartbeat()
        receiver.connectivity_changed(connected=True)

    def _send_heartbeat(self) -> None:
        if self.receiver is not None:
            self._network.count("set")
            self._heartbeats += 1
            if self._heartbeats % HEARTBEATS_PER_SET_CHECK == 0:
                self._network.count("sadd")
            self._network.expires[self.node] = self._network.loop.now + EXPIRE
            self._network.loop.call_later(self.heartbeat * random.uniform(0.9, 1.0), self._send_heartbeat)

    def die(self) -> None:
        """Be gone without a word."""
        self.receiver = None
        self._network.backends.pop(self.node, None)

    async def stop(self) -> None:
        if self.receiver is not None:
            self.publish(self.receiver.leave_message())
            self._network.expires.pop(self.node, None)
            self.die()

    def listen(self, *, on: bool) -> None:
        self.listens = on

    def publish(self, message: bytes) -> None:
        self._out("publish", message)
        for other in list(self._network.backends.values()):
            if other.listens and other is not self:
                self._network.carry(other, message)

    def announce(self, message: bytes) -> None:
        self._out("publish", message)
        for other in list(self._network.backends.values()):
            if other is not self:
                self._network.carry(other, message)

    def send(self, node: str, message: bytes, failed: Callable[[], None] | None = None) -> None:
        self._out("publish", message)
        other = self._network.backends.get(node)
        if other is not None:
            self._network.carry(other, message)
        elif failed is not None:
            failed()

    async def members(self) -> Collection[str] | None:
        self._network.count("smembers")
        self._network.count("mget")
        now = self._network.loop.now
        return {node for node, expires in self._network.expires.items() if expires > now and node != self.node}

    async def knows(self, node: str) -> bool:
        return node in self._network.backends

    def remove_sign_of_life(self, node: str) -> None:
        self._network.count("del")
        self._network.expires.pop(node, None)

    @property
    def tallies(self) -> TallyStore:
        return SimulatedTallies(self._network)

    def write_tally(self) -> None:
        self._network.count("hset")

    def take(self, message: bytes) -> None:
        if self.receiver is not None:
            self._network.bytes_in[self.node] += len(message)
            started = time.thread_time()
            self.receiver.received(message)
            self._network.cpu[self.node] += time.thread_time() - started  # type: ignore[assignment]

    def _out(self, name: str, message: bytes) -> None:
        self._network.count(name)
        self._network.bytes_out[self.node] += len(message)


class SimulatedTallies:
    """Counts the commands; nobody dies here whose connections were missed."""

    complete = True
    joined = 0

    def __init__(self, network: Network) -> None:
        self._network = network

    async def entries(self, nodes: Collection[str] | None = None) -> Mapping[str, Entry] | None:
        self._network.count("hgetall" if nodes is None else "hmget")
        return {}

    async def pages(self, node: str) -> bytes | None:
        raise AssertionError(node)

    async def note_returned(self, node: str, pages: Mapping[str, str]) -> None:
        raise AssertionError(node, pages)

    async def keep_seen_alive(self, node: str, seen_alive: SeenAlive) -> None:
        raise AssertionError(node, seen_alive)

    async def drop(self, node: str) -> None:
        raise AssertionError(node)

    async def forget(self, node: str) -> bool:
        raise AssertionError(node)

    def now(self) -> int | None:
        return None

    async def claim_sample(self, slot: int) -> bool:
        raise AssertionError(slot)

    async def add_sample(self, data: bytes, *, minute: bytes | None = None) -> None:
        raise AssertionError(data, minute)

    async def keep_rollouts(self, data: bytes) -> None:
        raise AssertionError(data)

    async def history(self, fine: int = LENGTH, minutes: int = MINUTES) -> KeptHistory | None:  # noqa: ARG002
        return None

    async def keep_release(self, data: bytes) -> None:
        """Keep nothing: nothing is declared."""

    async def kept_release(self) -> bytes | None:
        """Return None."""
        return None


class Cells:
    """Stands for a registry of many connections: counts of cells that move, and a few rows."""

    def __init__(self, node: str, connections: int, cells: int, chance: random.Random) -> None:
        self.node = node
        self.revision = 1
        self.versions: Counter[str] = Counter()
        self.routes: Counter[str] = Counter()
        self.total = 0
        self._chance = chance
        self._labels = [(f"v{n % 5}", f"/section-{n % 20}/page-{n}") for n in range(cells)]
        self._noting = False
        self._base = 1
        self._before: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._rows = tuple(ConnectionInfo(f"{node}{n:020x}", *self._labels[n % cells]) for n in range(1_000))
        for _ in range(connections):
            version, route = self._labels[int(chance.paretovariate(1)) % cells]
            self.versions[version] += 1
            self.routes[route] += 1
        self.total = connections

    def move(self, events: int) -> None:
        """Let so many pages navigate, come or go."""
        for _ in range(events):
            version, route = self._labels[int(self._chance.paretovariate(1)) % len(self._labels)]
            by = 1 if self._chance.random() < 0.5 or not (self.versions[version] and self.routes[route]) else -1
            self._note(0, self.versions, version, by)
            self._note(1, self.routes, route, by)
            self.total += by
        self.revision += 1

    def _note(self, index: int, counts: Counter[str], label: str, by: int) -> None:
        if self._noting:
            self._before[index].setdefault(label, counts[label])
        counts[label] += by
        if not counts[label]:
            del counts[label]

    def ids(self) -> dict[str, list[str]]:
        """Make an id for each connection, by version; those of one version differ from those of another."""
        found, number = {}, 0
        for version, count in self.versions.items():
            found[version] = [f"{self.node}{n:020x}" for n in range(number, number + count)]
            number += count
        return found

    @property
    def noted(self) -> bool:
        return self._noting

    def note_changes(self, *, on: bool) -> None:
        self._noting, self._base, self._before = on, self.revision, ({}, {})

    def pop_changes(self) -> StatsDelta | None:
        if self._base == self.revision:
            return None
        before, self._before = self._before, ({}, {})
        base, self._base = self._base, self.revision
        changed = [
            {label: now for label, was in one.items() if (now := counts[label]) != was}
            for one, counts in zip(before, (self.versions, self.routes), strict=True)
        ]
        return StatsDelta(base, self.revision, self.total, changed[0], changed[1], (), ())

    def snapshot(self) -> Stats:
        return Stats(
            total=self.total,
            versions=MappingProxyType(dict(self.versions)),
            routes=MappingProxyType(dict(self.routes)),
            connections=self._rows,
            revision=self.revision,
        )


class Node:
    """One simulated node."""

    def __init__(self, network: Network, options: argparse.Namespace, chance: random.Random) -> None:
        self.id = os.urandom(6).hex()
        self.cells = Cells(self.id, options.connections, options.cells, chance)
        self.network = network
        self.dead = False
        self.view = FleetView(
            self.id,
            Config.load({"version": "v1"}, {}),
            cast(Registry, self.cells),
            threading.RLock(),
            lambda: network.loop.now,
            releases=NoReleases(),
            known_versions=NoReleases(),
            mark_dirty=lambda: None,
            shows_rows=lambda: True,
            run_command=_never,
            departures=Departures(8.0),
            away_pages=AwayPages(),
            refresh_departed=lambda: None,
            return_key=b"",
        )

    def start(self) -> None:
        self.view.start(SimulatedBackend(self.id, self.network))

    def flush(self) -> None:
        started = time.thread_time()
        self.view.publish_soon()
        self.view.pop_changes()
        self.network.cpu[self.id] += time.thread_time() - started  # type: ignore[assignment]

    def die(self) -> None:
        self.dead = True
        backend = self.view.backend
        assert isinstance(backend, SimulatedBackend)
        backend.die()
        self.view.link.close()


class NoReleases:
    """No version is ever declared current, and only the nodes' own is known."""

    released = None
    known_versions = frozenset({"v1"})

    def learn(self, released: fleet_messages.Declaration) -> None:
        raise AssertionError(released)

    def learn_versions(self, versions: Iterable[str]) -> None:
        assert {*versions} <= {"v1", ""}


async def _never(command: fleet_messages.Command) -> fleet_messages.Answer:
    raise AssertionError(command)


def recount(nodes: list[Node]) -> tuple[int, Counter[str], Counter[str]]:
    alive = [node.cells for node in nodes if not node.dead]
    versions: Counter[str] = Counter()
    routes: Counter[str] = Counter()
    for cells in alive:
        versions.update(cells.versions)
        routes.update(cells.routes)
    return sum(cells.total for cells in alive), versions, routes


def exact(viewer: Node, nodes: list[Node]) -> bool:
    """Say whether a viewer has the truth. Connections of dead nodes are unaccounted for: here, they never come back."""
    viewer.view.sync()
    figures = viewer.view.snapshot()
    dead = {node.id for node in nodes if node.dead}
    absent = {absence.node for absence in figures.absences}
    if figures.nodes.reporting != len(nodes) - len(dead) or absent - dead or figures.partial != bool(absent):
        return False
    return (figures.total, figures.versions, figures.routes) == recount(nodes)


async def converged(loop: VirtualLoop, viewers: list[Node], nodes: list[Node], patience: float) -> float:
    started = loop.now
    while not all(exact(viewer, nodes) for viewer in viewers):
        if loop.now - started > patience:
            raise SystemExit(f"The viewers did not converge within {patience:g} s.")
        await asyncio.sleep(0.1)
    return loop.now - started


async def lively(loop: VirtualLoop, nodes: list[Node], seconds: float, events: float) -> None:
    """Let connections come, go and navigate; nodes flush as a node does, each at its own moment."""
    due = [(loop.now + random.uniform(0, 0.25), number) for number in range(len(nodes))]
    heapq.heapify(due)
    end = loop.now + seconds
    while due[0][0] < end:
        at, number = due[0]
        if at > loop.now:
            await asyncio.sleep(at - loop.now)
        node = nodes[number]
        if not node.dead:
            node.cells.move(round(events * 0.25))
            if node.cells.noted:  # else nobody waits for it, and a node does not even look
                node.flush()
        heapq.heapreplace(due, (at + 0.25, number))


async def simulate(loop: VirtualLoop, options: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(options.seed)
    random.seed(options.seed)
    network = Network(loop, chance, loss=options.loss, repeat=options.repeat)
    nodes = [Node(network, options, chance) for _ in range(options.nodes)]
    for node in nodes:
        node.start()
        await asyncio.sleep(0.002)
    found: dict[str, Any] = {"nodes": options.nodes, "connections": options.nodes * options.connections}

    # Nobody watches: only signs of life.
    network.operations.clear()
    network.cpu.clear()
    await lively(loop, nodes, 10, options.events)
    found["idle"] = _load(network, nodes[0], nodes[-1], 10)

    # Viewers come, at three nodes at once, while everything goes on.
    viewers = nodes[:3]
    started = loop.now
    for viewer in viewers:
        viewer.view.note_changes(on=True)
    while any(viewer.view._figures.unreported() or not viewer.view._collector._members_known for viewer in viewers):
        await lively(loop, nodes, 0.25, options.events)
        if loop.now - started > 30:
            raise SystemExit("The viewers never had everybody's report.")
    found["first figures after s"] = round(loop.now - started, 2)

    # Watched, in full swing.
    for counter in (network.operations, network.bytes_in, network.bytes_out, network.cpu):
        counter.clear()
    network.peak = 0
    await lively(loop, nodes, options.seconds, options.events)
    found["watched"] = _load(network, viewers[0], nodes[-1], options.seconds)
    found["watched"]["peak operations/s"] = network.peak
    found["converged after s"] = round(await converged(loop, viewers, nodes, 30), 2)

    # One node in a hundred dies without a word, one in a hundred leaves properly.
    count = max(1, options.nodes // 100)
    for node in nodes[-count:]:
        node.die()
    await lively(loop, nodes, 0.5, options.events)
    found["after deaths right after s"] = round(0.5 + await converged(loop, viewers, nodes, 30), 2)
    for node in nodes[-2 * count : -count]:
        node.dead = True
        await node.view.stop()
    found["after leaves right after s"] = round(await converged(loop, viewers, nodes, 30), 2)

    # And nobody watches any more.
    for viewer in viewers:
        viewer.view.note_changes(on=False)
    await asyncio.sleep(15)
    network.operations.clear()
    await lively(loop, nodes, 5, options.events)
    found["idle again operations/s"] = round(network.operations.total() / 5)
    for node in nodes:
        if not node.dead:
            await node.view.stop()
    return found


def _load(network: Network, viewer: Node, other: Node, seconds: float) -> dict[str, Any]:
    return {
        "operations/s": round(network.operations.total() / seconds),
        "viewer's node, in kB/s": round(network.bytes_in[viewer.id] / seconds / 1_000, 1),
        "other node, out kB/s": round(network.bytes_out[other.id] / seconds / 1_000, 1),
        "viewer's node, % of a core": round(100 * network.cpu[viewer.id] / seconds, 2),
        "other node, % of a core": round(100 * network.cpu[other.id] / seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--connections", type=int, default=10_000, help="of each node")
    parser.add_argument("--cells", type=int, default=100, help="routes of each node")
    parser.add_argument("--events", type=float, default=167, help="a second and node: all navigate once a minute")
    parser.add_argument("--seconds", type=float, default=15, help="virtual, in full swing")
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--repeat", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    loop = VirtualLoop()
    started = time.perf_counter()
    found = loop.run_until_complete(simulate(loop, options))
    found["took s"] = round(time.perf_counter() - started)
    print(json.dumps(found, indent=2))
    busiest = found["watched"]["peak operations/s"]
    if found["converged after s"] > CONVERGED_WITHIN or busiest > OPERATIONS:
        sys.exit("Too slow, or too much for the store.")


if __name__ == "__main__":
    main()
