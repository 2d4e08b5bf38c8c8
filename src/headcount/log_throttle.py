"""Throttled logging, so that pages cannot fill the log: a repeated message is logged once a minute, with a count."""

import time
from collections.abc import Callable
from typing import Final

INTERVAL: Final = 60.0
"""Seconds."""


class LogThrottle:
    """
    Decides whether a repeated message is logged.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[object, tuple[float, int]] = {}

    def word(self, key: object) -> str | None:
        """
        Count one occurrence of a message.

        Args:
            key: Identifies the message. Every key is remembered, so there must be few.

        Returns:
            A suffix for the message: empty, or the number of messages suppressed since the last one. None: do not log.
        """
        now = self._clock()
        last, unsaid = self._said.get(key, (float("-inf"), 0))
        if now - last < INTERVAL:
            self._said[key] = (last, unsaid + 1)
            return None
        self._said[key] = (now, 0)
        return f" ({unsaid} similar messages suppressed)" if unsaid else ""
