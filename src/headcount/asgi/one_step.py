"""
Runs a coroutine in place until it first suspends, so that most sends need no task.

On all servers a `send` that meets no back-pressure finishes without suspending. So its coroutine is run one step in
place; only when it did suspend, because the peer does not read, does a task take over what is left of it.
"""

from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Suspended(Generic[T]):
    """What is left of a coroutine after its first suspension; await it to finish it and have what it returns."""

    __slots__ = ("_first", "_steps")

    def __init__(self, steps: Generator[Any, Any, T], first: Any) -> None:
        self._steps = steps
        self._first = first

    def __await__(self) -> Generator[Any, Any, T]:
        awaited = self._first
        while True:
            try:
                # The future that the coroutine waits for is handed to the task as if it had only now been yielded.
                yield awaited
                break
            except BaseException as error:
                # A coroutine that cleans up after one cancellation may suspend again, and be cancelled again.
                try:
                    awaited = self._steps.throw(error)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
        return (yield from self._steps)


def run_one_step(awaitable: Awaitable[T]) -> Suspended[T] | T:
    """
    Run an awaitable until it suspends or ends.

    Returns:
        What it returned when it ended; else what is left, which the caller must await.

    Raises:
        Exception: Whatever it raised.
    """
    steps = awaitable.__await__()
    try:
        first = next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    return Suspended(steps, first)
