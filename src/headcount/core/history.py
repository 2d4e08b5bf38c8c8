"""
The last hour in figures: what a dashboard that is just being opened has not seen.

A fixed number of samples, each of a fixed size, so an hour costs the same whatever happened in it. The versions that
had most connections are kept apart in each sample, the rest under `(other)`. Lost with the process: this is for
looking, not for accounting.
"""

from collections import deque
from collections.abc import Mapping
from heapq import nlargest
from typing import Any, Final, NamedTuple

from .labels import OTHER

INTERVAL: Final = 10.0
"""Seconds between two samples."""

LENGTH: Final = 360
"""Samples kept: an hour."""

MAX_VERSIONS: Final = 8
"""Versions apart in one sample."""


class Sample(NamedTuple):
    """The figures at one moment. `at` is in ms since 1970."""

    at: int
    total: int
    versions: dict[str, int]


class History:
    """The samples of the last hour, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=LENGTH)
        self._due = float("-inf")

    def is_due(self, now: float) -> bool:
        """Say whether it is time for a sample. `now` in monotonic seconds."""
        return now >= self._due

    def add(self, now: float, at: int, total: int, versions: Mapping[str, int]) -> None:
        """
        Keep a sample.

        Args:
            now: Monotonic seconds.
            at: Wall clock, in ms since 1970.
            total: Open connections.
            versions: `{version: count}`.

        O(versions).
        """
        self._due = now + INTERVAL
        kept = dict(nlargest(MAX_VERSIONS, versions.items(), key=lambda item: item[1]))
        rest = total - sum(kept.values())
        if rest:
            kept[OTHER] = kept.get(OTHER, 0) + rest
        self._samples.append(Sample(at, total, kept))

    def to_dict(self) -> dict[str, Any]:
        """Return the wire's shape: `{intervalMs, samples: [{at, total, versions}]}`."""
        return {"intervalMs": round(INTERVAL * 1000), "samples": [sample._asdict() for sample in self._samples]}
