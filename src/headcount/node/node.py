"""
A node: the one imperative shell round the core. It owns the clock, the registry, the subscriptions and the pushes.

`handle()` is the one door for what a client asks, whichever way it came. Every change marks the figures dirty; a flush
takes the changes once, encodes each variant that somebody may see once, and hands it to the sessions. The first change
after a quiet time is flushed at once, then at most every `stats_interval`.

Pages of one application may live in several event loops (tests with several clients do, threads may). The figures are
shared under a lock; what belongs to a loop (timers, sending) stays in it, in a `LoopTimers` per loop. Nothing here
outlives its last connection: no task and no timer is left behind when the streams are gone.
"""

import asyncio
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import anyio
import msgspec

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..config import Config
from ..core import fleet_messages, identity, messages, paging
from ..core.ends import GOING_AWAY, LOOP_CLOSED, REPLACED, End
from ..core.history import History
from ..core.labels import UNKNOWN, parse_version
from ..core.payload import Payload
from ..core.registry import Registry, matches
from ..core.stats import ConnectionInfo, NodeShare, Stats, StatsDelta
from ..errors import UNKNOWN_HANDLE, Malformed, UnknownConnection
from ..fleet.calls import CommandHandler
from ..fleet.local_node import FigureSource
from ..fleet.membership import Membership
from ..fleet.view import FleetView
from ..log_throttle import LogThrottle
from ..loops import Tasks, call_in_loop
from .hooks import Hooks
from .listening_sockets import Listener, Listeners, addresses_of
from .session import Session
from .shared_streams import Tabs
from .timers import LoopTimers

SLICE: Final = 5_000
"""Connections that are sorted in one go: a few milliseconds."""

logger = logging.getLogger("headcount")


class PendingSubscription(NamedTuple):
    """A request to watch that is not decided yet."""

    ask: AuthorizationCheck
    deltas: bool


class Subscription:
    """One viewer's standing request for figures."""

    __slots__ = (
        "ask",
        "deltas",
        "epoch",
        "expires_at",
        "good_until",
        "grant",
        "recheck_at",
        "rechecking",
        "revision",
        "session",
    )

    def __init__(self, session: Session, grant: Grant, ask: AuthorizationCheck, *, deltas: bool) -> None:
        self.session = session
        self.grant = grant
        self.ask = ask
        self.deltas = deltas
        self.revision: int | None = None
        """Of the last message sent; None: a whole snapshot is due."""
        self.epoch = 0
        """Starts of a chain of deltas so far: what was chosen before the last and is still on its way is void."""
        self.recheck_at = 0.0
        self.rechecking = False
        self.good_until = 0.0
        """`reauthorize_interval` after the last verdict: from then on nothing is sent until there is another."""
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
        ordinal: Which of the nodes of one base path in one process it is, so that they find their own kind.
    """

    def __init__(
        self, config: Config, hooks: Hooks, clock: Callable[[], float] = time.monotonic, ordinal: int = 0
    ) -> None:
        self.config = config
        self.hooks = hooks
        self.clock = clock
        self.ordinal = ordinal
        """Which of the nodes of one base path in one process it is."""
        self.remake_ask: Callable[[Mapping[str, Any]], AuthorizationCheck | None] | None = None
        """Makes an `AuthorizationCheck` of what another process's described."""
        self.started = clock()
        self.counters: Counter[str] = Counter()
        """Events by name since the start, for tests and metrics."""
        self.draining = False
        """The application said so. Of a server that stops only the own streams go, and its listener is closed."""
        self.listeners = Listeners(config.peer_timeout)
        self.history = History()
        self.released: fleet_messages.Released | None = None
        """The version that was declared current, and when; None: none was, and the server's own is."""
        self.sessions: dict[str, Session] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self._sparing = LogThrottle()
        self._lock = threading.RLock()
        self._registry = Registry(
            route_tracking=config.route_tracking,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            reserved_versions=(config.version, UNKNOWN),
        )
        self._be_born()
        self.tabs = Tabs(self)
        self._pulses: dict[asyncio.AbstractEventLoop, LoopTimers] = {}
        self._watchers: dict[object, tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = {}
        self._asking: dict[str, PendingSubscription | None] = {}
        """The newest undecided wish of each session for which somebody asks; None: it does not wish any more."""
        self._flush_loop: asyncio.AbstractEventLoop | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._last_flush = float("-inf")
        self._flushed = 0
        self._snapshot = Stats()
        self._wholes: dict[tuple[bool, bool, bool], bytes] = {}
        self._tasks = Tasks()

    def _be_born(self) -> None:
        self._process = os.getpid()
        self.id = os.urandom(identity.NODE_BYTES).hex()
        self._key = os.urandom(32)
        self.membership = Membership(self, self._make_view)
        self._figures: FigureSource = self._registry

    # ---- the fleet

    def join(self, server: Any) -> None:
        """
        Find the other nodes. To be called with each request, in its loop, before anything else. O(1) but for the first.

        Args:
            server: The ASGI scope's value.
        """
        if self._process != os.getpid():
            self._be_born()  # made before a fork, it would be several nodes of one name
        self.membership.join(server)

    def expect_workers(self) -> None:
        """Note that this process is one of several workers, should that not be visible. Called by who starts them."""
        self.membership.among_workers = True

    async def leave(self) -> None:
        """Leave the fleet: the other nodes drop this node's figures at once."""
        await self.membership.leave()

    def _make_view(self, handle_command: CommandHandler) -> FleetView:
        view = FleetView(
            self.id,
            self.config,
            self._registry,
            self._lock,
            self.clock,
            releases=self,
            changed=self._changed,
            shows_rows=self._shows_rows,
            handle_command=handle_command,
        )
        with self._lock:
            if self.released is not None:
                view.reserve_version(self.released.version)
        return view

    def adopt_listener(self, server: tuple[Any, ...] | None) -> Listener | None:
        """Return the listening socket behind an ASGI scope's `server` value, if it can be found."""
        return self.listeners.adopt(server)

    def listening_addresses(self, server: tuple[Any, ...]) -> list[str]:
        """Return the addresses of the listening sockets behind an ASGI scope's `server` value."""
        return addresses_of(server)

    def check_from_description(self, request: Mapping[str, Any]) -> AuthorizationCheck | None:
        """Make a check for a request that came in at another node; None: it cannot be made here."""
        return self.remake_ask(request) if self.remake_ask is not None else None

    def use(self, figures: FigureSource) -> None:
        """Take figures from another source from now on."""
        with self._lock:
            if self._figures is figures:
                return
            watched = bool(self.subscriptions or self._watchers)
            if watched:
                self._figures.unwatch()
            self._figures = figures
            self._snapshot = Stats(revision=-1)
            self._wholes.clear()
            if watched:
                figures.watch()
                self._flushed = figures.revision
                for subscription in self.subscriptions.values():
                    subscription.revision = None
                self._changed()

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
            raise UnknownConnection(UNKNOWN_HANDLE)
        return session

    def timestamp(self) -> int:
        """Return wall-clock milliseconds since 1970, for clients; nothing here is measured with it."""
        return time.time_ns() // 1_000_000

    def closed_to_streams(self, listener: Listener | None) -> bool:
        """Say whether no more streams are taken by a listener, as it was adopted: it is going away, or we are full."""
        return self.full or self.leaving(listener)

    def leaving(self, listener: Listener | None) -> bool:
        """Say whether a listener's server was going away as it was adopted, or all of them are. None: not known."""
        return self.draining or (listener is not None and listener.closed)

    @property
    def full(self) -> bool:
        """No more streams are taken."""
        limit = self.config.max_connections
        return limit is not None and len(self.sessions) - len(self.tabs) >= limit

    def open(
        self, session: Session, version: str, route: str, ip: str | None, listener: Listener | None = None
    ) -> None:
        """
        Take a new stream into the figures, or, when it is a viewer's, only into the list of streams.

        Args:
            session: The stream.
            version: From `parse_version`.
            route: From `parse_route`.
            ip: As far as it may be kept.
            listener: What it came in by: when that is closed, the stream is drained. None: not known.
        """
        if self._watchers or len(self._pulses) != 1 or session.loop not in self._pulses:
            self.forget_dead_loops()
        with self._lock:
            self.sessions[session.id] = session
            self.pulse(session.loop).add(session, listener)
            info = None
            if not session.counted:
                session.deadline = self.clock() + self.config.viewer_timeout
            elif self.config.connection_tracking:
                info = self._registry.open(session.id, version, route, ip)
                self._changed()
            released = self.released
        if released is not None and released.version != version and session.id not in self.tabs:
            # It was loaded before the release, or from a server that still hands out the old code, and missed the news.
            session.post(self._released())
        self.counters["opened"] += 1
        if info is not None and self.hooks.open:
            self.hooks.run(self.hooks.open, self.connection(info))

    def close(self, session: Session, reason: str) -> None:
        """Take a stream out of the figures. Idempotent."""
        with self._lock:
            if self.sessions.pop(session.id, None) is None:
                return
            self._asking.pop(session.id, None)
            self._drop_subscription(session.id)
            pulse = self._pulses.get(session.loop)
            if pulse is not None and pulse.discard(session):
                del self._pulses[session.loop]
            info = None
            if session.id in self._registry:
                info = self._registry.close(session.id)
                self._changed()
        self.tabs.closed(session, reason)
        if not self.sessions:
            self.membership.leave_if_ending()
        self.counters["closed"] += 1
        self.counters[f"closed:{reason}"] += 1
        if info is not None and self.hooks.close:
            self.hooks.run(self.hooks.close, self.connection(info), reason)

    def dispatch(
        self, handle: str, message: messages.ClientMessage, make_ask: Callable[[], AuthorizationCheck]
    ) -> Coroutine[Any, Any, None] | None:
        """
        Do what a POST asks for the connection that a secret handle names, here or on the node that owns it.

        See `handle()`. For a connection of another node, the coroutine may raise `Malformed`, `UnknownConnection` or
        `Busy`.
        """
        try:
            session = self.find(handle)
        except UnknownConnection:
            return self.membership.remote.forward(handle, message, make_ask)
        return self.handle(session, message, make_ask)

    def replace(self, handle: str) -> None:
        """
        End the stream that a new one takes the place of, so that its page is not counted twice.

        The old one's peer may be gone without a word; the network's own time-out for that is longer than it takes to
        come back. One of another node is ended there. A handle that names nothing is none of our business: mostly that
        stream has ended long ago.
        """
        if not self.replace_here(handle):
            self.membership.remote.replace(handle)

    def replace_here(self, handle: str) -> bool:
        """End a stream of this node that another takes the place of. Returns whether there was one."""
        try:
            session = self.find(handle)
        except UnknownConnection:
            return False
        self.close(session, REPLACED.cause)
        call_in_loop(session.loop, session.end, REPLACED)
        return True

    def handle(
        self, session: Session, message: messages.ClientMessage, make_ask: Callable[[], AuthorizationCheck]
    ) -> Coroutine[Any, Any, None] | None:
        """
        Do what a client asks.

        Args:
            session: Whose stream it is.
            message: Decoded and checked.
            make_ask: Makes what asks for the right to watch, on the request that carried the message.

        Returns:
            For a subscription the coroutine that decides it, which the caller must run; None when there is nothing to
            wait for.
        """
        match message:
            case messages.RouteUpdate(route=route):
                self.navigate(session, route)
            case messages.SubscribeStats(deltas=deltas):
                return self._subscribe(session, PendingSubscription(make_ask(), deltas))
            case messages.UnsubscribeStats():
                with self._lock:
                    self._unwish(session.id)
                    self._drop_subscription(session.id)
            case messages.Tabs():
                self.tabs.check(session, message)
                call_in_loop(session.loop, self.tabs.report, session, message)
            case messages.Ping():
                session.post(_PONG)
            case messages.Unknown():
                self.counters["unknown_messages"] += 1
        return None

    def connection(self, info: ConnectionInfo) -> "HookConnection":
        """Make what hooks get to see of a connection."""
        return HookConnection(self, info)

    # ---- figures

    @property
    def total(self) -> int:
        """Open connections of this node now."""
        return self._registry.total

    def stats(self, *, rows: bool = True, linger: float | None = None) -> Stats:
        """
        Return the figures as they are known here. O(1) when nothing changed since the last call.

        With other nodes, what is known may be old, or nothing, while nobody watches here; `fresh_stats` asks them.

        Args:
            rows: Whoever asks may see connections, and wants to. Else those of other nodes are not asked for.
            linger: Seconds for which the others are listened to from now on, because somebody will look again.
        """
        self.forget_dead_loops()
        with self._lock:
            self.membership.view.touch(rows=rows, linger=linger)
            return self._stats()

    async def refresh(self, *, rows: bool = True) -> None:
        """Bring in the figures that all nodes have now, with connections if `rows`; they get a second to answer."""
        await self.membership.view.refresh(rows=rows)

    async def fresh_stats(self, *, rows: bool = True) -> Stats:
        """Return the figures as all nodes have them now; see `stats`."""
        await self.refresh(rows=rows)
        return self.stats(rows=rows)

    def remember(self, now: float) -> None:
        """Keep a sample of the figures when it is time for one."""
        if self.history.is_due(now):
            with self._lock:
                self.membership.view.listen_if_cheap()
                if not self.membership.view.knows_the_fleet:
                    return
                stats = self._stats()
            self.history.add(now, self.timestamp(), stats.total, stats.versions)

    def own_stats(self) -> Stats:
        """Return this node's own share of the figures."""
        with self._lock:
            return self._stats() if self._figures is self._registry else self._registry.snapshot()

    @property
    def report_age(self) -> float:
        """For how many seconds the node that has been silent longest has said nothing; 0.0 for a node on its own."""
        with self._lock:
            return self.membership.view.report_age

    async def shares(self) -> list[NodeShare]:
        """Return what each node of the fleet has now, this one first; they get a second to tell."""
        await self.refresh(rows=False)
        with self._lock:
            self.membership.view.absorb()
            return self.membership.view.shares() or [NodeShare(self.id, self._registry.total, True, 0.0)]

    async def page(
        self, *, version: str | None, route: str | None, limit: int, cursor: paging.Cursor = paging.START
    ) -> paging.ConnectionPage:
        """
        Page through the connections of all nodes, node by node.

        Args:
            version: Only those of this version.
            route: Only those on this route.
            limit: Rows at most.
            cursor: Of the page before.

        Raises:
            Busy: Too many requests wait for other nodes.
        """
        return await self.membership.remote.page(version=version, route=route, limit=limit, cursor=cursor)

    async def sorted_page(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None = None,
    ) -> paging.SortedRows:
        """
        Return the first connections of all nodes after a position in an order.

        Raises:
            Busy: Too many requests wait for other nodes.
        """
        return await self.membership.remote.sorted_page(order, version=version, route=route, limit=limit, after=after)

    def page_here(self, *, version: str | None, route: str | None, limit: int, after: int) -> paging.LocalPage:
        """Page through the connections of this node; see `Registry.page`."""
        self.forget_dead_loops()
        with self._lock:
            return paging.LocalPage(*self._registry.page(version=version, route=route, limit=limit, after=after))

    async def sorted_page_here(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> paging.SortedRows:
        """
        Return the first connections of this node after a position in an order.

        All connections are looked at, `SLICE` at a time, so that streams wait for no more than that.
        """
        self.forget_dead_loops()
        with self._lock:
            records = self._registry.records()
        selection = paging.Selection(order, limit, after)
        for start in range(0, len(records), SLICE):
            if start:
                await asyncio.sleep(0)
            selection.feed(
                record.info for record in records[start : start + SLICE] if matches(record.info, version, route)
            )
        return paging.SortedRows(selection.rows, selection.more)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """
        Call `callback` in the running loop after every flush.

        Returns:
            A function that ends it.
        """
        key, loop = object(), asyncio.get_running_loop()
        with self._lock:
            self._start_noting()
            self._watchers[key] = (loop, callback)

        def unwatch() -> None:
            with self._lock:
                self._watchers.pop(key, None)
                self._stop_noting()

        return unwatch

    # ---- messages of the application

    async def send(self, connection_id: str, message: Mapping[str, Any]) -> None:
        """
        Send one connection a JSON object, by public id or secret handle, whichever node it is on.

        Raises:
            UnknownConnection: It is not open on any node.
            Busy: Too many messages wait for other nodes.
            TypeError: The message is not a mapping, or holds a value that is not JSON.
        """
        encoded = messages.application(message)
        try:
            self.deliver(connection_id, Payload(encoded))
        except UnknownConnection:
            await self.membership.remote.send(connection_id, encoded)

    def deliver(self, connection_id: str, payload: Payload) -> None:
        """
        Send one connection of this node an encoded message, by public id or secret handle.

        Raises:
            UnknownConnection: It is not open here.
        """
        public = identity.id_of(connection_id, self._key) or connection_id
        session = self.sessions.get(public)
        if session is None:
            raise UnknownConnection(f"No open connection has the id {public}.")
        call_in_loop(session.loop, session.post, payload)

    async def broadcast(
        self, message: Mapping[str, Any], *, version: str | None = None, route: str | None = None
    ) -> int:
        """
        Send a JSON object to all counted connections of all nodes, or only to those of one version or route.

        Returns:
            The number of connections that it was handed to.

        Raises:
            TypeError: The message is not a mapping, or holds a value that is not JSON.
        """
        encoded = messages.application(message)
        here = self.deliver_all(Payload(encoded), version=version, route=route)
        return here + await self.membership.remote.broadcast(encoded, version, route)

    def deliver_all(self, payload: Payload, *, version: str | None = None, route: str | None = None) -> int:
        """
        Send an encoded message to all counted connections of this node, or only to those of one version or route.

        Returns:
            The number of connections that it was handed to.
        """
        with self._lock:
            chosen = [session for session in self.sessions.values() if self._matches(session, version, route)]
        for session in chosen:
            call_in_loop(session.loop, session.post, payload)
        return len(chosen)

    @property
    def current_version(self) -> str:
        """The version that was declared current, else this server's own."""
        return self.config.version if self.released is None else self.released.version

    def release_here(self, version: str, number: int = 0) -> int:
        """
        Declare a version current: remember it, and tell every open stream, viewers' too.

        Args:
            version: From `parse_version`.
            number: When that was declared, as `fleet_messages.Released` has it; 0: just now.

        Returns:
            To how many streams it was handed. Idempotent: the same version again tells nobody, nor does one that is
            older than what is known.
        """
        with self._lock:
            before = self.released
            if not number:
                number = max(self.timestamp(), 0 if before is None else before.number + 1)
            released = fleet_messages.Released(min(number, fleet_messages.MAX_NUMBER), version)
            if before is not None and released <= before:
                return 0
            self.released = released
            if before is not None and before.version == version:
                return 0
            self._registry.reserve_version(version)
            self.membership.view.reserve_version(version)
            sessions = list(self.sessions.values())
            watchers = list(self._watchers.items())
        payload = self._released()
        for session in sessions:
            # Tabs that share a stream all hear what is said on it.
            if self.tabs.stream_of(session.id) == session.id:
                call_in_loop(session.loop, session.post, payload)
        for key, (loop, _) in watchers:
            call_in_loop(loop, self._notify, key)
        self.counters["releases"] += 1
        return len(sessions)

    async def release(self, version: str) -> int:
        """
        Declare a version current on all nodes.

        Returns:
            The number of streams that were told; 0 if the version was current already.
        """
        here = self.release_here(version)
        assert self.released is not None
        return here + await self.membership.remote.release(self.released)

    def learn(self, released: fleet_messages.Released) -> None:
        """Take another node's word for which version was declared current, unless this one knows better."""
        with suppress(Malformed):
            self.release_here(parse_version(released.version), released.number)

    def _released(self) -> Payload:
        return Payload(messages.version(self.current_version, self.timestamp()))

    def drain(self) -> None:
        """Tell every client to come back elsewhere, spread over time, and end its stream. New streams are refused."""
        self.draining = True
        if not self.sessions:
            self.membership.leave_if_ending()
        for session in list(self.sessions.values()):
            call_in_loop(session.loop, session.end, self.going_away())

    def going_away(self) -> End:
        """Make the end of one stream of a server that stops; each is told another time to come back."""
        return GOING_AWAY.after(self.reconnect_delay())

    def reconnect_delay(self) -> int:
        """Draw the delay after which one client should come back, in ms."""
        return round(random.uniform(0, self.config.reconnect_spread) * 1000)  # noqa: S311  not a secret

    # ---- rights

    async def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or secret handle, whichever node it is on.

        Returns:
            False if it had none and no subscription was pending.
        """
        return self.revoke_here(connection_id) or await self.membership.remote.revoke(connection_id)

    def revoke_here(self, connection_id: str) -> bool:
        """
        Withdraw the right of a viewer of this node, by public id or secret handle.

        Returns:
            False if it had none and no subscription was pending.
        """
        public = self.tabs.stream_of(identity.id_of(connection_id, self._key) or connection_id)
        with self._lock:
            session = self.sessions.get(public)
            wished = self._unwish(public)
            if session is None or not (wished or public in self.subscriptions):
                return False
            self._refuse(session)
        return True

    async def answer(self, ask: AuthorizationCheck) -> Grant | None:
        """Ask, and take whatever goes wrong for a no. Raises nothing but the caller's own cancellation."""
        try:
            with anyio.fail_after(2 * self.config.authorize_timeout):
                return await ask()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled us, but the hook waited for something that was.
            self._failed_to_ask()
        except Exception:
            self._failed_to_ask()
        return None

    def recheck(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Ask again for the rights that it is time for, of viewers in the running `loop`. O(viewers)."""
        for subscription in list(self.subscriptions.values()):
            if subscription.session.loop is not loop:
                continue
            if _expired(subscription, now):
                self._refuse(subscription.session)
            elif not subscription.rechecking and now >= subscription.recheck_at:
                subscription.rechecking = True
                self._tasks.start(self._recheck(subscription), loop)

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

    def forget_dead_loops(self) -> None:
        """Close what a loop left behind that was stopped in the middle, as test suites do. O(loops and watchers)."""
        with self._lock:
            dead = [loop for loop in self._pulses if loop.is_closed()]
            for loop in dead:
                del self._pulses[loop]
            left = [session for session in self.sessions.values() if session.loop in dead] if dead else []
            for key in [key for key, (loop, _) in self._watchers.items() if loop.is_closed()]:
                del self._watchers[key]
                self._stop_noting()
            if self._flush_loop is not None and self._flush_loop.is_closed():
                self._changed()  # what it would have flushed is still due elsewhere
        for session in left:
            self.close(session, LOOP_CLOSED)

    def pulse(self, loop: asyncio.AbstractEventLoop) -> LoopTimers:
        """Return the timers of a loop, which is the running one or has sessions already."""
        pulse = self._pulses.get(loop)
        if pulse is None:
            pulse = self._pulses[loop] = LoopTimers(self, loop)
        return pulse

    def hide(self, session: Session, hidden: bool) -> None:
        """Note that a page went to the background or came back."""
        with self._lock:
            if session.id in self._registry and self._registry.hide(session.id, hidden):
                self._changed()

    def navigate(self, session: Session, route: str) -> None:
        """Move a page to another route."""
        with self._lock:
            try:
                before = self._registry.navigate(session.id, route)
            except UnknownConnection:
                return  # a viewer, or tracking is off
            if before is None:
                return
            self._changed()
            info = self._registry.info(session.id) if self.hooks.route else None
        if info is not None:
            # A POST may come in by another loop; one connection's hooks run in one, or they could not wait in line.
            call_in_loop(session.loop, self.hooks.run, self.hooks.route, self.connection(info), before)

    # ---- inside

    def _subscribe(self, session: Session, wish: PendingSubscription) -> Coroutine[Any, Any, None] | None:
        with self._lock:
            asking = session.id in self._asking
            self._asking[session.id] = wish
        # A wish that meets another is asked for after it, by whoever asks already: a flood asks the hook one at a time.
        return None if asking else self._decide(session)

    async def _decide(self, session: Session) -> None:
        wish = None
        try:
            while True:
                with self._lock:
                    wish = self._asking.get(session.id)
                    if wish is None:
                        self._asking.pop(session.id, None)
                        return
                grant = await self.answer(wish.ask) if self.config.connection_tracking else None
                with self._lock:
                    # Else it unsubscribed, was revoked, left or asked anew meanwhile, and this verdict is nobody's.
                    if self._asking.get(session.id) is wish:
                        self._asking[session.id] = None
                        self._settle(session, wish, grant)
        except BaseException:
            with self._lock:
                left = self._asking.pop(session.id, None)
                if left is not None and left is not wish:
                    self._refuse(session)  # nobody asks for this one now that the request before it was broken off
            raise

    def _settle(self, session: Session, wish: PendingSubscription, grant: Grant | None) -> None:
        if grant is None:
            self._refuse(session)
            return
        self._start_noting()
        subscription = Subscription(session, grant, wish.ask, deltas=wish.deltas)
        self._expire(subscription)
        self._recheck_later(subscription)
        self.subscriptions[session.id] = subscription
        self.membership.view.viewers_changed()
        if session.id not in self.tabs:
            session.deadline = None
        call_in_loop(session.loop, self._send_whole, subscription)

    def _shows_rows(self) -> bool:
        """Say whether anybody who watches here sees connections. The lock is held."""
        return bool(self._watchers) or any(one.grant.connections for one in self.subscriptions.values())

    def _unwish(self, connection_id: str) -> bool:
        """Forget an undecided wish. Returns whether there was one."""
        wished = self._asking.get(connection_id) is not None
        if wished:
            self._asking[connection_id] = None
        return wished

    async def _recheck(self, subscription: Subscription) -> None:
        try:
            grant = await self.answer(subscription.ask)
        finally:
            # Broken off, it is asked again with the next tick: a right must not last because nobody asks for it.
            subscription.rechecking = False
        with self._lock:
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
            if subscription.variant != variant or subscription.revision is None:
                self._send_whole(subscription)

    def _failed_to_ask(self) -> None:
        self.counters["authorize_errors"] += 1
        # Strangers decide how often we ask, so they could fill the log.
        if (often := self._sparing.word(sys.exc_info()[0])) is not None:
            logger.exception("Asking for the right to watch failed, so the viewer is denied%s.", often)

    def _recheck_later(self, subscription: Subscription) -> None:
        spread = random.uniform(0.8, 0.95)  # noqa: S311  viewers that came together are not asked for together
        subscription.recheck_at = self.clock() + self.config.reauthorize_interval * spread
        subscription.good_until = self.clock() + self.config.reauthorize_interval

    def _expire(self, subscription: Subscription) -> None:
        expires_in = subscription.grant.expires_in
        subscription.expires_at = self.clock() + expires_in if expires_in is not None else None

    def _refuse(self, session: Session) -> None:
        """Withdraw a right or deny it. Here and now, whichever loop the session is in: no figure follows."""
        with self._lock:
            self._drop_subscription(session.id)
            if not session.counted and session.id not in self.tabs and session.deadline is None:
                session.deadline = self.clock() + self.config.viewer_timeout
        call_in_loop(session.loop, session.post, _UNAUTHORIZED)

    def _drop_subscription(self, connection_id: str) -> None:
        with self._lock:
            if self.subscriptions.pop(connection_id, None) is not None:
                self._stop_noting()

    def _start_noting(self) -> None:
        if not self.subscriptions and not self._watchers:
            self._figures.watch()
            self._flushed = self._figures.revision

    def _stop_noting(self) -> None:
        if not self.subscriptions and not self._watchers:
            self._figures.unwatch()
            self._wholes.clear()
            if self._flush_timer is not None and self._flush_loop is not None:
                call_in_loop(self._flush_loop, self._flush_timer.cancel)
                self._flush_timer = self._flush_loop = None

    def _changed(self) -> None:
        """Schedule a flush, in a loop in which somebody waits for it, and tell other nodes. The lock is held."""
        self.membership.view.publish_soon()
        if not self.subscriptions and not self._watchers:
            return
        if self._flush_loop is not None and not self._flush_loop.is_closed():
            return
        self._flush_loop = None
        delay = self._last_flush + self.config.stats_interval - self.clock()
        for loop in self._waiting_loops():
            if call_in_loop(loop, self._flush_after, loop, delay):
                self._flush_loop = loop
                return

    def _waiting_loops(self) -> Iterator[asyncio.AbstractEventLoop]:
        for subscription in self.subscriptions.values():
            yield subscription.session.loop
        for loop, _ in self._watchers.values():
            yield loop

    def _flush_after(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        if delay > 0:
            self._flush_timer = loop.call_later(delay, self._begin_flush, loop)
        else:
            self._begin_flush(loop)

    def _begin_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not in place: what else happens in this turn of the loop goes into the same push. In a task: middleware
        # round a `send`, which is begun in place, may want to know in which one that is.
        self._tasks.start(self._flush(), loop)

    async def _flush(self) -> None:
        with self._lock:
            self._flush_loop = self._flush_timer = None
            delta = self._figures.drain_changes()
            if delta is not None:
                self._last_flush = self.clock()
                self._flushed = delta.revision
                self._wholes.clear()
                self.counters["flushes"] += 1
            due = self._due(delta)
            watchers = list(self._watchers.items()) if delta is not None else []
        for subscription, epoch, payload in due:
            call_in_loop(subscription.session.loop, self._push, subscription, epoch, payload)
        for key, (loop, _) in watchers:
            call_in_loop(loop, self._notify, key)

    def _notify(self, key: object) -> None:
        watcher = self._watchers.get(key)
        if watcher is None:
            return  # it ended meanwhile
        try:
            watcher[1]()
        except Exception:  # the application's own function; those after it are still told
            self.counters["watcher_errors"] += 1
            logger.exception("What watches the figures failed; nothing else is affected.")

    def _due(self, delta: StatsDelta | None) -> list[tuple[Subscription, int, Payload]]:
        """Choose what each subscriber gets: the delta, the whole, or nothing until it has read what it was sent."""
        due: list[tuple[Subscription, int, Payload]] = []
        deltas: dict[tuple[bool, bool, bool], Payload] = {}
        if not self.membership.view.ready:
            return due  # it will be, and all is due then
        now = self.clock()
        for subscription in [each for each in self.subscriptions.values() if _expired(each, now)]:
            self._refuse(subscription.session)
        for subscription in self.subscriptions.values():
            if delta is None and subscription.revision is not None:
                continue
            if now >= subscription.good_until:
                subscription.revision = None
                self.counters["withheld"] += 1
                continue
            if subscription.session.busy:
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
            due.append((subscription, subscription.epoch, payload))
        return due

    def _push(self, subscription: Subscription, epoch: int, payload: Payload) -> None:
        # For a session of another loop, time has passed since the choice.
        if self.subscriptions.get(subscription.session.id) is not subscription or subscription.epoch != epoch:
            return
        if subscription.session.busy:
            with self._lock:
                subscription.revision = None
                subscription.epoch += 1
                self.counters["conflated"] += 1
        else:
            subscription.session.transmit(payload)

    def _send_whole(self, subscription: Subscription) -> None:
        """Send the newest snapshot now, or with the next flush when the figures have moved since the last."""
        with self._lock:
            if self.subscriptions.get(subscription.session.id) is not subscription:
                return
            subscription.revision = None
            subscription.epoch += 1
            if not self.membership.view.ready:
                return
            now = self.clock()
            if _expired(subscription, now):
                self._refuse(subscription.session)
            elif self._revision() != self._flushed:
                self._changed()
            elif not subscription.session.busy and now < subscription.good_until:
                subscription.revision = self._flushed
                subscription.session.transmit(self._whole(subscription))

    def _stats(self) -> Stats:
        with self._lock:
            if self._snapshot.revision != self._revision():
                self._snapshot = self._figures.snapshot()
            return self._snapshot

    def _revision(self) -> int:
        self.membership.view.absorb()
        return self._figures.revision

    def _whole(self, subscription: Subscription) -> Payload:
        variant = subscription.variant
        body = self._wholes.get(variant)
        if body is None:
            routes, connections, ips = variant
            figures = self._stats()
            body = self._wholes[variant] = messages.stats(figures, routes=routes, connections=connections, ips=ips)
        return Payload(messages.addressed(body, subscription.session.id))

    def _matches(self, session: Session, version: str | None, route: str | None) -> bool:
        if not session.counted:
            return False
        if version is None and route is None:
            return True
        if session.id not in self._registry:
            return False
        return matches(self._registry.info(session.id), version, route)


class HookConnection(msgspec.Struct, frozen=True):
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
        Send the page a JSON object. Takes effect at once.

        Returns:
            An awaitable that is done already, so that `await` may stand before it or not. It is no coroutine:
            `asyncio.create_task` does not take it.

        Raises:
            UnknownConnection: The page has left.
        """
        self.node.deliver(self.info.id, Payload(messages.application(message)))
        return DONE


class _Done:
    """An awaitable that is done, so that `send` serves synchronous and asynchronous hooks alike."""

    def __await__(self) -> Any:
        return iter(())


def _expired(subscription: Subscription, now: float) -> bool:
    return subscription.expires_at is not None and now >= subscription.expires_at


DONE = _Done()
_PONG = Payload(messages.PONG)
_UNAUTHORIZED = Payload(messages.STATS_UNAUTHORIZED)
