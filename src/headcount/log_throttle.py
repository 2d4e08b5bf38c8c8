"""
Log lines that strangers can cause: each kind is written once a minute, with the number of those suppressed.

The lines about Redis are not among them: fleet/backends/redis.py writes one when it is lost, and one when it is back.
"""

import time
from collections.abc import Callable
from typing import Final

INTERVAL: Final = 60.0
"""Seconds between two log lines of one kind."""


class LogThrottle:
    """
    Decides which log lines are written.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._written: dict[object, tuple[float, int]] = {}
        """Of each kind: when a line was last written, and how many were suppressed since."""

    def suffix_if_due(self, kind: object) -> str | None:
        """
        Return how a log line of this kind ends, if one may be written now.

        Args:
            kind: Of the line. There must be few kinds, because each is remembered.

        Returns:
            What to append to the line: nothing, or the number of lines suppressed before it. None: write no line.
        """
        now = self._clock()
        last, suppressed = self._written.get(kind, (float("-inf"), 0))
        if now - last < INTERVAL:
            self._written[kind] = (last, suppressed + 1)
            return None
        self._written[kind] = (now, 0)
        return f" ({suppressed} similar messages suppressed)" if suppressed else ""
