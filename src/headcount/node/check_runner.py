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

_MAX_KNOWN: Final = 4_096
_KNOWN_FOR: Final = 600.0
"""So many credentials that were granted a right are known, for so many seconds. They go first, and decide nothing."""


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
        self._known: OrderedDict[bytes, float] = OrderedDict()
        """Until when, by a keyed hash of the credentials; the one that was granted last is at the end."""

    def limit_to(self, checks: int) -> None:
        """Run so many checks at once from now on."""
        self.queue.limit = checks

    async def run(self, check: AuthorizationCheck, *, known: bool = False, for_request: bool = False) -> Grant | None:
        """
        Check a right. Raises nothing but the caller's own cancellation.

        Args:
            check: The check.
            known: The viewer has the right now.
            for_request: A request waits for the answer, and no stream.
        """
        visitor = check.visitor()
        if visitor is None:  # another node runs it, and has a queue of its own
            return await self._run(check)
        credentials, address = visitor
        digest = keyed_hash(self._hash_key, credentials) if credentials else None
        key = None if known or (digest is not None and self._is_known(digest)) else (for_request, address)
        try:
            async with asyncio.timeout(self._timeout):
                await self.queue.enter(key)
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
            self.queue.leave(key)
        if grant is not None and digest is not None:
            self._known[digest] = self._clock() + _KNOWN_FOR
            self._known.move_to_end(digest)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return grant

    def _is_known(self, digest: bytes) -> bool:
        until = self._known.get(digest)
        if until is not None and until <= self._clock():
            del self._known[digest]
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
        # Strangers decide how often rights are checked, so they could fill the log.
        if (suppressed := self._log_throttle.suffix_if_due(sys.exc_info()[0])) is not None:
            logger.exception("Authorization check failed; viewer denied%s.", suppressed)
