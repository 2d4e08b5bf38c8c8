"""
Keeps one viewer's stream open for as long as it is wanted. protocol/README.md, "Reconnecting", has the rule, and
core/reconnect.py draws the delays; this module has the streams and the clock.

- 1008, 401, 403 and `stats-unauthorized` end everything: a viewer without a right has nothing to come back for.
- A stream that is silent for longer than the server promised is dead, even if the kernel holds it open.
- With `auto`, WebSocket and SSE are tried in turn until one delivers `connected`, the second one at once. The kind that
  the server prefers is avoided once it has missed twice while the server was up.
- Where a proxy ends all streams after the same time, the next stream is opened shortly before, and takes over when it
  has delivered `connected`: no figure is lost.

Tests: tests/client/test_bad_days.py, tests/client/test_remote.py.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from ..core.reconnect import (
    DENIED,
    LONGEST,
    OTHER_WAY,
    Limit,
    Reconnect,
    Way,
    Ways,
    after_delivery,
    after_drain,
    after_end,
    after_failure,
    after_life,
    after_opening,
    is_cut,
    next_way,
)
from ..core.stats import Stats, apply
from ..errors import NotAuthorized, ProtocolError, Refused, Unreachable
from ..live.active_connections import NOT_AUTHORIZED, REFUSED_CREDENTIAL, LiveState
from . import messages
from .access import Access, sends_token
from .transport import VIEWER, Ended, Stream, open_stream

logger = logging.getLogger("headcount")

UpdateStrategy: TypeAlias = Literal["sse", "ws", "auto"]

OPEN_TIMEOUT: Final = 15.0
"""Seconds until `connected` must have come."""

SILENCE: Final = 2.5
"""Keepalive intervals without a byte; one keepalive may be lost or late without harm."""

DELIVERY_TIMEOUT: Final = 5.0
"""Seconds until `connected` must have come on a stream that has opened, where the other kind is an alternative."""


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
                logger.exception("Client: a listener of the figures failed; the other listeners are still called.")


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
        self._ways = Ways()
        self._prefers: Way = "ws"
        self._limit = Limit()
        self._connection_id = ""
        """Of the newest stream that delivered; "": none has."""
        self._watched = False
        """Figures have come, so that what refuses this client may be a server that restarts."""
        self._life = _Life()
        self._successor: _Life | None = None
        """The stream that takes over from `_life` when it has delivered `connected`."""

    async def run(self) -> None:
        """Keep a stream open until the viewer is denied, or this is cancelled."""
        self._store.set(status="connecting", error=None)
        attempt = 0
        try:
            while True:
                self._life = self._start(self._kind())
                life = await self._over()
                error, code, named, refused = "", None, 0.0, False
                try:
                    await life.task
                except NotAuthorized as denied:
                    self._deny(str(denied))
                    return
                except Ended as ended:
                    error, code, named = str(ended), ended.code, min(LONGEST, ended.retry)
                except Unreachable as unreachable:
                    error, named = str(unreachable), unreachable.retry_after or 0.0
                except (Refused, ProtocolError) as refusal:
                    error, refused = str(refusal), isinstance(refusal, Refused) and not self._watched
                except TimeoutError:
                    error = "Nothing came from the server for too long."
                cut = code is not None and is_cut(code) and life.return_at is None
                self._limit = after_life(self._limit, life.ended_at, (life.lasted or 0.0) if cut else 0.0)
                other_way = False
                if life.lasted is None and is_cut(code):
                    self._ways, other_way = after_failure(self._ways, life.way, opened=life.opened, named=named)
                following = self._reconnect(life, attempt, code, named, refused=refused)
                if following is None:
                    self._deny(error)
                    return
                attempt = following.attempt
                delay = OTHER_WAY if other_way and self._strategy == "auto" else following.delay
                # An announced end is no error.
                shown = None if life.return_at is not None else error
                self._store.set(status="reconnecting", error=shown, is_stale=bool(self._store.read().authorized))
                await asyncio.sleep(delay)
        finally:
            await self._life.stop()
            if self._successor is not None:
                await self._successor.stop()

    async def _over(self) -> "_Life":
        """Wait until the stream, or the last that took over from it, has ended and nothing takes over. Returns that."""
        while True:
            life = self._life
            await asyncio.wait([life.task])
            if self._life is life and self._successor is not None:
                # The server ends what was replaced, or the limit was met: the successor decides.
                await self._successor.delivered_or_ended()
            if self._life is life:
                return life
            if not life.task.cancelled():
                life.task.exception()  # retrieved, so that the loop does not log it

    def _start(self, way: Way) -> "_Life":
        life = _Life(way)
        life.task = asyncio.create_task(self._follow(life))
        return life

    def _reconnect(
        self, life: "_Life", attempt: int, code: int | None, named: float, *, refused: bool
    ) -> Reconnect | None:
        if life.return_at is not None and code != DENIED:
            return Reconnect(max(0.0, life.return_at - asyncio.get_running_loop().time()), 0)
        # A stream whose subscription is refused has delivered nothing, however long that took.
        lasted = None if refused else life.lasted
        return after_end(attempt, random.random(), lasted=lasted, code=code, named=named, refused=refused)  # noqa: S311  not a secret

    def _kind(self) -> Way:
        return self._strategy if self._strategy != "auto" else next_way(self._ways, self._prefers)

    def _query(self) -> dict[str, str]:
        query = dict(VIEWER)
        if self._connection_id:
            query |= {"reconnect": "1", "replaces": self._connection_id}
        if self._limit.cut_after:
            query["cutAfter"] = str(round(self._limit.cut_after * 1000))
        return query

    async def _follow(self, life: "_Life") -> None:
        loop = asyncio.get_running_loop()
        renewal: asyncio.TimerHandle | None = None
        try:
            async with (
                asyncio.timeout(OPEN_TIMEOUT) as watchdog,
                open_stream(life.way, self._base, self._access, self._query()) as stream,
            ):
                life.opened = True
                if self._strategy == "auto":
                    watchdog.reschedule(loop.time() + DELIVERY_TIMEOUT)
                async for message in stream:
                    if life.opened_at is not None:
                        watchdog.reschedule(life.deadline())
                    if message is None:
                        continue
                    if isinstance(message, messages.Connected) and life.opened_at is None:
                        delay = self._on_connected(message, life)
                        if delay is not None:
                            renewal = loop.call_later(delay, self._renew, life)
                        await self._subscribe(stream, life)
                    else:
                        await self._on_message(message, stream, life)
                    if life.opened_at is not None:
                        watchdog.reschedule(life.deadline())
        finally:
            life.ended_at = loop.time()
            if renewal is not None:
                renewal.cancel()

    def _renew(self, life: "_Life") -> None:
        """Open the stream that takes over, unless `drain` has planned another."""
        if life is self._life and life.return_at is None:
            self._successor = self._start(life.way)
            self._successor.task.add_done_callback(self._on_successor_ended)

    def _on_successor_ended(self, task: "asyncio.Task[None]") -> None:
        if self._successor is not None and self._successor.task is task:
            # It did not take over: the old stream stays to its end. What failed will be met again, and told then.
            self._successor = None
            if not task.cancelled():
                task.exception()

    def _on_connected(self, message: messages.Connected, life: "_Life") -> float | None:
        """Enter a stream, in place of the one before it. Returns when to open the next one, in seconds; None: never."""
        life.connection_id = self._connection_id = message.connection_id
        life.opened_at = asyncio.get_running_loop().time()
        life.delivered.set()
        if message.keepalive_ms is not None and message.keepalive_ms > 0:
            life.silence = max(1.0, min(LONGEST, message.keepalive_ms * SILENCE / 1000))
        self._prefers = "sse" if message.update_strategy == "sse" else "ws"
        self._ways = after_delivery(self._ways, self._prefers, life.way)
        if life is self._successor:
            self._successor, replaced, self._life = None, self._life, life
            replaced.task.cancel()
        self._store.set(
            status="open",
            error=None,
            current_version=message.current_version,
            release=message.current_release(),
        )
        self._limit, delay = after_opening(self._limit, random.random())  # noqa: S311  not a secret
        return delay

    async def _on_message(self, message: messages.ServerMessage, stream: Stream, life: "_Life") -> None:
        state = self._store.read()
        match message:
            case messages.StatsMessage():
                life.whole = self._watched = True
                stats = message.figures()
                self._store.set(
                    stats=stats,
                    current_version=stats.known_version(state.current_version),
                    release=stats.known_release(state.release),
                    your_id=message.your_id,
                    authorized=True,
                    is_stale=False,
                    error=None,
                )
            case messages.DeltaMessage() if life.whole:
                try:
                    stats = apply(state.stats, message.delta())
                    self._store.set(
                        stats=stats,
                        current_version=stats.known_version(state.current_version),
                        release=stats.known_release(state.release),
                    )
                except ValueError:
                    life.whole = False
                    self._store.set(is_stale=True)
                    await self._subscribe(stream, life)
            case messages.Unauthorized():
                raise NotAuthorized(REFUSED_CREDENTIAL if sends_token(self._access.headers) else NOT_AUTHORIZED)
            case messages.Released():
                self._store.set(current_version=message.version, release=message.current_release())
            case messages.Drain() if life.opened_at is not None:
                reconnect = None if message.reconnect_ms is None else message.reconnect_ms / 1000
                delay = after_drain(reconnect, random.random())  # noqa: S311  not a secret
                life.return_at = asyncio.get_running_loop().time() + delay
            case _:
                return

    async def _subscribe(self, stream: Stream, life: "_Life") -> None:
        await stream.subscribe(life.connection_id, deltas=self._deltas)

    def _deny(self, why: str) -> None:
        self._store.set(
            stats=Stats(), your_id=None, authorized=False, status="closed", error=why or NOT_AUTHORIZED, is_stale=False
        )


class _Life:
    """
    One stream, from the attempt to open it to its end. Times are of the loop's clock.

    Args:
        way: Its kind.
    """

    def __init__(self, way: Way = "ws") -> None:
        self.way = way
        self.task: asyncio.Task[None]
        self.connection_id = ""
        self.silence = OPEN_TIMEOUT
        """Seconds for which it may be silent once it is open."""
        self.opened = False
        """It has opened; only `connected` is a delivery."""
        self.opened_at: float | None = None
        """When `connected` came; None: it has not."""
        self.ended_at = 0.0
        self.return_at: float | None = None
        """When to open the next stream, as `drain` asked; None: no `drain` has come."""
        self.whole = False
        """Whole figures have come, so that deltas can be applied."""
        self.delivered = asyncio.Event()

    @property
    def lasted(self) -> float | None:
        """For how long it was open, in seconds; None: it never was."""
        return None if self.opened_at is None else self.ended_at - self.opened_at

    def deadline(self) -> float:
        """Return until when it may be silent, or `drain` lets it stay."""
        silent = asyncio.get_running_loop().time() + self.silence
        return silent if self.return_at is None else min(silent, self.return_at)

    async def delivered_or_ended(self) -> None:
        """Wait until `connected` has come, or there is nothing more to wait for."""
        waiting = asyncio.ensure_future(self.delivered.wait())
        try:
            await asyncio.wait([self.task, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def stop(self) -> None:
        """End it."""
        self.task.cancel()
        await asyncio.wait([self.task])
