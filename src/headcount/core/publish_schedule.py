"""
To whom a node publishes its figures, and when.

A node with viewers sends an `Interest` every heartbeat, which says for how long it holds. While there is one, this node
publishes a delta at once when something changed, then as often as the interested nodes ask for, and a heartbeat when
nothing did. Otherwise it publishes nothing. Time is an argument, in seconds.
"""

from typing import Final

from .fleet_messages import Interest

MAX_INTERESTED_NODES: Final = 4_096
"""Nodes that are served at the same time; more are not."""

QUIET_AFTER: Final = 1.0
"""Seconds after the last delta in which a quiet node sends a heartbeat, and once more after as many: should the delta
have been lost, no node waits a whole heartbeat for it, even if one of these is lost, too."""

MIN_PUBLISH_INTERVAL: Final = 0.025
"""Seconds between two deltas of a node in a small fleet: then a viewer waits for the next push of its own node, and not
for that of another before. No node can ask for less."""

MAX_PUBLISH_INTERVAL: Final = 60.0
"""Seconds; longer ones are not valid in an `Interest`."""

UNTHROTTLED_DELTAS_PER_SECOND: Final = 400
"""Of all nodes together: up to so many, a node publishes more often than every `stats_interval`."""

MAX_DELTAS_PER_SECOND: Final = 2_000
"""Of all nodes together; above it they are asked to publish less often. One viewer's node and one Redis bear this many
easily (docs/scaling.md)."""


def publish_interval(nodes: int, stats_interval: float) -> float:
    """Return the seconds that each of so many nodes is asked to leave between two deltas."""
    unthrottled = min(stats_interval, max(MIN_PUBLISH_INTERVAL, nodes / UNTHROTTLED_DELTAS_PER_SECOND))
    return min(MAX_PUBLISH_INTERVAL, max(unthrottled, nodes / MAX_DELTAS_PER_SECOND))


class PublishSchedule:
    """The nodes that ask for the figures of this one, and the schedule of what it publishes for them."""

    def __init__(self) -> None:
        self.interests: dict[str, tuple[Interest, float]] = {}
        """What each node asks for, and until when that holds."""
        self._published_at = float("-inf")
        self._quiet_heartbeats = 0
        """Heartbeats since the last delta, up to 2."""

    def __contains__(self, node: object) -> bool:
        return node in self.interests

    @property
    def rows(self) -> int:
        """How many rows the node that asks for the most can use; 0: none. O(interested nodes)."""
        return max((interest.rows for interest, _ in self.interests.values()), default=0)

    def receive(self, interest: Interest, now: float) -> bool:
        """Receive the interest of a node, or its end. Returns whether the interested nodes changed."""
        if not interest.ttl:
            return self.remove(interest.node)
        if interest.node not in self.interests and len(self.interests) >= MAX_INTERESTED_NODES:
            return False
        self.interests[interest.node] = (interest, now + interest.ttl)
        return True

    def remove(self, node: str) -> bool:
        """Forget a node. Returns whether it was interested."""
        return self.interests.pop(node, None) is not None

    def clear(self) -> bool:
        """Forget all nodes. Returns whether there were any."""
        had = bool(self.interests)
        self.interests.clear()
        return had

    def expire(self, now: float) -> bool:
        """Forget the nodes whose interest does not hold any more. Returns whether there were any."""
        over = [node for node, (_, until) in self.interests.items() if now >= until]
        for node in over:
            del self.interests[node]
        return bool(over)

    def extend(self, seconds: float) -> None:
        """Let every interest hold for longer, because this node did not listen itself."""
        self.interests = {node: (interest, until + seconds) for node, (interest, until) in self.interests.items()}

    def delay(self, now: float) -> float:
        """Return after how many seconds the next delta may be published; 0.0: now. O(interested nodes)."""
        intervals = (interest.interval for interest, _ in self.interests.values())
        interval = max(MIN_PUBLISH_INTERVAL, min(intervals, default=0.0))
        return max(0.0, self._published_at + interval - now)

    def note_delta(self, now: float) -> None:
        """Note that a delta was published."""
        self._published_at = now
        self._quiet_heartbeats = 0

    def is_quiet(self, now: float, heartbeat: float) -> bool:
        """Say whether the interested nodes have had nothing from this node for so long that it must say something."""
        quiet = heartbeat if self._quiet_heartbeats == 2 else min(QUIET_AFTER, heartbeat)
        return bool(self.interests) and now - self._published_at >= quiet

    def note_heartbeat(self, now: float) -> None:
        """Note that a heartbeat was published in place of a delta."""
        self._published_at = now
        self._quiet_heartbeats = min(2, self._quiet_heartbeats + 1)
