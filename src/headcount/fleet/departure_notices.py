"""
Tells the other nodes which pages this one sent away or gave up, before its figures without them are published.

Tests: tests/fleet/backends/test_conformance.py, tests/fleet/backends/test_two_sites.py.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from ..core import fleet_messages
from ..core.departures import Departures
from ..core.fleet_figures import FleetFigures
from .link import FleetLink
from .publisher import Publisher
from .report_collector import ReportCollector

DEPARTURES_GATHERED: Final = 0.02
"""Seconds for which departures are gathered into one message to the other nodes."""


class DepartureNotices:
    """
    Publishes the departures of this node.

    Args:
        link: The way to the other nodes.
        departures: Pages whose streams this node ended.
        figures: Of the fleet, as far as they are known here.
        collector: Knows whether this node listens to the others.
        publisher: Knows whether another node listens to this one.
        lock: The node's.
        clock: Monotonic seconds.
        mark_dirty: Schedules a push to the viewers; called with the lock held.
    """

    def __init__(
        self,
        link: FleetLink,
        departures: Departures,
        figures: FleetFigures,
        collector: ReportCollector,
        publisher: Publisher,
        lock: threading.RLock,
        clock: Callable[[], float],
        mark_dirty: Callable[[], None],
    ) -> None:
        self._link = link
        self._departures = departures
        self._figures = figures
        self._collector = collector
        self._publisher = publisher
        self._lock = lock
        self._clock = clock
        self._mark_dirty = mark_dirty
        self._published = 0
        """Revision of the departures that the other nodes were told."""
        self._timer: asyncio.TimerHandle | None = None

    def publish_soon(self) -> None:
        """Tell the other nodes, soon, that this one ended streams whose pages may come back. From any loop."""
        if self._link.active and self._timer is None:
            self._link.call(self._gather)

    def gave_up(self) -> None:
        """Say at once that pages are unaccounted for because they did not answer. From any loop; the lock is held."""
        if not self._link.active:
            return
        if self._collector.listening:
            now = self._clock()
            departed, transit = self._departures.counts(now), self._departures.transit(now)
            unanswered = self._departures.only_unanswered(now)
            self._figures.receive_departures(self._link.node, departed, transit, now, unanswered=unanswered)
        self._link.call(self.publish)

    def publish(self) -> None:
        """Say which pages were told to reconnect or did not answer, unless others know. In the backend's loop."""
        with self._lock:
            self.stop()
            if self._published == self._departures.revision or self._link.backend is None:
                return
            self._published = self._departures.revision
            self._link.backend.write_tally()
            now = self._clock()
            departed, transit = self._departures.counts(now), self._departures.transit(now)
            unanswered = self._departures.only_unanswered(now)
            node = self._link.node
            if self._collector.listening and self._figures.receive_departures(
                node, departed, transit, now, unanswered=unanswered
            ):
                self._mark_dirty()
            if self._publisher.schedule.interests:
                message = fleet_messages.Departures(
                    node=node, departed=departed, transit=transit, unanswered=unanswered
                )
                self._link.publish(fleet_messages.encode(message))

    def stop(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _gather(self) -> None:
        if self._timer is None and self._link.loop is not None:
            self._timer = self._link.loop.call_later(DEPARTURES_GATHERED, self.publish)
