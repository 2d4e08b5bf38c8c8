"""
How the nodes of one fleet reach one another.

A backend carries bytes and knows which nodes are there. It does not read the messages, and it never sees the node
itself: fleet/view.py stands between the two. A backend may lose, repeat, delay and reorder messages. It must not make
any up, must not wait for a node, and must hold a bounded amount for nodes that do not read.

One conformance suite tests all of them.

Tests: tests/fleet/backends/test_conformance.py.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from ...core.history import LENGTH, MINUTES
from ...core.kept_history import KeptHistory
from ...core.tallies import Entry, SeenAlive, Tally


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

    def tally(self, *, leaving: bool) -> Tally:
        """
        Return what this node says about itself now.

        Args:
            leaving: For the last time: all of its pages will have to reconnect.
        """

    def page_list(self) -> bytes:
        """Return the list of pages that belongs to the last tally (core/page_lists.py); empty if it has none."""

    def on_own_heartbeat(self) -> None:
        """Do what is due with each heartbeat of this node, which has just been sent."""

    def connectivity_changed(self, *, connected: bool) -> None:
        """Learn whether the other nodes can be reached at all. A backend starts disconnected."""


class TallyStore(Protocol):
    """The tallies of all nodes, which outlast them. The backend writes that of its own node."""

    @property
    def complete(self) -> bool:
        """What any node knows of nodes that are gone is in the store. False while a store that was emptied fills."""

    @property
    def joined(self) -> int:
        """When this node came, in ms by the clock of the store; 0: not known."""

    async def entries(self, nodes: Collection[str] | None = None) -> Mapping[str, Entry] | None:
        """
        Return the tallies of all nodes, this one and dead ones included, or of some.

        Returns:
            None when the store does not answer.
        """

    async def pages(self, node: str) -> bytes | None:
        """Return the list of pages that a node wrote with its tally; None: there is none, or no answer."""

    async def note_returned(self, node: str, pages: Mapping[str, str]) -> None:
        """Note pages of a node that came to this one: `{public id: version}`. Each counts once, whoever notes it."""

    async def keep_seen_alive(self, node: str, seen_alive: SeenAlive) -> None:
        """Keep that a silent node was seen to live."""

    async def drop(self, node: str) -> None:
        """Remove what is kept of a node: nothing follows from it any more."""

    async def forget(self, node: str) -> bool:
        """End the doubt about a node, for all nodes that look. Returns False when the store did not note it."""

    def now(self) -> int | None:
        """Return the time that all nodes share, in ms since 1970; None: it is not known."""

    async def claim_sample(self, slot: int) -> bool:
        """Say whether this node adds the sample of an interval. True on one node at most."""

    async def add_sample(self, data: bytes, *, minute: bytes | None = None) -> None:
        """Add an encoded sample to the last hour, and one of a minute to the last day. Both have a bounded length."""

    async def keep_rollouts(self, data: bytes) -> None:
        """Keep the encoded rollouts, in place of those that are there."""

    async def history(self, fine: int = LENGTH, minutes: int = MINUTES) -> KeptHistory | None:
        """
        Return the history. Returns None when the store does not answer.

        Args:
            fine: Samples of the last hour at most, the newest.
            minutes: Samples of the last day at most, the newest.
        """

    async def keep_release(self, data: bytes) -> None:
        """Keep which version was declared current, also while no node runs, where that can be. A few hundred bytes."""

    async def kept_release(self) -> bytes | None:
        """Return what was kept; None: nothing, or the store does not answer."""


class Backend(Protocol):
    """One node's way to the others. Every method must be called in the loop in which `start` was."""

    heartbeat: float
    """Seconds between two signs that a node lives, and between two heartbeats while a viewer watches."""

    detects_failures: bool
    """The backend reports every node that joins and leaves, also while it does not listen."""

    @property
    def tallies(self) -> TallyStore:
        """The tallies of all nodes."""

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

    async def knows(self, node: str) -> bool | None:
        """
        Say whether there is a node with this id, or None when the backend cannot tell at the moment.

        A node that joined before the call, and that others can find, is not overlooked. Clients can cause the
        question, so it must be cheap and bounded.
        """

    def remove_sign_of_life(self, node: str) -> None:
        """Remove the sign of life of a node that has been silent for too long. If the node lives, it gives another."""

    def write_tally(self) -> None:
        """Write this node's tally now, before anything that is published after this call."""
