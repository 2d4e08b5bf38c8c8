"""
This node's way to the others: a backend, and the event loop in which it was started.

Tests: tests/fleet/backends/test_conformance.py.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

import msgspec

from ..core import fleet_messages
from ..loops import Tasks, call_in_loop, run_in_loop
from .backends import Backend
from .border import Border

T = TypeVar("T")


class FleetLink:
    """
    Carries messages to other nodes while a backend runs, and none otherwise.

    Args:
        node: Id of this node.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.backend: Backend | None = None
        self.border = Border()
        """Which nodes are of this fleet."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the backend, also after it has stopped."""
        self.tasks = Tasks()

    @property
    def active(self) -> bool:
        """A backend runs, in a loop that runs."""
        return self.backend is not None and self.loop is not None and not self.loop.is_closed()

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats; 0.0 without a backend."""
        return 0.0 if self.backend is None else self.backend.heartbeat

    @property
    def detects_failures(self) -> bool:
        """The backend reports every node that joins and leaves."""
        return self.backend is not None and self.backend.detects_failures

    def open(self, backend: Backend, border: Border) -> None:
        """Use a backend from now on, in the running loop. The caller must start it."""
        self.loop = asyncio.get_running_loop()
        self.backend = backend
        self.border = border

    def close(self) -> Backend | None:
        """Send nothing any more. Returns the backend, which the caller must stop."""
        backend, self.backend = self.backend, None
        return backend

    def encode(self, message: fleet_messages.FleetMessage) -> bytes:
        """Encode a message of this node, with the fingerprint of its fleet if it names one."""
        if self.border.fingerprint:
            message = msgspec.structs.replace(message, fleet=self.border.fingerprint)
        return fleet_messages.encode(message)

    def send(self, node: str, message: fleet_messages.FleetMessage, failed: Callable[[], None] | None = None) -> None:
        """Send a message to one node. `failed` is called when it is certain that the node does not get it."""
        if self.backend is not None:
            self.backend.send(node, self.encode(message), failed)

    def send_bytes(self, node: str, data: bytes) -> None:
        """Send an encoded message to one node."""
        if self.backend is not None:
            self.backend.send(node, data)

    def publish(self, data: bytes) -> None:
        """Publish an encoded message to all nodes that listen."""
        if self.backend is not None:
            self.backend.publish(data)

    def announce(self, message: fleet_messages.FleetMessage) -> None:
        """Send a message to all nodes."""
        if self.backend is not None:
            self.backend.announce(self.encode(message))

    def listen(self, *, on: bool) -> None:
        """Start or stop to receive published messages."""
        if self.backend is not None:
            self.backend.listen(on=on)

    async def members(self) -> Collection[str] | None:
        """Return the ids of all other nodes that seem to live, or None when the backend cannot tell at the moment."""
        return None if self.backend is None else await self.backend.members()

    async def knows(self, node: str) -> bool | None:
        """Say whether there is another node with this id, or None when the backend cannot tell at the moment."""
        return await self.backend.knows(node) if self.backend is not None and node != self.node else False

    def call(self, call: Callable[[], object]) -> None:
        """Call a function in the backend's loop: at once if that is the running one. A closed loop drops the call."""
        if self.loop is not None:
            call_in_loop(self.loop, call)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the backend's loop, from any loop, and return its result."""
        assert self.loop is not None
        return await run_in_loop(self.loop, coroutine)

    def start_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a task of its own. In the backend's loop."""
        return self.tasks.start(coroutine, self.loop)
