"""
Keeps one viewer's stream open for as long as it is wanted. protocol/README.md, "Reconnecting", has the rule, and
core/reconnect.py draws the delays; this module has the streams and the clock.

- 1008, 401, 403 and `stats-unauthorized` end everything: a viewer without a right has nothing to come back for.
- A stream that is silent for longer than the server promised is dead, even if the kernel holds it open.
- Two WebSockets in a row that do not open mean that something in between does not let them: SSE is tried instead.

Tests: tests/client/test_bad_days.py, tests/client/test_remote.py.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from ..core.reconnect import DENIED, LONGEST, Reconnect, after_drain, after_end
from ..core.stats import Stats, apply
from ..errors import NotAuthorized, ProtocolError, Refused, Unreachable
from ..live.active_connections import NOT_AUTHORIZED, LiveState
from . import messages
from .access import Access
from .transport import VIEWER, Ended, Stream, open_stream

logger = logging.getLogger("headcount")

UpdateStrategy: TypeAlias = Literal["sse", "ws", "auto"]

OPEN_TIMEOUT: Final = 15.0
"""Seconds until `connected` must have come."""

SILENCE: Final = 2.5
"""Keepalive intervals without a byte; one keepalive may be lost or late without harm."""

SOCKET_ATTEMPTS: Final = 2


class LiveStore:
    """
    What a viewer knows. A `Store` of `LiveState`.

    `read()` may be called from any thread; listeners are called in the thread of the stream.
    """

    def __init__(self) -> None:
        self._state = LiveState()
        self._listeners: dict[object, Callable[[], None]] = {}

    def read(self) -> LiveState:
        """Return the state now."""
        return self._state

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each change, until the returned function is called."""
        key = object()
        self._listeners[key] = callback

        def end() -> None:
            self._listeners.pop(key, None)

        return end

    def set(self, **changes: Any) -> None:
        """Change the state and call the listeners."""
        state = msgspec.structs.replace(self._state, **changes)
        if state == self._state:
            return
        self._state = state
        for listener in list(self._listeners.values()):
            try:
                listener()
            except Exception:  # the application's own function; the listeners after it are still called
                logger.exception("client: a listener of the figures failed; the other listeners are still called.")


class Connection:
    """
    A viewer's stream that comes back.

    Args:
        base: URL of the base path.
        access: Credentials and network options.
        update_strategy: `auto` is WebSocket, or SSE where WebSockets do not get through.
        deltas: Ask for changes instead of whole figures.
        store: Kept up to date.
    """

    def __init__(
        self, base: str, access: Access, update_strategy: UpdateStrategy, store: LiveStore, *, deltas: bool = True
    ) -> None:
        self._base = base
        self._access = access
        self._strategy = update_strategy
        self._deltas = deltas
        self._store = store
        self._failed_sockets = 0
        self._connection_id = ""
        self._silence = OPEN_TIMEOUT
        self._opened_at: float | None = None
        self._return_at: float | None = None
        """When to open the next stream, as `drain` asked, on the loop's clock; None: no `drain` has come."""
        self._whole = False
        self._query = VIEWER

    async def run(self) -> None:
        """Keep a stream open until the viewer is denied, or this is cancelled."""
        self._store.set(status="connecting", error=None)
        self._query = VIEWER
        attempt = 0
        while True:
            kind = self._kind()
            self._opened_at = self._return_at = None
            error: str | None = None
            code: int | None = None
            named = 0.0
            try:
                await self._follow(kind)
            except NotAuthorized as denied:
                self._deny(str(denied))
                return
            except Ended as ended:
                error, code, named = str(ended), ended.code, min(LONGEST, ended.retry)
            except Unreachable as unreachable:
                error, named = str(unreachable), unreachable.retry_after or 0.0
            except (Refused, ProtocolError) as refused:
                error = str(refused)
            except TimeoutError:
                error = "Nothing came from the server for too long."
            lasted = self._lasted()
            if kind == "ws" and lasted is None:
                self._failed_sockets += 1
            following = self._reconnect(attempt, lasted, code, named)
            if following is None:
                self._deny(error or "")
                return
            attempt = following.attempt
            # An announced end is no error.
            shown = None if self._return_at is not None else error
            self._store.set(status="reconnecting", error=shown, is_stale=bool(self._store.read().authorized))
            await asyncio.sleep(following.delay)

    def _reconnect(self, attempt: int, lasted: float | None, code: int | None, named: float) -> Reconnect | None:
        if self._return_at is not None and code != DENIED:
            return Reconnect(max(0.0, self._return_at - asyncio.get_running_loop().time()), 0)
        return after_end(attempt, random.random(), lasted=lasted, code=code, named=named)  # noqa: S311  not a secret

    def _lasted(self) -> float | None:
        """Return for how long the stream was open, in seconds; None: it never was."""
        return None if self._opened_at is None else asyncio.get_running_loop().time() - self._opened_at

    def _kind(self) -> Literal["sse", "ws"]:
        if self._strategy != "auto":
            return self._strategy
        # Every other time from then on: what does not let WebSockets through may be gone, or the whole server is.
        return "ws" if self._failed_sockets < SOCKET_ATTEMPTS or self._failed_sockets % 2 else "sse"

    async def _follow(self, kind: Literal["sse", "ws"]) -> None:
        self._silence, self._whole = OPEN_TIMEOUT, False
        async with (
            asyncio.timeout(OPEN_TIMEOUT) as watchdog,
            open_stream(kind, self._base, self._access, self._query) as stream,
        ):
            async for message in stream:
                watchdog.reschedule(self._deadline())
                if message is not None:
                    await self._on_message(message, stream)
                    watchdog.reschedule(self._deadline())

    def _deadline(self) -> float:
        """Return until when the stream may be silent, or `drain` lets it stay."""
        silent = asyncio.get_running_loop().time() + self._silence
        return silent if self._return_at is None else min(silent, self._return_at)

    async def _on_message(self, message: messages.ServerMessage, stream: Stream) -> None:
        state = self._store.read()
        match message:
            case messages.Connected():
                self._opened_at = asyncio.get_running_loop().time()
                self._failed_sockets = 0
                self._query = VIEWER | {"reconnect": "1"}
                self._connection_id = message.connection_id
                if message.keepalive_ms is not None and message.keepalive_ms > 0:
                    self._silence = max(1.0, min(LONGEST, message.keepalive_ms * SILENCE / 1000))
                self._store.set(status="open", error=None, current_version=message.current_version or message.version)
                await self._subscribe(stream)
            case messages.StatsMessage():
                self._whole = True
                self._store.set(
                    stats=message.figures(),
                    your_id=message.your_id,
                    authorized=True,
                    is_stale=False,
                    error=None,
                )
            case messages.DeltaMessage() if self._whole:
                try:
                    self._store.set(stats=apply(state.stats, message.delta()))
                except ValueError:
                    self._whole = False
                    self._store.set(is_stale=True)
                    await self._subscribe(stream)
            case messages.Unauthorized():
                raise NotAuthorized(NOT_AUTHORIZED)
            case messages.Released():
                self._store.set(current_version=message.version)
            case messages.Drain() if self._opened_at is not None:
                reconnect = None if message.reconnect_ms is None else message.reconnect_ms / 1000
                delay = after_drain(reconnect, random.random())  # noqa: S311  not a secret
                self._return_at = asyncio.get_running_loop().time() + delay
            case _:
                return

    async def _subscribe(self, stream: Stream) -> None:
        await stream.subscribe(self._connection_id, deltas=self._deltas)

    def _deny(self, why: str) -> None:
        self._store.set(
            stats=Stats(), your_id=None, authorized=False, status="closed", error=why or NOT_AUTHORIZED, is_stale=False
        )
