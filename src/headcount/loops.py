"""
Calls and coroutines in an event loop, from any thread.

Parts of one process may live in several event loops: a page in the loop that serves it, a backend in the loop in which
it was started. What belongs to a loop is called in it, and a loop may be closed at any time.

Tests: tests/test_loops.py.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def call_in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[*Ts], object], *args: *Ts) -> bool:
    """
    Call a function in a loop: at once if the loop runs in this thread, else soon.

    Returns:
        False if the loop is closed, and the function is not called.
    """
    if loop is running_loop():
        call(*args)
        return True
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True


async def run_in_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine in a loop and return its result: in this task if the loop is the running one.

    Raises:
        RuntimeError: The loop is closed.
    """
    if loop is asyncio.get_running_loop():
        return await coroutine
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise
    return await asyncio.wrap_future(future)


async def catch_up_with(loop: asyncio.AbstractEventLoop, timeout: float) -> bool:
    """
    Wait until a loop has done what it was doing, and what it was handed before this call.

    Returns:
        False if that took longer than `timeout` seconds. A closed loop has nothing left to do.
    """
    if loop is asyncio.get_running_loop():
        return True
    done: Future[None] = Future()
    try:
        loop.call_soon_threadsafe(done.set_result, None)
    except RuntimeError:
        return True
    finished, _ = await asyncio.wait([asyncio.wrap_future(done)], timeout=timeout)
    return bool(finished)


class Tasks:
    """Tasks that run until they end. An event loop refers to its tasks weakly, so somebody must hold them."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(
        self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None = None
    ) -> asyncio.Task[T]:
        """
        Run a coroutine in a task of its own and hold the task until it ends.

        Args:
            coroutine: What to run.
            loop: The running loop, if the caller has it at hand.
        """
        task = (loop or asyncio.get_running_loop()).create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._tasks))
