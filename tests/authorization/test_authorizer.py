"""The time limit of a hook: also a hook that catches its own cancellation is ended."""

import asyncio
import time

from starlette.requests import HTTPConnection

from headcount.authorization.authorizer import Authorizer
from headcount.core.host import HostRules


def test_a_hook_that_catches_its_cancellation_is_cancelled_again() -> None:
    """As code does that retries after any error. With asyncio.timeout, which cancels once, it would never end."""
    attempts: list[str] = []

    async def retries(_: HTTPConnection) -> bool:
        for number in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                attempts.append(f"attempt {number}")
        return False

    async def decide() -> object:
        authorizer = Authorizer(None, timeout=0.05, hosts=HostRules())
        authorizer.hook = retries
        return await authorizer.decide(HTTPConnection({"type": "http", "headers": []}))

    started = time.monotonic()
    assert asyncio.run(decide()) is None
    assert time.monotonic() - started < 30
    assert len(attempts) == 3
