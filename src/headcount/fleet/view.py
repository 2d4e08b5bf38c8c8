"""
A node among the others: the figures of all nodes as they are known here.

    ReportCollector   the reports of the other nodes
    Publisher         to whom it publishes its own
    OwnShare          its own share, from the registry
    Refresher         figures of this moment
    DepartureNotices  pages that it sent away or gave up
    Accounting        connections of nodes that are gone, and have not come back yet
    Calls             questions to other nodes, and their commands
    FleetLink         the backend that carries all of it

No node sends figures unasked. While no viewer watches anywhere, nodes exchange nothing. `FleetView` starts and stops
these parts, hands each the messages that concern it, and is a source of figures for the node, as a registry is. Its
state is shared under the node's lock. What belongs to the backend happens in one event loop, that of the first request.

Tests: tests/fleet/backends/test_conformance.py.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ..config import Config
from ..core import fleet_messages
from ..core.away_pages import AwayPages
from ..core.current_version import CurrentRelease
from ..core.departures import Departures
from ..core.fleet_figures import FleetFigures
from ..core.fleet_messages import Declaration
from ..core.identity import owner_of
from ..core.kept_history import KeptHistory
from ..core.publication import Publication
from ..core.registry import Registry
from ..core.stats import NodeShare, Stats, StatsDelta, VersionCount
from ..core.tallies import Tally
from ..errors import Busy
from .accounting import NOT_FORGOTTEN, STORE, Accounting
from .backends import Backend
from .border import Border
from .calls import Calls, CommandHandler
from .departure_notices import DepartureNotices
from .fleet_history import FleetHistory
from .link import FleetLink
from .local_node import KnownState, LocalTickets, ReleaseState
from .no_fleet import NoTickets
from .own_share import OwnShare
from .own_tally import OwnTally, TabVersions
from .publisher import Publisher
from .refresher import Refresher
from .report_collector import ReportCollector
from .state_exchange import StateExchange
from .ticker import FleetTicker

LEAVE_PATIENCE: Final = 2.0
"""Seconds for which the last stream of a server that stops waits for the leave message: twice what Redis has for it."""

logger = logging.getLogger("headcount")


class FleetView:
    """
    The fleet as this node sees it. Implements `Receiver` for the backend, `NodeView` and `FigureSource` for the node.

    Args:
        node: Id of this node.
        config: Checked settings.
        registry: This node's connections.
        lock: The node's.
        clock: Monotonic seconds.
        releases: Which version was declared current.
        known_versions: Which versions are known.
        mark_dirty: Schedules a push to the viewers; called with the lock held.
        shows_rows: Says whether a viewer here sees connections.
        run_command: Runs another node's command.
        departures: Pages whose streams this node ended.
        away_pages: Pages whose streams broke off.
        refresh_departed: Brings up to date what the registry says of both.
        return_key: Proves to other nodes which handles are this node's.
        tab_versions: Returns the streams that tabs share, and the version of one tab of each.
        tickets: Which tickets of the dashboard log-outs ended.
        own_cut: Returns after how many seconds something ends this node's streams; None: it knows of no limit.
    """

    def __init__(
        self,
        node: str,
        config: Config,
        registry: Registry,
        lock: threading.RLock,
        clock: Callable[[], float],
        *,
        releases: ReleaseState,
        known_versions: KnownState,
        mark_dirty: Callable[[], None],
        shows_rows: Callable[[], bool],
        run_command: CommandHandler,
        departures: Departures,
        away_pages: AwayPages,
        refresh_departed: Callable[[], None],
        return_key: bytes,
        tab_versions: TabVersions = dict,
        tickets: LocalTickets = NoTickets(),  # noqa: B008  without state
        own_cut: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.node = node
        self.link = FleetLink(node)
        self.calls = Calls(self.link, run_command)
        self._lock = lock
        self._clock = clock
        self._mark_dirty = mark_dirty
        self._releases = releases
        self._own_tally = OwnTally(
            registry,
            departures,
            away_pages,
            lock,
            clock,
            config.version,
            return_key,
            tab_versions,
            lambda: self._figures.release.current,
        )
        self._leaving: asyncio.Task[None] | None = None
        self._figures = FleetFigures(
            node,
            max_listed=config.max_listed_connections,
            max_versions=config.max_versions,
            max_routes=config.max_routes,
            known_versions=known_versions.known_versions,
            only_known=bool(config.known_versions),
            grace=config.unaccounted_grace,
            serves=config.version,
            settle_time=config.settle_time,
            needs=(STORE,),
        )
        self._ticker = FleetTicker(self.link, clock, self._tick)
        publication = Publication(node, config.max_listed_connections)
        self._own_share = OwnShare(registry, self._figures, publication, clock, refresh_departed)
        self._publisher = Publisher(
            self.link,
            self._own_share,
            publication,
            config.version,
            releases,
            known_versions,
            lock,
            clock,
            self._ticker.start,
            self._publish_departures,
            own_cut,
        )
        self._history = FleetHistory(self.link, self._figures, releases, lock)
        self.accounting = Accounting(
            self.link, self._figures, lock, clock, config, mark_dirty, known_versions, self._history
        )
        self._collector = ReportCollector(
            self.link,
            self._figures,
            self._own_share,
            releases,
            known_versions,
            config,
            lock,
            clock,
            mark_dirty=mark_dirty,
            shows_rows=shows_rows,
            start_ticking=self._ticker.start,
            read_tallies=self.accounting.read_tallies,
        )
        self.departure_notices = DepartureNotices(
            self.link, departures, self._figures, self._collector, self._publisher, lock, clock, mark_dirty
        )
        self._refresher = Refresher(self.link, self._figures, known_versions, self._collector, lock, clock, mark_dirty)
        self.accepts_traffic = False
        """The backend has reached the other nodes, if only once, or cannot."""
        self._state_exchange = StateExchange(
            self.link, self.calls, releases, tickets, known_versions, config.version, self.accounting
        )

    @property
    def active(self) -> bool:
        """A backend runs, in a loop that runs."""
        return self.link.active

    @property
    def backend(self) -> Backend | None:
        """The way to the other nodes."""
        return self.link.backend

    @property
    def border(self) -> Border:
        """Which nodes are of this fleet."""
        return self.link.border

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the backend."""
        return self.link.loop

    @property
    def figures_ready(self) -> bool:
        """The reports of all nodes are here, or had time to come; until then viewers get no figures."""
        return self._collector.figures_ready

    def start(self, backend: Backend, border: Border | None = None) -> None:
        """
        Reach the other nodes by a backend, in the running loop; `border` says which of them are of this fleet.

        Raises:
            OSError: The backend cannot be started here.
        """
        with self._lock:
            self._forget_loop()
            self._leaving = None
            self.link.open(backend, border or Border())
            self._collector.set_connected(False)
            try:
                backend.start(self)
            except OSError:
                self.link.close()
                raise
            if self._collector.listening:
                self._collector.on_backend_ready()

    def mark_disconnected(self) -> None:
        """Note that there are other nodes out of reach: figures are partial until the backend reaches them."""
        with self._lock:
            self._collector.set_connected(False)
            self.accepts_traffic = True  # it may be so for ever, and all but the figures works

    async def stop(self) -> None:
        """Leave the fleet: for the other nodes, this one is gone at once. Idempotent. In the backend's loop."""
        with self._lock:
            backend = self.link.close()
            self._forget_loop()
        if backend is not None:
            await backend.stop()

    def abandon(self) -> None:
        """Stop without a word to the others, after the loop of the backend has closed or this node has left."""
        with self._lock:
            self.link.close()
            self._forget_loop()
            self._collector.abandon()

    async def leave(self) -> None:
        """Leave the fleet, from any loop."""
        if self.active:
            await self.link.run(self.stop())

    def leave_soon(self) -> None:
        """Leave the fleet, from any loop, without waiting for it; see `wait_left`."""
        self.link.call(self._start_leaving)

    async def wait_left(self) -> None:
        """
        Wait until the leave message is out, from any loop.

        A server that stops waits for its streams, and then ends the process at once: uvicorn raises the signal again
        that it caught. So the end of a stream waits for the leave message.
        """
        leaving = self._leaving
        if leaving is not None and not leaving.done() and self.link.loop is not None:
            with suppress(TimeoutError, RuntimeError):
                await self.link.run(asyncio.wait([leaving], timeout=LEAVE_PATIENCE))

    def _start_leaving(self) -> None:
        if self._leaving is None or self._leaving.done():
            self._leaving = self.link.start_task(self.stop())

    @property
    def report_age(self) -> float:
        """For how many seconds the most silent node has been silent. The lock is held."""
        return self._figures.longest_silence(self._clock())

    def shares(self) -> list[NodeShare]:
        """Return what each expected node has reported, this one first. The lock is held; see `sync`."""
        return self._figures.shares(self._clock())

    def sync(self) -> None:
        """Bring the figures up to what is known now; to be called before they are read. The lock is held."""
        if self._extend_deadlines():
            self._mark_dirty()
        self._own_share.sync()

    def page_returned(self, handle: str, version: str) -> None:
        """Note a page that names a stream of another node, which may be gone. From any loop."""
        owner = owner_of(handle)
        if self.active and owner is not None and owner != self.node:
            self.accounting.page_returned(owner, handle, version)

    async def forget(self, node: str) -> bool:
        """
        End the doubt about a node that is gone, on all nodes. Returns whether there was any. From any loop.

        Raises:
            Busy: The backend cannot be asked.
        """
        if not self.active:
            raise Busy(NOT_FORGOTTEN)
        return await self.link.run(self.accounting.forget(node))

    @property
    def revision(self) -> int:
        """Number of changes so far."""
        return self._figures.revision

    def note_changes(self, *, on: bool) -> None:
        """Start or stop noting changes for `pop_changes()`. While on, and for a little longer, listen to the others."""
        if on:
            self._collector.on_first_viewer_came()
            self._own_share.sync()
            self._figures.note_changes(on=True)
        else:
            self._figures.note_changes(on=False)
            self._collector.on_last_viewer_left()

    def pop_changes(self) -> StatsDelta | None:
        """Return what changed since the last `pop_changes()`, or since noting began; None: nothing. See `sync`."""
        return self._figures.pop_changes()

    def snapshot(self) -> Stats:
        """Return the figures as they are known; see `sync`."""
        return self._figures.snapshot()

    def publish_soon(self) -> None:
        """Tell the nodes with viewers what changed here, if anything did. To be called after every change."""
        self._publisher.publish_soon()

    def publish_now(self) -> None:
        """Tell the nodes with viewers what changed here, before anything that is sent after this call."""
        if self.active:
            self.link.call(self._publisher.publish_now)

    def keep_listening(self, *, rows: bool, linger: float | None = None) -> None:
        """
        Listen to the other nodes for `linger` seconds, else `LINGER`, because a caller reads the figures once.

        With `rows`, it may see connections, so that those of other nodes are asked for.
        """
        if self.active:
            self._collector.keep_listening(rows=rows, linger=linger)

    @property
    def release(self) -> CurrentRelease:
        """Which version is current, and why. The lock is held."""
        return self._figures.release

    @property
    def settled(self) -> str | None:
        """The version that the fleet has settled on, whatever was declared; None: not settled. The lock is held."""
        return self._figures.settled

    def declare(self, release: Declaration) -> None:
        """Take a version for declared, here as in the registry. The lock is held."""
        self._own_share.sync()
        if self._figures.declare(release.version, release.release_id, insisted=release.unserved, beside=release.beside):
            self._mark_dirty()

    async def keep_release(self) -> None:
        """Have the backend keep the newest release, so that it outlives the nodes. From any loop."""
        if self.active:
            await self.link.run(self._state_exchange.keep())

    def set_known_versions(self, known: frozenset[str]) -> None:
        """Count these versions apart from now on, here as in the registry. The lock is held."""
        self._own_share.sync()
        if self._figures.set_known_versions(known):
            self._mark_dirty()

    def count_of(self, version: str) -> VersionCount:
        """Return how many connections are of a version; see `sync`."""
        return self._figures.count_of(version)

    @property
    def shortest_cut(self) -> float | None:
        """The shortest limit that ends streams of another node, in seconds; None: none is known. The lock is held."""
        return self._figures.shortest_cut

    def viewers_changed(self) -> None:
        """Ask the other nodes for what the viewers here may see now. The lock is held."""
        self._collector.viewers_changed()

    async def refresh(self, *, rows: bool = True) -> None:
        """
        Bring the figures up to what every node has now. Waits a second for those that do not answer.

        Args:
            rows: With connections.
        """
        if self.active:
            called = self._clock()
            await self.link.run(self._refresher.refresh(called, rows=rows))

    def received(self, message: bytes) -> None:
        """Receive a message from another node. Never raises. Called by the backend, as all below."""
        decoded = fleet_messages.decode(message)
        if decoded is None or decoded.node == self.node:
            return
        with self._lock:
            if not self.link.backend or not self.link.border.accepts(decoded):
                return
            try:
                self._dispatch(decoded)
            except Exception:
                logger.exception("Fleet: a message from node %s failed and was ignored.", decoded.node)

    def joined(self, node: str) -> None:
        """Learn that a node is there."""
        with self._lock:
            if node != self.node:
                self._collector.on_joined(node)

    def left(self, node: str) -> None:
        """Learn that a node is certainly gone."""
        with self._lock:
            if self._figures.drop_vanished(node, self._clock()):
                self._mark_dirty()
            self._on_left(node, None)
            if self._collector.listening:
                self.link.start_task(self._collector.learn_members())

    async def history(self, *, for_rollouts: bool = False) -> KeptHistory | None:
        """Return the fleet's history, or what of it the rollouts need; None without a backend. From any loop."""
        if not self.active:
            return None
        return await self.link.run(self._history.read_rollouts() if for_rollouts else self._history.read())

    def leave_message(self) -> bytes:
        """Return the last message of this node."""
        tally = self.tally(leaving=True)
        with self._lock:
            return self._publisher.leave_message(tally.departed, tally.transit)

    def tally(self, *, leaving: bool) -> Tally:
        """Return what this node says about itself now. See `Receiver`."""
        return self._own_tally.make(leaving=leaving)

    def page_list(self) -> bytes:
        """Return the list of pages that belongs to the last tally."""
        return self._own_tally.pages

    def on_own_heartbeat(self) -> None:
        """See `Receiver`."""
        self.accounting.on_own_heartbeat()

    def connectivity_changed(self, *, connected: bool) -> None:
        """Learn whether the other nodes can be reached at all."""
        with self._lock:
            if self.link.backend is None:
                return
            self._collector.set_connected(connected)
            if not connected:
                return
            self.accepts_traffic = True
            self._state_exchange.announce()
            if self._collector.listening:
                self._collector.on_backend_ready()

    def _dispatch(self, message: fleet_messages.FleetMessage) -> None:
        self._state_exchange.on_message(message)
        match message:
            case fleet_messages.Report():
                self._collector.on_report(message)
                self._refresher.on_applied(message.node)
            case fleet_messages.Delta():
                self._collector.on_delta(message)
                self._refresher.on_applied(message.node)
            case fleet_messages.Heartbeat():
                self._collector.on_heartbeat(message)
                self._refresher.on_heartbeat(message)
                self._refresher.on_applied(message.node)
            case fleet_messages.Leave():
                now = self._clock()
                if self._figures.receive_leave(message.node, message.sequence, message.departed, message.transit, now):
                    self._mark_dirty()
                self._on_left(message.node, message.sequence)
            case fleet_messages.Departures():
                if self._collector.listening and self._figures.receive_departures(
                    message.node, message.departed, message.transit, self._clock(), unanswered=message.unanswered
                ):
                    self._mark_dirty()
            case fleet_messages.Forget():
                self.accounting.end_absence(message.gone)
            case fleet_messages.Join():
                self._collector.on_joined(message.node, message.serves)
            case fleet_messages.Interest():
                self._publisher.on_interest(message)
            case fleet_messages.ReportRequest():
                self._publisher.on_report_request(message)
            case fleet_messages.FlushRequest():
                self._publisher.on_flush_request(message)
            case fleet_messages.ReleaseRequest():
                self._state_exchange.on_release_request(message)
            case _:
                self.calls.receive(message)

    def _on_left(self, node: str, sequence: int | None) -> None:
        self._publisher.on_left(node)
        self.calls.node_left(node)
        self._collector.on_left(node, sequence)
        self._refresher.on_left(node)

    def _publish_departures(self) -> None:
        self.departure_notices.publish()  # which are made after the publisher, because they ask it who listens

    def _tick(self, now: float) -> bool:
        with self._lock:
            if self._extend_deadlines():
                self._mark_dirty()
            if self.link.backend is None:
                return False
            self._own_share.sync()  # time alone changes what is away
            self._publisher.publish_soon()
            self._publisher.tick(now)
            self._collector.tick(now)
            if self._figures.settle(now):
                self._mark_dirty()
            return self._collector.listening or bool(self._publisher.schedule.interests)

    def _extend_deadlines(self) -> bool:
        """
        Forgive the other nodes a silence in which this one did not listen; to be called before old figures are shown.

        Returns:
            Whether anything changed: after a long time, figures are partial until the others speak.
        """
        late = self._ticker.lateness()
        if not late or self.link.backend is None:
            return False
        # This process was stopped or very busy: what the others said meanwhile still waits to be read.
        self._publisher.schedule.extend(late)
        return self._figures.extend_deadlines(late)

    def _forget_loop(self) -> None:
        """Drop what belonged to a loop that is over, or to the fleet that this node leaves."""
        self.departure_notices.stop()
        self._ticker.stop()
        self._collector.forget_loop()
        self._refresher.forget_loop()
        self._publisher.stop()
