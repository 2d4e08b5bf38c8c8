"""
`use_active_connections()` inside the server process.

It is a viewer without a connection: it needs no right, is not counted, and costs nothing until a value is read or
watched.

Tests: tests/live/test_active_connections.py.
"""

from collections.abc import Callable

from ..node.figures import FigureReader
from ..node.viewers import Viewers
from .active_connections import ActiveConnections, LiveState


class LocalConnections(ActiveConnections):
    """
    The figures of this application, live; see `ActiveConnections`.

    `your_id` is always None, as a process is no page; `authorized` is always True, and `status` always `open`.
    """

    def __init__(self, figures: FigureReader, viewers: Viewers) -> None:
        super().__init__(_NodeStore(figures, viewers))


class _NodeStore:
    def __init__(self, figures: FigureReader, viewers: Viewers) -> None:
        self._figures = figures
        self._viewers = viewers
        self._state = LiveState()

    def read(self) -> LiveState:
        stats = self._figures.stats()
        state = self._state
        if state.stats is not stats:
            self._state = state = LiveState(
                stats=stats,
                authorized=True,
                status="open",
                current_version=stats.current_version,
                release=stats.release,
            )
        return state

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._viewers.observe(callback)
