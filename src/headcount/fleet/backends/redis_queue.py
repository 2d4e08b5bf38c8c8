"""
Commands for Redis that wait until the batch before them is answered; a bounded number of bounded bytes.

Tests: tests/fleet/backends/test_redis_queue.py.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ...core.fleet_messages import MAX_BYTES

MAX_BATCH: Final = 512
"""Commands sent at once."""

MAX_QUEUED: Final = 10_000
"""Commands that wait for the batch before them."""

MAX_QUEUED_BYTES: Final = 2 * MAX_BYTES
"""Bytes of those."""

OnAnswer = Callable[[Any], None]
"""Called once with the answer of Redis, or with `NO_REPLY`."""


class _NoReply:
    """Passed instead of an answer when there will be none."""


NO_REPLY: Final = _NoReply()


class Queued(NamedTuple):
    """A command that waits. `command[0]` is None for whichever PUBLISH the server understands."""

    command: tuple[Any, ...]
    size: int
    on_answer: OnAnswer | None
    may_be_refused: bool = False
    """A refusal concerns this command alone, and is answered with None."""

    def answer(self, answer: Any) -> None:
        """Hand over the answer of Redis, or `NO_REPLY`."""
        if self.on_answer is not None:
            self.on_answer(answer)


class CommandQueue:
    """What waits, in order. When it is full, the oldest commands are dropped and answered with `NO_REPLY`."""

    def __init__(self) -> None:
        self._queue: deque[Queued] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(
        self, command: tuple[Any, ...], on_answer: OnAnswer | None, size: int, *, may_be_refused: bool = False
    ) -> None:
        """Add a command of about `size` bytes."""
        while self._queue and (len(self._queue) >= MAX_QUEUED or self._bytes + size > MAX_QUEUED_BYTES):
            self._pop().answer(NO_REPLY)
        self._queue.append(Queued(command, size, on_answer, may_be_refused))
        self._bytes += size

    def next_batch(self) -> list[Queued]:
        """Take out what is to be sent at once."""
        return [self._pop() for _ in range(min(len(self._queue), MAX_BATCH))]

    def fail_all(self) -> None:
        """Drop everything, and answer it with `NO_REPLY`."""
        queue, self._queue = self._queue, deque()
        self._bytes = 0
        for queued in queue:
            queued.answer(NO_REPLY)

    def _pop(self) -> Queued:
        queued = self._queue.popleft()
        self._bytes -= queued.size
        return queued
