"""
The figures of the last hour, for a dashboard that has just been opened.

A fixed number of samples, each of a fixed size, so an hour costs the same whatever happened in it. Each sample keeps
the versions with most connections apart, and the rest under `(other)`. A restart of the process loses the history: it
is for looking, not for accounting.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .counts import bounded
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
        # `(other)` of the figures takes one of the places.
        self._samples.append(Sample(at, total, bounded(versions, MAX_VERSIONS - (OTHER in versions))))

    def to_dict(self) -> dict[str, Any]:
        """Return the wire's shape: `{intervalMs, samples: [{at, total, versions}]}`."""
        return {"intervalMs": round(INTERVAL * 1000), "samples": [sample._asdict() for sample in self._samples]}
