"""
Who has a right checked next.

A check runs the application's middleware and its hook, and strangers decide how many are asked for. So a bounded number
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
"""Checks of strangers that wait. Further ones are denied at once."""


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
        self._strangers = 0
        """Of those that run: checks of who has not shown a right."""
        self._known: deque[asyncio.Future[None]] = deque()
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        """Strangers that wait, by whose turn it is: the first key is next, and goes to the end then."""
        self._count = 0

    @property
    def waiting(self) -> int:
        """How many checks wait."""
        return self._count + len(self._known)

    async def enter(self, key: Hashable | None) -> None:
        """
        Wait for a place; the caller must `leave` it.

        Args:
            key: Those with equal keys wait for one another. None: a viewer who has the right.

        Raises:
            Busy: Too many strangers wait.
        """
        with self._lock:
            if self._may_run(key) and not (self._known if key is None else self._waiting):
                self._add(key)
                return
            if key is not None and self._count >= MAX_WAITING:
                raise Busy("Too many checks of rights are waiting.")
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if key is None:
                self._known.append(turn)
            else:
                self._waiting.setdefault(key, deque()).append(turn)
                self._count += 1
        try:
            await turn
        except BaseException:
            with self._lock:
                given = not self._forget(key, turn)
            if given:
                self.leave(key)
            raise

    def leave(self, key: Hashable | None) -> None:
        """Free a place, and give it to the next."""
        with self._lock:
            self._running -= 1
            self._strangers -= key is not None
            while (following := self._pop()) is not None:
                next_key, turn = following
                with suppress(RuntimeError):  # its loop is closed
                    turn.get_loop().call_soon_threadsafe(_resolve, turn)
                    self._add(next_key)

    def _may_run(self, key: Hashable | None) -> bool:
        limit = self.limit
        return self._running < limit and (key is None or self._strangers < limit - limit // 4)

    def _add(self, key: Hashable | None) -> None:
        self._running += 1
        self._strangers += key is not None

    def _pop(self) -> tuple[Hashable | None, asyncio.Future[None]] | None:
        """Return who is next, and may run."""
        if self._known and self._may_run(None):
            return None, self._known.popleft()
        if self._waiting and self._may_run(""):
            key, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            self._count -= 1
            if turns:
                self._waiting[key] = turns
            return key, turn
        return None

    def _forget(self, key: Hashable | None, turn: asyncio.Future[None]) -> bool:
        """Take back a turn that has not come. False: it has come."""
        turns = self._known if key is None else self._waiting.get(key)
        if turns is None or turn not in turns:
            return False
        turns.remove(turn)
        if key is not None:
            self._count -= 1
            if not turns:
                del self._waiting[key]
        return True


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
