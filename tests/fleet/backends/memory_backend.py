"""
A backend for several nodes in one event loop.

`Headcount(backend="memory")` does not use it: one process that is the whole fleet needs no backend.
"""

import asyncio
from collections.abc import Callable, Collection

from headcount.fleet.backends import Receiver


class Hub:
    """Where the nodes of one fleet meet."""

    def __init__(self) -> None:
        self.backends: dict[str, MemoryBackend] = {}


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

    def start(self, receiver: Receiver) -> None:
        """Begin to reach and to be reached."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        for node, other in self._hub.backends.items():
            self._tell(receiver.joined, node)
            other.meet(self._node)
        self._hub.backends[self._node] = self
        receiver.connectivity_changed(connected=True)

    async def stop(self) -> None:
        """Publish a last message and be gone."""
        if self._hub.backends.get(self._node) is not self:
            return
        assert self._receiver is not None
        self.publish(self._receiver.leave_message())
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

    def forget(self, node: str) -> None:
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
