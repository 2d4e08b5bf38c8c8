"""
The application's own functions, and how they are run so that none can do harm.

An exception in a hook is logged and counted, and closes nothing. Synchronous hooks run in place, so that all streams
wait for them: they must not block, not for a file and not for a database. What does belongs in an asynchronous hook.
Those run as tasks of their own, one after the other for each connection, so that a close never overtakes its open. How
many may wait is bounded: a page can navigate faster than a hook runs.
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
"""Route hooks of one connection that wait for their turn; a page that navigates faster than they run loses some."""

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


def checked(registrar: str, hook: Any, *arguments: str) -> Any:
    """
    Return a hook that can be called as it will be.

    Args:
        registrar: What it is registered with.
        hook: What the application gave.
        arguments: Names of what it will be called with, in order.

    Raises:
        ConfigError: The function cannot be called this way. Raised at registration instead of logged at every event.
    """
    call = f"({', '.join(arguments)})"
    if not callable(hook):
        raise ConfigError(f"{registrar} takes a function that it calls with {call}, not {reprlib.repr(hook)}.")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return hook  # some that are written in C do not say
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
        """Hooks that raised or took too long."""
        self._timeout = timeout
        self._last: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()
        self._sparing = LogThrottle()

    def run(self, hooks: list[Any], connection: Connection, *args: str) -> None:
        """Call each of `hooks`. Never raises. Must be called in the connection's event loop, if that still runs."""
        if hooks is self.route and self._waiting[connection.id] >= MAX_WAITING:
            self.errors += 1
            if (often := self._sparing.word("overrun")) is not None:
                logger.error(
                    "Dropped on_route_update calls for connection %s: hooks are too slow%s.", connection.id, often
                )
            return
        for hook in hooks:
            try:
                result = hook(connection, *args)
            except Exception:
                self._failed(hook, "failed")
                continue
            if inspect.isawaitable(result):
                self._line_up(hook, result, connection.id)

    def _line_up(self, hook: Any, result: Awaitable[None], key: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # The connection's loop is gone, and somebody without one noticed.
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
        # Pages decide how often hooks are called, so they could fill the log.
        if (often := self._sparing.word((id(hook), how, error))) is not None:
            name = getattr(hook, "__qualname__", hook)
            logger.error("Hook %s %s; nothing else is affected%s.", name, how, often, exc_info=error is not None)


def _discard(result: Awaitable[None]) -> None:
    """Close a coroutine whose turn never came, lest it be reported as forgotten; one that is done does not mind."""
    if inspect.iscoroutine(result):
        result.close()
