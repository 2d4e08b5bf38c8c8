"""
Asks the pages of this node to come to the version that was declared: all at once, or in stages.

The stage is a part of the release (core/stage.py), and who has which turn is decided in core/invitations.py. Here
they meet the streams, the clock, and what pages answer. Pages that are on the version already, and streams that are no
pages, such as those of viewers, hear of a release at once.

Tests: tests/asgi/test_staged_releases.py, tests/server/test_staged_releases.py.
"""

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from ..core import messages
from ..core.fleet_messages import Declaration
from ..core.invitation_counts import InvitationCounts
from ..core.invitations import Invitations
from ..core.registry import Registry
from ..core.stage import Stage
from ..loops import call_in_loop
from .releases import Releases
from .session import Session
from .shared_streams import SharedStreams, TabSession


class RolloutHost(Protocol):
    """What invitations need of their node."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams, and the tabs of shared ones, by public id."""


class Rollout:
    """
    The invitations of one node. From any thread.

    Args:
        host: The node.
        registry: Its connections.
        lock: The node's.
        releases: Which version was declared.
        shared_streams: Streams that tabs share.
        clock: Monotonic seconds.
        is_asking: Says whether pages are asked at all, as they are while the declared version is current. Called with
            the node's lock held.
    """

    def __init__(
        self,
        host: RolloutHost,
        registry: Registry,
        lock: threading.RLock,
        releases: Releases,
        shared_streams: SharedStreams,
        clock: Callable[[], float],
        is_asking: Callable[[], bool],
    ) -> None:
        self._host = host
        self._registry = registry
        self._lock = lock
        self._releases = releases
        self._shared_streams = shared_streams
        self._clock = clock
        self._is_asking = is_asking
        self._was_asking = False
        self._invitations = Invitations(random.random)
        self.is_staged = False
        """Pages of other versions must wait for their turn, as `is_withheld` says of one."""

    def announce(self, *, is_new: bool) -> list[Session]:
        """
        Give each page of another version a turn for the release that was just declared. With the node's lock held.

        Args:
            is_new: It was declared now, and not learnt from a file, or from a node that knew of it for long.

        Returns:
            The streams and tabs to `tell` of it now, without the lock.
        """
        released = self._releases.released
        if released is None:
            return []
        self.is_staged = not released.stage.everybody
        self._invitations.begin(released.version)
        self._invitations.consider_again()
        self._was_asking = is_new or self._is_asking()
        if not self._was_asking:
            return []
        outdated = self._add_outdated(released, released.stage.start)
        told = [
            session
            for connection_id, session in self._host.sessions.items()
            if connection_id not in outdated and not self._shared_streams.tabs_on(connection_id)
        ]
        asked = self._due(released)
        if released.stage.everybody:  # who was asked before may have missed it
            asked = list(outdated.values())
        return [*told, *asked]

    def opened(self, session: Session, version: str, release_id: int) -> None:
        """
        Tell a page that has just opened a stream of the release, or give it a turn.

        Args:
            session: Its stream, or the tab.
            version: Of the page.
            release_id: Of the release that it says it was asked to come to; 0: of none.
        """
        released = self._releases.released
        if released is None or self._shared_streams.is_shared(session.id):
            return
        if version == released.version:
            # `connected` of a stream that tabs share names no version that some of them must not hear of yet.
            if self.is_staged and isinstance(session, TabSession):
                session.send(self._releases.message())
            return
        with self._lock:
            is_page = session.id in self._registry  # else it is a viewer's, or connections are not tracked
            if is_page:
                if release_id and release_id == released.release_id:
                    # By another node, or by this one before it was started anew. Else it would hear of it no more.
                    self._invitations.note_asked(session.id)
                share = released.stage.share(self._releases.now())
                self._invitations.add(session.id, share)
                # The message to a page that comes back may have been lost with its stream.
                hears = self._invitations.was_asked(session.id) or (
                    released.stage.state == "running"
                    and self._invitations.ask_now(session.id, share, self._on_route_of(released.stage))
                )
        if not is_page or hears:
            session.send(self._releases.message())

    def moved(self, tab: Session) -> None:
        """Tell a tab that was asked, and has another stream now, of the release again: `connected` may not name it."""
        with self._lock:
            was_asked = self._invitations.was_asked(tab.id)
        if was_asked:
            call_in_loop(tab.loop, tab.send, self._releases.message())

    def navigated(self, connection_id: str) -> None:
        """Note that a page is on another route. With the node's lock held."""
        self._invitations.navigated(connection_id)

    def closed(self, connection_id: str, *, farewell: bool) -> None:
        """Forget a page whose stream ended; `farewell`: it will not come back. With the node's lock held."""
        self._invitations.discard(connection_id, self._clock(), farewell=farewell)

    def came_back(self, before: str, connection_id: str) -> None:
        """Note that a page opens a new stream, which is not open yet, in place of another one."""
        with self._lock:
            self._invitations.came_back(before, connection_id)

    def tick(self) -> None:
        """Ask the pages whose turn has come. O(1) when nobody waits."""
        released = self._releases.released
        if released is None:
            return
        with self._lock:
            self._invitations.expire(self._clock())
            is_asking = self._is_asking()
            if is_asking and not self._was_asking:
                # Pages that opened meanwhile have no turn yet.
                self._add_outdated(released, released.stage.share(self._releases.now()))
            self._was_asking = is_asking
            due = self._due(released) if is_asking and not self._invitations.is_idle else []
        self.tell(due)

    def reply(self, session: Session, reply: messages.ReleaseReply) -> None:
        """Note what a page does about this release, if it was asked."""
        connection_id = session.id
        if reply.tab:
            tab = self._shared_streams.tab_of(session.id, reply.tab)
            if tab is None:
                return
            connection_id = tab.id
        with self._lock:
            if reply.version == self._invitations.version:
                self._invitations.reply(connection_id, reply.reply, reply.reason)

    def is_withheld(self, version: str, release_id: int = 0) -> bool:
        """
        Say whether a page of a version that opens a stream now must wait for its turn to hear of the release.

        Args:
            version: Of the page.
            release_id: Of the release that it says it was asked to come to; 0: of none.
        """
        released = self._releases.released
        if released is None or released.stage.everybody or released.version == version:
            return False
        if release_id and release_id == released.release_id:
            return False
        return bool(released.stage.route) or released.stage.share(self._releases.now()) < 1.0

    def share(self) -> float:
        """Return the share of the outdated pages that had a turn by now, 0 to 1; 0.0 while nothing was declared."""
        released = self._releases.released
        return 0.0 if released is None else released.stage.share(self._releases.now())

    def counts(self) -> InvitationCounts | None:
        """Return what came of the invitations of this node; None: nothing was declared."""
        self.tick()  # who is due by now is asked before the stage is said to be done
        released = self._releases.released
        if released is None:
            return None
        with self._lock:
            return self._invitations.counts(released.number)

    def _is_outdated(self, connection_id: str, version: str) -> bool:
        return connection_id in self._registry and self._registry.info(connection_id).version != version

    def _add_outdated(self, released: Declaration, share: float) -> dict[str, Session]:
        """Give all pages of other versions a turn, and return them by id."""
        outdated = {
            connection_id: session
            for connection_id, session in self._host.sessions.items()
            if self._is_outdated(connection_id, released.version)
        }
        for connection_id in outdated:
            self._invitations.add(connection_id, share)
        return outdated

    def _due(self, released: Declaration) -> list[Session]:
        """Return the pages that are to be asked now, and count them as asked."""
        if released.stage.state != "running":
            return []
        due = self._invitations.due(released.stage.share(self._releases.now()), self._on_route_of(released.stage))
        return [session for each in due if (session := self._host.sessions.get(each)) is not None]

    def _on_route_of(self, stage: Stage) -> Callable[[str], bool]:
        if not stage.route:
            return lambda _: True
        registry, route = self._registry, stage.route
        return lambda page: page in registry and registry.info(page).route == route

    def tell(self, sessions: Iterable[Session]) -> int:
        """
        Send the release to pages, without the lock. Tabs that make up their whole stream hear it by one message that
        names no tab.

        Returns:
            The number of streams.
        """
        streams: dict[str, list[Session]] = {}
        for session in sessions:
            stream = session.session if isinstance(session, TabSession) else session
            streams.setdefault(stream.id, []).append(session)
        payload = self._releases.message()
        for told in streams.values():
            first = told[0]
            if isinstance(first, TabSession) and len(told) == self._shared_streams.tabs_on(first.session.id):
                call_in_loop(first.loop, first.session.send, payload)
                continue
            for session in told:
                call_in_loop(session.loop, session.send, payload)
        return len(streams)
