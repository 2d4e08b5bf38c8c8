"""
The regular tick of a node in its fleet, and how late it is.

Tests: tests/fleet/backends/test_conformance.py, tests/core/test_liveness.py.
"""

import asyncio
from collections.abc import Callable

from ..core.liveness import LatenessMonitor
from .link import FleetLink


class FleetTicker:
    """
    Calls `tick` several times a heartbeat, in the backend's loop, for as long as `tick` says that it is needed.

    Args:
        link: To the other nodes.
        clock: Monotonic seconds.
        tick: Called with the time; returns whether to go on.
    """

    def __init__(self, link: FleetLink, clock: Callable[[], float], tick: Callable[[float], bool]) -> None:
        self._link = link
        self._clock = clock
        self._tick = tick
        self._lateness = LatenessMonitor()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """A tick is due."""
        return self._timer is not None

    def start(self) -> None:
        """Begin to tick. Idempotent. In the backend's loop."""
        if self._timer is None and self._link.backend is not None and self._link.loop is not None:
            step = min(0.25, self._link.heartbeat / 4)
            self._lateness.expect(self._clock() + step)
            self._timer = self._link.loop.call_later(step, self._run)

    def stop(self) -> None:
        """Tick no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lateness.stop()

    def lateness(self) -> float:
        """Return by how many seconds the tick is late, once; 0.0 for what is tolerated."""
        return self._lateness.lateness(self._clock())

    def _run(self) -> None:
        self._timer = None
        # Not stopped before the tick is over: `tick` asks for the lateness first.
        if self._tick(self._clock()):
            self.start()
        else:
            self._lateness.stop()
