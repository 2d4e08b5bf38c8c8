"""
The reports of the other nodes, which this node requests while a viewer watches here.

This node then listens, says so every heartbeat (`Interest`), and asks each node whose report is missing
(`ReportRequest`). core/fleet_figures.py holds what comes; core/report_requests.py says which nodes to ask, and for how
many rows.

Tests: tests/fleet/backends/test_conformance.py, tests/core/test_report_requests.py.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from ..config import Config
from ..core import fleet_messages
from ..core.fleet_figures import FleetFigures
from ..core.publish_schedule import publish_interval
from ..core.report_requests import SMALL_FLEET, ReportRequests, row_quota
from .backends import Backend
from .link import FleetLink
from .local_node import KnownState, ReleaseState
from .own_share import OwnShare

LINGER: Final = 10.0
"""Seconds for which this node goes on to listen after the last look, because dashboards reload and programs poll."""

CATCH_UP: Final = 1.0
"""Seconds that a viewer waits for the figures of nodes that do not answer, before it gets partial ones."""


class ReportCollector:
    """
    Listens to the other nodes. Called with the node's lock held; what sends runs in the backend's loop.

    Args:
        link: To the other nodes.
        figures: Where their reports go.
        own_share: This node's own part of it.
        releases: Which version was declared current.
        known_versions: Which versions are known.
        config: Checked settings.
        lock: The node's.
        clock: Monotonic seconds.
        mark_dirty: Schedules a push to the viewers.
        shows_rows: Says whether a viewer here sees connections.
        start_ticking: Called when this node begins to listen, so that `tick` is called from then on.
        read_tallies: Asks the backend's store which connections are unaccounted for.
    """

    def __init__(
        self,
        link: FleetLink,
        figures: FleetFigures,
        own_share: OwnShare,
        releases: ReleaseState,
        known_versions: KnownState,
        config: Config,
        lock: threading.RLock,
        clock: Callable[[], float],
        *,
        mark_dirty: Callable[[], None],
        shows_rows: Callable[[], bool],
        start_ticking: Callable[[], None],
        read_tallies: Callable[[Backend], Awaitable[bool]],
    ) -> None:
        self.figures_ready = True
        """The reports of all nodes are here, or had time to come; until then viewers get no figures."""
        self.listening = False
        """This node listens to the others."""
        self._link = link
        self._figures = figures
        self._own_share = own_share
        self._releases = releases
        self._known_versions = known_versions
        self._config = config
        self._lock = lock
        self._clock = clock
        self._mark_dirty = mark_dirty
        self._shows_rows = shows_rows
        self._start_ticking = start_ticking
        self._read_tallies = read_tallies
        self._has_viewers = False
        """A viewer watches here."""
        self._lingers_until = 0.0
        self._rows_until = 0.0
        self._connected = True
        self._members_known = False
        self._interest_due = 0.0
        self._rows = 0
        """How many rows of each node are asked for."""
        self._requests = ReportRequests()
        self._ready_timer: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        """What waits for complete figures."""

    @property
    def complete(self) -> bool:
        """The report of every node is here that can be expected to send one."""
        if not self.listening or not self._link.active:
            return True
        return self._members_known and not self._figures.is_incomplete(rows=self._rows > 0)

    def on_first_viewer_came(self) -> None:
        """Listen to the others until `on_last_viewer_left`."""
        self._has_viewers = True
        self._start_listening()

    def on_last_viewer_left(self) -> None:
        """Listen to the others for `LINGER` seconds more, and then stop."""
        self._has_viewers = False
        self._lingers_until = max(self._lingers_until, self._clock() + LINGER)

    def keep_listening(self, *, rows: bool, linger: float | None = None) -> None:
        """Listen for `linger` seconds, else `LINGER`; with `rows`, ask for connections, too."""
        until = self._clock() + (LINGER if linger is None else linger)
        self._lingers_until = max(self._lingers_until, until)
        if rows:
            self._rows_until = max(self._rows_until, until)
        self._start_listening()

    def viewers_changed(self) -> None:
        """Ask for as many rows as the viewers here may see now."""
        if self.listening and self._link.active and self._row_quota() != self._rows:
            self._link.call(self._announce_interest)
            self._link.call(self._request_reports)

    def on_backend_ready(self) -> None:
        """Have the backend listen, and announce it, if this node listens. In the backend's loop."""
        with self._lock:
            loop = self._link.loop
            if self._link.backend is None or loop is None or not self.listening:
                return
            self._link.listen(on=True)
            if self._connected:
                # Not otherwise: a viewer that comes must not restart the deadlines of nodes that cannot be reached.
                self._figures.restart_deadlines(self._clock())
            self._announce_interest()
            self._start_ticking()
            if not self.figures_ready and self._ready_timer is None:
                self._ready_timer = loop.call_later(CATCH_UP, self._set_figures_ready)
            self._link.start_task(self.learn_members())

    def abandon(self) -> None:
        """Listen no more, whoever watches."""
        if self.listening:
            self._stop_listening()

    def forget_loop(self) -> None:
        """Drop what belonged to a loop that is over."""
        self._stop_ready_timer()
        self._waiting.clear()
        self._members_known = False
        self.figures_ready = True

    def set_connected(self, connected: bool) -> None:
        """Note whether the other nodes can be reached at all."""
        self._connected = connected
        self._update_connectivity()

    def on_joined(self, node: str, serves: str = "") -> None:
        """Note that a node is there, and which version it serves if it says so, and ask for its report."""
        if self._link.backend is None or not (self.listening or self._link.detects_failures):
            return
        new = self._figures.expect(node, self._clock()) | self._figures.serves(node, serves)
        if not self.listening:
            return
        if new:
            self._mark_dirty()
        self._requests.close(node)  # what was sent before the node could be reached is lost
        self._link.send(node, self._interest())
        self._request([node])

    def on_left(self, node: str, sequence: int | None) -> None:
        """Note that a node is gone."""
        self._requests.close(node)
        if self._figures.drop(node, sequence):
            self._mark_dirty()
        self.check_complete()

    def on_report(self, report: fleet_messages.Report) -> None:
        """Receive a node's whole report."""
        self._requests.close(report.node)
        if self.listening:
            self._applied(report, changed=self._figures.receive(report, self._clock()))
            self._request_reports()

    def on_delta(self, delta: fleet_messages.Delta) -> None:
        """Receive what changed at a node."""
        if self.listening:
            self._applied(delta, changed=self._figures.update(delta, self._clock()))

    def on_heartbeat(self, heartbeat: fleet_messages.Heartbeat) -> None:
        """Receive a node's sign of life."""
        if self.listening:
            node = heartbeat.node
            self._applied(heartbeat, changed=self._figures.heartbeat(node, heartbeat.sequence, self._clock()))

    def tick(self, now: float) -> None:
        """Suspect silent nodes, ask again, and stop to listen when no viewer has looked for long."""
        if not self.listening:
            return
        if not self._has_viewers and now >= self._lingers_until:
            self._stop_listening()
            return
        if not self._has_viewers:
            self._own_share.sync()  # else the viewers' pushes do
        expired = self._figures.expire(now, drop=not self._link.detects_failures)
        if expired.changed:
            self._mark_dirty()
        if self._link.backend is not None:
            for node in expired.dropped:
                self._link.backend.remove_sign_of_life(node)
        self._requests.time_out(now)
        if now >= self._interest_due:
            self._announce_interest()
            self._link.start_task(self.learn_members())
        self._request_reports()
        self.check_complete()

    async def learn_members(self) -> None:
        """Ask the backend which nodes there are. Takes the lock itself."""
        backend = self._link.backend
        if backend is None:
            return
        members = await backend.members()
        if members is not None:
            await self._read_tallies(backend)  # without an answer, what this node knows by itself stands
        with self._lock:
            if members is None or not self.listening or self._link.backend is not backend:
                return
            now = self._clock()
            changed = False
            for node in members:
                if node != self._link.node:
                    changed |= self._figures.expect(node, now)
            # A node that has reported stays although it is not listed: the store may have been emptied, and the node
            # has not registered there again yet.
            for node in self._figures.never_reported() - set(members):
                changed |= self._figures.drop(node)
            changed |= self._figures.expect_strangers(self._link.border.strangers.intersection(members), now)
            self._members_known = True
            self._update_connectivity()
            if changed:
                self._mark_dirty()
            self.viewers_changed()
            self._request_reports()
            self.check_complete()

    async def wait_complete(self, timeout: float) -> None:
        """Wait until the report of every node is here. Takes the lock itself."""
        with self._lock:
            if self.complete or self._link.loop is None:
                return
            future: asyncio.Future[None] = self._link.loop.create_future()
            self._waiting.append(future)
        try:
            await asyncio.wait_for(future, timeout)
        except TimeoutError:
            pass
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def check_complete(self) -> None:
        """Wake what waits for complete figures, if they are."""
        if (self.figures_ready and not self._waiting) or not self.complete:
            return
        self._set_figures_ready()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def _start_listening(self) -> None:
        if self.listening:
            return
        self.listening = True
        self._own_share.set_collecting(True)
        if self._link.active:
            self.figures_ready = False
            self._link.call(self.on_backend_ready)

    def _stop_listening(self) -> None:
        self.listening = False
        self._members_known = False
        self._update_connectivity()
        self._stop_ready_timer()
        self.figures_ready = True
        self._requests.clear()
        self._figures.forget_others()
        self._link.listen(on=False)
        self._link.announce(fleet_messages.Interest(node=self._link.node, ttl=0.0))
        self._rows = 0
        self._own_share.set_collecting(False)

    def _applied(
        self, message: fleet_messages.Report | fleet_messages.Delta | fleet_messages.Heartbeat, *, changed: bool
    ) -> None:
        # Of an old message, too: the next one is never far.
        self._figures.note_cut(message.node, message.cut)
        if changed:
            self._mark_dirty()
        if self._figures.is_stale(message.node):
            self._request([message.node])
        self.check_complete()

    def _set_figures_ready(self) -> None:
        with self._lock:
            self._stop_ready_timer()
            if not self.figures_ready:
                self.figures_ready = True
                self.viewers_changed()
                self._mark_dirty()

    def _stop_ready_timer(self) -> None:
        if self._ready_timer is not None:
            self._ready_timer.cancel()
            self._ready_timer = None

    def _members_are_known(self) -> bool:
        return self._link.backend is None or self._link.detects_failures or self._members_known

    def _update_connectivity(self) -> None:
        backend = self._link.backend
        connected = self._connected and self._members_are_known() and (backend is None or backend.tallies.complete)
        if self._figures.set_disconnected(disconnected=not connected, now=self._clock()):
            self._mark_dirty()

    def _interest(self) -> fleet_messages.Interest:
        self._rows = self._row_quota()
        return fleet_messages.Interest(
            node=self._link.node,
            ttl=3 * self._link.heartbeat,
            interval=publish_interval(len(self._figures), self._config.stats_interval),
            rows=self._rows,
            released=self._releases.released,
            known=tuple(self._known_versions.known_versions),
        )

    def _announce_interest(self) -> None:
        with self._lock:
            if self._link.backend is not None and self.listening:
                self._interest_due = self._clock() + self._link.heartbeat
                self._link.announce(self._interest())

    def _row_quota(self) -> int:
        if not (self._shows_rows() or self._clock() < self._rows_until) or not self._members_are_known():
            return 0
        limit = min(self._config.max_listed_connections, fleet_messages.MAX_ROWS)
        if len(self._figures) <= SMALL_FLEET:
            return limit
        return row_quota(self._figures.totals(), limit, unreported=len(self._figures.unreported()), before=self._rows)

    def _request_reports(self) -> None:
        """Ask for all reports that are missing. Takes the lock itself, because `viewers_changed` calls it in a loop."""
        with self._lock:
            if self._requests.idle and self.listening:
                missing = self._figures.missing_nodes(rows=self._rows > 0)
                strangers = self._link.border.strangers
                self._request(node for node in missing if node != self._link.node and node not in strangers)
            else:
                self._request(())

    def _request(self, nodes: Iterable[str]) -> None:
        if self._link.backend is None or not self.listening:
            return
        self._requests.add(nodes)
        for node in self._requests.pop_due(self._clock(), self._figures):
            self._link.send(node, fleet_messages.ReportRequest(node=self._link.node, rows=self._rows))
