"""
Pages whose streams this node ended, while they may still come back: here, or to another node.

The other nodes hear of them at once. Without other nodes, the registry says what is unaccounted for.

Tests: tests/core/test_departures.py, tests/asgi/test_slow_peers.py, tests/fleet/backends/test_two_sites.py.
"""

from collections.abc import Callable
from typing import Protocol

from ..config import Config
from ..core.departures import Departures
from ..core.registry import Registry
from ..core.stats import Absence
from ..core.tallies import TRANSIT_SLACK
from ..fleet.membership import Membership
from .releases import timestamp


class DepartureHost(Protocol):
    """The node. Its id and its membership are read each time, because a fork replaces them."""

    @property
    def id(self) -> str:
        """Its id in the fleet."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""


class DepartedPages:
    """
    The pages that left this node because it ended their streams. To be called with the node's lock held.

    Args:
        host: The node.
        config: Checked settings.
        clock: Monotonic seconds.
        registry: The node's connections.
        changed: Schedules a push to the viewers.
    """

    def __init__(
        self,
        host: DepartureHost,
        config: Config,
        clock: Callable[[], float],
        registry: Registry,
        changed: Callable[[], None],
    ) -> None:
        self.departures = Departures(config.reconnect_spread + TRANSIT_SLACK, config.unaccounted_grace)
        self._host = host
        self._clock = clock
        self._registry = registry
        self._changed = changed

    def sent_away(self, version: str, stream_id: str) -> None:
        """Note a page that was told to reconnect elsewhere."""
        self.departures.add(version, self._clock(), stream_id)
        self._host.membership.view.departure_notices.publish_soon()

    def gave_up(self, version: str, stream_id: str) -> None:
        """Note a page that did not answer or read."""
        self.departures.add(version, self._clock(), stream_id, unanswered=True)
        self._host.membership.view.departure_notices.gave_up()
        self.refresh_absences()

    def came_back(self, stream_id: str) -> None:
        """Note that the page of a stream which this node ended has come back to it."""
        if self.departures.discard(stream_id):
            self.refresh_absences()

    def refresh_absences(self) -> None:
        """Let the registry say what is unaccounted for here, in case there is no fleet that does."""
        counts, known = self.departures.unanswered(self._clock()), self._registry.absence
        absence = None
        if counts:
            since = timestamp() if known is None else known.since
            absence = Absence(self._host.id, sum(counts.values()), counts, "unanswered", since)
        if absence != known and self._registry.set_absence(absence):
            self._changed()
