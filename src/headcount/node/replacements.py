"""
Streams that take the place of another: the old one is ended, here or on its node, so that no page is counted twice.

A client that lost its connection reconnects sooner than the network notices the loss, and names its old stream by its
secret handle. With it, the client may report a limit that ended the old one.

Tests: tests/asgi/test_replacing.py, tests/node/test_handing_over.py, tests/test_metrics.py.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from ..core.cut_reports import CutReports
from ..core.ends import LOOP_CLOSED, REPLACED
from ..fleet.membership import Membership
from ..loops import call_in_loop
from .departed_pages import DepartedPages
from .rollout import Rollout
from .session import Session
from .shared_streams import SharedStreams

logger = logging.getLogger("headcount")


class ReplacementHost(Protocol):
    """The node. Its key and its membership are read each time, because a fork replaces them."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams, and the tabs of shared ones, by public id."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""

    def stream_id(self, handle: str) -> str | None:
        """Return the public id that a secret handle of this node names; None: it is forged, or another node's."""

    def close(self, session: Session, cause: str) -> None:
        """Remove a stream. Idempotent."""

    def page_returned(self, handle: str, version: str) -> None:
        """Note a page whose previous stream was on a node that may be gone."""


class Replacements:
    """
    Ends the streams that new ones replace.

    Args:
        host: The node.
        lock: The node's.
        clock: Monotonic seconds.
        cut_reports: What clients report about limits.
        departed: Pages whose streams this node ended.
        shared_streams: Streams that tabs share.
        rollout: Knows which pages were asked to come to a version.
    """

    def __init__(
        self,
        host: ReplacementHost,
        lock: threading.RLock,
        clock: Callable[[], float],
        cut_reports: CutReports,
        departed: DepartedPages,
        shared_streams: SharedStreams,
        rollout: Rollout,
    ) -> None:
        self._host = host
        self._lock = lock
        self._clock = clock
        self._cut_reports = cut_reports
        self._departed = departed
        self._shared_streams = shared_streams
        self._rollout = rollout

    def replace(self, handle: str, by: str, version: str | None, cut_after: float = 0.0) -> None:
        """
        End the stream that a new one replaces, here or on another node.

        Args:
            handle: Secret handle of the old stream.
            by: Public id of the new one, which is not open yet.
            version: Of the page; None: the new stream is not counted.
            cut_after: Seconds after which something ends the client's streams, as it reports; 0: no report.

        A handle that names no stream is ignored: mostly that stream has ended already.
        """
        before = self._host.stream_id(handle)
        if before is not None and version is not None:
            self._rollout.came_back(before, by)
        if not self.replace_here(handle, cut_after):
            self._host.membership.remote.replace(handle, cut_after)
            if version is not None:
                self._host.page_returned(handle, version)

    def replace_here(self, handle: str, cut_after: float = 0.0, *, shared: bool = False) -> bool:
        """
        End a stream of this node that a new one replaces, and drop the tabs that it left behind.

        Args:
            handle: Secret handle of the old stream.
            cut_after: See `replace`.
            shared: Tabs share the new stream. Those of the old one are held until they are reported on the new one.

        Returns:
            False if there was none.
        """
        stream_id = self._host.stream_id(handle)
        if cut_after and stream_id is not None:
            self._on_cut_report(stream_id, cut_after)
        ended = self._end_here(stream_id)
        if stream_id is not None:
            if not shared:
                self._shared_streams.drop_held(stream_id)
            self._page_is_back(stream_id)
        return ended

    def add_shared_stream(
        self, session: Session, version: str, ip: str | None, replaces: str, cut_after: float = 0.0
    ) -> None:
        """
        Add a stream that tabs share, with the tabs of the stream that it replaces.

        Args:
            session: The stream. It must be opened at once.
            version: Of tabs that do not say theirs.
            ip: Of its tabs.
            replaces: Secret handle of the browser's previous stream; "" for none.
            cut_after: See `replace`.
        """
        replaced = self._host.stream_id(replaces)
        if cut_after and replaced is not None:
            self._on_cut_report(replaced, cut_after)
        if replaces and not self._end_here(replaced):
            self._host.membership.remote.replace(replaces, cut_after, shared=True)
        if replaced is not None:
            self._page_is_back(replaced)
        self._shared_streams.add(session, version, ip, replaced, replaces if replaced is None else "")

    def _on_cut_report(self, stream_id: str, seconds: float) -> None:
        """Note that something ends a client's streams after so many seconds, as it says when it replaces one."""
        with self._lock:
            limit = self._cut_reports.replaced(stream_id, self._clock(), seconds)
        if limit is not None:
            logger.warning(
                "Streams: something between browsers and this server ends streams after %.3g s. Raise its limit; see "
                "docs/deployment.md, 'A proxy that ends streams'.",
                limit,
            )

    def _end_here(self, stream_id: str | None) -> bool:
        session = None if stream_id is None else self._host.sessions.get(stream_id)
        if session is None:
            return False
        if not call_in_loop(session.loop, self._end_replaced, session):
            self._host.close(session, LOOP_CLOSED)
        return True

    def _end_replaced(self, session: Session) -> None:
        # At once: some streams leave the figures only when their task has ended.
        self._host.close(session, REPLACED.cause)
        session.end(REPLACED)

    def _page_is_back(self, stream_id: str) -> None:
        with self._lock:
            self._departed.came_back(stream_id)
