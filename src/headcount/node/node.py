"""
A node: one process's connections. The one imperative shell round the core, and the one door for what clients ask.

It owns the clock, the lock, the sessions and their identities. The state of others is theirs: `Viewers` has the
subscriptions and pushes, `Timers` what happens regularly, `Tabs` the shared streams, `Releases` the current version,
`Membership` the way to other nodes.

`handle()` is the door for what a client asks, whichever way it came; `send`, `broadcast`, `revoke`, `release` and
`page` are for the application and its operators, and reach all nodes. Their halves for this node alone end in `_here`
or begin with `deliver`: what another node asks for is done by those.

Pages of one application may live in several event loops (tests with several clients do, threads may). The figures are
shared under a lock; what belongs to a loop (timers, sending) stays in it. Nothing here outlives its last connection: no
task and no timer is left behind when the streams are gone.

Tests: tests/asgi/test_streams.py, tests/asgi/test_figures.py, tests/asgi/test_isolation.py,
tests/fleet/backends/test_two_sites.py.
"""

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..config import Config
from ..core import identity, messages, paging
from ..core.ends import GOING_AWAY, LOOP_CLOSED, REPLACED, End
from ..core.history import History
from ..core.labels import UNKNOWN
from ..core.payload import Payload
from ..core.registry import Registry, matches
from ..core.stats import NodeShare, Stats
from ..errors import UNKNOWN_HANDLE, UnknownConnection
from ..fleet.calls import CommandHandler
from ..fleet.local_node import FigureSource
from ..fleet.membership import Membership
from ..fleet.view import FleetView
from ..loops import call_in_loop
from .hook_connection import HookConnection
from .hooks import Hooks
from .listening_sockets import Listener, Listeners, addresses_of
from .listing import Listing
from .releases import Releases
from .session import Session
from .shared_streams import Tabs
from .timers import Timers
from .viewers import PendingSubscription, Viewers

_PONG = Payload(messages.PONG)


class Node:
    """
    One process's connections and viewers.

    Args:
        config: Checked settings.
        hooks: The application's hooks.
        clock: Monotonic seconds.
        ordinal: Which of the nodes of one base path in one process it is, so that they find their own kind.
        make_check: Makes a check of what another process's `AuthorizationCheck` described. None: there are no others.
    """

    def __init__(
        self,
        config: Config,
        hooks: Hooks,
        clock: Callable[[], float] = time.monotonic,
        ordinal: int = 0,
        make_check: Callable[[Mapping[str, Any]], AuthorizationCheck | None] | None = None,
    ) -> None:
        self.config = config
        self.hooks = hooks
        self.clock = clock
        self.ordinal = ordinal
        """Which of the nodes of one base path in one process it is."""
        self._make_check = make_check
        self.started = clock()
        self.counters: Counter[str] = Counter()
        """Events by name since the start, for tests and metrics."""
        self.draining = False
        """The application said so. Of a server that stops only the own streams go, and its listener is closed."""
        self.listeners = Listeners(config.peer_timeout)
        self.history = History()
        self.sessions: dict[str, Session] = {}
        """Open streams by public id."""
        self.releases = Releases(config.version, self.timestamp, self.release_here)
        self._lock = threading.RLock()
        self._registry = Registry(
            route_tracking=config.route_tracking,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            reserved_versions=(config.version, UNKNOWN),
        )
        self._reset_identity()
        self.tabs = Tabs(self, config.viewer_timeout, self._now)
        self.timers = Timers(config, self._now, self)
        self.viewers = Viewers(
            config,
            self._now,
            self._lock,
            self.counters,
            self._registry,
            fleet=self.membership,
            shared_streams=self.tabs,
        )
        self._listing = Listing(self._registry, self._lock)

    def _now(self) -> float:
        return self.clock()  # asked each time, because a test may give the node another clock

    def _reset_identity(self) -> None:
        self._process = os.getpid()
        self.id = os.urandom(identity.NODE_BYTES).hex()
        self._key = os.urandom(32)
        self.membership = Membership(self, self._make_view)

    def join(self, server: Any) -> None:
        """
        Find the other nodes. To be called with each request, in its loop, before anything else. O(1) but for the first.

        Args:
            server: The ASGI scope's value.
        """
        if self._process != os.getpid():
            # Made before a fork, it would be several nodes of one name.
            self._reset_identity()
            self.viewers.join(self.membership)
            self.viewers.use(self._registry)
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
            releases=self.releases,
            changed=self.viewers.changed,
            shows_rows=self.viewers.shows_rows,
            handle_command=handle_command,
        )
        with self._lock:
            if self.releases.released is not None:
                view.reserve_version(self.releases.released.version)
        return view

    def adopt_listener(self, server: tuple[Any, ...] | None) -> Listener | None:
        """Return the listening socket behind an ASGI scope's `server` value, if it can be found."""
        return self.listeners.adopt(server)

    def listening_addresses(self, server: tuple[Any, ...]) -> list[str]:
        """Return the addresses of the listening sockets behind an ASGI scope's `server` value."""
        return addresses_of(server)

    def check_from_description(self, request: Mapping[str, Any]) -> AuthorizationCheck | None:
        """Make a check for a request that came in at another node; None: it cannot be made here."""
        return self._make_check(request) if self._make_check is not None else None

    def use(self, figures: FigureSource) -> None:
        """Take figures from another source from now on."""
        self.viewers.use(figures)

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
        if self.viewers.watchers or not self.timers.is_only(session.loop):
            self._forget_closed_loops()
        with self._lock:
            self.sessions[session.id] = session
            self.timers.add(session, listener)
            info = None
            if not session.counted:
                session.deadline = self.clock() + self.config.viewer_timeout
            elif self.config.connection_tracking:
                info = self._registry.open(session.id, version, route, ip)
                self.viewers.changed()
            released = self.releases.released
        if released is not None and released.version != version and session.id not in self.tabs:
            # It was loaded before the release, or from a server that still hands out the old code, and missed the news.
            session.post(self._version_message())
        self.counters["opened"] += 1
        if info is not None and self.hooks.open:
            self.hooks.run(self.hooks.open, HookConnection(info, self.deliver))

    def close(self, session: Session, reason: str) -> None:
        """Take a stream out of the figures. Idempotent."""
        with self._lock:
            if self.sessions.pop(session.id, None) is None:
                return
            self.viewers.drop(session.id)
            self.timers.discard(session)
            info = None
            if session.id in self._registry:
                info = self._registry.close(session.id)
                self.viewers.changed()
        self.tabs.closed(session, reason)
        if not self.sessions:
            self.membership.leave_if_ending()
        self.counters["closed"] += 1
        self.counters[f"closed:{reason}"] += 1
        if info is not None and self.hooks.close:
            self.hooks.run(self.hooks.close, HookConnection(info, self.deliver), reason)

    def dispatch(
        self, handle: str, message: messages.ClientMessage, make_check: Callable[[], AuthorizationCheck]
    ) -> Coroutine[Any, Any, None] | None:
        """
        Do what a POST asks for the connection that a secret handle names, here or on the node that owns it.

        See `handle()`. For a connection of another node, the coroutine may raise `Malformed`, `UnknownConnection` or
        `Busy`.
        """
        try:
            session = self.find(handle)
        except UnknownConnection:
            return self.membership.remote.forward(handle, message, make_check)
        return self.handle(session, message, make_check)

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
        self, session: Session, message: messages.ClientMessage, make_check: Callable[[], AuthorizationCheck]
    ) -> Coroutine[Any, Any, None] | None:
        """
        Do what a client asks.

        Args:
            session: Whose stream it is.
            message: Decoded and checked.
            make_check: Makes the check of the right to watch, on the request that carried the message.

        Returns:
            For a subscription the coroutine that decides it, which the caller must run; None when there is nothing to
            wait for.
        """
        if isinstance(message, messages.RouteUpdate):  # nearly always, and a `match` costs a quarter of a navigation
            self.navigate(session, message.route)
            return None
        match message:
            case messages.SubscribeStats(deltas=deltas):
                return self.viewers.subscribe(session, PendingSubscription(make_check(), deltas))
            case messages.UnsubscribeStats():
                self.viewers.unsubscribe(session)
            case messages.Tabs():
                self.tabs.check(session, message)
                call_in_loop(session.loop, self.tabs.report, session, message)
            case messages.Ping():
                session.post(_PONG)
            case messages.Unknown():
                self.counters["unknown_messages"] += 1
        return None

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
        self._forget_closed_loops()
        with self._lock:
            self.membership.view.touch(rows=rows, linger=linger)
            return self.viewers.stats()

    async def refresh(self, *, rows: bool = True) -> None:
        """Bring in the figures that all nodes have now, with connections if `rows`; they get a second to answer."""
        await self.membership.view.refresh(rows=rows)

    async def fresh_stats(self, *, rows: bool = True) -> Stats:
        """Return the figures as all nodes have them now; see `stats`."""
        await self.refresh(rows=rows)
        return self.stats(rows=rows)

    def local_stats(self) -> Stats:
        """Return the figures of this node alone."""
        with self._lock:
            return self._registry.snapshot()

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
        self._forget_closed_loops()
        return self._listing.page(version=version, route=route, limit=limit, after=after)

    async def sorted_page_here(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> paging.SortedRows:
        """Return the first connections of this node after a position in an order."""
        self._forget_closed_loops()
        return await self._listing.sorted_page(order, version=version, route=route, limit=limit, after=after)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` in the running loop after every flush. Returns a function that ends it."""
        return self.viewers.watch(callback)

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
        return self.releases.current

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
            if not self.releases.declare(version, number):
                return 0
            self._registry.reserve_version(version)
            self.membership.view.reserve_version(version)
            sessions = list(self.sessions.values())
        payload = self._version_message()
        for session in sessions:
            # Tabs that share a stream all hear what is said on it.
            if self.tabs.stream_of(session.id) == session.id:
                call_in_loop(session.loop, session.post, payload)
        self.viewers.notify_watchers()
        self.counters["releases"] += 1
        return len(sessions)

    async def release(self, version: str) -> int:
        """
        Declare a version current on all nodes.

        Returns:
            The number of streams that were told; 0 if the version was current already.
        """
        here = self.release_here(version)
        assert self.releases.released is not None
        return here + await self.membership.remote.release(self.releases.released)

    def _version_message(self) -> Payload:
        return Payload(messages.version(self.releases.current, self.timestamp()))

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
        session = self.sessions.get(public)
        return session is not None and self.viewers.revoke(session)

    async def answer(self, check: AuthorizationCheck) -> Grant | None:
        """Check a right; see `Viewers.authorize`."""
        return await self.viewers.authorize(check)

    def caught_up(self, session: Session) -> None:
        """Note that all messages of a session are sent."""
        self.viewers.caught_up(session)

    def stalled(self, session: Session) -> None:
        """Note that a session is busy."""
        self.timers.stalled(session)

    def writable_again(self, session: Session) -> None:
        """Note that a session's message went out after all."""
        self.timers.writable_again(session)

    def is_shared(self, connection_id: str) -> bool:
        """Say whether an id is that of a stream that tabs share."""
        return connection_id in self.tabs

    def on_tick(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Do what is due regularly, in the running `loop`: check rights, keep a sample, clean up."""
        self.viewers.recheck(loop, now)
        if self.history.is_due(now):
            self._keep_sample(now)
        self._forget_closed_loops()

    def hide(self, session: Session, hidden: bool) -> None:
        """Note that a page went to the background or came back."""
        with self._lock:
            if session.id in self._registry and self._registry.hide(session.id, hidden):
                self.viewers.changed()

    def navigate(self, session: Session, route: str) -> None:
        """Move a page to another route."""
        with self._lock:
            try:
                before = self._registry.navigate(session.id, route)
            except UnknownConnection:
                return  # a viewer, or tracking is off
            if before is None:
                return
            self.viewers.changed()
            info = self._registry.info(session.id) if self.hooks.route else None
        if info is not None:
            # A POST may come in by another loop; one connection's hooks run in one, or they could not wait in line.
            call_in_loop(session.loop, self.hooks.run, self.hooks.route, HookConnection(info, self.deliver), before)

    def _keep_sample(self, now: float) -> None:
        with self._lock:
            self.membership.view.listen_if_cheap()
            if not self.membership.view.knows_the_fleet:
                return
            stats = self.viewers.stats()
        self.history.add(now, self.timestamp(), stats.total, stats.versions)

    def _forget_closed_loops(self) -> None:
        """Close what a loop left behind that was stopped in the middle, as test suites do. O(loops and watchers)."""
        with self._lock:
            closed = self.timers.forget_closed_loops()
            left = [session for session in self.sessions.values() if session.loop in closed] if closed else []
            self.viewers.forget_closed_loops()
        for session in left:
            self.close(session, LOOP_CLOSED)

    def _matches(self, session: Session, version: str | None, route: str | None) -> bool:
        if not session.counted:
            return False
        if version is None and route is None:
            return True
        if session.id not in self._registry:
            return False
        return matches(self._registry.info(session.id), version, route)
