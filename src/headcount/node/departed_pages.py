"""
Pages whose streams ended, while they may still come back: here, or to another node.

Those whose streams this node ended are in nobody's figures: the other nodes hear of them at once, and without other
nodes the registry says what is unaccounted for. Those whose streams broke off are a figure like the connections.

Tests: tests/core/test_departures.py, tests/asgi/test_farewells.py, tests/fleet/backends/test_two_sites.py.
"""

from collections.abc import Callable
from typing import Protocol

from ..config import Config
from ..core import away_pages
from ..core.away_pages import AwayPages
from ..core.departures import Departures
from ..core.registry import Registry
from ..core.stats import Absence
from ..core.tallies import TRANSIT_SLACK
from ..fleet.membership import Membership
from .releases import timestamp


class DepartureHost(Protocol):
    """The node. Its id and its membership are read each time, because a fork replaces them."""

    @property
    def started(self) -> float:
        """When it was made, by its clock."""

    @property
    def id(self) -> str:
        """Its id in the fleet."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""


class DepartedPages:
    """
    The pages that left this node, and may come back. To be called with the node's lock held.

    Args:
        host: The node.
        config: Checked settings.
        clock: Monotonic seconds.
        registry: The node's connections.
        mark_dirty: Schedules a push to the viewers.
        known_versions: Returns the versions that are counted apart.
    """

    def __init__(
        self,
        host: DepartureHost,
        config: Config,
        clock: Callable[[], float],
        registry: Registry,
        mark_dirty: Callable[[], None],
        known_versions: Callable[[], frozenset[str]],
    ) -> None:
        self.departures = Departures(config.reconnect_spread + TRANSIT_SLACK, config.unaccounted_grace)
        self.away_pages = AwayPages(away_pages.GRACE)
        self._known_versions = known_versions
        self._only_known = bool(config.known_versions)
        self._forked = float("-inf")
        self._host = host
        self._clock = clock
        self._registry = registry
        self._mark_dirty = mark_dirty

    def start_over(self) -> None:
        """Note that the process was forked: the pages before the fork are those of its parent."""
        self._forked = self._clock()

    def sent_away(self, version: str, stream_id: str) -> None:
        """Note a page that was told to reconnect elsewhere."""
        self.departures.add(version, self._clock(), stream_id)
        self._host.membership.view.departure_notices.publish_soon()

    def gave_up(self, version: str, stream_id: str) -> None:
        """Note a page that did not answer or read."""
        self.departures.add(version, self._clock(), stream_id, unanswered=True)
        self._host.membership.view.departure_notices.gave_up()
        self._mark_dirty()

    def broke_off(self, key: str, version: str, stream_id: str) -> None:
        """Note a page whose stream ended without a farewell; its key is as in `AwayPages.add`."""
        self.away_pages.add(key, version, stream_id, self._clock())
        self._mark_dirty()

    def came_back(self, stream_id: str) -> None:
        """Note that the page of a stream has come back, here or to another node, or says that it leaves."""
        departed, broke_off = self.departures.discard(stream_id), self.away_pages.discard(stream_id)
        if departed or broke_off:
            self._mark_dirty()

    def tab_came_back(self, key: str) -> bool:
        """Note that a tab, by its secret key, has been reported anew or leaves. Returns whether it was away."""
        found = self.away_pages.discard(key)
        if found:
            self._mark_dirty()
        return found

    def refresh(self) -> None:
        """
        Let the registry say which pages may come back as of now. To be called before its figures are read.

        What is unaccounted for it says in case there is no fleet that does.
        """
        now = self._clock()
        # A node that was started a moment ago knows nothing of the pages of the process before it.
        remembers = now - max(self._host.started, self._forked) >= self.away_pages.grace
        self.away_pages.set_known_versions(self._known_versions())
        away = self.away_pages.counts(now, only_known=self._only_known)
        changed = self._registry.set_away(away, known=remembers)
        counts, known = self.departures.unanswered(now), self._registry.absence
        absence = None
        if counts:
            since = timestamp() if known is None else known.since
            absence = Absence(self._host.id, sum(counts.values()), counts, "unanswered", since)
        if absence != known:
            changed |= self._registry.set_absence(absence)
        if changed:
            self._mark_dirty()
