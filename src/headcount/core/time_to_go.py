"""
How long until the connections that are waited for are gone. protocol/README.md, "Time to go", has the rule;
web/dashboard/src/trend.ts is the same in TypeScript, and protocol/fixtures/time-to-go.json tests both.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

WINDOW: Final = 900.0
"""Seconds. Older samples say little about the present."""

LEAST_SAMPLES: Final = 4

LEAST_SPAN: Final = 10.0
"""Seconds that the samples must cover."""

FURTHEST: Final = 7 * 24 * 3_600.0
"""Seconds. What is further away than this is `NEVER`."""

NEVER: Final = math.inf

MIN_INTERVAL: Final = 1.0
"""Seconds between two samples that are kept."""


class Sample(NamedTuple):
    """
    How many connections were left.

    Attributes:
        at: Time, in seconds on any clock.
        left: Connections.
    """

    at: float
    left: int


class Samples:
    """The samples of the last `WINDOW` seconds, about one for each second, and the newest."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Add a sample, which is no older than the last one."""
        samples = self._samples
        if len(samples) > 1 and samples[-1].at - samples[-2].at < MIN_INTERVAL:
            samples.pop()
        samples.append(sample)
        while samples[0].at < sample.at - WINDOW:
            samples.popleft()

    def __iter__(self) -> Iterator[Sample]:
        """Give them, oldest first."""
        return iter(self._samples)

    def decay(self) -> float | None:
        """Return what `decay` returns for these samples."""
        return decay(list(self._samples))


def decay(samples: list[Sample]) -> float | None:
    """
    Estimate which share of the connections leaves in a second.

    Old pages leave as visitors close or reload them, each page with about the same chance in each minute, so the number
    shrinks by a factor and not by an amount. The factor is the slope of the line through the logarithms.

    Args:
        samples: Oldest first.

    Returns:
        The share, as an exponent: after t seconds exp(-t * share) of the connections are left. 0 when the number does
        not shrink, None when there is not enough data.
    """
    if not samples:
        return None
    now = samples[-1].at
    recent = [sample for sample in samples if sample.at >= now - WINDOW]
    # Only since the number was highest: before that, the old version was still the new one.
    highest = max(range(len(recent)), key=lambda index: (recent[index].left, index))
    falling = [sample for sample in recent[highest:] if sample.left > 0]
    if not _is_enough(falling, now):
        return 0.0 if highest == len(recent) - 1 and _is_enough(recent, now) else None
    times = [sample.at - now for sample in falling]
    logs = [math.log(sample.left) for sample in falling]
    time, log = sum(times) / len(times), sum(logs) / len(logs)
    rise = sum((at - time) * (value - log) for at, value in zip(times, logs, strict=True))
    return max(0.0, -rise / sum((at - time) ** 2 for at in times))


def time_to_go(left: int, bound: int, share: float | None) -> float | None:
    """
    Return when at most `bound` connections are left: when the curve has less than half a connection more.

    Args:
        left: Connections now.
        bound: How many may be left.
        share: What `decay` returned.

    Returns:
        Seconds; 0 when the bound is reached, `NEVER` when the number does not shrink, None when there is not enough
        data.
    """
    if left <= bound:
        return 0.0
    if share is None:
        return None
    seconds = math.log(left / (bound + 0.5)) / share if share else NEVER
    return seconds if seconds < FURTHEST else NEVER


def _is_enough(samples: list[Sample], now: float) -> bool:
    return len(samples) >= LEAST_SAMPLES and now - samples[0].at >= LEAST_SPAN
