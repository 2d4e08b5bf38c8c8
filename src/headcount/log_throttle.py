"""A log that strangers cannot fill: what happens again and again is said once a minute, and how often it happened."""

import time
from collections.abc import Callable
from typing import Final

INTERVAL: Final = 60.0
"""Seconds."""


class LogThrottle:
    """
    Decides what is said.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[object, tuple[float, int]] = {}

    def word(self, key: object) -> str | None:
        """
        Note that something happened.

        Args:
            key: What it was; of which there must be few, since each is remembered.

        Returns:
            What to put behind the sentence: nothing, or how often it was left unsaid. None: leave it unsaid.
        """
        now = self._clock()
        last, unsaid = self._said.get(key, (float("-inf"), 0))
        if now - last < INTERVAL:
            self._said[key] = (last, unsaid + 1)
            return None
        self._said[key] = (now, 0)
        return f" ({unsaid} more times since the last time that this was said)" if unsaid else ""
