"""
A node: one process's connections. The one imperative shell round the core; every request of a client goes through it.

It owns the lock, the sessions and their identities: streams are opened and closed here, and the node joins its fleet,
drains and leaves. Other state has its own class: `Admission` (listening sockets), `Viewers` (subscriptions, pushes),
`FigureReader` (history), `SharedStreams` (tabs), `Timers`, `Releases`, `Membership` (other nodes), `DepartedPages`
(pages whose streams ended, and that may come back).

`on_message()` does what a client asks, whichever way the message came. `Replacements` ends the streams that new
ones replace. `FleetCommands` does what the application and its operators ask of all nodes.

Pages of one application may live in several event loops (tests with several clients do, threads may). The figures are
shared under a lock; what belongs to a loop (timers, sending) stays in it. Nothing here outlives its last connection: no
task and no timer is left behind when the streams are gone.

Tests: tests/asgi/test_streams.py, tests/asgi/test_isolation.py, tests/fleet/backends/test_two_sites.py.
"""

import asyncio
import os
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, assert_never

from ..authorization.authorizer import AuthorizationCheck
from ..authorization.tokens import Tickets
from ..config import FLEET, Config
from ..core import identity, messages
from ..core.cut_reports import CutReports
from ..core.ends import CLIENT, FOR_GOOD, GOING_AWAY, LEFT, LOOP_CLOSED, UNANSWERED
from ..core.fleet_messages import Declaration
from ..core.known_versions import KnownVersions
from ..core.message_rate import MessageRate
from ..core.payload import Payload
from ..core.registry import Registry
from ..errors import UNKNOWN_HANDLE, Busy, TooManyMessages, UnknownConnection
from ..fleet.backends.history_folder import HistoryFolder
from ..fleet.border import Border
from ..fleet.command_handlers import CommandHandlers
from ..fleet.local_node import FigureSource
from ..fleet.membership import Membership
from ..fleet.view import FleetView
from ..loops import call_in_loop
from .admission import Admission
from .check_runner import CheckRunner
from .departed_pages import DepartedPages
from .figures import FigureReader
from .fleet_commands import FleetCommands
from .hook_connection import HookConnection
from .hooks import Hooks
from .listening_sockets import Listener
from .listing import Listing
from .log_outs import LogOuts
from .notices import Notices
from .release_file import ReleaseFile
from .releases import Releases
from .replacements import Replacements
from .rollout import Rollout
from .session import Session
from .shared_streams import SharedStreams, TabSession
from .timers import TimerCallbacks, Timers
from .viewers import PendingSubscription, Viewers

DRAIN_PATIENCE: Final = 1.0
"""Seconds for which the end of a process waits for its streams to end."""

_PONG = Payload(messages.PONG)


class Node:
    """
    One process's connections and viewers.

    Args:
        config: Checked settings.
        hooks: The application's hooks.
        check_from_description: Makes a check of what another process's `AuthorizationCheck` described; None: it cannot.
        tickets: Of the dashboard's log-ins.
        clock: Monotonic seconds.
        ordinal: Its number among this process's nodes of one base path. Workers' nodes of one ordinal form a fleet.
    """

    def __init__(
        self,
        config: Config,
        hooks: Hooks,
        check_from_description: Callable[[Mapping[str, Any]], AuthorizationCheck | None],
        tickets: Tickets,
        clock: Callable[[], float] = time.monotonic,
        ordinal: int = 0,
    ) -> None:
        self.config = config
        self.hooks = hooks
        self.clock = clock
        self.ordinal = ordinal
        self._check_from_description = check_from_description
        self.started = clock()
        self._cut_reports = CutReports()
        self._rate = MessageRate(config.max_messages_per_second)
        self.counters: defaultdict[str, int] = defaultdict(int)
        """Events by name since the start, from any thread. A `Counter` adds names in Python code, and loses events."""
        self.on_leave: Callable[[], Awaitable[None]] | None = None
        """Closes what the authorization keeps open, when this node leaves."""
        self.count_incomplete_requests: Callable[[], int] | None = None
        """Returns how many connections have not sent a whole request; None: only the server knows."""
        self.sessions: dict[str, Session] = {}
        """Open streams, and the tabs of shared ones, by public id."""
        self._lock = lock = threading.RLock()
        self._known = KnownVersions({config.version} | set(config.known_versions) - {FLEET})
        self._registry = registry = Registry(
            route_tracking=config.route_tracking,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            known_versions=self._known.names,
            only_known=bool(config.known_versions),
            serves=config.version,
        )
        self.admission = Admission(config, self._now, lambda: len(self.sessions) - self.shared_streams.uncounted)
        self.shared_streams = SharedStreams(self, config.viewer_timeout, self._now)
        self.check_runner = CheckRunner(config.authorize_timeout, self.counters, self._now)
        is_shared = self.shared_streams.is_shared
        self.viewers = Viewers(config, self._now, lock, self.counters, registry, is_shared, self.check_runner)
        self.log_outs = LogOuts(self, tickets, self.viewers)
        self.listing = Listing(registry, lock, self._close_dead_loops)
        self.releases = Releases(config.version, self._release_here)
        self.rollout = Rollout(
            self, registry, lock, self.releases, self.shared_streams, self._now, lambda: self._is_asking
        )
        self.notices = Notices(self, registry, lock, self.shared_streams, self._now)
        self._departed = DepartedPages(
            self, config, self._now, registry, self.viewers.mark_dirty, lambda: self._known.names
        )
        self._reset_identity()
        self._process = os.getpid()
        timer_callbacks = TimerCallbacks(
            is_shared,
            self.admission.going_away,
            self._on_tick,
            self._leave_before_drain,
            self._drain_and_leave,
        )
        self.timers = Timers(config, self._now, timer_callbacks)
        history_folder = None if config.state_file is None else HistoryFolder(config.state_file)
        self.figures = FigureReader(
            self, registry, lock, self.viewers, self.releases, self._close_dead_loops, history_folder, self._now()
        )
        self.replacements = Replacements(
            self, lock, self._now, self._cut_reports, self._departed, self.shared_streams, self.rollout
        )
        release_file = None if config.state_file is None else ReleaseFile(config.state_file)
        self.commands = FleetCommands(
            self,
            registry,
            lock,
            self.counters,
            releases=self.releases,
            viewers=self.viewers,
            shared_streams=self.shared_streams,
            figures=self.figures,
            rollout=self.rollout,
            settle_time=config.settle_time,
            release_file=release_file,
        )
        kept = None if release_file is None else release_file.load()
        if kept is not None:
            self.commands.release_here(kept, is_new=False)

    @property
    def is_idle(self) -> bool:
        """No stream is open. Tabs of a stream that has just ended may still be counted."""
        return len(self.sessions) == self.shared_streams.tab_count

    def unready_reason(self, server: Any) -> str | None:
        """
        Say why this node should get no traffic yet, or no more, by an ASGI scope's `server`; None: it is ready.

        Not because Redis is away: then all servers of a fleet would be taken out of traffic at once.
        """
        if self.admission.refusal(self.admission.find_listener(server)) is GOING_AWAY:
            return "This server is draining, and its clients reconnect elsewhere; send requests to another one."
        if not self.membership.view.accepts_traffic:
            return "This server has not reached its backend yet, so its figures are partial; ask again in a moment."
        return None

    def _now(self) -> float:
        return self.clock()  # asked each time, because a test may give the node another clock

    def _reset_identity(self) -> None:
        self.id = os.urandom(identity.NODE_BYTES).hex()
        self._key = os.urandom(32)
        self._random: list[bytes] = []
        """Of the next ids."""
        self.membership = Membership(self, self.admission, self.listing, self._make_view, self._departed.refresh)
        self.viewers.use_membership(self.membership)

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
                    among_workers = self.membership.among_workers
                    self._reset_identity()
                    self._departed.start_over()
                    self.membership.among_workers = among_workers
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
        if self.on_leave is not None:
            await self.on_leave()

    def _make_view(self) -> FleetView:
        handlers = CommandHandlers(
            self.id,
            client_messages=self,
            replacements=self.replacements,
            commands=self.commands,
            notices=self.notices,
            listing=self.listing,
            tickets=self.log_outs,
            authorize=self.check_runner.run,
            remote=self.membership.remote,
            check_from_description=self._check_from_description,
        )
        view = FleetView(
            self.id,
            self.config,
            self._registry,
            self._lock,
            self.clock,
            releases=self.releases,
            tickets=self.log_outs,
            known_versions=self,
            mark_dirty=self.viewers.mark_dirty,
            shows_rows=self.viewers.shows_rows,
            run_command=handlers.run_command,
            departures=self._departed.departures,
            away_pages=self._departed.away_pages,
            refresh_departed=self._departed.refresh,
            return_key=identity.return_key(self._key),
            tab_versions=self.shared_streams.tab_versions,
            own_cut=lambda: self._cut_reports.limit(self.clock()),
        )
        with self._lock:
            if self.releases.released is not None:
                view.declare(self.releases.released)
        return view

    @property
    def known_versions(self) -> frozenset[str]:
        """The versions that nodes serve, that were released, or that an operator waits for or lists."""
        return self._known.names

    def learn_versions(self, versions: Iterable[str]) -> None:
        """Take versions for known, and count them apart from now on. From any thread."""
        with self._lock:
            if self._known.learn(versions):
                if self._registry.set_known_versions(self._known.names):
                    self.viewers.mark_dirty()
                self.membership.view.set_known_versions(self._known.names)

    def _release_here(self, release: Declaration) -> None:
        self.commands.release_here(release, is_new=False)  # they are made last, of all that the node has

    def use_figures(self, figures: FigureSource | None) -> None:
        """Take the figures from another source from now on; None: from this node's connections."""
        self.viewers.use_figures(self._registry if figures is None else figures)

    def new_ids(self) -> tuple[str, str]:
        """Return a new public id and its secret handle, for a new connection."""
        try:
            random = self._random.pop()  # from any thread, so whether there is one is not asked before
        except IndexError:
            random, *rest = identity.split_random(os.urandom(identity.IDS_AT_ONCE * identity.ID_BYTES))
            self._random += rest
        public = identity.public_id(self.id, random)
        return public, identity.handle_for(public, self._key)

    def stream_id(self, handle: str) -> str | None:
        """Return the public id that a secret handle of this node names; None: it is forged, or another node's."""
        return identity.id_of(handle, self._key)

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

    @property
    def border(self) -> Border:
        """Which nodes are of this node's fleet."""
        return self.membership.view.border

    @property
    def cut_after_here(self) -> float | None:
        """Seconds after which something between clients and this node ends streams; None: not known."""
        with self._lock:
            return self._cut_reports.limit(self.clock())

    @property
    def cut_after(self) -> float | None:
        """The shortest such limit of the fleet; those of other nodes are as old as their figures."""
        with self._lock:
            limits = (self.cut_after_here, self.membership.view.shortest_cut)
            return min((limit for limit in limits if limit is not None), default=None)

    def open(
        self,
        session: Session,
        version: str,
        route: str,
        ip: str | None,
        listener: Listener | None = None,
        *,
        reports_cut: bool = False,
        release_id: int = 0,
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
            release_id: Of the release that the page says it was asked to come to; 0: of none.
        """
        if self.viewers.observers or not self.timers.is_only(session.loop):
            self._close_dead_loops()
        with self._lock:
            self.sessions[session.id] = session
            self.timers.add(session, listener)
            if self.admission.by_address is not None and isinstance(session, TabSession):
                self.admission.by_address.add_tab(session.id, session.session.id)
            if reports_cut:
                self._cut_reports.opened(session.id, self.clock())
            info = None
            if not session.counted:
                session.deadline = self.clock() + self.config.viewer_timeout
            elif self.config.connection_tracking:
                info = self._registry.open(session.id, version, route, ip)
                self.viewers.mark_dirty()
            is_asking = self._is_asking
        if is_asking:
            # The page was loaded before the release, or from a server that still serves the old code.
            self.rollout.opened(session, version, release_id)
        self.counters["opened"] += 1
        if info is not None and self.hooks.open:
            self.hooks.run(self.hooks.open, HookConnection(info, self.commands.deliver))

    def close(self, session: Session, cause: str, *, farewell: bool = False) -> None:
        """
        Remove a stream. Idempotent. In the stream's loop, unless that is closed: timers and hooks belong to it.

        Args:
            session: The stream.
            cause: Why it ended; see core/ends.py.
            farewell: Its page said that it leaves. Else it may come back, unless the cause says otherwise.
        """
        with self._lock:
            if self.sessions.pop(session.id, None) is None:
                return
            self.viewers.drop(session.id)
            stream = session.session if isinstance(session, TabSession) else session
            if stream is session:
                self._cut_reports.ended(session.id, self.clock())
            info = self._registry.close(session.id)
            if info is not None:
                is_left = farewell or cause in FOR_GOOD
                if self.releases.released is not None:  # mostly, nothing is; and a call is a tenth of a close
                    self.rollout.closed(session.id, farewell=is_left)
                if not is_left:
                    self._note_departure(session, stream, info.version, cause)
                self.viewers.mark_dirty()
            self.timers.discard(session)
            if self.admission.by_address is not None:
                self.admission.by_address.discard(session.id)
        self.shared_streams.on_closed(session, cause, farewell=farewell)
        if self.is_idle:
            self.membership.leave_if_ending()
        self.counters["closed"] += 1
        self.counters[f"closed:{cause}"] += 1
        if info is not None and self.hooks.close:
            self.hooks.run(self.hooks.close, HookConnection(info, self.commands.deliver), cause)

    def _note_departure(self, session: Session, stream: Session, version: str, cause: str) -> None:
        """Note a page whose stream ended, and that may come back."""
        if cause == GOING_AWAY.cause or self.admission.is_stopping(self.timers.listener_of(stream)):
            self._departed.sent_away(version, stream.id)
        elif cause in UNANSWERED:
            self._departed.gave_up(version, stream.id)
        else:
            key = session.key if isinstance(session, TabSession) else session.id
            self._departed.broke_off(key, version, stream.id)

    def bye_here(self, handle: str, tab: str) -> bool:
        """
        End the count of a page that says that it leaves, or that it had left when its stream ended.

        Args:
            handle: Secret handle of its stream.
            tab: Key of one of the tabs that share the stream; "" for a page with a stream of its own.

        Returns:
            False if the handle is not one of this node's.
        """
        stream_id = self.stream_id(handle)
        if stream_id is None:
            return False
        session = self.sessions.get(stream_id)
        if tab:
            # Its key is a secret, too. The next stream of its browser may have it by now.
            self.shared_streams.leave(tab)
            with self._lock:
                self._departed.tab_came_back(tab)
        elif session is None:
            with self._lock:
                self._departed.came_back(stream_id)
        elif not call_in_loop(session.loop, self._end_left, session):
            self.close(session, LOOP_CLOSED, farewell=True)
        return True

    def _end_left(self, session: Session) -> None:
        # At once: something may go on to read a stream whose page has left.
        self.close(session, CLIENT, farewell=True)
        session.end(LEFT)

    def dispatch(
        self, handle: str, message: messages.ClientMessage, make_check: Callable[[], AuthorizationCheck]
    ) -> Coroutine[Any, Any, None] | None:
        """
        Do what a POST asks for the connection that a secret handle names, here or on the node that owns it.

        Returns:
            As `on_message()`. For a connection of another node, a coroutine that may raise `Malformed`,
            `UnknownConnection`, `TooManyMessages` or `Busy`. `Busy` is raised at once if a limit refuses tabs.

        Raises:
            TooManyMessages: This stream sends more than it may. A goodbye is not charged: it is the last message of a
                page, and if it were refused, a page that is gone would stay in the figures.
        """
        if isinstance(message, messages.Bye):
            return None if self.bye_here(handle, message.tab) else self.membership.remote.say_bye(handle, message.tab)
        try:
            session = self.find(handle)
        except UnknownConnection:
            if isinstance(message, messages.Tabs) and self.remove_held_tabs(handle, message):
                return None
            return self.membership.remote.forward(handle, message, make_check)
        if isinstance(message, messages.Tabs):
            self.charge(session)
            if (end := self.shared_streams.receive_report(session, message)) is not None:
                raise Busy(end.reason)
            return None
        return self.on_message(session, message, make_check)

    def remove_held_tabs(self, handle: str, report: messages.Tabs) -> bool:
        """Do what the last report of a shared stream says after its end. Returns False if it left no tabs here."""
        stream_id = identity.id_of(handle, self._key)
        with self._lock:
            was_away = [self._departed.tab_came_back(key) for key in report.remove if stream_id is not None]
        return self.shared_streams.remove_held(stream_id, report.remove) or any(was_away)

    def tab_reported(self, key: str) -> None:
        """Note a tab that is counted anew: it may have been away."""
        with self._lock:
            self._departed.tab_came_back(key)

    def tab_moved(self, session: Session) -> None:
        """Note a tab that is on another stream than before."""
        with self._lock:
            is_asking = self._is_asking
        if is_asking:
            self.rollout.moved(session)

    @property
    def _is_asking(self) -> bool:
        """A version is declared, and a node serves it: no page is asked to go to any other. Under the lock."""
        return self.releases.released is not None and self.figures.current_version is not None

    def drop_tabs_elsewhere(self, handle: str, keys: list[str]) -> None:
        """Tell the node of the previous stream to stop counting these tabs."""
        # First, or viewers elsewhere would hear that the tabs went before they hear that they came.
        self.membership.view.publish_now()
        self.membership.remote.drop_tabs(handle, keys)

    def page_returned(self, handle: str, version: str) -> None:
        """Note a page whose previous stream, which the secret handle names, was on a node that may be gone."""
        if len(handle) <= identity.MAX_HANDLE:
            self.membership.view.page_returned(handle, version)

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

        Raises:
            TooManyMessages: This stream sends more than it may.
        """
        now = self.clock()
        if session.paid_until <= now:  # nearly always; a call would be a tenth of a navigation
            session.paid_until = now + self._rate.cost
        else:
            self.charge(session)
        if isinstance(message, messages.RouteUpdate):  # nearly always, and a `match` costs a quarter of a navigation
            self.navigate(session, message.route)
            return None
        match message:
            case messages.SubscribeStats(deltas=deltas):
                with self._lock:  # it may have been closed since it was found, in another loop
                    if session.id in self.sessions:
                        return self.viewers.subscribe(session, PendingSubscription(make_check(), deltas))
            case messages.UnsubscribeStats():
                self.viewers.unsubscribe(session)
            case messages.Tabs():
                if (end := self.shared_streams.receive_report(session, message)) is not None:
                    call_in_loop(session.loop, session.end, end)
            case messages.Acknowledge():
                self.notices.acknowledge(session, message)
            case messages.ReleaseReply():
                self.rollout.reply(session, message)
            case messages.Ping():
                session.send(_PONG)
            case messages.Unknown() | messages.Bye():
                self.counters["unknown_messages"] += 1
            case _:
                assert_never(message)
        return None

    def charge(self, session: Session) -> None:
        """
        Charge a stream for one message, or for a frame that is none. O(1).

        Raises:
            TooManyMessages: It sends more than it may.
        """
        try:
            session.paid_until = self._rate.charge(session.paid_until, self.clock())
        except TooManyMessages:
            self.counters["rate_limited"] += 1
            raise

    def max_queued(self, connection_id: str) -> int:
        """
        Return how many messages may wait for a peer that does not read.

        One more for each tab, because all tabs of a stream may get a message in the same turn of the loop.
        """
        return self.config.max_queued_messages + self.shared_streams.tabs_on(connection_id)

    def drain(self) -> None:
        """Tell every client to reconnect elsewhere, spread over time, and end its stream. New streams are refused."""
        self.admission.draining = True
        self.shared_streams.drop_held()
        if self.is_idle:
            self.membership.leave_if_ending()
        for session in list(self.sessions.values()):
            call_in_loop(session.loop, session.end, self.admission.going_away())

    def set_hidden(self, session: Session, hidden: bool) -> None:
        """Note that a page went to the background or came back."""
        with self._lock:
            if session.id in self._registry and self._registry.set_hidden(session.id, hidden):
                self.viewers.mark_dirty()

    def navigate(self, session: Session, route: str) -> None:
        """Move a page to another route."""
        with self._lock:
            try:
                before = self._registry.navigate(session.id, route)
            except UnknownConnection:
                return  # a viewer, or tracking is off
            if before is None:
                return
            if self.rollout.is_staged:
                self.rollout.navigated(session.id)
            self.viewers.mark_dirty()
            info = self._registry.info(session.id) if self.hooks.route else None
        if info is not None:
            # A POST may come in by another loop; the hooks of one connection run in one loop, in their order.
            connection = HookConnection(info, self.commands.deliver)
            call_in_loop(session.loop, self.hooks.run, self.hooks.route, connection, before)

    def _on_tick(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self.viewers.recheck(loop, now)
        self.shared_streams.expire(loop, now)
        self.rollout.tick()
        self.figures.keep_sample(now)
        with self._lock:
            self._departed.refresh()
        self._close_dead_loops()

    def _close_dead_loops(self) -> None:
        """Close the sessions of closed loops, which a test suite leaves behind. O(loops and observers)."""
        with self._lock:
            closed = self.timers.forget_closed_loops()
            left = [session for session in self.sessions.values() if session.loop in closed] if closed else []
            self.viewers.forget_closed_loops()
        for session in left:
            self.close(session, LOOP_CLOSED)
        self.shared_streams.forget_closed_loops()
