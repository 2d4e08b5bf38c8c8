"""
Pages whose streams broke off without a farewell: they are away, and may come back.

Nobody can tell a page that was closed by a crash from one whose Wi-Fi, load balancer or laptop lid cut its stream. Such
a page is in nobody's figures, and it is not gone either. It is away until one of these happens:

    it comes back      a new stream names the old one (`replaces`), here or on another node
    it says goodbye    `POST /bye` may come after the end of the stream that it names
    the grace is over  nearly every page that is alive is back by then

A page that says goodbye first never gets in here; core/ends.py says which ends are a farewell.

Pages are known by a key, `MAX_PAGES` at most. Above that, the oldest are only counted, under `(other)`: nothing can
take those off before the grace is over, and whoever waits for a version takes them for pages of it.

Time is an argument, in seconds of the caller's own clock.
"""

import math
from collections import OrderedDict, deque
from typing import Final, NamedTuple

from .counts import LabelSums
from .labels import OTHER, UNKNOWN
from .tallies import RETURN

OUTAGE: Final = 15.0
"""Seconds for which what lies between pages and servers may be away, such as a load balancer that restarts."""

GRACE: Final = OUTAGE + RETURN
"""
Seconds after which a page whose stream broke off counts as gone. A page whose attempts to reconnect fail waits longer
each time: it comes back up to `RETURN` after it can.
"""

MAX_PAGES: Final = 20_000
"""Pages that are known by their key."""

MAX_VERSIONS: Final = 64
"""Versions that are counted apart, besides those that the fleet knows; the rest is under `(other)`."""


class _Page(NamedTuple):
    version: str
    stream: str
    since: float


class AwayPages:
    """
    The pages of one node that are away. Not thread-safe.

    Args:
        grace: Seconds after which a page counts as gone.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self.grace = grace
        self.revision = 0
        """Number of changes so far, but for those that time brings."""
        self._pages: OrderedDict[str, _Page] = OrderedDict()
        """By key, oldest first. A plain dictionary would look for the oldest where those before it were removed."""
        self._sums = LabelSums(MAX_VERSIONS, str)
        """Of those, by version."""
        self._unnamed: deque[tuple[int, int]] = deque()
        """By which second, and how many, pages without a key broke off: oldest first."""

    def __bool__(self) -> bool:
        return bool(self._pages or self._unnamed)

    def add(self, key: str, version: str, stream: str, now: float) -> None:
        """
        Add a page. O(1).

        Args:
            key: Of the page: the public id of its stream, or the secret key of a tab that shares one.
            version: Of the page, as it says.
            stream: Public id of its stream.
            now: Seconds.
        """
        self.discard(key)
        self._pages[key] = _Page(version, stream, now)
        self._sums.change(version, 1)
        self.revision += 1
        if len(self._pages) > MAX_PAGES:
            self._forget_key(next(iter(self._pages)))

    def discard(self, key: str) -> bool:
        """Remove a page that came back or said goodbye. Returns whether it was away. O(1)."""
        if key not in self._pages:
            return False
        self._remove(key)
        self.revision += 1
        return True

    def set_known_versions(self, known: frozenset[str]) -> None:
        """Count these versions apart from now on, however many others there are."""
        if known != self._sums.reserved:
            self._sums.set_reserved(known)

    def counts(self, now: float, *, only_known: bool = False) -> dict[str, int]:
        """
        Return how many are away, by version. O(versions that are counted apart + pages that expire).

        Args:
            now: Seconds.
            only_known: Count all but the known versions under `unknown`.
        """
        self._expire(now)
        counts = dict(self._sums.counts)
        if only_known:
            known = {version: counts[version] for version in self._sums.reserved & counts.keys()}
            unknown = len(self._pages) - sum(known.values()) + known.get(UNKNOWN, 0)
            counts = known | ({UNKNOWN: unknown} if unknown else {})
        unnamed = sum(count for _, count in self._unnamed)
        if unnamed:
            counts[OTHER] = counts.get(OTHER, 0) + unnamed
        return counts

    def streams(self, now: float) -> dict[str, list[str]]:
        """Return the streams of those that have a key, by version. O(pages)."""
        self._expire(now)
        found: dict[str, list[str]] = {}
        for page in self._pages.values():
            found.setdefault(page.version, []).append(page.stream)
        return found

    def remaining(self, now: float) -> float:
        """Return the seconds after which none is away any more, if no other breaks off; 0.0 without any. O(1)."""
        self._expire(now)
        newest = [float(second) for second, _ in self._unnamed][-1:]
        if self._pages:
            newest.append(self._pages[next(reversed(self._pages))].since)
        return max(newest) + self.grace - now if newest else 0.0

    def _expire(self, now: float) -> None:
        while self._pages:
            key = next(iter(self._pages))
            if now - self._pages[key].since < self.grace:
                break
            self._remove(key)
        while self._unnamed and now - self._unnamed[0][0] >= self.grace:
            self._unnamed.popleft()

    def _remove(self, key: str) -> _Page:
        page = self._pages.pop(key)
        self._sums.change(page.version, -1)
        return page

    def _forget_key(self, key: str) -> None:
        """Go on counting a page without its key. Those of one second are counted together, to its end."""
        until = math.ceil(self._remove(key).since)
        if self._unnamed and self._unnamed[-1][0] == until:
            self._unnamed[-1] = (until, self._unnamed[-1][1] + 1)
        else:
            self._unnamed.append((until, 1))
