"""
How long until the connections that are waited for are gone. protocol/README.md, "Time to go", has the rule;
web/dashboard/src/trend.ts is the same in TypeScript, and protocol/fixtures/time-to-go.json tests both.
"""

import math
from collections import deque
from collections.abc import Iterator
from operator import mul
from typing import Final, NamedTuple

WINDOW: Final = 900.0
"""Seconds. Older samples say little about the present."""

LEAST_SAMPLES: Final = 4

LEAST_SPAN: Final = 10.0
"""Seconds that the samples must cover."""

HALF_WEIGHT: Final = 60.0
"""Seconds. A sample that is so much older than another counts half as much: what leaves now is shown by the newest."""

NEAR: Final = 0.95
"""
A number of at least this part of its highest is near it: the number of a site's visitors varies by about so much while
nothing happens.
"""

CERTAINTY: Final = 2.0
"""A number shrinks if its line falls by more than so many of the slope's standard errors."""

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
    shrinks by a factor and not by an amount. The factor is the slope of the line through the logarithms, in which newer
    samples have more weight.

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
    falling = [sample for sample in recent[_beginning(recent) :] if sample.left > 0]
    if not _is_enough(falling, now):
        is_highest = recent[-1].left >= max(sample.left for sample in recent)
        return 0.0 if is_highest and _is_enough(recent, now) else None
    return _weighted_fall(falling, now)


def _beginning(samples: list[Sample]) -> int:
    """
    Return where the fall begins: the last sample near the highest. Before it, the old version was still the new one.

    While the newest is near the highest itself, the fall may be a slow one, and begins with the highest.
    """
    highest = max(range(len(samples)), key=lambda index: (samples[index].left, index))
    least = samples[highest].left * NEAR
    near = max(index for index, sample in enumerate(samples) if sample.left >= least)
    return highest if near == len(samples) - 1 else near


def _weighted_fall(samples: list[Sample], now: float) -> float:
    """Return by how much the line through the logarithms falls in a second; 0 when it does not, or not for certain."""
    times = [sample.at - now for sample in samples]
    logs = [math.log(sample.left) for sample in samples]
    weights = [2.0 ** (at / HALF_WEIGHT) for at in times]
    total = sum(weights)
    time = sum(map(mul, weights, times)) / total
    log = sum(map(mul, weights, logs)) / total
    spread = sum(weight * (at - time) ** 2 for weight, at in zip(weights, times, strict=True))
    fall = -sum(weight * (at - time) * (value - log) for weight, at, value in zip(weights, times, logs, strict=True))
    fall /= spread
    # Standard error: that of as many equal samples as the weighted ones are worth.
    missed = sum(
        weight * (value - log + fall * (at - time)) ** 2 for weight, at, value in zip(weights, times, logs, strict=True)
    )
    error = math.sqrt(missed / spread * sum(weight**2 for weight in weights)) / total
    return fall if fall > CERTAINTY * error else 0.0


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
