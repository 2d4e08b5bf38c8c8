"""
How the nodes of one fleet reach one another.

A backend carries bytes and knows who is there. What the bytes mean is none of its business, nor does it ever see the
node (fleet/view.py stands between the two). It may lose, repeat, delay and reorder messages; it must not make any
up, must not wait for anybody, and must hold a bounded amount for those who do not read.

Three of them, one conformance suite (tests/backends/test_conformance.py).
"""

from collections.abc import Callable, Collection
from typing import Protocol


class Receiver(Protocol):
    """What a backend tells. All of it is called in the loop in which the backend was started."""

    def received(self, message: bytes) -> None:
        """Take a message from another node. Never raises."""

    def joined(self, node: str) -> None:
        """Learn that a node is there. May be told more than once, and of nodes that have just left."""

    def left(self, node: str) -> None:
        """Learn that a node is certainly gone."""

    def farewell(self) -> bytes:
        """Return the last message of this node."""

    def sighted(self, *, can_see: bool) -> None:
        """Learn whether the others can be reached at all. A backend that is not sighted yet says so when it is."""


class Backend(Protocol):
    """One node's way to the others. All of it must be called in the loop in which `start` was."""

    heartbeat: float
    """Seconds between two signs of life that a node should give while somebody watches."""

    aware: bool
    """It tells of every node that comes and goes, also while it does not listen."""

    def start(self, receiver: Receiver) -> None:
        """Begin to reach and to be reached."""

    async def stop(self) -> None:
        """
        Publish the farewell, be gone for the others at once, and leave nothing behind. Idempotent.

        A loop that ends before this is called cancels what the backend runs in it, which comes to the same.
        """

    def listen(self, *, on: bool) -> None:
        """Receive what others publish, or no more. What is announced or sent to this node comes in any case."""

    def publish(self, message: bytes) -> None:
        """Hand a message to all nodes that listen. For those who do not keep up, it may be dropped."""

    def announce(self, message: bytes) -> None:
        """Hand a message to all nodes."""

    def send(self, node: str, message: bytes, failed: Callable[[], None] | None = None) -> None:
        """Hand a message to one node; `failed` is called if it is certain that it does not get it."""

    async def members(self) -> Collection[str] | None:
        """Return the ids of all other nodes that seem to live, or None when nobody can tell at the moment."""

    async def knows(self, node: str) -> bool:
        """Say whether there is a node of that id. Strangers can make us ask, so it must be cheap and bounded."""

    def forget(self, node: str) -> None:
        """Let no sign remain that a node lives, which has been silent for too long. If it does, it gives another."""
