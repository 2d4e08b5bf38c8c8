"""
Which nodes a node with viewers asks for their reports, when it asks again, and for how many rows.

Reports are large, so only a few are asked for at the same time, and the answers are not lost in a flood of them. Time
is an argument, in seconds.
"""

from collections.abc import Collection, Container, Iterable
from typing import Final

MAX_OPEN_REQUESTS: Final = 64
"""Reports asked for at the same time."""

RETRY_AFTER: Final = 1.0
"""Seconds after which a report is asked for again."""

SMALL_FLEET: Final = 8
"""Nodes that may all send as many rows as there is room for."""


class ReportRequests:
    """The nodes whose report is needed: those asked, and those whose turn is still to come."""

    def __init__(self) -> None:
        self._open: dict[str, float] = {}
        """`{node: when it was asked}`."""
        self._queue: dict[str, None] = {}

    @property
    def idle(self) -> bool:
        """No report is waited for."""
        return not self._queue and not self._open

    def add(self, nodes: Iterable[str]) -> None:
        """Need the reports of these nodes."""
        self._queue.update((node, None) for node in nodes if node not in self._open)

    def pop_due(self, now: float, members: Container[str]) -> list[str]:
        """Return the nodes to ask now, of those that are still members."""
        due = []
        while self._queue and len(self._open) < MAX_OPEN_REQUESTS:
            node, _ = self._queue.popitem()
            if node in members:
                self._open[node] = now
                due.append(node)
        return due

    def close(self, node: str) -> None:
        """Wait no longer for a node: it has answered, is gone, or will be asked anew."""
        self._open.pop(node, None)

    def time_out(self, now: float) -> None:
        """Give up the requests that got no answer in time; what is still missing is asked for again."""
        self._open = {node: asked for node, asked in self._open.items() if now - asked < RETRY_AFTER}

    def clear(self) -> None:
        """Need no report any more."""
        self._open.clear()
        self._queue.clear()


def row_quota(totals: Collection[int], limit: int, *, unreported: int, before: int) -> int:
    """
    Return how many rows of each node it takes to show `limit` rows, or all, and some more to fill gaps with.

    Args:
        totals: Connections of each node, as far as it has reported.
        limit: Rows to show.
        unreported: Nodes that have not reported.
        before: The last quota; it only grows, because a smaller one saves nothing.
    """
    if len(totals) <= SMALL_FLEET:
        return limit
    if sum(totals) <= limit:
        # Nodes that have not reported yet may have many; a thousand rows of each of a thousand are not needed.
        guess = 2 * limit // len(totals) + 5
        return max(before, guess) if unreported > SMALL_FLEET else limit
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        if sum(min(total, middle) for total in totals) >= limit:
            high = middle
        else:
            low = middle + 1
    return min(limit, max(before, low + low // 2 + 5))


class FlushRound:
    """
    One round in which every node publishes what it has and names its sequence number.

    The round is complete when everything that the nodes published is held here, or when the missing nodes are gone.

    Args:
        number: Of the `FlushRequest`.
        nodes: Those that should answer.
    """

    def __init__(self, number: int, nodes: Iterable[str]) -> None:
        self.number = number
        self._pending: dict[str, int | None] = dict.fromkeys(nodes)
        """`{node: the sequence it named}`; None: it has not answered."""

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return not self._pending

    @property
    def pending(self) -> list[str]:
        """The nodes that have not answered, or whose figures have not arrived."""
        return list(self._pending)

    def answered(self, node: str, number: int, sequence: int) -> None:
        """Note the sequence number up to which a node has published."""
        if number == self.number and node in self._pending:
            self._pending[node] = sequence

    def arrived(self, node: str, sequence: int) -> None:
        """Note the sequence number up to which a node's figures are held here."""
        named = self._pending.get(node)
        if named is not None and sequence >= named:
            del self._pending[node]

    def left(self, node: str) -> None:
        """Wait no longer for a node that is gone."""
        self._pending.pop(node, None)
