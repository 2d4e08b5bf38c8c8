"""
The application's own functions, and how they are run so that none can do harm.

An exception in a hook is logged and counted, and closes nothing. Synchronous hooks run in place and must not block;
asynchronous ones run as tasks of their own, one after the other for each connection, so that a close never overtakes
its open.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias

logger = logging.getLogger("headcount")


class Connection(Protocol):
    """What a hook sees of a connection, as it was at that moment."""

    @property
    def id(self) -> str:
        """Public id."""

    @property
    def version(self) -> str:
        """Build id of the page."""

    @property
    def route(self) -> str:
        """Path the page shows."""

    @property
    def ip(self) -> str | None:
        """Client address; None unless IP tracking is on."""

    def send(self, message: Mapping[str, Any]) -> Awaitable[None]:
        """Send the page a JSON object. Takes effect at once; awaiting it is optional."""


OpenHook: TypeAlias = Callable[[Connection], Awaitable[None] | None]
CloseHook: TypeAlias = Callable[[Connection, str], Awaitable[None] | None]
RouteHook: TypeAlias = Callable[[Connection, str], Awaitable[None] | None]


class Hooks:
    """
    The hooks of one `Headcount`.

    Args:
        timeout: Seconds after which an asynchronous hook is cancelled.
    """

    def __init__(self, timeout: float) -> None:
        self.open: list[OpenHook] = []
        self.close: list[CloseHook] = []
        self.route: list[RouteHook] = []
        self.errors = 0
        """Hooks that raised or took too long."""
        self._timeout = timeout
        self._running: dict[str, asyncio.Task[None]] = {}

    def run(self, hooks: list[Any], connection: Connection, *args: str) -> None:
        """Call each of `hooks`. Never raises. Must be called in an event loop."""
        for hook in hooks:
            try:
                result = hook(connection, *args)
            except Exception:
                self._failed(hook)
                continue
            if inspect.isawaitable(result):
                previous = self._running.get(connection.id)
                task = asyncio.ensure_future(self._finish(hook, result, previous))
                self._running[connection.id] = task
                task.add_done_callback(partial(self._forget, connection.id))

    async def _finish(self, hook: Any, result: Awaitable[None], previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        try:
            async with asyncio.timeout(self._timeout):
                await result
        except Exception:
            self._failed(hook)

    def _forget(self, key: str, task: asyncio.Task[None]) -> None:
        if self._running.get(key) is task:
            del self._running[key]

    def _failed(self, hook: Any) -> None:
        self.errors += 1
        logger.exception("The hook %s failed; nothing else is affected.", getattr(hook, "__qualname__", hook))
