"""Paging through the connections of one node, oldest first or sorted."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from ..core.paging import LocalPage, Order, Position, Selection, SortedRows
from ..core.registry import Registry, matches

CONNECTIONS_PER_STEP: Final = 5_000
"""Connections that are sorted before other work of the loop has its turn: a few milliseconds."""


class Listing:
    """
    Lists the connections of one node, page by page.

    Args:
        registry: The connections.
        lock: The node's.
        close_dead_loops: Closes what a closed event loop left behind.
    """

    def __init__(self, registry: Registry, lock: threading.RLock, close_dead_loops: Callable[[], None]) -> None:
        self._registry = registry
        self._lock = lock
        self._close_dead_loops = close_dead_loops

    def list_connections(self, *, version: str | None, route: str | None, limit: int, after: int) -> LocalPage:
        """Return a page, oldest first; see `Registry.list_connections`."""
        self._close_dead_loops()
        with self._lock:
            return LocalPage(*self._registry.list_connections(version=version, route=route, limit=limit, after=after))

    async def list_sorted(
        self, order: Order, *, version: str | None, route: str | None, limit: int, after: Position | None
    ) -> SortedRows:
        """
        Return the first connections after a position in an order.

        O(connections), `CONNECTIONS_PER_STEP` at a time, so that streams wait for no more than that.
        """
        self._close_dead_loops()
        with self._lock:
            records = self._registry.records()
        selection = Selection(order, limit, after)
        for start in range(0, len(records), CONNECTIONS_PER_STEP):
            if start:
                await asyncio.sleep(0)
            step = records[start : start + CONNECTIONS_PER_STEP]
            selection.feed(record.info for record in step if matches(record.info, version, route))
        return SortedRows(selection.rows, selection.more)
