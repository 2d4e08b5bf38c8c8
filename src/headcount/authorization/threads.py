"""
Threads for synchronous functions of the application that may hang.

They are our own, and few. Visitors who make a hook hang could use up the pool in which frameworks run synchronous
endpoints, and that pool counts an abandoned function as done. Here a place is free again only when its thread has
ended, so at most `MAX_THREADS` calls hang. Later calls wait for a place until their own time-out. The threads are
daemons: one that hangs does not keep the process from stopping.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

MAX_THREADS: Final = 16
"""Calls that run at once."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """
    Runs functions in threads of their own, for any event loop.

    Args:
        limit: Threads at once.
    """

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self.running = 0
        """Threads that have not ended, abandoned ones included."""
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call a function in a thread, with this task's context variables, and wait for it.

        Cancelled while it waits for a place, the function is not called; cancelled later, it runs to its end.

        Raises:
            Exception: Whatever the function raised.
        """
        await self._enter()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        call = partial(copy_context().run, partial(function, *args, **kwargs))
        try:
            threading.Thread(target=self._work, args=(done, call), name="headcount hook", daemon=True).start()
        except BaseException:  # no more threads: the system's own limit
            self._leave()
            raise
        return await done

    async def _enter(self) -> None:
        with self._lock:
            if self.running < self._limit:
                self.running += 1
                return
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            with self._lock:
                given = turn not in self._waiting
                if not given:
                    self._waiting.remove(turn)
            if given:
                self._leave()
            raise

    def _leave(self) -> None:
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                with suppress(RuntimeError):  # its loop is closed
                    turn.get_loop().call_soon_threadsafe(_resolve, turn, None, None)
                    return
            self.running -= 1

    def _work(self, done: asyncio.Future[T], call: Callable[[], T]) -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        self._leave()
        with suppress(RuntimeError):  # the caller has gone, and its loop is closed
            done.get_loop().call_soon_threadsafe(_resolve, done, result, error)


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return  # cancelled
    if isinstance(error, StopIteration):
        error = RuntimeError("The hook raised StopIteration.")  # futures refuse it, as coroutines do
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
