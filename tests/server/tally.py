"""
How many there were of something, second by second: what figures that were told then are held against.

It answers for stretches of time, because figures are late by some.
"""

import time


class Tally:
    """A number that changes, from zero on. Moments are those of `time.monotonic`, and told apart by the second."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._now = 0
        self._most = [0]
        self._least = [0]

    def add(self, by: int) -> None:
        """Change it now."""
        last = self._reach()
        self._now += by
        self._most[last] = max(self._most[last], self._now)
        self._least[last] = min(self._least[last], self._now)

    def most(self, since: float, until: float) -> int:
        """Return the most that it was from one moment to another."""
        self._reach()
        return max(self._most[self._index(since) : self._index(until) + 1], default=self._now)

    def least(self, since: float, until: float) -> int:
        """Return the least that it was from one moment to another."""
        self._reach()
        return min(self._least[self._index(since) : self._index(until) + 1], default=self._now)

    def _index(self, moment: float) -> int:
        return max(0, int(moment - self._start))

    def _reach(self) -> int:
        """Bring the lists up to now; returns the index of now."""
        last = self._index(time.monotonic())
        missing = last + 1 - len(self._most)
        self._most += [self._now] * missing
        self._least += [self._now] * missing
        return last
