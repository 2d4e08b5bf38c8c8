"""
Who has a right checked next.

A check runs the application's middleware and its hook, and anybody can ask for any number of them. So a bounded number
runs at once. Viewers who have shown that they have the right go first, and some places are theirs alone. The others
take turns: by address, and requests of programs apart from streams, so that one visitor's many streams delay nobody
else by more than one check.

Tests: tests/node/test_check_runner.py.
"""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from contextlib import suppress
from typing import Final

from ..errors import Busy

MAX_CHECKS: Final = 64
"""Checks that run at once, with an asynchronous hook."""

MAX_WAITING: Final = 1_024
"""Unproven checks that wait. Further ones are denied at once."""


class CheckQueue:
    """
    The places in which checks run. For any event loop.

    Args:
        limit: Places. A quarter of them is for viewers who have the right.
    """

    def __init__(self, limit: int = MAX_CHECKS) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._running = 0
        self._unproven_running = 0
        """Of those that run: checks of viewers who have not shown a right."""
        self._priority: deque[asyncio.Future[None]] = deque()
        self._unproven: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        """Unproven checks that wait, by whose turn it is: the first key is next, and goes to the end then."""
        self._unproven_waiting = 0

    @property
    def waiting(self) -> int:
        """How many checks wait."""
        return self._unproven_waiting + len(self._priority)

    async def enter(self, key: Hashable, *, priority: bool) -> None:
        """
        Wait for a place; the caller must `leave` it.

        Args:
            key: Unproven checks with equal keys wait for one another.
            priority: The viewer has shown the right, so the check goes before all unproven ones.

        Raises:
            Busy: Too many unproven checks wait.
        """
        with self._lock:
            if self._may_run(priority=priority) and not (self._priority if priority else self._unproven):
                self._add(priority=priority)
                return
            if not priority and self._unproven_waiting >= MAX_WAITING:
                raise Busy("Too many checks of rights are waiting.")
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if priority:
                self._priority.append(turn)
            else:
                self._unproven.setdefault(key, deque()).append(turn)
                self._unproven_waiting += 1
        try:
            await turn
        except BaseException:
            with self._lock:
                given = not self._forget(key, turn, priority=priority)
            if given:
                self.leave(priority=priority)
            raise

    def leave(self, *, priority: bool) -> None:
        """Free a place that was entered with this priority, and give it to the next."""
        with self._lock:
            self._running -= 1
            self._unproven_running -= not priority
            while (following := self._pop()) is not None:
                turn, has_priority = following
                with suppress(RuntimeError):  # its loop is closed
                    turn.get_loop().call_soon_threadsafe(_resolve, turn)
                    self._add(priority=has_priority)

    def _may_run(self, *, priority: bool) -> bool:
        limit = self.limit
        return self._running < limit and (priority or self._unproven_running < limit - limit // 4)

    def _add(self, *, priority: bool) -> None:
        self._running += 1
        self._unproven_running += not priority

    def _pop(self) -> tuple[asyncio.Future[None], bool] | None:
        """Return who is next and may run, and whether with priority."""
        if self._priority and self._may_run(priority=True):
            return self._priority.popleft(), True
        if self._unproven and self._may_run(priority=False):
            key, turns = self._unproven.popitem(last=False)
            turn = turns.popleft()
            self._unproven_waiting -= 1
            if turns:
                self._unproven[key] = turns
            return turn, False
        return None

    def _forget(self, key: Hashable, turn: asyncio.Future[None], *, priority: bool) -> bool:
        """Take back a turn that has not come. False: it has come."""
        turns = self._priority if priority else self._unproven.get(key)
        if turns is None or turn not in turns:
            return False
        turns.remove(turn)
        if not priority:
            self._unproven_waiting -= 1
            if not turns:
                del self._unproven[key]
        return True


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
