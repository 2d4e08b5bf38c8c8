"""The tally of this node and the list of its pages, which the other nodes read once this one is gone."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ..core import page_lists
from ..core.away_pages import AwayPages
from ..core.departures import Departures
from ..core.labels import OTHER
from ..core.page_lists import PageList
from ..core.registry import Registry
from ..core.tallies import Tally, limited

TabVersions = Callable[[], Mapping[str, str]]
"""Returns the streams that tabs share, by public id, and the version of one tab of each."""

_NUMBERS: Final = 2**31


class OwnTally:
    """
    Makes the tallies of this node.

    Args:
        registry: This node's connections.
        departures: Pages whose streams it ended.
        away_pages: Pages whose streams broke off.
        lock: The node's.
        clock: Monotonic seconds.
        serves: Its version.
        key: Proves to other nodes which handles are this node's.
        tab_versions: See `TabVersions`.
        current: Returns the current version; None: it is not known.
    """

    def __init__(
        self,
        registry: Registry,
        departures: Departures,
        away_pages: AwayPages,
        lock: threading.RLock,
        clock: Callable[[], float],
        serves: str,
        key: bytes,
        tab_versions: TabVersions,
        current: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._departures = departures
        self._away_pages = away_pages
        self._lock = lock
        self._clock = clock
        self._serves = serves
        self._key = key
        self._tab_versions = tab_versions
        self._current = current
        self._number = 0
        self._groups: list[dict[str, bytes]] = []
        """Marks of the last list."""
        self._state: tuple[int, int, Mapping[str, str], frozenset[str]] = (-1, -1, {}, frozenset())
        """
        As of the last list: revisions of the registry and of the pages that broke off, the shared streams, and the
        versions that are counted apart.
        """
        self._had_departed = False
        self.pages = b""
        """The encoded list that belongs to the last tally; empty if it has none."""

    def make(self, *, leaving: bool) -> Tally:
        """
        Return the tally of this moment. O(connections) if any changed, about 150 ns each.

        Args:
            leaving: For the last time: all pages will have to reconnect.
        """
        with self._lock:
            now = self._clock()
            departed, transit = self._departures.counts(now), self._departures.transit(now)
            unanswered = not leaving and bool(departed) and self._departures.only_unanswered(now)
            # How many pages are outdated follows from the tallies, so the current version is apart however small it is.
            kept = {self._serves, self._current() or self._serves}
            versions, away = limited(self._registry.versions, kept), limited(self._away_pages.counts(now))
            if leaving:
                departed = limited(Counter(departed) + Counter(versions) + Counter(away))
                transit = max(transit, self._away_pages.remaining(now))
                versions, away = {}, {}
            number = self._make_list({**versions, **away}, departed, frozenset(kept), leaving=leaving)
        return Tally(
            versions=versions,
            departed=departed,
            away=away,
            unanswered=unanswered,
            transit=transit,
            left=leaving,
            serves=self._serves,
            key=self._key,
            pages=number,
        )

    def _make_list(
        self, versions: Mapping[str, int], departed: Mapping[str, int], kept: frozenset[str], *, leaving: bool
    ) -> int:
        """Make the list of pages. Returns its number, a new one if it has changed; 0: it is empty or too long."""
        here: dict[str, list[str]] = {}
        gone: dict[str, list[str]] = {}
        state = self._registry.revision, self._away_pages.revision, self._tab_versions(), kept
        if state == self._state and not (leaving or departed or self._had_departed):
            return self._number if self.pages else 0
        self._state, self._had_departed = state, bool(leaving or departed)
        data = None
        if self._registry.total <= page_lists.MAX_PAGES:
            into, counts = (gone, departed) if leaving else (here, versions)
            _group(into, self._registry.ids(), counts)
            for stream, version in state[2].items():
                _group(into, {version: (stream,)}, counts)
            _group(into, self._away_pages.streams(self._clock()), counts)
            _group(gone, self._departures.pages(self._clock()), departed)
            groups = [
                {version: page_lists.marks(ids) for version, ids in group.items() if ids} for group in (here, gone)
            ]
            if self.pages and groups == self._groups:
                return self._number
            self._groups = groups
            self._number = self._number % _NUMBERS + 1
            data = page_lists.encode(PageList(self._number, *groups)) if any(groups) else None
        self.pages = data or b""
        return self._number if self.pages else 0


def _group(into: dict[str, list[str]], ids: Mapping[str, Iterable[str]], counts: Mapping[str, int]) -> None:
    """Add ids by the label under which the tally counts their version."""
    for version, some in ids.items():
        into.setdefault(version if version in counts else OTHER, []).extend(some)
