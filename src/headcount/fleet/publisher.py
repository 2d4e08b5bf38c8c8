"""
To whom this node publishes its figures: the nodes with viewers, for as long as those watch.

core/publish_schedule.py says who and when, core/publication.py says what; here are the timer and the messages.

Tests: tests/fleet/backends/test_conformance.py, tests/core/test_publish_schedule.py, tests/core/test_publication.py.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

import msgspec

from ..core import fleet_messages
from ..core.publication import Publication
from ..core.publish_schedule import PublishSchedule
from ..core.stats import Stats
from .link import FleetLink
from .local_node import KnownState, ReleaseState
from .own_share import OwnShare

logger = logging.getLogger("headcount")


class Publisher:
    """
    Publishes this node's share. All but `publish_soon` runs in the backend's loop, with the node's lock held.

    Args:
        link: To the other nodes.
        own_share: Where the changes come from.
        publication: What the other nodes get.
        version: The version that this node serves.
        releases: Which version was declared current.
        known_versions: Which versions are known.
        lock: The node's.
        clock: Monotonic seconds.
        start_ticking: Called when another node has asked for figures, so that `tick` is called from then on.
        publish_first: Publishes departures, so that viewers know why a figure goes down.
        own_cut: Returns after how many seconds something ends this node's streams; None: it knows of no limit.
    """

    def __init__(
        self,
        link: FleetLink,
        own_share: OwnShare,
        publication: Publication,
        version: str,
        releases: ReleaseState,
        known_versions: KnownState,
        lock: threading.RLock,
        clock: Callable[[], float],
        start_ticking: Callable[[], None],
        publish_first: Callable[[], None],
        own_cut: Callable[[], float | None],
    ) -> None:
        self.schedule = PublishSchedule()
        self.publication = publication
        self._link = link
        self._own_share = own_share
        self._version = version
        self._releases = releases
        self._known_versions = known_versions
        self._lock = lock
        self._clock = clock
        self._start_ticking = start_ticking
        self._publish_first = publish_first
        self._own_cut = own_cut
        self._timer: asyncio.TimerHandle | None = None
        self._logged_too_large = False

    def publish_soon(self) -> None:
        """Publish what changed here, if another node has asked for it. From any loop, after every change."""
        if self.schedule.interests and self._own_share.pending:
            self._link.call(self._schedule)

    def publish_now(self) -> None:
        """Publish what changed here, before anything that is sent after this call. In the backend's loop."""
        with self._lock:
            self._publish()

    def on_interest(self, interest: fleet_messages.Interest) -> None:
        """Note that a node asks for the figures of this one, or does not any more."""
        if self.schedule.receive(interest, self._clock()):
            self._interests_changed()

    def on_left(self, node: str) -> None:
        """Note that a node is gone."""
        if self.schedule.remove(node):
            self._interests_changed()

    def on_report_request(self, request: fleet_messages.ReportRequest) -> None:
        """Send a node the whole report."""
        if request.node not in self.schedule and self._link.backend is not None:
            # Its interest was lost, or is still on its way.
            ttl = 3 * self._link.heartbeat
            self.on_interest(fleet_messages.Interest(node=request.node, ttl=ttl, interval=1.0, rows=request.rows))
        self._own_share.sync()
        if request.rows > self.publication.rows:
            self._show_rows(request.rows)
        report = self.publication.report(
            self._own_share.registry.snapshot(),
            rows=request.rows > 0,
            released=self._releases.released,
            serves=self._version,
            known=tuple(self._known_versions.known_versions),
            cut=self._cut,
        )
        data = self._link.encode(report)
        while report.rows and len(data) > fleet_messages.MAX_BYTES:
            report = msgspec.structs.replace(report, rows=report.rows[: len(report.rows) // 2])
            data = self._link.encode(report)
        if len(data) <= fleet_messages.MAX_BYTES:
            self._link.send_bytes(request.node, data)
        elif not self._logged_too_large:
            self._logged_too_large = True
            logger.error(
                "Fleet: this node's report is %d MiB, more than other nodes accept, so their figures are partial. "
                "Lower max_routes or max_versions, or have pages send patterns such as /order/:id as routes.",
                len(data) >> 20,
            )

    def on_flush_request(self, request: fleet_messages.FlushRequest) -> None:
        """Publish now what is pending, and answer with its sequence number."""
        self._own_share.sync()
        self._publish()
        self._link.send(
            request.node,
            fleet_messages.Heartbeat(
                node=self._link.node,
                sequence=self.publication.sequence,
                re=request.re,
                known=tuple(self._known_versions.known_versions),
                cut=self._cut,
            ),
        )

    def leave_message(self, departed: dict[str, int], transit: float) -> bytes:
        """Return the last message of this node, with the pages that must reconnect and the seconds that they have."""
        leave = fleet_messages.Leave(
            node=self._link.node, sequence=self.publication.sequence, departed=departed, transit=transit
        )
        return self._link.encode(leave)

    def tick(self, now: float) -> None:
        """Forget the interest of nodes that are gone, and send a heartbeat after a quiet time."""
        if self.schedule.expire(now):
            self._interests_changed()
        if not self.schedule.is_quiet(now, self._link.heartbeat):
            return
        self._publish()
        if self.schedule.is_quiet(now, self._link.heartbeat):
            self.schedule.note_heartbeat(now)
            heartbeat = fleet_messages.Heartbeat(
                node=self._link.node, sequence=self.publication.sequence, cut=self._cut
            )
            self._link.publish(self._link.encode(heartbeat))

    @property
    def _cut(self) -> float:
        """What messages say of the limit of this node's streams; see core/fleet_messages.py."""
        return self._own_cut() or 0.0

    def stop(self) -> None:
        """Forget all interests, and the timer of a loop that is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.schedule.clear():
            self._interests_changed()

    def _interests_changed(self) -> None:
        if not self.schedule.interests:
            self.publication.show_rows(0, Stats())
            self._own_share.set_publishing(False)
            return
        self._own_share.set_publishing(True)
        self._show_rows(self.schedule.rows)
        self._start_ticking()

    def _show_rows(self, rows: int) -> None:
        if rows > self.publication.rows or (not rows and self.publication.rows):
            # What is pending belongs to the chain of deltas that ends here.
            self._publish()
            self.publication.show_rows(rows, self._own_share.registry.snapshot())
            self._schedule()

    def _schedule(self) -> None:
        with self._lock:
            if self._timer is None and self._link.loop is not None and self.schedule.interests:
                # Not in place: what else happens in this turn of the loop goes into the same delta.
                delay = self.schedule.delay(self._clock())
                self._timer = self._link.loop.call_later(delay, self._publish_scheduled)

    def _publish_scheduled(self) -> None:
        with self._lock:
            self._timer = None
            self._publish()

    def _publish(self) -> None:
        if self._link.backend is None or not self.schedule.interests:
            return
        self._publish_first()
        self._own_share.sync()
        delta = self.publication.pop_changes(self._cut)
        if delta is not None:
            self.schedule.note_delta(self._clock())
            data = self._link.encode(delta)
            if len(data) <= fleet_messages.MAX_BYTES:  # else all ask for the whole report
                self._link.publish(data)
