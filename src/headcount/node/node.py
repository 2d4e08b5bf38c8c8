"""
A node: one process's connections. The one imperative shell round the core, and the one door for what clients ask.

It owns the lock, the sessions and their identities. Other state has its own class: `Admission` (listening sockets),
`Viewers` (subscriptions, pushes), `FigureReader` (history), `SharedStreams` (tabs), `Timers`, `Releases`, `Membership`
(other nodes).

`on_message()` is the one door for what a client asks, whichever way it came. `send`, `broadcast`, `revoke`, `release`
and `page` are for the application and its operators, and reach all nodes. Their halves for this node end in `_here` or
begin with `deliver`: the commands of other nodes use those.

Pages of one application may live in several event loops (tests with several clients do, threads may). The figures are
shared under a lock; what belongs to a loop (timers, sending) stays in it. Nothing here outlives its last connection: no
task and no timer is left behind when the streams are gone.

Tests: tests/asgi/test_streams.py, tests/asgi/test_isolation.py, tests/fleet/backends/test_two_sites.py.
"""

import asyncio
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

from ..authorization.authorizer import AuthorizationCheck, Grant
from ..config import Config
from ..core import identity, messages, paging
from ..core.cut_reports import CutReports
from ..core.departures import Departures
from ..core.ends import GOING_AWAY, LOOP_CLOSED, REPLACED, UNANSWERED, End
from ..core.labels import UNKNOWN
from ..core.payload import Payload
from ..core.registry import Registry, matches
from ..core.stats import Absence, NodeShare, Stats
from ..core.tallies import TRANSIT_SLACK
from ..errors import UNKNOWN_HANDLE, UnknownConnection
from ..fleet.calls import CommandHandler
from ..fleet.local_node import FigureSource
from ..fleet.membership import Membership
from ..fleet.view import FleetView
from ..loops import call_in_loop, catch_up_with
from .admission import Admission
from .figures import FigureReader
from .hook_connection import HookConnection
from .hooks import Hooks
from .listening_sockets import Listener
from .listing import Listing
from .releases import ReleaseOutcome, Releases, timestamp
from .session import Session
from .shared_streams import SharedStreams, TabSession
from .timers import Duties, Timers
from .viewers import PendingSubscription, Viewers

logger = logging.getLogger("headcount")

REVOKE_TIMEOUT: Final = 2.0
"""Seconds in which the loop of a stream must have sent what was chosen before its viewer's right was withdrawn."""

DRAIN_PATIENCE: Final = 1.0
"""Seconds for which the end of a process waits for its streams to end."""

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
        self._cut_reports = CutReports()
        self.counters: Counter[str] = Counter()
        """Events by name since the start, for tests and metrics."""
        self.admission = Admission(config, lambda: len(self.sessions) - len(self.shared_streams))
        self.sessions: dict[str, Session] = {}
        """Open streams by public id."""
        self.releases = Releases(config.version, self.release_here)
        self.departures = Departures(config.reconnect_spread + TRANSIT_SLACK, config.unaccounted_grace)
        """Pages whose streams this node ended, and that may come back."""
        self._lock = threading.RLock()
        self._registry = Registry(
            route_tracking=config.route_tracking,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            reserved_versions=(config.version, UNKNOWN),
            serves=config.version,
        )
        self._reset_identity()
        self._process = os.getpid()
        self.shared_streams = SharedStreams(self, config.viewer_timeout, self._now)
        duties = Duties(
            self.shared_streams.__contains__,
            self.admission.going_away,
            self._on_tick,
            self._leave_before_drain,
            self._drain_and_leave,
        )
        self.timers = Timers(config, self._now, duties)
        self.viewers = Viewers(
            config,
            self._now,
            self._lock,
            self.counters,
            self._registry,
            membership=self.membership,
            shared_streams=self.shared_streams,
        )
        self.figures = FigureReader(self, self._registry, self._lock, self.viewers, self._forget_closed_loops)
        self.listing = Listing(self._registry, self._lock, self._forget_closed_loops)

    @property
    def is_idle(self) -> bool:
        """No stream is open. Tabs of a stream that has just ended may still be counted."""
        return len(self.sessions) == len(self.shared_streams)

    @property
    def draining(self) -> bool:
        """The application drains all streams."""
        return self.admission.draining

    @property
    def subscribers(self) -> int:
        """Viewers that receive figures from this node."""
        return len(self.viewers.subscriptions)

    @property
    def hook_errors(self) -> int:
        """Failures of the application's hooks."""
        return self.hooks.errors

    @property
    def report_age(self) -> float:
        """Seconds since the most silent node reported; 0.0 for a node without a fleet."""
        return self.figures.report_age

    def stats(self, *, rows: bool = True, linger: float | None = None) -> Stats:
        """Return the fleet's figures as they are known here. See `FigureReader.stats`."""
        return self.figures.stats(rows=rows, linger=linger)

    async def fresh_stats(self, *, rows: bool = True) -> Stats:
        """Return the figures as all nodes have them now; they get a second to answer. See `FigureReader.stats`."""
        return await self.figures.fresh_stats(rows=rows)

    def local_stats(self) -> Stats:
        """Return the figures of this node alone."""
        return self.figures.local_stats()

    async def shares(self) -> list[NodeShare]:
        """Return what each node of the fleet has now, this one first; they get a second to answer."""
        return await self.figures.shares()

    async def history(self) -> dict[str, Any]:
        """Return the history of the fleet, or of this node if it is alone, in the wire's shape."""
        return await self.figures.whole_history()

    def observe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` in the running loop after every change of the figures. Returns a function that ends it."""
        return self.viewers.observe(callback)

    def find_listener(self, server: Any) -> Listener | None:
        """Return the listening socket behind an ASGI scope's `server` value, if it can be found."""
        return self.admission.find_listener(server)

    def addresses(self, server: Any) -> list[str]:
        """Return the addresses of the listening sockets behind an ASGI scope's `server` value."""
        return self.admission.addresses(server)

    def refusal(self, listener: Listener | None) -> End | None:
        """Say why a stream that came in by a listening socket cannot be opened now; None: it is admitted."""
        return self.admission.refusal(listener)

    def is_stopping(self) -> bool:
        """Say whether streams end because a server of this process stops. O(listening sockets)."""
        return self.admission.is_stopping()

    def going_away(self) -> End:
        """Make the end of one stream of a server that stops; each gets another delay."""
        return self.admission.going_away()

    def reconnect_delay(self) -> int:
        """Draw the delay after which one client should reconnect, in ms."""
        return self.admission.reconnect_delay()

    def mark_busy(self, session: Session) -> None:
        """Note that a session is busy, perhaps before it was opened; it is dropped after `send_timeout`."""
        self.timers.mark_busy(session)

    def mark_writable(self, session: Session) -> None:
        """Note that a session's message went out after all."""
        self.timers.mark_writable(session)

    def caught_up(self, session: Session) -> None:
        """Note that all messages of a session are sent: a viewer that fell behind gets the newest snapshot."""
        self.viewers.caught_up(session)

    def unready_reason(self, listener: Listener | None) -> str | None:
        """
        Say why this node should get no traffic yet, or no more; None: it is ready.

        Not because Redis is away: then all servers of a fleet would be taken out of traffic at once.
        """
        if self.admission.refusal(listener) is GOING_AWAY:
            return "This server is draining, and its clients reconnect elsewhere; send requests to another one."
        if not self.membership.view.was_connected:
            return "This server has not reached its backend yet, so its figures are partial; ask again in a moment."
        return None

    def _now(self) -> float:
        return self.clock()  # asked each time, because a test may give the node another clock

    def _reset_identity(self) -> None:
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
            with self._lock:
                if self._process != os.getpid():
                    self._reset_identity()
                    self.viewers.use_membership(self.membership)
                    self.viewers.use_figures(self._registry)
                    self._process = os.getpid()
        self.membership.join(server)

    def expect_workers(self) -> None:
        """Note that this process is one of several workers. Called where workers are started."""
        self.membership.among_workers = True

    async def _leave_before_drain(self) -> None:
        """Leave the fleet while streams still hold the process, if it is about to end."""
        self.membership.leave_if_ending()
        await self.membership.view.wait_left()

    def _drain_and_leave(self) -> Coroutine[Any, Any, None]:
        """Drain at once, before the server cancels streams. Returns what waits until this node has left the fleet."""
        self.drain()
        return self._wait_drained()

    async def _wait_drained(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_PATIENCE):
                while self.sessions:  # noqa: ASYNC110  once in the life of a process
                    await asyncio.sleep(0.01)
        await self.wait_left()

    async def wait_left(self) -> None:
        """Wait until the leave message is out, if this node is leaving the fleet. From any loop."""
        await self.membership.view.wait_left()

    async def leave(self) -> None:
        """Leave the fleet: the other nodes drop this node's figures at once."""
        await self.membership.leave()

    def _make_view(self, run_command: CommandHandler) -> FleetView:
        view = FleetView(
            self.id,
            self.config,
            self._registry,
            self._lock,
            self.clock,
            releases=self.releases,
            changed=self.viewers.changed,
            shows_rows=self.viewers.shows_rows,
            run_command=run_command,
            departures=self.departures,
            return_key=identity.return_key(self._key),
            tab_versions=self._tab_versions,
        )
        with self._lock:
            if self.releases.released is not None:
                view.declare(self.releases.released.version)
        return view

    def _tab_versions(self) -> dict[str, str]:
        return self.shared_streams.tab_versions()

    def use_figures(self, figures: FigureSource | None) -> None:
        """Take the figures from another source from now on; None: from this node's connections."""
        self.viewers.use_figures(self._registry if figures is None else figures)

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
        self.timers.heard(session)  # only the client knows the handle
        return session

    def _on_cut_report(self, stream_id: str, seconds: float) -> None:
        """Note that something ends a client's streams after so many seconds, as it says when it replaces one."""
        with self._lock:
            limit = self._cut_reports.replaced(stream_id, self.clock(), seconds)
        if limit is not None:
            logger.warning(
                "streams: something between browsers and this server ends streams after %.3g s. Raise its limit; see "
                "docs/deployment.md, 'A proxy that ends streams'.",
                limit,
            )

    @property
    def cut_after(self) -> float | None:
        """Seconds after which something between clients and this server ends streams; None: not known."""
        with self._lock:
            return self._cut_reports.limit(self.clock())

    def open(
        self,
        session: Session,
        version: str,
        route: str,
        ip: str | None,
        listener: Listener | None = None,
        *,
        reports_cut: bool = False,
    ) -> None:
        """
        Add a new stream: count it, unless it is a viewer's.

        Args:
            session: The stream.
            version: From `parse_version`.
            route: From `parse_route`.
            ip: As far as it may be kept.
            listener: The socket that it came in by: when that is closed, the stream is drained. None: not known.
            reports_cut: Its client reported a limit that ends its streams.
        """
        if self.viewers.observers or not self.timers.is_only(session.loop):
            self._forget_closed_loops()
        with self._lock:
            self.sessions[session.id] = session
            self.timers.add(session, listener)
            if reports_cut:
                self._cut_reports.opened(session.id, self.clock())
            info = None
            if not session.counted:
                session.deadline = self.clock() + self.config.viewer_timeout
            elif self.config.connection_tracking:
                info = self._registry.open(session.id, version, route, ip)
                self.viewers.changed()
            released = self.releases.released
        if released is not None and released.version != version and session.id not in self.shared_streams:
            # The page was loaded before the release, or from a server that still serves the old code.
            session.send(self._version_message())
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
            if not isinstance(session, TabSession):
                self._cut_reports.ended(session.id, self.clock())
            info = None
            if session.id in self._registry:
                info = self._registry.close(session.id)
                stream = session.session.id if isinstance(session, TabSession) else session.id
                if reason == GOING_AWAY.cause or (reason != REPLACED.cause and self.admission.is_stopping()):
                    self.departures.add(info.version, self.clock(), stream)
                    self.membership.view.publish_departures_soon()
                elif reason in UNANSWERED:
                    self.departures.add(info.version, self.clock(), stream, unanswered=True)
                    self.membership.view.gave_up()
                    self.refresh_absences()
                self.viewers.changed()
        self.shared_streams.on_closed(session, reason)
        if self.is_idle:
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
            As `on_message()`. For a connection of another node, a coroutine that may raise `Malformed`,
            `UnknownConnection` or `Busy`.
        """
        try:
            session = self.find(handle)
        except UnknownConnection:
            if isinstance(message, messages.Tabs) and self.remove_held_tabs(handle, message):
                return None
            return self.membership.remote.forward(handle, message, make_check)
        return self.on_message(session, message, make_check)

    def remove_held_tabs(self, handle: str, report: messages.Tabs) -> bool:
        """Do what the last report of a shared stream says after its end. Returns False if it left no tabs here."""
        return self.shared_streams.remove_held(identity.id_of(handle, self._key), report.remove)

    def replace(self, handle: str, version: str | None, cut_after: float = 0.0) -> None:
        """
        End the stream that a new one replaces, here or on another node, so that its page is not counted twice.

        Args:
            handle: Secret handle of the old stream.
            version: Of the page; None: the new stream is not counted.
            cut_after: Seconds after which something ends the client's streams, as it reports; 0: no report.

        A client that lost its connection reconnects sooner than the network notices the loss. A handle that names no
        stream is ignored: mostly that stream has ended already.
        """
        if not self.replace_here(handle, cut_after):
            self.membership.remote.replace(handle, cut_after)
            if version is not None:
                self.page_returned(handle, version)

    def page_returned(self, handle: str, version: str) -> None:
        """Note a page whose stream before, as its secret handle says, was on a node that may be gone."""
        if len(handle) <= identity.MAX_HANDLE:
            self.membership.view.page_returned(handle, version)

    def replace_here(self, handle: str, cut_after: float = 0.0) -> bool:
        """
        End a stream of this node that a new one replaces, or drop the tabs that it left behind.

        Args:
            handle: Secret handle of the old stream.
            cut_after: See `replace`.

        Returns:
            False if there was none.
        """
        stream_id = identity.id_of(handle, self._key)
        if cut_after and stream_id is not None:
            self._on_cut_report(stream_id, cut_after)
        ended = self._end_here(stream_id)
        if stream_id is not None:
            self.shared_streams.drop_held(stream_id)
            self._page_is_back(stream_id)
        return ended

    def _page_is_back(self, stream_id: str) -> None:
        """Note that the page of a stream which this node ended has come back to it."""
        with self._lock:
            if self.departures.discard(stream_id):
                self.refresh_absences()

    def refresh_absences(self) -> None:
        """Let the registry say what is unaccounted for here, in case there is no fleet that does. The lock is held."""
        counts, known = self.departures.unanswered(self.clock()), self._registry.absence
        absence = None
        if counts:
            since = timestamp() if known is None else known.since
            absence = Absence(self.id, sum(counts.values()), counts, "unanswered", since)
        if absence != known and self._registry.set_absence(absence):
            self.viewers.changed()

    def add_shared_stream(
        self, session: Session, version: str, ip: str | None, replaces: str, cut_after: float = 0.0
    ) -> None:
        """
        Add a stream that tabs share, with the tabs of the stream that it replaces.

        Args:
            session: The stream. It must be opened at once.
            version: Of tabs that do not say theirs.
            ip: Of its tabs.
            replaces: Secret handle of the browser's stream before; "" for none.
            cut_after: See `replace`.
        """
        replaced = identity.id_of(replaces, self._key)
        if cut_after and replaced is not None:
            self._on_cut_report(replaced, cut_after)
        if replaces and not self._end_here(replaced):
            self.membership.remote.replace(replaces, cut_after)
        if replaced is not None:
            self._page_is_back(replaced)
        self.shared_streams.add(session, version, ip, replaced, replaces if replaced is None else "")

    def _end_here(self, stream_id: str | None) -> bool:
        session = None if stream_id is None else self.sessions.get(stream_id)
        if session is None:
            return False
        if not call_in_loop(session.loop, self._end_replaced, session):
            self.close(session, LOOP_CLOSED)
        return True

    def _end_replaced(self, session: Session) -> None:
        self.close(session, REPLACED.cause)  # at once: some streams leave the figures only when their task has ended
        session.end(REPLACED)

    def on_message(
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
                self.shared_streams.check_report(session, message)
                call_in_loop(session.loop, self.shared_streams.apply_report, session, message)
            case messages.Ping():
                session.send(_PONG)
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

    def page_here(self, *, version: str | None, route: str | None, limit: int, after: int) -> paging.LocalPage:
        """Return a page of this node's connections, oldest first. See `Listing.page`."""
        return self.listing.page(version=version, route=route, limit=limit, after=after)

    async def sorted_page_here(
        self,
        order: paging.Order,
        *,
        version: str | None,
        route: str | None,
        limit: int,
        after: paging.Position | None,
    ) -> paging.SortedRows:
        """Return this node's first connections after a position in an order. See `Listing.sorted_page`."""
        return await self.listing.sorted_page(order, version=version, route=route, limit=limit, after=after)

    async def send(self, connection_id: str, message: Mapping[str, Any]) -> None:
        """
        Send one connection a JSON object, by public id or secret handle, whichever node it is on.

        Raises:
            UnknownConnection: It is not open on any node.
            Busy: It is not known whether it is: the node that has it did not answer, or cannot be looked for. Or too
                many messages wait for other nodes.
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
        call_in_loop(session.loop, session.send, payload)

    async def broadcast(
        self, message: Mapping[str, Any], *, version: str | None = None, route: str | None = None
    ) -> int:
        """
        Send a JSON object to all counted connections of all nodes, or only to those of one version or route.

        Returns:
            The number of connections that it was handed to, on the nodes that answered in time.

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
            call_in_loop(session.loop, session.send, payload)
        return len(chosen)

    async def forget(self, gone: str) -> bool:
        """
        End the doubt about a node that is gone, on all nodes.

        Returns:
            Whether anything of it was unaccounted for.

        Raises:
            Busy: The backend did not answer.
        """
        return await self.membership.view.forget(gone)

    def release_here(self, version: str, number: int = 0) -> int:
        """
        Declare a version current, and tell every stream of this node, viewers' too. See `Releases.declare`.

        Returns:
            The number of streams that were told; 0 for the current version and for a declaration older than the last.
        """
        with self._lock:
            if not self.releases.declare(version, number):
                return 0
            self._registry.declare(version)
            self.membership.view.declare(version)
            self.viewers.changed()
            # Tabs that share a stream all hear what is said on it.
            streams = [
                session for session in self.sessions.values() if self.shared_streams.stream_of(session.id) == session.id
            ]
        payload = self._version_message()
        for stream in streams:
            call_in_loop(stream.loop, stream.send, payload)
        self.viewers.notify_observers()
        self.counters["releases"] += 1
        return len(streams)

    async def release(self, version: str) -> ReleaseOutcome:
        """Declare a version current on all nodes."""
        before = self.releases.released
        here = self.release_here(version)
        assert self.releases.released is not None
        found = await self.membership.remote.release(self.releases.released)
        reached = 1 + len(found.answers)
        # Without the backend, the nodes that it knew are all that is known of the fleet.
        others = self.figures.stats(rows=False).nodes.expected - 1 if found.asked is None else found.asked
        streams = here + sum(answer.count for answer in found.answers)
        return ReleaseOutcome(
            streams=streams,
            reached=reached,
            expected=max(reached, 1 + others),
            partial=found.asked is None or reached <= found.asked,
            already_current=not streams and before is not None and before.version == version,
        )

    @property
    def current_version(self) -> str | None:
        """
        The version that was declared current, else the one that all nodes of the fleet serve; None: it is not known.

        While no viewer watches here, what the other nodes serve is known as of the last few seconds.
        """
        view = self.membership.view
        if self.releases.released is not None or not view.active:
            return self.releases.current
        with self._lock:
            return view.current_version

    def _version_message(self) -> Payload:
        return Payload(messages.version(self.releases.current, timestamp()))

    def drain(self) -> None:
        """Tell every client to reconnect elsewhere, spread over time, and end its stream. New streams are refused."""
        self.admission.draining = True
        self.shared_streams.drop_held()
        if self.is_idle:
            self.membership.leave_if_ending()
        for session in list(self.sessions.values()):
            call_in_loop(session.loop, session.end, self.admission.going_away())

    async def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or secret handle, whichever node it is on.

        Returns:
            False if it had none and no subscription was pending.

        Raises:
            Busy: The node that it is on did not answer, or cannot be looked for; or too many requests wait for other
                nodes.
        """
        return await self.revoke_here(connection_id) or await self.membership.remote.revoke(connection_id)

    async def revoke_here(self, connection_id: str) -> bool:
        """
        Withdraw the right of a viewer of this node, by public id or secret handle. No figure follows its return.

        Returns:
            False if it had none and no subscription was pending.
        """
        public = self.shared_streams.stream_of(identity.id_of(connection_id, self._key) or connection_id)
        session = self.sessions.get(public)
        if session is None or not self.viewers.revoke(session):
            return False
        # In another thread, the stream's loop may just be sending what was chosen before.
        await catch_up_with(session.loop, REVOKE_TIMEOUT)
        return True

    async def authorize(self, check: AuthorizationCheck) -> Grant | None:
        """Check a right. Whatever goes wrong denies it."""
        return await self.viewers.authorize(check)

    def set_hidden(self, session: Session, hidden: bool) -> None:
        """Note that a page went to the background or came back."""
        with self._lock:
            if session.id in self._registry and self._registry.set_hidden(session.id, hidden):
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
        self.shared_streams.expire(loop, now)
        self.figures.keep_sample(now, timestamp)
        with self._lock:
            self.refresh_absences()
        self._forget_closed_loops()

    def _forget_closed_loops(self) -> None:
        """Close the sessions of closed loops, which a test suite leaves behind. O(loops and observers)."""
        with self._lock:
            closed = self.timers.forget_closed_loops()
            left = [session for session in self.sessions.values() if session.loop in closed] if closed else []
            self.viewers.forget_closed_loops()
        for session in left:
            self.close(session, LOOP_CLOSED)
        self.shared_streams.forget_closed_loops()

    def _matches(self, session: Session, version: str | None, route: str | None) -> bool:
        if not session.counted:
            return False
        if version is None and route is None:
            return True
        if session.id not in self._registry:
            return False
        return matches(self._registry.info(session.id), version, route)
