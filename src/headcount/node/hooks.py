"""
The application's hooks, and how they are run so that none can do harm.

An exception in a hook is logged and counted, and closes nothing. Synchronous hooks run in place, so that all streams
wait for them: they must not block on a file or a database. Blocking work belongs in an asynchronous hook. Those run as
tasks of their own, one after the other for each connection, so that a close never overtakes its open. The number that
may wait is bounded: a page can navigate faster than a hook runs.
"""

import asyncio
import inspect
import logging
import reprlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from ..errors import ConfigError
from ..log_throttle import LogThrottle

MAX_WAITING: Final = 100
"""Calls of hooks for one connection that may wait for their turn; further route hooks are dropped."""

logger = logging.getLogger("headcount")


class Connection(Protocol):
    """A connection as a hook sees it: as it was at the moment of the event."""

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


def validate_hook(registrar: str, hook: Any, *arguments: str) -> Any:
    """
    Return a hook after checking that it accepts its arguments.

    Args:
        registrar: Name of the decorator that registers it.
        hook: The application's function.
        arguments: Names of the arguments that it will be called with, in order.

    Raises:
        ConfigError: The function cannot be called this way. Raised at registration instead of logged at every event.
    """
    call = f"({', '.join(arguments)})"
    if not callable(hook):
        raise ConfigError(f"{registrar} takes a function that it calls with {call}, not {reprlib.repr(hook)}.")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return hook  # some functions written in C have no signature
    try:
        signature.bind(*arguments)
    except TypeError:
        name = getattr(hook, "__qualname__", reprlib.repr(hook))
        raise ConfigError(f"{registrar} calls its function with {call}, but {name} takes {signature}.") from None
    return hook


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
        """Calls that raised, took too long, were dropped, or whose event loop has ended."""
        self._timeout = timeout
        self._last: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()
        self._log_throttle = LogThrottle()

    def run(self, hooks: list[Any], connection: Connection, *args: str) -> None:
        """Call each of `hooks`. Never raises. Must be called in the connection's event loop, if that still runs."""
        if hooks is self.route and self._waiting[connection.id] >= MAX_WAITING:
            self.errors += 1
            if (suppressed := self._log_throttle.suffix_if_due("overrun")) is not None:
                logger.error(
                    "Dropped on_route_update calls for connection %s: hooks are too slow%s.", connection.id, suppressed
                )
            return
        for hook in hooks:
            try:
                result = hook(connection, *args)
            except Exception:
                self._failed(hook, "failed")
                continue
            if inspect.isawaitable(result):
                self._enqueue(hook, result, connection.id)

    def _enqueue(self, hook: Any, result: Awaitable[None], key: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # The connection's loop is closed, which was noticed in a thread without a loop.
            _discard(result)
            self._failed(hook, "cannot run because its event loop is closed")
            return
        last = self._last.get(key)
        if last is not None and last.get_loop() is not loop:
            last = None  # it died with its loop
            del self._waiting[key]
        task = loop.create_task(self._finish(hook, result, last))
        self._last[key] = task
        self._waiting[key] += 1
        task.add_done_callback(partial(self._forget, key, result))

    async def _finish(self, hook: Any, result: Awaitable[None], last: asyncio.Task[None] | None) -> None:
        if last is not None:
            await asyncio.wait([last])
        try:
            async with asyncio.timeout(self._timeout):
                await result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(hook, "awaited something that was cancelled")
        except Exception:
            self._failed(hook, "failed")

    def _forget(self, key: str, result: Awaitable[None], task: asyncio.Task[None]) -> None:
        _discard(result)
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]
        if self._last.get(key) is task:
            del self._last[key]

    def _failed(self, hook: Any, how: str) -> None:
        self.errors += 1
        error = sys.exc_info()[0]
        # Pages cause hook calls, so they could fill the log.
        if (suppressed := self._log_throttle.suffix_if_due((id(hook), how, error))) is not None:
            name = getattr(hook, "__qualname__", hook)
            logger.error("Hook %s %s; nothing else is affected%s.", name, how, suppressed, exc_info=error is not None)


def _discard(result: Awaitable[None]) -> None:
    """Close a coroutine that was never awaited, so that Python does not warn; a finished one stays as it is."""
    if inspect.iscoroutine(result):
        result.close()
