"""
A node: the one imperative shell round the core. It owns the clock, the registry, the subscriptions and the pushes.

`handle()` is the one door for what a client asks, whichever way it came. Every change marks the figures dirty; a flush
takes the changes once, encodes each variant that somebody may see once, and hands it to the sessions. The first change
after a quiet time is flushed at once, then at most every `stats_interval`.

Pages of one application may live in several event loops (tests with several clients do, threads may). The figures are
shared under a lock; what belongs to a loop (timers, sending) stays in it, in a `Pulse` per loop. Nothing here outlives
its last connection: no task and no timer is left behind when the streams are gone.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import anyio
import msgspec

from .authorize import Grant
from .config import Config
from .core import identity, messages
from .core.labels import UNKNOWN
from .core.messages import Payload
from .core.registry import Registry
from .core.stats import ConnectionInfo, Stats, StatsDelta
from .errors import UnknownConnection
from .hooks import Hooks
from .pulse import Pulse
from .session import End, Session

logger = logging.getLogger("headcount")

Ask: TypeAlias = Callable[[], Awaitable[Grant | None]]
"""Asks whether a viewer may watch: at first, and again while it watches."""


class Subscription:
    """One viewer's standing request for figures."""

    __slots__ = ("ask", "deltas", "expires_at", "grant", "recheck_at", "rechecking", "revision", "session")

    def __init__(self, session: Session, grant: Grant, ask: Ask, *, deltas: bool) -> None:
        self.session = session
        self.grant = grant
        self.ask = ask
        self.deltas = deltas
        self.revision: int | None = None
        """Of the last message sent; None: a whole snapshot is due."""
        self.recheck_at = 0.0
        self.rechecking = False
        self.expires_at: float | None = None

    @property
    def variant(self) -> tuple[bool, bool, bool]:
        """Subscribers of one variant are sent the same bytes."""
        return (self.grant.routes, self.grant.connections, self.grant.ips)


class Node:
    """
    One process's connections and viewers.

    Args:
        config: Checked settings.
        hooks: The application's hooks.
        clock: Monotonic seconds.
    """

    def __init__(self, config: Config, hooks: Hooks, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.hooks = hooks
        self.clock = clock
        self.id = os.urandom(4).hex()
        self.started = clock()
        self.counters: Counter[str] = Counter()
        """Events by name since the start, for tests and metrics."""
        self.draining = False
        self.sessions: dict[str, Session] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self._key = os.urandom(32)
        self._lock = threading.RLock()
        self._registry = Registry(
            route_tracking=config.route_tracking,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            reserved_versions=(config.version, UNKNOWN),
        )
        self._pulses: dict[asyncio.AbstractEventLoop, Pulse] = {}
        self._watchers: dict[object, tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = {}
        self._asking: dict[str, object] = {}
        self._flush_loop: asyncio.AbstractEventLoop | None = None
        self._last_flush = float("-inf")
        self._flushed = 0
        self._snapshot = Stats()
        self._wholes: dict[tuple[bool, bool, bool], bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- connections

    def identify(self) -> tuple[str, str]:
        """Make the public id and the secret handle of a new connection."""
        public = identity.public_id(self.id, os.urandom(identity.ID_BYTES))
        return public, identity.handle_for(public, self._key)

    def find(self, handle: str) -> Session:
        """
        Return the session that a secret handle names.

        Raises:
            UnknownConnection: Forged, closed, or another node's.
        """
        public = identity.id_of(handle, self._key)
        session = self.sessions.get(public) if public is not None else None
        if session is None:
            raise UnknownConnection(
                "No open connection has this connectionId; open a new stream and use the one it tells."
            )
        return session

    def timestamp(self) -> int:
        """Return wall-clock milliseconds since 1970, for clients; nothing here is measured with it."""
        return time.time_ns() // 1_000_000

    @property
    def full(self) -> bool:
        """No more streams are taken."""
        limit = self.config.max_connections
        return limit is not None and len(self.sessions) >= limit

    def open(self, session: Session, version: str, route: str, ip: str | None) -> None:
        """Take a new stream into the figures, or, when it is a viewer's, only into the list of streams."""
        with self._lock:
            self._forget_dead_loops()
            self.sessions[session.id] = session
            self.pulse(session.loop).add(session)
            info = None
            if not session.counted:
                session.deadline = self.clock() + self.config.viewer_timeout
            elif self.config.connection_tracking:
                info = self._registry.open(session.id, version, route, ip)
                self._changed()
        self.counters["opened"] += 1
        if info is not None and self.hooks.open:
            self.hooks.run(self.hooks.open, self.connection(info))

    def close(self, session: Session, reason: str) -> None:
        """Take a stream out of the figures. Idempotent."""
        with self._lock:
            if self.sessions.pop(session.id, None) is None:
                return
            self._drop_subscription(session.id)
            pulse = self._pulses.get(session.loop)
            if pulse is not None and pulse.discard(session):
                del self._pulses[session.loop]
            info = None
            if session.id in self._registry:
                info = self._registry.close(session.id)
                self._changed()
        self.counters["closed"] += 1
        self.counters[f"closed:{reason}"] += 1
        if info is not None and self.hooks.close:
            self.hooks.run(self.hooks.close, self.connection(info), reason)

    def handle(self, session: Session, message: messages.ClientMessage, ask: Ask) -> Coroutine[Any, Any, None] | None:
        """
        Do what a client asks.

        Args:
            session: Whose stream it is.
            message: Decoded and checked.
            ask: Asks for the right to watch, on the request that carried the message.

        Returns:
            For a subscription the coroutine that decides it, which the caller must run; else None.
        """
        match message:
            case messages.RouteUpdate(route=route):
                self._navigate(session, route)
            case messages.SubscribeStats(deltas=deltas):
                return self._subscribe(session, ask, deltas=deltas)
            case messages.UnsubscribeStats():
                with self._lock:
                    self._asking.pop(session.id, None)
                    self._drop_subscription(session.id)
            case messages.Ping():
                session.post(_PONG)
            case messages.Unknown():
                self.counters["unknown_messages"] += 1
        return None

    def connection(self, info: ConnectionInfo) -> "NodeConnection":
        """Make what hooks get to see of a connection."""
        return NodeConnection(self, info)

    # ---- figures

    @property
    def total(self) -> int:
        """Open connections now."""
        return self._registry.total

    def stats(self) -> Stats:
        """Return the figures now. O(1) when nothing changed since the last call."""
        with self._lock:
            if self._snapshot.revision != self._registry.revision:
                self._snapshot = self._registry.snapshot()
            return self._snapshot

    def page(
        self, *, version: str | None, route: str | None, limit: int, after: int
    ) -> tuple[list[ConnectionInfo], int | None]:
        """Page through all connections; see `Registry.page`."""
        with self._lock:
            return self._registry.page(version=version, route=route, limit=limit, after=after)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """
        Call `callback` in the running loop after every flush.

        Returns:
            A function that ends it.
        """
        key = object()
        with self._lock:
            self._start_noting()
            self._watchers[key] = (asyncio.get_running_loop(), callback)

        def unwatch() -> None:
            with self._lock:
                self._watchers.pop(key, None)
                self._stop_noting()

        return unwatch

    # ---- messages of the application

    def send(self, connection_id: str, message: Mapping[str, Any]) -> None:
        """
        Send one connection a JSON object.

        Raises:
            UnknownConnection: It is not open here.
            TypeError: The message is not a mapping, or holds what is no JSON.
        """
        payload = Payload(messages.application(message))
        session = self.sessions.get(connection_id)
        if session is None:
            raise UnknownConnection(f"No open connection has the id {connection_id}.")
        self._in_loop(session, session.post, payload)

    def broadcast(self, message: Mapping[str, Any], *, version: str | None = None, route: str | None = None) -> int:
        """
        Send a JSON object to all counted connections, or those of one version or route.

        Returns:
            To how many it was handed.
        """
        payload = Payload(messages.application(message))
        with self._lock:
            chosen = [session for session in self.sessions.values() if self._matches(session, version, route)]
        for session in chosen:
            self._in_loop(session, session.post, payload)
        return len(chosen)

    def drain(self) -> None:
        """Tell every client to come back elsewhere, spread over time, and end its stream. New streams are refused."""
        self.draining = True
        for session in list(self.sessions.values()):
            self._in_loop(session, session.end, End(1012, "drain", "The server is going away.", self.reconnect_delay()))

    def reconnect_delay(self) -> int:
        """Draw the delay after which one client should come back, in ms."""
        return round(random.uniform(0, self.config.reconnect_spread) * 1000)  # noqa: S311  not a secret

    # ---- rights

    def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or secret handle.

        Returns:
            False if it had none.
        """
        public = identity.id_of(connection_id, self._key) or connection_id
        with self._lock:
            self._asking.pop(public, None)
            subscription = self.subscriptions.get(public)
        if subscription is None:
            return False
        self._in_loop(subscription.session, self._refuse, subscription.session)
        return True

    def recheck(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Ask again for the rights that it is time for, of viewers in the running `loop`. O(viewers)."""
        for subscription in list(self.subscriptions.values()):
            if subscription.session.loop is not loop:
                continue
            if subscription.expires_at is not None and now >= subscription.expires_at:
                self._refuse(subscription.session)
            elif not subscription.rechecking and now >= subscription.recheck_at:
                subscription.rechecking = True
                task = asyncio.ensure_future(self._recheck(subscription))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def caught_up(self, session: Session) -> None:
        """Tell that all is sent, so that a viewer who fell behind gets the newest snapshot."""
        with self._lock:
            subscription = self.subscriptions.get(session.id)
            if subscription is not None and subscription.revision is None:
                self._send_whole(subscription)

    def stalled(self, session: Session) -> None:
        """Tell that a session is busy; its pulse drops it after `send_timeout`."""
        self.pulse(session.loop).stalled.setdefault(session, self.clock() + self.config.send_timeout)

    def read_again(self, session: Session) -> None:
        """Tell that a session's message went out after all."""
        pulse = self._pulses.get(session.loop)
        if pulse is not None:
            pulse.stalled.pop(session, None)

    def pulse(self, loop: asyncio.AbstractEventLoop) -> Pulse:
        """Return the timers of a loop, which is the running one or has sessions already."""
        pulse = self._pulses.get(loop)
        if pulse is None:
            pulse = self._pulses[loop] = Pulse(self, loop)
        return pulse

    # ---- inside

    def _navigate(self, session: Session, route: str) -> None:
        with self._lock:
            if session.id not in self._registry:
                return  # a viewer, or tracking is off
            before = self._registry.info(session.id)
            if not self._registry.navigate(session.id, route):
                return
            self._changed()
            info = self._registry.info(session.id)
        if self.hooks.route:
            self.hooks.run(self.hooks.route, self.connection(info), before.route)

    async def _subscribe(self, session: Session, ask: Ask, *, deltas: bool) -> None:
        if session.id in self._asking:
            return  # the verdict on the stream will answer both; a flood of requests asks the hook once
        token = self._asking[session.id] = object()
        try:
            grant = await self._answer(ask) if self.config.connection_tracking else None
            with self._lock:
                if self._asking.get(session.id) is not token or session.id not in self.sessions:
                    return  # it unsubscribed, was revoked or left while we asked
                if grant is None:
                    self._in_loop(session, self._refuse, session)
                    return
                self._start_noting()
                subscription = Subscription(session, grant, ask, deltas=deltas)
                self._expire(subscription)
                self._recheck_later(subscription)
                self.subscriptions[session.id] = subscription
                session.deadline = None
                self._in_loop(session, self._send_whole, subscription)
        finally:
            if self._asking.get(session.id) is token:
                del self._asking[session.id]

    async def _recheck(self, subscription: Subscription) -> None:
        grant = await self._answer(subscription.ask)
        with self._lock:
            subscription.rechecking = False
            if self.subscriptions.get(subscription.session.id) is not subscription:
                return
            if grant is None:
                self.counters["withdrawn"] += 1
                self._refuse(subscription.session)
                return
            before, variant = subscription.grant, subscription.variant
            if grant != before:
                subscription.grant = grant
                self._expire(subscription)
            # else: agreeing again to the same `expires_in` is no prolongation
            self._recheck_later(subscription)
            if subscription.variant != variant:
                self._send_whole(subscription)

    async def _answer(self, ask: Ask) -> Grant | None:
        """Ask, and take whatever goes wrong for a no."""
        try:
            with anyio.fail_after(2 * self.config.authorize_timeout):
                return await ask()
        except Exception:
            self.counters["authorize_errors"] += 1
            logger.exception("Asking for the right to watch failed, so the viewer is denied.")
            return None

    def _recheck_later(self, subscription: Subscription) -> None:
        spread = random.uniform(0.8, 0.95)  # noqa: S311  viewers that came together are not asked for together
        subscription.recheck_at = self.clock() + self.config.reauthorize_interval * spread

    def _expire(self, subscription: Subscription) -> None:
        expires_in = subscription.grant.expires_in
        subscription.expires_at = self.clock() + expires_in if expires_in is not None else None

    def _refuse(self, session: Session) -> None:
        self._drop_subscription(session.id)
        if not session.counted and session.deadline is None:
            session.deadline = self.clock() + self.config.viewer_timeout
        session.post(_UNAUTHORIZED)

    def _drop_subscription(self, connection_id: str) -> None:
        with self._lock:
            if self.subscriptions.pop(connection_id, None) is not None:
                self._stop_noting()

    def _start_noting(self) -> None:
        if not self.subscriptions and not self._watchers:
            self._registry.watch()
            self._flushed = self._registry.revision

    def _stop_noting(self) -> None:
        if not self.subscriptions and not self._watchers:
            self._registry.unwatch()
            self._wholes.clear()

    def _changed(self) -> None:
        """Schedule a flush, in a loop in which somebody waits for it. The lock is held."""
        if self._flush_loop is not None and not self._flush_loop.is_closed():
            return
        loop = next(
            (s.session.loop for s in self.subscriptions.values() if not s.session.loop.is_closed()), None
        ) or next((loop for loop, _ in self._watchers.values() if not loop.is_closed()), None)
        if loop is None:
            return
        self._flush_loop = loop
        delay = self._last_flush + self.config.stats_interval - self.clock()
        if loop is not _running_loop():
            loop.call_soon_threadsafe(self._flush_after, loop, delay)
        else:
            self._flush_after(loop, delay)

    def _flush_after(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        if delay > 0:
            loop.call_later(delay, self._flush)
        else:
            # Not in place: what else happens in this turn of the loop goes into the same push.
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        with self._lock:
            self._flush_loop = None
            delta = self._registry.take()
            if delta is not None:
                self._last_flush = self.clock()
                self._flushed = delta.revision
                self._wholes.clear()
                self.counters["flushes"] += 1
            due = self._due(delta)
            watchers = list(self._watchers.values()) if delta is not None else []
        for session, payload in due:
            self._in_loop(session, self._push, session, payload)
        for loop, callback in watchers:
            if loop is _running_loop():
                callback()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(callback)

    def _due(self, delta: StatsDelta | None) -> list[tuple[Session, Payload]]:
        """Choose what each subscriber gets: the delta, the whole, or nothing until it has read what it was sent."""
        due: list[tuple[Session, Payload]] = []
        deltas: dict[tuple[bool, bool, bool], Payload] = {}
        for subscription in self.subscriptions.values():
            if delta is None and subscription.revision is not None:
                continue
            session = subscription.session
            if session.busy:
                subscription.revision = None
                self.counters["conflated"] += 1
                continue
            if delta is not None and subscription.deltas and subscription.revision == delta.base:
                variant = subscription.variant
                payload = deltas.get(variant)
                if payload is None:
                    routes, connections, ips = variant
                    encoded = messages.stats_delta(delta, routes=routes, connections=connections, ips=ips)
                    payload = deltas[variant] = Payload(encoded)
            else:
                payload = self._whole(subscription)
            subscription.revision = self._flushed
            due.append((session, payload))
        return due

    def _push(self, session: Session, payload: Payload) -> None:
        if session.busy:
            # It became busy between the choice and now, which only another loop's session can.
            with self._lock:
                subscription = self.subscriptions.get(session.id)
                if subscription is not None:
                    subscription.revision = None
        elif session.id in self.subscriptions:
            session.transmit(payload)

    def _send_whole(self, subscription: Subscription) -> None:
        """Send the newest snapshot now, or with the next flush when the figures have moved since the last."""
        with self._lock:
            subscription.revision = None
            if self._registry.revision != self._flushed:
                self._changed()
            elif not subscription.session.busy:
                subscription.revision = self._flushed
                subscription.session.transmit(self._whole(subscription))

    def _whole(self, subscription: Subscription) -> Payload:
        variant = subscription.variant
        body = self._wholes.get(variant)
        if body is None:
            routes, connections, ips = variant
            body = self._wholes[variant] = messages.stats(self.stats(), routes=routes, connections=connections, ips=ips)
        return Payload(messages.addressed(body, subscription.session.id))

    def _matches(self, session: Session, version: str | None, route: str | None) -> bool:
        if not session.counted:
            return False
        if version is None and route is None:
            return True
        if session.id not in self._registry:
            return False
        info = self._registry.info(session.id)
        return (version is None or info.version == version) and (route is None or info.route == route)

    def _in_loop(self, session: Session, call: Callable[..., None], *args: Any) -> None:
        if session.loop is _running_loop():
            call(*args)
        elif not session.loop.is_closed():
            session.loop.call_soon_threadsafe(call, *args)

    def _forget_dead_loops(self) -> None:
        """Close what a loop left behind when it was stopped in the middle, as test suites do."""
        for loop in [loop for loop in self._pulses if loop.is_closed()]:
            del self._pulses[loop]
            for session in [session for session in self.sessions.values() if session.loop is loop]:
                self.close(session, "loop closed")


class NodeConnection(msgspec.Struct, frozen=True):
    """A connection as a hook sees it; see `hooks.Connection`."""

    node: Node
    info: ConnectionInfo

    @property
    def id(self) -> str:
        """Public id."""
        return self.info.id

    @property
    def version(self) -> str:
        """Build id of the page."""
        return self.info.version

    @property
    def route(self) -> str:
        """Path the page shows."""
        return self.info.route

    @property
    def ip(self) -> str | None:
        """Client address; None unless IP tracking is on."""
        return self.info.ip

    def send(self, message: Mapping[str, Any]) -> Awaitable[None]:
        """
        Send the page a JSON object. Takes effect at once; awaiting it is optional.

        Raises:
            UnknownConnection: The page has left.
        """
        self.node.send(self.info.id, message)
        return DONE


class _Done:
    """An awaitable that is done, so that `send` serves synchronous and asynchronous hooks alike."""

    def __await__(self) -> Any:
        return iter(())


DONE = _Done()
_PONG = Payload(messages.PONG)
_UNAUTHORIZED = Payload(messages.STATS_UNAUTHORIZED)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
