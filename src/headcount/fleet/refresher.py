"""
Figures of this moment, for a caller that does not watch: every node publishes what it has, with its sequence number.

Tests: tests/fleet/backends/test_conformance.py, tests/core/test_report_requests.py.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress

from ..core import fleet_messages
from ..core.fleet_figures import FleetFigures
from ..core.report_requests import FlushRound
from .link import FleetLink
from .local_node import KnownState
from .report_collector import CATCH_UP, ReportCollector


class Refresher:
    """
    Brings the figures up to date, in one round at a time. In the backend's loop.

    Args:
        link: To the other nodes.
        figures: What is held of them.
        known_versions: Which versions are known.
        collector: Listens to them.
        lock: The node's.
        clock: Monotonic seconds.
        mark_dirty: Schedules a push to the viewers.
    """

    def __init__(
        self,
        link: FleetLink,
        figures: FleetFigures,
        known_versions: KnownState,
        collector: ReportCollector,
        lock: threading.RLock,
        clock: Callable[[], float],
        mark_dirty: Callable[[], None],
    ) -> None:
        self._link = link
        self._figures = figures
        self._known_versions = known_versions
        self._collector = collector
        self._lock = lock
        self._clock = clock
        self._mark_dirty = mark_dirty
        self._numbers = itertools.count(1)
        self._one_at_a_time: asyncio.Lock | None = None
        """Held by the round that runs."""
        self._last_began = float("-inf")
        """When the last round began."""
        self._last_had_rows = False
        """The last round asked for connections, too."""
        self._open_round: tuple[FlushRound, asyncio.Future[None]] | None = None
        """The round whose answers are still coming, and what waits for them."""

    async def refresh(self, called: float, *, rows: bool) -> None:
        """
        Wait until the figures are no older than `called`, or `CATCH_UP` is over.

        Args:
            called: When the caller asked.
            rows: With connections.
        """
        with self._lock:
            self._collector.keep_listening(rows=rows)
        if self._one_at_a_time is None:
            self._one_at_a_time = asyncio.Lock()
        async with self._one_at_a_time:
            if self._last_began >= called and (self._last_had_rows or not rows):
                return  # a round that began after the call has what the caller wants
            self._last_began, self._last_had_rows = self._clock(), rows
            deadline = self._clock() + CATCH_UP
            with suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP):
                    await self._collector.learn_members()
            await self._flush_all(deadline)
            await self._collector.wait_complete(max(0.0, deadline - self._clock()))

    def on_heartbeat(self, heartbeat: fleet_messages.Heartbeat) -> None:
        """Note the sequence number up to which a node has published, and what it knows. The lock is held."""
        if heartbeat.re:
            self._figures.note_known(heartbeat.node, heartbeat.known)
        if self._open_round is not None and heartbeat.re:
            self._open_round[0].answered(heartbeat.node, heartbeat.re, heartbeat.sequence)

    def on_applied(self, node: str) -> None:
        """Note that something of a node was applied. The lock is held."""
        if self._open_round is not None:
            self._open_round[0].arrived(node, self._figures.sequence(node))
            self._end_complete_round()

    def on_left(self, node: str) -> None:
        """Wait no longer for a node that is gone. The lock is held."""
        if self._open_round is not None:
            self._open_round[0].left(node)
            self._end_complete_round()

    def forget_loop(self) -> None:
        """Drop what belonged to a loop that is over."""
        self._one_at_a_time = None
        self._last_began = float("-inf")
        self._open_round = None

    def _end_complete_round(self) -> None:
        if self._open_round is not None and self._open_round[0].complete and not self._open_round[1].done():
            self._open_round[1].set_result(None)

    async def _flush_all(self, deadline: float) -> None:
        with self._lock:
            others = [node for node in self._figures.responsive_nodes() if node != self._link.node]
            if not others or not self._link.active or self._link.loop is None:
                return
            asked = self._clock()
            flush, future = FlushRound(next(self._numbers), others), self._link.loop.create_future()
            self._open_round = (flush, future)
        self._link.announce(
            fleet_messages.FlushRequest(
                node=self._link.node, re=flush.number, known=tuple(self._known_versions.known_versions)
            )
        )
        patience = max(0.0, deadline - asked)
        try:
            await asyncio.wait_for(future, patience)
        except TimeoutError:
            # The figures of these nodes may be old, and the caller wants those of this moment, so it gets partial ones;
            # unless the store took so long to list the nodes that they had too little time to answer.
            with self._lock:
                if patience >= CATCH_UP / 2 and self._figures.mark_silent(flush.pending, asked):
                    self._mark_dirty()
        finally:
            self._open_round = None
