"""
How the nodes of one fleet reach one another.

A backend carries bytes and knows which nodes are there. It does not read the messages, and it never sees the node
itself: fleet/view.py stands between the two. A backend may lose, repeat, delay and reorder messages. It must not make
any up, must not wait for a node, and must hold a bounded amount for nodes that do not read.

One conformance suite tests all of them.

Tests: tests/fleet/backends/test_conformance.py.
"""

from collections.abc import Callable, Collection
from typing import Protocol


class Receiver(Protocol):
    """What a backend calls, always in the loop in which the backend was started."""

    def received(self, message: bytes) -> None:
        """Receive a message from another node. Never raises."""

    def joined(self, node: str) -> None:
        """Learn that a node is there. Called repeatedly, perhaps, and for nodes that have just left."""

    def left(self, node: str) -> None:
        """Learn that a node is certainly gone."""

    def leave_message(self) -> bytes:
        """Return the last message of this node."""

    def connectivity_changed(self, *, connected: bool) -> None:
        """Learn whether the other nodes can be reached at all. A backend starts disconnected."""


class Backend(Protocol):
    """One node's way to the others. Every method must be called in the loop in which `start` was."""

    heartbeat: float
    """Seconds between two signs that a node lives, and between two heartbeats while a viewer watches."""

    detects_failures: bool
    """The backend reports every node that joins and leaves, also while it does not listen."""

    def start(self, receiver: Receiver) -> None:
        """Begin to reach the other nodes and to be reached."""

    async def stop(self) -> None:
        """
        Publish the leave message, be gone for the other nodes at once, and leave nothing behind. Idempotent.

        A loop that ends before `stop` is called cancels the backend's tasks, which has the same effect.
        """

    def listen(self, *, on: bool) -> None:
        """Start or stop to receive published messages. Messages announced or sent to this node come in any case."""

    def publish(self, message: bytes) -> None:
        """Hand a message to all nodes that listen. For nodes that do not keep up, it may be dropped."""

    def announce(self, message: bytes) -> None:
        """Hand a message to all nodes."""

    def send(self, node: str, message: bytes, failed: Callable[[], None] | None = None) -> None:
        """Hand a message to one node. `failed` is called when it is certain that the node does not get it."""

    async def members(self) -> Collection[str] | None:
        """Return the ids of all other nodes that seem to live, or None when the backend cannot tell at the moment."""

    async def knows(self, node: str) -> bool:
        """Say whether there is a node with this id. Clients can cause the question, so it must be cheap and bounded."""

    def forget(self, node: str) -> None:
        """Remove the sign of life of a node that has been silent for too long. If the node lives, it gives another."""
