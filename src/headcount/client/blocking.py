"""
The figures for scripts without an event loop: the stream runs in a thread of its own.

Tests: tests/client/test_remote.py.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from ..core.stats import Stats
from ..errors import ClientError, NotAuthorized
from ..live.active_connections import NOT_AUTHORIZED, LiveState

if TYPE_CHECKING:
    from . import RemoteConnections


class BlockingConnections:
    """
    The figures of an application for scripts: the observables of `ActiveConnections`, with `for` and a `wait_for` that
    block. Functions given to `.subscribe()` are called in the stream's thread.

    Made by `with use_active_connections(url) as live:`.
    """

    def __init__(self, remote: "RemoteConnections") -> None:
        self.total = remote.total
        self.versions = remote.versions
        self.routes = remote.routes
        self.connections = remote.connections
        self.your_id = remote.your_id
        self.authorized = remote.authorized
        self.stats = remote.stats
        self.status = remote.status
        self.error = remote.error
        self.is_stale = remote.is_stale
        self.partial = remote.partial
        self.current_version = remote.current_version
        self.release = remote.release
        self.state = remote.state
        self._remote = remote
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="headcount-client", daemon=True)

    def __iter__(self) -> Iterator[Stats]:
        """
        Yield the figures now, then the newest after each change; a slow reader skips the figures between.

        Raises:
            NotAuthorized: The viewer is not authorised, or not any more.
        """
        last: Stats | None = None
        while True:
            state = self._next(last, None)
            if state is None:
                return
            last = state.stats
            yield last

    def wait_for(self, condition: Callable[[Stats], Any], timeout: float | None = None) -> Stats:
        """
        Block until `condition` holds for the figures, and return them.

        Args:
            condition: Called at once and after each change.
            timeout: Seconds; None: no limit.

        Raises:
            TimeoutError: The condition did not hold in time.
            NotAuthorized: The viewer is not authorised, or not any more.
            ClientError: The stream was closed before it held.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        last: Stats | None = None
        while (state := self._next(last, deadline)) is not None:
            last = state.stats
            if condition(last):
                return last
        raise ClientError("The stream was closed before the condition held.")

    def close(self) -> None:
        """Close the stream and end its thread. Idempotent."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def open(self) -> Self:
        """Start the thread, and wait until the server authorises or denies, or until the first attempt fails."""
        self._thread.start()
        self._opened.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def _next(self, last: Stats | None, deadline: float | None) -> LiveState | None:
        """Wait for figures that differ from `last`; None: the stream was closed."""
        with self._changed:
            while True:
                state = self._remote.state.value
                if state.authorized is False:
                    raise NotAuthorized(state.error or NOT_AUTHORIZED)
                if state.status == "closed":
                    return None
                if state.authorized and state.stats is not last:
                    return state
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(
                        "The condition did not hold in time." if state.authorized else state.error or "No figures."
                    )
                self._changed.wait(left)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # raised in the thread that called open()
            self._failure = error
        finally:
            self._opened.set()
            self._notify()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        end = self._remote.state.subscribe(lambda _: self._notify())
        try:
            async with self._remote:
                self._opened.set()
                await self._stop.wait()
        finally:
            end()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
