"""
Which nodes of the fleet are there: who is expected, who is suspect, who is dead.

    expected    a node that the backend lists, or that has spoken
    suspect     an expected node that was silent for `suspect_after`, or did not answer a question
    dead        a node that was silent for `expire_after`, or that left
    tombstone   the last sequence number of a dead node, so that its late messages do not revive it

Rules:

1. A node that speaks is not suspect any more, and its deadline starts anew.
2. Silence counts only while this node could have heard: a late tick of its own extends every deadline, and so does a
   lost connection to all others. After a lost connection each deadline restarts, but only once until that node speaks:
   a store that comes and goes must not keep the figures of the dead.
3. A dead node returns only with a sequence number above that of its tombstone.

Time is an argument, in seconds of the caller's own clock; no clock of another machine is ever compared. Mutators return
what changed. Source: docs/adr/0012-fleet-reports.md
"""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

MAX_NODES: Final = 4_096
"""Nodes of one fleet; more are not counted, and the figures are partial."""

MAX_TOMBSTONES: Final = 4_096
"""Dead nodes that are remembered, and nodes without a place that are counted."""

TOLERATED_LATENESS: Final = 1.0
"""Seconds by which a tick of this process may be late before the deadlines of the others are extended."""


class Member(msgspec.Struct):
    """An expected node."""

    heard: float
    """When its silence began."""
    spoken: bool = False
    """It has spoken since it is expected, or since this node last stopped to listen."""
    suspect: bool = False
    grace_used: bool = False
    """Its deadline was restarted after a lost connection, and it has not spoken since."""


class Expiry(NamedTuple):
    """What the passing of time changed."""

    dead: list[str]
    """Nodes to drop: silent for too long, and no leave message will come."""
    expired: list[str]
    """Nodes that were silent for as long, and stay expected."""
    suspected: list[str]
    """Nodes that have become suspect."""


class Liveness:
    """
    The expected nodes and the tombstones.

    Args:
        own: Id of this node; it is always there.
        suspect_after: Seconds of silence after which a node is suspect.
        expire_after: Seconds of silence after which it is dead.
    """

    def __init__(self, own: str, *, suspect_after: float = 4.5, expire_after: float = 9.0) -> None:
        self.own = own
        self.disconnected = False
        """No other node can be heard, or it is not known which there are."""
        self.members: dict[str, Member] = {own: Member(heard=math.inf, spoken=True)}
        self.tombstones: dict[str, int] = {}
        self._suspect_after = suspect_after
        self._expire_after = expire_after
        self._disconnected_since = 0.0
        self._rejected: set[str] = set()

    @property
    def expected(self) -> int:
        """How many nodes are expected, those included that found no place. O(1)."""
        return len(self.members) + len(self._rejected)

    def expect(self, node: str, now: float) -> bool:
        """Know of a node before it has spoken. Returns whether it is a new member; `expected` may change without."""
        if node in self.members:
            return False
        if len(self.members) >= MAX_NODES:
            if len(self._rejected) < MAX_TOMBSTONES:
                self._rejected.add(node)
            return False
        self.members[node] = Member(heard=now)
        return True

    def is_dead(self, node: str, sequence: int) -> bool:
        """Say whether a message with this sequence number is a late one of a dead node."""
        return sequence <= self.tombstones.get(node, -1)

    def heard(self, node: str, now: float) -> None:
        """Note that a member spoke. O(1)."""
        if node != self.own:
            member = self.members[node]
            member.heard = now
            member.spoken = True
            member.suspect = member.grace_used = False
            self.tombstones.pop(node, None)

    def remove(self, node: str, sequence: int) -> bool:
        """Drop a dead node and leave a tombstone. Returns whether it was a member. O(1)."""
        self._add_tombstone(node, sequence)
        return self.members.pop(node, None) is not None

    def expire(self, now: float, *, drop: bool) -> Expiry:
        """
        Find the nodes that have been silent for too long. O(nodes).

        Args:
            now: Seconds.
            drop: Silence means death. False: the backend reports every death, so silence means a broken link.
        """
        found = Expiry([], [], [])
        drop = drop and not self.disconnected
        for node, member in self.members.items():
            silence = now - member.heard
            if silence >= self._expire_after:
                (found.dead if drop else found.expired).append(node)
            if silence >= self._suspect_after and not member.suspect:
                member.suspect = True
                found.suspected.append(node)
        return found

    def admit_rejected(self) -> bool:
        """Stop to expect nodes that found no place, now that there is room: they speak again. Returns whether any."""
        if not self._rejected or len(self.members) >= MAX_NODES:
            return False
        self._rejected.clear()
        return True

    def extend_deadlines(self, seconds: float) -> list[str]:
        """
        Extend every deadline, because this node did not listen itself. Returns the nodes that are suspect now. O(nodes)

        After a pause of `suspect_after`, what is known of the others is old: they are suspect until they speak.
        """
        suspected = []
        for node, member in self.members.items():
            member.heard += seconds
            if seconds >= self._suspect_after and node != self.own:
                member.suspect = True
                suspected.append(node)
        return suspected

    def restart_deadlines(self, now: float) -> None:
        """Start every deadline anew: this node did not listen before. O(nodes)."""
        for node, member in self.members.items():
            if node != self.own:
                member.heard = now

    def mark_silent(self, nodes: Iterable[str], since: float) -> list[str]:
        """Suspect the nodes that were asked and have not spoken `since` then. Returns which. O(nodes asked)."""
        silent = [
            node
            for node in nodes
            if node != self.own and (member := self.members.get(node)) is not None and member.heard < since
        ]
        for node in silent:
            self.members[node].suspect = True
        return silent

    def set_disconnected(self, *, disconnected: bool, now: float) -> bool:
        """
        Note whether the other nodes can be heard. After a reconnect they get time to speak (rule 2). O(nodes).

        Returns:
            Whether that is new. After a reconnect, every other node may be suspect now.
        """
        if disconnected == self.disconnected:
            return False
        self.disconnected = disconnected
        if disconnected:
            self._disconnected_since = now
            return True
        for node, member in self.members.items():
            if node != self.own:
                # A node that was only ever expected has no figures that could be old, and is waited for anyway.
                member.suspect |= member.spoken and now - member.heard >= self._suspect_after
                member.heard = member.heard + now - self._disconnected_since if member.grace_used else now
                member.grace_used = True
        return True

    def keep_silent(self, node: str, now: float) -> None:
        """Note that a member lives, and is not waited for: it is there, but what it says is not taken."""
        member = self.members.get(node)
        if member is not None and node != self.own:
            member.heard, member.suspect = now, True

    def forget(self, node: str) -> None:
        """Forget that a member ever spoke: this node does not listen any more."""
        self.members[node].spoken = self.members[node].suspect = False

    def silence(self, node: str, now: float) -> float:
        """Return for how many seconds a member has been silent; 0.0 for this node."""
        return max(0.0, now - self.members[node].heard)

    def longest_silence(self, now: float) -> float:
        """Return for how many seconds the most silent member has been silent; 0.0 without others. O(nodes)."""
        return max(0.0, *(now - member.heard for member in self.members.values()))

    def responsive(self) -> list[str]:
        """Return the members that are not suspect."""
        return [node for node, member in self.members.items() if not member.suspect]

    def _add_tombstone(self, node: str, sequence: int) -> None:
        self.tombstones[node] = max(sequence, self.tombstones.pop(node, -1))
        while len(self.tombstones) > MAX_TOMBSTONES:
            del self.tombstones[next(iter(self.tombstones))]


class LatenessMonitor:
    """
    Notices when a regular tick comes late, because this process was stopped or very busy.

    Then the messages of the others still wait to be read, and their silence is this node's own.
    """

    def __init__(self) -> None:
        self._due: float | None = None

    def expect(self, due: float) -> None:
        """Expect the next tick at a moment."""
        self._due = due

    def stop(self) -> None:
        """Expect no tick."""
        self._due = None

    def lateness(self, now: float) -> float:
        """Return by how many seconds the tick is late, once; 0.0 for what is tolerated."""
        if self._due is None or now - self._due <= TOLERATED_LATENESS:
            return 0.0
        late, self._due = now - self._due, now
        return late
