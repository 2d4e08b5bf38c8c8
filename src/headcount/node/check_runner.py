"""
Runs the checks of rights: for subscriptions, for operators' requests, and for other nodes.

Tests: tests/asgi/test_authorization.py.
"""

import asyncio
import logging
import sys
from collections import defaultdict

import anyio

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..log_throttle import LogThrottle

logger = logging.getLogger("headcount")


class CheckRunner:
    """
    Runs authorization checks. Whatever goes wrong denies.

    Args:
        timeout: Seconds in which an application's hook must decide.
        counters: The node's.
    """

    def __init__(self, timeout: float, counters: defaultdict[str, int]) -> None:
        self._timeout = timeout
        self._counters = counters
        self._log_throttle = LogThrottle()

    async def run(self, check: AuthorizationCheck) -> Grant | None:
        """Check a right. Raises nothing but the caller's own cancellation."""
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
