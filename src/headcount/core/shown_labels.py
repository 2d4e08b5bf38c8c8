"""
Which labels have a time series of their own, while visitors choose the labels.

A time series database keeps every series that it has ever seen, so what counts is not how many labels are shown at a
time but how many different ones are shown over time. A machine without I/O; time is an argument.

The rules, and there are no others:

1. A label that the fleet knows always has a place: one that nodes serve, one that was declared, one that was such a
   label before.
2. The others share the places that are left, at most `limit` in all. What has a place keeps it while it is counted.
3. A label that was shown within the last day takes a free place at once, because its series exists.
4. A new label takes a free place at once until `limit` different labels have been shown within a day. So a small
   deployment sees every new version at the next scrape.
5. Then a new label must have been counted for `HOLD`, and after that be among the largest for another `HOLD`. It takes
   a free place, or that of the smallest label that is no longer among the largest. Labels that come and go do not
   compete, however large they are.
6. Once `2 * limit` different labels have been shown within a day, `(other)` included, no new one is shown.

So visitors cannot cause more than `2 * limit` series a day, and cannot push out a label that the fleet knows.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from .labels import OTHER

HOLD: Final = 150.0
"""Seconds; a new label waits twice as long."""

DAY: Final = 86_400.0
"""Seconds for which a series that was shown counts."""

MAX_REMEMBERED: Final = 16
"""Labels that the fleet knew before and does not know now."""


class ShownLabels:
    """
    The choice of labels for one metric of one process, remembered from scrape to scrape.

        _series      {label: when it was shown last}   within the last day, `(other)` not among them
        _shown       untrusted labels that have a place now
        _counted     {label: since when}               untrusted labels in the counts; bounded like those
        _large       {label: since when}               those among the largest; at most `limit`
        _remembered  labels that the fleet knew, the newest last

    Args:
        limit: Labels that are shown at a time, and half of those that are shown in a day.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._series: dict[str, float] = {}
        self._shown: set[str] = set()
        self._counted: dict[str, float] = {}
        self._large: dict[str, float] = {}
        self._remembered: dict[str, None] = {}

    def choose(
        self, counts: Mapping[str, int], now: float, known: Iterable[str] = (), always: Iterable[str] = ()
    ) -> dict[str, int]:
        """
        Return the counts of the labels to show, largest first, and the sum of the rest under `(other)`.

        Args:
            counts: `{label: count}`, counts >= 1.
            now: Monotonic seconds.
            known: Labels that the fleet knows now.
            always: Labels that are shown even at 0.

        O(n log n).
        """
        trusted = self._trusted(known) | {*always}
        self._series = {label: at for label, at in self._series.items() if now - at <= DAY}
        ranked = sorted((label for label in counts if label != OTHER), key=lambda label: (-counts[label], label))
        apart = [label for label in ranked if label in trusted]
        self._series.update(dict.fromkeys(apart, now))
        untrusted = [label for label in ranked if label not in trusted]
        places = max(0, self._limit - len(apart))
        apart += self._untrusted(untrusted, places, now)
        self._series.update(dict.fromkeys(apart, now))
        shown = dict.fromkeys(always, 0) | {label: counts[label] for label in apart}
        rest = sum(counts.values()) - sum(shown.values())
        return shown | {OTHER: rest} if rest else shown

    def _trusted(self, known: Iterable[str]) -> set[str]:
        current = {*known} - {OTHER}
        for label in current:
            self._remembered.pop(label, None)
        self._remembered |= dict.fromkeys(current)
        surplus = len(self._remembered) - len(current) - MAX_REMEMBERED
        for label in [*self._remembered][: max(0, surplus)]:
            del self._remembered[label]
        return {*self._remembered}

    def _untrusted(self, ranked: list[str], places: int, now: float) -> list[str]:
        """Give the places to labels that nobody vouches for; `ranked` has the largest first."""
        self._counted = {label: self._counted.get(label, now) for label in ranked}
        settled = [label for label in ranked if label in self._series or now - self._counted[label] >= HOLD]
        self._large = {label: self._large.get(label, now) for label in settled[:places]}
        shown = [label for label in ranked if label in self._shown][:places]
        # From the smallest on; they make room for what has been among the largest for long.
        yielding = [label for label in shown if label not in self._large]
        self._shown = {*shown}
        for label in ranked:
            if label in self._shown:
                continue
            is_large = label in self._large and now - self._large[label] >= HOLD
            if not self._may_be_shown(label, is_large=is_large):
                continue
            if len(self._shown) < places:
                self._show(label, now)
            elif is_large and yielding:
                self._shown.discard(yielding.pop())
                self._show(label, now)
        return [label for label in ranked if label in self._shown]

    def _may_be_shown(self, label: str, *, is_large: bool) -> bool:
        if label in self._series:
            return True
        used = len(self._series)
        # `(other)` is a series, too.
        return used < self._limit or (is_large and used < 2 * self._limit - 1)

    def _show(self, label: str, now: float) -> None:
        self._shown.add(label)
        self._series[label] = now


def versions_known_to_the_fleet(
    own: str, current: str | None, served: Collection[str] | None, others: Iterable[str] = ()
) -> set[str]:
    """
    Return the versions that do not come from visitors only.

    Args:
        own: The version that this node serves.
        current: The current one; None: it is not known.
        served: Those that nodes of the fleet say they serve; None: they do not say.
        others: Further versions that somebody vouches for.
    """
    return {own, *(served or ()), *([] if current is None else [current]), *others} - {OTHER}
