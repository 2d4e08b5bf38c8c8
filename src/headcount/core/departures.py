"""
Pages whose streams this node ended, while they may still come back.

    sent away    were told to reconnect elsewhere, and are on their way for some seconds
    unanswered   did not answer or read: frozen, or gone. Nobody knows, until they come back or the grace is over

Such a page is in nobody's figures: its old stream has ended and its new one is not open yet. It has not gone, either.
Counted by version and second. Their ids are kept as well, so that a page can prove that it is one of them.
"""

from collections import Counter, defaultdict, deque
from typing import NamedTuple

from .counts import bounded
from .tallies import MAX_VERSIONS


class _Second(NamedTuple):
    began: float
    counts: Counter[str]
    ids: defaultdict[str, Counter[str]]
    """Streams by version, each with the number of its pages: tabs may share one."""


class _Pages:
    """Pages of one kind, for as long as they may come back."""

    def __init__(self, time: float) -> None:
        # The pages of a second that began before may have been added at its end.
        self._time = time + 1.0
        self.seconds: deque[_Second] = deque()

    def add(self, version: str, now: float, stream: str) -> None:
        self.expire(now)
        if not self.seconds or now - self.seconds[-1].began >= 1.0:
            self.seconds.append(_Second(now, Counter(), defaultdict(Counter)))
        self.seconds[-1].counts[version] += 1
        self.seconds[-1].ids[version][stream] += 1

    def discard(self, stream: str) -> bool:
        found = False
        for second in self.seconds:
            for version, ids in second.ids.items():
                if count := ids.pop(stream, 0):
                    second.counts[version] -= count
                    found = True
        return found

    def counts(self, now: float) -> Counter[str]:
        self.expire(now)
        total: Counter[str] = Counter()
        for second in self.seconds:
            total.update(second.counts)
        return +total

    def remaining(self, now: float) -> float:
        """Return the seconds for which the last one may come back; 0.0 without any."""
        self.expire(now)
        return self.seconds[-1].began + self._time - now if self.seconds else 0.0

    def expire(self, now: float) -> None:
        while self.seconds and now - self.seconds[0].began >= self._time:
            self.seconds.popleft()


class Departures:
    """
    The pages whose streams were ended during the last seconds. Not thread-safe.

    Args:
        transit: Seconds for which a page that was told to reconnect is taken to be on its way.
        grace: Seconds for which a page that did not answer may be there.
    """

    def __init__(self, transit: float, grace: float = 120.0) -> None:
        self._transit = transit
        self.revision = 0
        """Number of pages that were ever added."""
        self._sent_away = _Pages(transit)
        self._unanswered = _Pages(grace)

    def add(self, version: str, now: float, stream: str, *, unanswered: bool = False) -> None:
        """Add a page, with the public id of its stream. O(1)."""
        (self._unanswered if unanswered else self._sent_away).add(version, now, stream)
        self.revision += 1

    def discard(self, stream: str) -> bool:
        """Remove the pages of a stream, because they came back to this node. Returns whether there were any."""
        sent_away, unanswered = self._sent_away.discard(stream), self._unanswered.discard(stream)
        return sent_away or unanswered

    def counts(self, now: float) -> dict[str, int]:
        """Return how many may come back, by version, as a tally holds them. O(versions)."""
        return _limited(self._sent_away.counts(now) + self._unanswered.counts(now))

    def unanswered(self, now: float) -> dict[str, int]:
        """Return how many of them did not answer. O(versions)."""
        return _limited(self._unanswered.counts(now)) if self._unanswered.seconds else {}

    def only_unanswered(self, now: float) -> bool:
        """Say whether all of them did not answer, and none was told to reconnect."""
        return not self._sent_away.counts(now)

    def transit(self, now: float) -> float:
        """Return the seconds for which they may come back."""
        return max(self._transit, self._unanswered.remaining(now))

    def pages(self, now: float) -> dict[str, list[str]]:
        """Return the streams of those that may come back, by version. O(pages)."""
        found: dict[str, list[str]] = defaultdict(list)
        for pages in (self._sent_away, self._unanswered):
            pages.expire(now)
            for second in pages.seconds:
                for version, ids in second.ids.items():
                    if ids:
                        found[version].extend(ids.elements())
        return found


def _limited(counts: Counter[str]) -> dict[str, int]:
    return bounded(counts, MAX_VERSIONS) if len(counts) > MAX_VERSIONS else dict(counts)
