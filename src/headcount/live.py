"""
`use_active_connections()` inside the server process: the seed's six names as observable values.

It is a viewer without a connection: it needs no right, is not counted, and costs nothing until a value is read or
watched.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Self

from .core.stats import ConnectionInfo, Stats
from .node import Node
from .observable import Observable


class LocalConnections:
    """
    The figures of this application, live.

    Attributes:
        total: Open connections.
        versions: `{version: count}`.
        routes: `{route: count}`; empty without route tracking.
        connections: Rows, at most `max_listed_connections`.
        your_id: Always None: a process is no page.
        authorized: Always True: it is the server itself.
        stats: All of it at one revision.
    """

    def __init__(self, node: Node) -> None:
        store = _NodeStore(node)
        self.stats: Observable[Stats] = Observable(store, lambda stats: stats)
        self.total: Observable[int] = Observable(store, lambda stats: stats.total)
        self.versions: Observable[Mapping[str, int]] = Observable(store, lambda stats: stats.versions)
        self.routes: Observable[Mapping[str, int]] = Observable(store, lambda stats: stats.routes)
        self.connections: Observable[tuple[ConnectionInfo, ...]] = Observable(store, lambda stats: stats.connections)
        self.your_id: Observable[str | None] = Observable(store, lambda _: None)
        self.authorized: Observable[bool | None] = Observable(store, lambda _: True)

    async def __aiter__(self) -> AsyncGenerator[Stats, None]:
        """Give the figures now, then the newest whenever they changed; a slow reader misses those between."""
        last = self.stats.value
        yield last
        while True:
            if self.stats.value is last:
                await self.stats.changed()
            last = self.stats.value
            yield last

    async def wait_for(self, condition: Callable[[Stats], Any]) -> Stats:
        """Wait until `condition` holds of the figures, and return them. It is asked at once and after each change."""
        # Closed here and now, or the loop would have to do it later, when it may be gone.
        async with aclosing(self.__aiter__()) as figures:
            async for stats in figures:
                if condition(stats):
                    return stats
        raise AssertionError("the iteration above has no end")

    async def __aenter__(self) -> Self:
        """Return itself: there is nothing to open, but code for the remote one works here too."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Do nothing."""


class _NodeStore:
    def __init__(self, node: Node) -> None:
        self._node = node

    def read(self) -> Stats:
        return self._node.stats()

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._node.watch(callback)
