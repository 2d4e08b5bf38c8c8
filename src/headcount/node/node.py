"""
A node: one process's connections. The one imperative shell round the core, and the one door for what clients ask.

It owns the lock, the sessions and their identities. Other state has its own class: `Admission` (listening sockets),
`Viewers` (subscriptions, pushes), `FigureReader` (history), `Tabs` (shared streams), `Timers`, `Releases`, `Membership`
(other nodes).

`handle()` is the one door for what a client asks, whichever way it came. `send`, `broadcast`, `revoke`, `release` and
`page` are for the application and its operators, and reach all nodes. Their halves for this node end in `_here` or
begin with `deliver`: the commands of other nodes use those.

Pages of one application may live in several event loops (tests with several clients do, threads may). The figures are
shared under a lock; what belongs to a loop (timers, sending) stays in it. Nothing here outlives its last connection: no
task and no timer is left behind when the streams are gone.

Tests: tests/asgi/test_streams.py, tests/asgi/test_isolation.py, tests/fleet/backends/test_two_sites.py.
"""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..config import Config
from ..core import identity, messages, paging
from ..core.ends import LOOP_CLOSED, REPLACED
from ..core.labels import UNKNOWN
from ..core.payload import Payload
from ..core.registry import Registry, matches
from ..errors import UNKNOWN_HANDLE, UnknownConnection
from ..fleet.calls import CommandHandler
from ..fleet.local_node import FigureSource
from ..fleet.membership import Membership
from ..fleet.view import FleetView
from ..loops import call_in_loop
from .admission import Admission
from .figures import FigureReader
from .hook_connection import HookConnection
from .hooks import Hooks
from .listening_sockets import Listener
from .listing import Listing
from .releases import Releases, timestamp
from .session import Session
from .shared_streams import Tabs
from .timers import Duties, Timers
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
        self.check_from_description: Callable[[Mapping[str, Any]], AuthorizationCheck | None] = (
            (lambda _: None) if make_check is None else make_check
        )
        """Makes a check for a request that came in at another node; None: it cannot be made here."""
        self.started = clock()
        self.counters: Counter[str] = Counter()
        """Events by name since the start, for tests and metrics."""
        self.admission = Admission(config, lambda: len(self.sessions) - len(self.tabs))
        self.sessions: dict[str, Session] = {}
        """Open streams by public id."""
        self.releases = Releases(config.version, self.release_here)
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
        self.timers = Timers(
            config, self._now, Duties(self.tabs.__contains__, self.admission.going_away, self._on_tick)
        )
        self.viewers = Viewers(
            config,
            self._now,
            self._lock,
            self.counters,
            self._registry,
            fleet=self.membership,
            shared_streams=self.tabs,
        )
        self.figures = FigureReader(self, self._registry, self._lock, self.viewers, self._forget_closed_loops)
        self.listing = Listing(self._registry, self._lock, self._forget_closed_loops)

    def _now(self) -> float:
        return self.clock()  # asked each time, because a test may give the node another clock

    def _reset_identity(self) -> None:
        self._process = os.getpid()
        self.id = os.urandom(identity.NODE_BYTES).hex()
        self._key = os.urandom(32)
        self.membership: Membership = Membership(self, self._make_view)

    def join(self, server: Any) -> None:
        """
        Find the other nodes. To be called with each request, in its loop, before anything else.

        Args:
            server: The ASGI scope's value.

        O(1) but for the first request of a listening socket.
        """
        if self._process != os.getpid():
            # It was made before a fork: its parent and its siblings have the same id.
            self._reset_identity()
            self.viewers.join(self.membership)
            self.viewers.use(self._registry)
        self.membership.join(server)

    def expect_workers(self) -> None:
        """Note that this process is one of several workers. Called where workers are started."""
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

    def use(self, figures: FigureSource | None) -> None:
        """Take the figures from another source from now on; None: from this node's connections."""
        self.viewers.use(self._registry if figures is None else figures)

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

    def open(
        self, session: Session, version: str, route: str, ip: str | None, listener: Listener | None = None
    ) -> None:
        """
        Add a new stream: count it, unless it is a viewer's.

        Args:
            session: The stream.
            version: From `parse_version`.
            route: From `parse_route`.
            ip: As far as it may be kept.
            listener: The socket that it came in by: when that is closed, the stream is drained. None: not known.
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
            # The page was loaded before the release, or from a server that still serves the old code.
            session.post(self._version_message())
        self.counters["opened"] += 1
        if info is not None and self.hooks.open:
            self.hooks.run(self.hooks.open, HookConnection(info, self.deliver))

    def close(self, session: Session, reason: str) -> None:
        """Remove a stream. Idempotent. In the stream's loop, unless that is closed: timers and hooks belong to it."""
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

        Returns:
            As `handle()`. For a connection of another node, a coroutine that may raise `Malformed`,
            `UnknownConnection` or `Busy`.
        """
        try:
            session = self.find(handle)
        except UnknownConnection:
            return self.membership.remote.forward(handle, message, make_check)
        return self.handle(session, message, make_check)

    def replace(self, handle: str) -> None:
        """
        End the stream that a new one replaces, here or on another node, so that its page is not counted twice.

        A client that lost its connection reconnects sooner than the network notices the loss. A handle that names no
        stream is ignored: mostly that stream has ended already.
        """
        if not self.replace_here(handle):
            self.membership.remote.replace(handle)

    def replace_here(self, handle: str) -> bool:
        """End a stream of this node that a new one replaces. Returns whether there was one."""
        try:
            session = self.find(handle)
        except UnknownConnection:
            return False
        if not call_in_loop(session.loop, self._end_replaced, session):
            self.close(session, LOOP_CLOSED)
        return True

    def _end_replaced(self, session: Session) -> None:
        self.close(session, REPLACED.cause)  # at once: some streams leave the figures only when their task has ended
        session.end(REPLACED)

    def handle(
        self, session: Session, message: messages.ClientMessage, make_check: Callable[[], AuthorizationCheck]
    ) -> Coroutine[Any, Any, None] | None:
        """
        Do what a client asks.

        Args:
            session: The client's stream.
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

    def release_here(self, version: str, number: int = 0) -> int:
        """
        Declare a version current, and tell every stream of this node, viewers' too. See `Releases.declare`.

        Returns:
            The number of streams that were told; 0 for the current version and for a declaration older than the last.
        """
        with self._lock:
            if not self.releases.declare(version, number):
                return 0
            self._registry.reserve_version(version)
            self.membership.view.reserve_version(version)
            # Tabs that share a stream all hear what is said on it.
            streams = [session for session in self.sessions.values() if self.tabs.stream_of(session.id) == session.id]
        payload = self._version_message()
        for stream in streams:
            call_in_loop(stream.loop, stream.post, payload)
        self.viewers.notify_watchers()
        self.counters["releases"] += 1
        return len(streams)

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
        return Payload(messages.version(self.releases.current, timestamp()))

    def drain(self) -> None:
        """Tell every client to reconnect elsewhere, spread over time, and end its stream. New streams are refused."""
        self.admission.draining = True
        if not self.sessions:
            self.membership.leave_if_ending()
        for session in list(self.sessions.values()):
            call_in_loop(session.loop, session.end, self.admission.going_away())

    async def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or secret handle, whichever node it is on.

        Returns:
            False if it had none and no subscription was pending.

        Raises:
            Busy: The node that it is on did not answer, or too many requests wait for other nodes.
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

    async def authorize(self, check: AuthorizationCheck) -> Grant | None:
        """Check a right. Whatever goes wrong denies it."""
        return await self.viewers.authorize(check)

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
            # A POST may come in by another loop; the hooks of one connection run in one loop, in their order.
            call_in_loop(session.loop, self.hooks.run, self.hooks.route, HookConnection(info, self.deliver), before)

    def _on_tick(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self.viewers.recheck(loop, now)
        self.figures.keep_sample(now, timestamp)
        self._forget_closed_loops()

    def _forget_closed_loops(self) -> None:
        """Close the sessions of closed loops, which a test suite leaves behind. O(loops and watchers)."""
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
