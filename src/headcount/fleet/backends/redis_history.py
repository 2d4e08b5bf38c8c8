"""
The history of the fleet, in Redis.

    {headcount:NAME}:history   LIST  samples of the last hour
    {headcount:NAME}:minutes   LIST  samples of the last day
    {headcount:NAME}:rollouts  the adoption curves of the last rollouts, kept for 90 days
    {headcount:NAME}:turn:N    id of the node that adds the sample of that interval; expires by itself

Tests: tests/fleet/backends/test_tallies.py, tests/fleet/backends/test_neighbours.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ...core.history import INTERVAL, LENGTH, MINUTES
from ...core.kept_history import KeptHistory
from ..border import Border
from .redis_values import RedisValues

KEPT: Final = 24 * 3_600
"""Seconds after which Redis drops all of it, should no node remove it or live."""

RELEASE_KEPT: Final = 90 * 24 * 3_600
"""Seconds for which the version that was declared, and the rollouts, are kept after they were written last."""

Ask = Callable[..., Awaitable[Any]]
"""Sends one command; returns the answer, or None when there is none or the command is refused."""


class RedisHistory:
    """
    Reads and writes it. In the backend's loop.

    Args:
        prefix: Of all keys of the fleet.
        ask: See `Ask`.
        values: Make and read stored values.
        border: Which nodes are of this fleet.
    """

    def __init__(self, prefix: str, ask: Ask, values: RedisValues, border: Border) -> None:
        self._prefix = prefix
        self._ask = ask
        self._values = values
        self._border = border

    async def claim(self, slot: int, node: str) -> bool:
        """Say whether a node is the first to ask in an interval."""
        key = f"{self._prefix}:turn:{slot}"
        return await self._ask("SET", key, node, "NX", "PX", round(4_000 * INTERVAL)) is not None

    async def add(self, data: bytes, minute: bytes | None) -> None:
        """Add an encoded sample, and one of a minute."""
        for name, one, length in (("history", data, LENGTH), ("minutes", minute, MINUTES)):
            if one is None:
                continue
            key = f"{self._prefix}:{name}"
            await asyncio.gather(
                self._ask("RPUSH", key, self._values.seal(name, one)),
                self._ask("LTRIM", key, -length, -1),
                self._ask("EXPIRE", key, 2 * KEPT),
            )

    async def keep_rollouts(self, data: bytes) -> None:
        """Keep the encoded rollouts."""
        await self._ask("SET", f"{self._prefix}:rollouts", self._values.seal("rollouts", data), "EX", RELEASE_KEPT)

    async def read(self, fine: int, minutes: int) -> KeptHistory | None:
        """Return the history, with so many of the newest samples at most; None: no answer."""
        samples, of_minutes, answer = await asyncio.gather(
            self._ask("LRANGE", f"{self._prefix}:history", -fine, -1),
            self._ask("LRANGE", f"{self._prefix}:minutes", -minutes, -1),
            self._ask("MGET", f"{self._prefix}:rollouts"),
        )
        if not isinstance(samples, list) or not isinstance(of_minutes, list):
            return None
        found = answer[0] if isinstance(answer, list) and answer else None
        rollouts = self._border.open_value("rollouts", found) if isinstance(found, bytes) else None
        read_all = self._values.read_all
        return KeptHistory(read_all("history", samples), read_all("minutes", of_minutes), rollouts)
