"""
The figures as programs read them: of the fleet or of this node, now or over the last hour; and the current version.

Tests: tests/asgi/test_figures.py, tests/asgi/test_dashboard.py, tests/test_metrics.py.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from ..core.current_version import CurrentRelease
from ..core.history import Current
from ..core.kept_history import History, KeptHistory, WholeHistory
from ..core.registry import Registry
from ..core.rollouts import Rollouts
from ..core.stats import NodeShare, Stats
from ..core.tallies import RETURN
from ..fleet.backends.history_folder import HistoryFolder
from ..fleet.membership import Membership
from .releases import Releases, timestamp


class FigureHost(Protocol):
    """The node. Its id and its membership are read each time, because a fork replaces them."""

    @property
    def id(self) -> str:
        """Its id in the fleet."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""

    def learn_versions(self, versions: Iterable[str]) -> None:
        """Take versions for known, and count them apart from now on."""


class StatsSource(Protocol):
    """What keeps the newest figures for viewers: `Viewers`."""

    def stats(self) -> Stats:
        """Return the figures now."""


class FigureReader:
    """
    Reads the figures for the application, endpoints and metrics, and keeps their history.

    Args:
        host: The node.
        registry: Its connections.
        lock: The node's.
        viewers: Keep the newest figures.
        releases: Which version was declared current.
        close_dead_loops: Closes what a closed event loop left behind.
        history_folder: Keeps the history of a node that is alone while it does not run; None: nothing does.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        host: FigureHost,
        registry: Registry,
        lock: threading.RLock,
        viewers: StatsSource,
        releases: Releases,
        close_dead_loops: Callable[[], None],
        history_folder: HistoryFolder | None = None,
        now: float = 0.0,
    ) -> None:
        self._history_folder = history_folder
        kept = KeptHistory() if history_folder is None else history_folder.load()
        self.history = History(kept, now + RETURN if kept.fine else float("-inf"))
        """Of a node that is alone."""
        self._host = host
        self._registry = registry
        self._lock = lock
        self._viewers = viewers
        self._releases = releases
        self._close_dead_loops = close_dead_loops

    def stats(self, *, rows: bool = True, linger: float | None = None, version: str | None = None) -> Stats:
        """
        Return the figures as they are known here. O(1) when nothing changed since the last call.

        In a fleet they may be old or empty while no viewer watches at this node; `fresh_stats` asks the other nodes.

        Args:
            rows: The caller may see connections, and wants to. Else those of other nodes are not requested.
            linger: Seconds for which this node listens to the others from now on, because the caller will read again.
            version: Add the number of this one.
        """
        self._close_dead_loops()
        with self._lock:
            self._host.membership.view.keep_listening(rows=rows, linger=linger)
            stats = self._viewers.stats()
            if version is not None:
                count = self._host.membership.view.count_of(version) or self._registry.count_of(version)
                stats = msgspec.structs.replace(stats, of_version=count)
            return msgspec.structs.replace(stats, partial=True) if self._host.membership.join_pending else stats

    async def fresh_stats(self, *, rows: bool = True, version: str | None = None) -> Stats:
        """
        Return the figures as all nodes have them now; they get a second to answer. See `stats`.

        Args:
            rows: As in `stats`.
            version: Have the number of this one counted exactly, by all nodes that can. It is known from now on.
        """
        if version is not None:
            self._host.learn_versions((version,))
        await self._host.membership.view.refresh(rows=rows)
        return self.stats(rows=rows, version=version)

    def local_stats(self) -> Stats:
        """Return the figures of this node alone."""
        with self._lock:
            return self._registry.snapshot()

    @property
    def report_age(self) -> float:
        """Seconds since the most silent node reported; 0.0 for a node without a fleet."""
        with self._lock:
            return self._host.membership.view.report_age

    @property
    def release(self) -> CurrentRelease:
        """
        Which version is current in the fleet, and why.

        While no viewer watches here, what the other nodes serve is known as of the last few seconds.
        """
        view = self._host.membership.view
        with self._lock:
            return view.release if view.active else self._registry.release

    @property
    def current_version(self) -> str | None:
        """The version that was declared current, else the one that the fleet has settled on; None: it is not known."""
        return self.release.current

    async def shares(self) -> list[NodeShare]:
        """Return what each node of the fleet has now, this one first; they get a second to answer."""
        membership = self._host.membership
        await membership.view.refresh(rows=False)
        with self._lock:
            membership.view.sync()
            if shares := membership.view.shares():
                return shares
            return [NodeShare(self._host.id, self._registry.total, True, 0.0, self._registry.settled)]

    def keep_sample(self, now: float) -> None:
        """Keep a sample of the figures in the history, if one is due and this node is alone; `now` is monotonic."""
        if not self.history.is_due(now):
            return
        with self._lock:
            if self._host.membership.view.active:
                return  # the fleet's history is in the backend's store
            versions = dict(self._registry.versions)
            current = Current(self._registry.release.current, self._releases.declared_at)
        added = self.history.add(now, timestamp(), versions, current)
        if self._history_folder is not None:
            self._history_folder.write(added)

    async def whole_history(self) -> WholeHistory:
        """Return the history of the fleet, or of this node if it is alone."""
        return (await self._host.membership.view.history() or self.history.kept).read(timestamp())

    async def rollouts(self) -> Rollouts:
        """Return the adoption curves of the last rollouts, as `whole_history` has them, for less."""
        kept = await self._host.membership.view.history(for_rollouts=True) or self.history.kept
        return kept.catch_up(timestamp())
