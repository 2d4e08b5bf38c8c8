"""
Runs the checks of rights: for subscriptions, for operators' requests, and for other nodes.

Tests: tests/asgi/test_authorization.py, tests/node/test_check_runner.py.
"""

import asyncio
import logging
import os
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Final

import anyio

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..core.keyed_hash import KEY_BYTES, keyed_hash
from ..errors import Busy
from ..log_throttle import LogThrottle
from .check_queue import CheckQueue

logger = logging.getLogger("headcount")

_MAX_PROVEN: Final = 4_096
"""Credentials that were granted a right and are remembered."""

_PROVEN_FOR: Final = 600.0
"""Seconds for which they are remembered. Their checks go first; a remembered right decides nothing."""


class CheckRunner:
    """
    Runs authorization checks. Whatever goes wrong denies.

    Args:
        timeout: Seconds in which an application's hook must decide, and that a check may wait for its turn.
        counters: The node's.
        clock: Monotonic seconds.
    """

    def __init__(self, timeout: float, counters: defaultdict[str, int], clock: Callable[[], float]) -> None:
        self.queue = CheckQueue()
        self._timeout = timeout
        self._counters = counters
        self._clock = clock
        self._log_throttle = LogThrottle()
        self._hash_key = os.urandom(KEY_BYTES)
        self._proven_until: OrderedDict[bytes, float] = OrderedDict()
        """By a keyed hash of the credentials that were granted a right; the one that was granted last is at the end."""

    def limit_to(self, checks: int) -> None:
        """Run so many checks at once from now on."""
        self.queue.limit = checks

    async def run(
        self, check: AuthorizationCheck, *, has_right: bool = False, for_request: bool = False
    ) -> Grant | None:
        """
        Check a right. Raises nothing but the caller's own cancellation.

        Args:
            check: The check.
            has_right: The viewer has the right now, so the check goes first.
            for_request: A request waits for the answer, and no stream.
        """
        visitor = check.visitor()
        if visitor is None:  # another node runs it, and has a queue of its own
            return await self._run(check)
        credentials, address = visitor
        digest = keyed_hash(self._hash_key, credentials) if credentials else None
        priority = has_right or (digest is not None and self._is_proven(digest))
        try:
            async with asyncio.timeout(self._timeout):
                await self.queue.enter((for_request, address), priority=priority)
        except (TimeoutError, Busy):
            self._counters["authorize_errors"] += 1
            if (suppressed := self._log_throttle.suffix_if_due("queue")) is not None:
                logger.warning(
                    "A viewer was denied because %d checks of rights were waiting for authorize_stats%s.",
                    self.queue.waiting,
                    suppressed,
                )
            return None
        try:
            grant = await self._run(check)
        finally:
            self.queue.leave(priority=priority)
        if grant is not None and digest is not None:
            self._proven_until[digest] = self._clock() + _PROVEN_FOR
            self._proven_until.move_to_end(digest)
            if len(self._proven_until) > _MAX_PROVEN:
                self._proven_until.popitem(last=False)
        return grant

    def _is_proven(self, digest: bytes) -> bool:
        until = self._proven_until.get(digest)
        if until is not None and until <= self._clock():
            del self._proven_until[digest]
            return False
        return until is not None

    async def _run(self, check: AuthorizationCheck) -> Grant | None:
        try:
            with anyio.fail_after(2 * self._timeout) as limit:
                grant = await check()
                # It took long until the hook was called, so this limit ended before the hook's own. The hook caught the
                # cancellation, and its verdict comes too late.
                if anyio.current_time() >= limit.deadline:
                    raise TimeoutError
                return grant
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled us, but the hook waited for something that was.
            self._failed()
        except Exception:
            self._failed()
        return None

    def _failed(self) -> None:
        self._counters["authorize_errors"] += 1
        # Anybody can ask for checks of rights, and so fill the log.
        if (suppressed := self._log_throttle.suffix_if_due(sys.exc_info()[0])) is not None:
            logger.exception("Authorization check failed; viewer denied%s.", suppressed)
