"""
How often one stream may have its right checked: once a second, and less often after refusals.

A page may subscribe as often as it may send messages, and each check runs the application's middleware and its hook. So
a subscription that comes within a second of the last check waits for the next, unless it asks the same question again
and was granted: then the verdict holds until that second is over, and is checked again at its end.

Tests: tests/node/test_check_pace.py, tests/asgi/test_authorization.py.
"""

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from ..authorization.authorizer import AuthorizationCheck, Grant
from .check_runner import CheckRunner

INTERVAL: Final = 1.0
"""Seconds between two checks of one stream."""

MAX_INTERVAL: Final = 4.0
"""Seconds between two checks of a stream that was refused several times in a row: 1, 2, 4, 4 …"""


class LastCheck(msgspec.Struct):
    """The last check of a stream."""

    at: float
    """When it began."""
    question: object | None
    """What was asked; None: it was not granted, or is not known."""
    grant: Grant | None = None
    refusals: int = 0
    """In a row, until the stream has been quiet for twice `MAX_INTERVAL`."""


class CheckPace:
    """
    The last check of each stream that subscribed. The caller holds the node's lock, but for `check`.

    Args:
        clock: Monotonic seconds.
        lock: The node's.
        check_runner: Runs the checks.
        is_open: Says whether a stream still asks for figures, or gets them. The lock is held.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        lock: threading.RLock,
        check_runner: CheckRunner,
        is_open: Callable[[str], bool],
    ) -> None:
        self._clock = clock
        self._lock = lock
        self._check_runner = check_runner
        self._is_open = is_open
        self._last: dict[str, LastCheck] = {}
        """By public id of the stream."""

    def next_check(self, connection_id: str, check: AuthorizationCheck) -> tuple[float, Grant | None]:
        """
        Say when a stream's right may be checked.

        Returns:
            Seconds until then, and the verdict if it is known until then.
        """
        last = self._last.get(connection_id)
        if last is None:
            return 0.0, None
        interval = min(INTERVAL * 2 ** max(0, last.refusals - 1), MAX_INTERVAL)
        delay = last.at + interval - self._clock()
        if delay <= 0:
            return 0.0, None
        if last.grant is not None and last.question is not None and last.question == check.question():
            return delay, last.grant
        return delay, None

    async def check(self, connection_id: str, check: AuthorizationCheck, *, has_right: bool = False) -> Grant | None:
        """Check a right, and remember when, and the verdict. `has_right`: the viewer has the right now."""
        with self._lock:
            begun = self.begin(connection_id, check) if self._is_open(connection_id) else None
        grant = await self._check_runner.run(check, has_right=has_right)
        if begun is not None:
            with self._lock:
                self.end(connection_id, begun, grant)
        return grant

    def begin(self, connection_id: str, check: AuthorizationCheck) -> LastCheck:
        """Note that a check begins. The caller must `end` it."""
        now, last = self._clock(), self._last.get(connection_id)
        refusals = 0 if last is None or now - last.at > 2 * MAX_INTERVAL else last.refusals
        begun = self._last[connection_id] = LastCheck(now, check.question(), refusals=refusals)
        return begun

    def end(self, connection_id: str, begun: LastCheck, grant: Grant | None) -> None:
        """Note the verdict of a check."""
        if self._last.get(connection_id) is not begun:
            return  # the stream is over, or a later check began
        begun.grant = grant
        begun.refusals = 0 if grant is not None else begun.refusals + 1
        if grant is None:
            begun.question = None  # it holds the headers of a request

    def withdraw(self, connection_id: str) -> None:
        """Note that a right was withdrawn: the last verdict must not be used again."""
        last = self._last.get(connection_id)
        if last is not None:
            last.grant = last.question = None

    def forget(self, connection_id: str) -> None:
        """Forget a stream that is over."""
        self._last.pop(connection_id, None)
