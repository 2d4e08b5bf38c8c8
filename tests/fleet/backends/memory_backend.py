"""
A backend for several nodes in one event loop.

`Headcount(backend="memory")` does not use it: one process that is the whole fleet needs no backend.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import msgspec

from headcount.core.history import LENGTH, MINUTES
from headcount.core.kept_history import KeptHistory
from headcount.core.tallies import Entry, SeenAlive, Tally
from headcount.fleet.backends import Receiver


class Hub:
    """Where the nodes of one fleet meet."""

    def __init__(self) -> None:
        self.backends: dict[str, MemoryBackend] = {}
        self.tallies: dict[str, Tally] = {}
        self.seen_alive: dict[str, SeenAlive] = {}
        self.pages: dict[str, bytes] = {}
        self.back: dict[str, dict[str, str]] = {}
        self.turns: set[int] = set()
        self.fine: list[bytes] = []
        self.minutes: list[bytes] = []
        self.rollouts: bytes | None = None
        self.release: bytes | None = None


class MemoryTallies:
    """Implements `TallyStore` in the hub."""

    complete = True
    joined = 0

    def __init__(self, node: str, hub: Hub) -> None:
        self._node = node
        self._hub = hub

    def write(self, tally: Tally, pages: bytes) -> None:
        """Write this node's tally."""
        self._hub.pages[self._node] = pages
        self._hub.tallies[self._node] = msgspec.structs.replace(tally, at=self.now())

    async def entries(self, nodes: Collection[str] | None = None) -> Mapping[str, Entry] | None:
        """Return the tallies of all nodes, or of some."""
        hub = self._hub
        return {
            node: Entry(
                tally,
                self.now(),
                node in hub.backends,
                None,
                hub.seen_alive.get(node),
                Counter(hub.back.get(node, {}).values()),
            )
            for node, tally in hub.tallies.items()
            if nodes is None or node in nodes
        }

    async def pages(self, node: str) -> bytes | None:
        """Return a node's list of pages."""
        return self._hub.pages.get(node) or None

    async def note_returned(self, node: str, pages: Mapping[str, str]) -> None:
        """Note pages that came back."""
        self._hub.back.setdefault(node, {}).update(pages)

    async def keep_seen_alive(self, node: str, seen_alive: SeenAlive) -> None:
        """Keep that a silent node was seen to live."""
        self._hub.seen_alive[node] = seen_alive

    async def drop(self, node: str) -> None:
        """Remove what is kept of a node."""
        for kept in (self._hub.tallies, self._hub.pages, self._hub.seen_alive, self._hub.back):
            kept.pop(node, None)

    async def forget(self, node: str) -> bool:
        """End a doubt."""
        self._hub.tallies[node] = Tally(at=self.now(), forgotten=True)
        return True

    def now(self) -> int:
        """Return the time in ms."""
        return time.time_ns() // 1_000_000

    async def claim_sample(self, slot: int) -> bool:
        """Say whether this node is the first to ask."""
        first = slot not in self._hub.turns
        self._hub.turns.add(slot)
        return first

    async def add_sample(self, data: bytes, *, minute: bytes | None = None) -> None:
        """Add a sample."""
        self._hub.fine.append(data)
        if minute is not None:
            self._hub.minutes.append(minute)

    async def keep_rollouts(self, data: bytes) -> None:
        """Keep the rollouts."""
        self._hub.rollouts = data

    async def history(self, fine: int = LENGTH, minutes: int = MINUTES) -> KeptHistory | None:
        """Return the history."""
        return KeptHistory(self._hub.fine[-fine:], self._hub.minutes[-minutes:], self._hub.rollouts)

    async def keep_release(self, data: bytes) -> None:
        """Keep it as long as the hub lives."""
        self._hub.release = data

    async def kept_release(self) -> bytes | None:
        """Return what was kept."""
        return self._hub.release


class MemoryBackend:
    """
    Implements `Backend` by calls in the same event loop.

    Args:
        node: Id of this node.
        hub: Where it meets the others.
        heartbeat: Seconds.
    """

    detects_failures = True

    def __init__(self, node: str, hub: Hub, heartbeat: float = 3.0) -> None:
        self.heartbeat = heartbeat
        self._node = node
        self._hub = hub
        self._listens = False
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.tallies = MemoryTallies(node, hub)
        self._heartbeat_timer: asyncio.TimerHandle | None = None

    def start(self, receiver: Receiver) -> None:
        """Begin to reach and to be reached."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        for node, other in self._hub.backends.items():
            self._tell(receiver.joined, node)
            other.meet(self._node)
        self._hub.backends[self._node] = self
        receiver.connectivity_changed(connected=True)
        self._beat()

    def _beat(self) -> None:
        if self._receiver is not None and self._loop is not None:
            self._heartbeat_timer = self._loop.call_later(self.heartbeat, self._beat)
            self.write_tally()
            self._receiver.on_own_heartbeat()

    def write_tally(self) -> None:
        """Write this node's tally now."""
        if self._receiver is not None:
            self.tallies.write(self._receiver.tally(leaving=False), self._receiver.page_list())

    async def stop(self) -> None:
        """Publish a last message and be gone."""
        if self._hub.backends.get(self._node) is not self:
            return
        assert self._receiver is not None
        self.announce(self._receiver.leave_message())
        self.tallies.write(self._receiver.tally(leaving=True), self._receiver.page_list())
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
        del self._hub.backends[self._node]
        for other in self._others():
            other.lose(self._node)
        self._receiver = None

    def listen(self, *, on: bool) -> None:
        """Receive what others publish, or no more."""
        self._listens = on

    def publish(self, message: bytes) -> None:
        """Hand a message to all that listen."""
        for other in self._others():
            if other._listens:
                other.take(message)

    def announce(self, message: bytes) -> None:
        """Hand a message to all."""
        for other in self._others():
            other.take(message)

    def send(self, node: str, message: bytes, failed: Callable[[], None] | None = None) -> None:
        """Hand a message to one node."""
        other = self._hub.backends.get(node)
        if other is not None:
            other.take(message)
        elif failed is not None:
            failed()

    async def members(self) -> Collection[str] | None:
        """Return the ids of all others."""
        return self._hub.backends.keys() - {self._node}

    async def knows(self, node: str) -> bool:
        """Say whether there is a node of that id."""
        return node in self._hub.backends

    def remove_sign_of_life(self, node: str) -> None:
        """Nothing outlives a node here."""

    def take(self, message: bytes) -> None:
        """Receive a message, in a turn of the loop of its own."""
        if self._receiver is not None:
            self._tell(self._receiver.received, message)

    def meet(self, node: str) -> None:
        """Learn of a node."""
        if self._receiver is not None:
            self._tell(self._receiver.joined, node)

    def lose(self, node: str) -> None:
        """Learn that a node is gone."""
        if self._receiver is not None:
            self._tell(self._receiver.left, node)

    def _others(self) -> "list[MemoryBackend]":
        return [other for node, other in self._hub.backends.items() if node != self._node]

    def _tell(
        self, call: Callable[[object], None] | Callable[[str], None] | Callable[[bytes], None], what: object
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon(call, what)  # type: ignore[arg-type]
