"""
Which pages acknowledged an application's message.

Each message that asks for it has an id. A page that is sent it is noted, and counted once when it answers. Only the
newest messages are known, and each for a while: whoever sent it has counted by then.

Tests: tests/core/test_acknowledgements.py.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

MAX_MESSAGES: Final = 16
"""That are known at the same time. The oldest gives way."""

KEEP: Final = 120.0
"""Seconds for which a message is known; longer than anybody may wait for acknowledgements."""

MAX_ID: Final = 32
"""Characters of the id of a message."""


class _Sent:
    __slots__ = ("acknowledged", "at", "silent")

    def __init__(self, pages: Iterable[str], at: float) -> None:
        self.silent = set(pages)
        self.acknowledged = 0
        self.at = at


class Acknowledgements:
    """The messages of one node that ask for an answer. Not thread-safe, and without a clock."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, _Sent] = OrderedDict()

    def sent(self, message: str, pages: Iterable[str], now: float) -> None:
        """
        Note that a message was sent.

        Args:
            message: Its id.
            pages: The public ids of those that it was sent to.
            now: Monotonic seconds.
        """
        self._sent[message] = _Sent(pages, now)
        while len(self._sent) > MAX_MESSAGES:
            self._sent.popitem(last=False)

    def acknowledge(self, message: str, page: str) -> bool:
        """Note that a page has a message. Returns False if it was not sent it, or has acknowledged it already."""
        sent = self._sent.get(message)
        if sent is None or page not in sent.silent:
            return False
        sent.silent.discard(page)
        sent.acknowledged += 1
        return True

    def count(self, message: str) -> int | None:
        """Return how many pages acknowledged a message; None: it is not known."""
        sent = self._sent.get(message)
        return None if sent is None else sent.acknowledged

    def expire(self, now: float) -> None:
        """Forget messages that are old. O(messages that are forgotten)."""
        while self._sent and now - next(iter(self._sent.values())).at >= KEEP:
            self._sent.popitem(last=False)
