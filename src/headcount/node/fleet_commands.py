"""
What the application and its operators ask of the whole fleet, each command with its half for this node.

`send`, `broadcast`, `revoke`, `release` and the pages reach all nodes. What begins with `deliver` or ends in `_here`
concerns the streams of this node alone: the fleet-wide command calls it, and so do the commands of other nodes
(fleet/command_handlers.py). The half for the other nodes is in fleet/remote_commands.py.

Tests: tests/asgi/test_streams.py, tests/asgi/test_authorization.py, tests/fleet/backends/test_two_sites.py.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, Protocol

from ..core import messages, paging
from ..core.payload import Payload
from ..core.registry import Registry, matches
from ..errors import UnknownConnection
from ..fleet.membership import Membership
from ..loops import call_in_loop, catch_up_with
from .figures import FigureReader
from .releases import ReleaseOutcome, Releases
from .session import Session
from .shared_streams import SharedStreams
from .viewers import Viewers

REVOKE_TIMEOUT: Final = 2.0
"""Seconds in which the loop of a stream must have sent what was chosen before its viewer's right was withdrawn."""


class CommandHost(Protocol):
    """The node. Its key and its membership are read each time, because a fork replaces them."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams, and the tabs of shared ones, by public id."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""

    def stream_id(self, handle: str) -> str | None:
        """Return the public id that a secret handle of this node names; None: it is forged, or another node's."""


class FleetCommands:
    """
    The commands for connections of the whole fleet.

    Args:
        host: The node.
        registry: Its connections.
        lock: The node's.
        counters: The node's.
        releases: Which version was declared current.
        viewers: Have rights, which can be withdrawn.
        shared_streams: Streams that tabs share.
        figures: Say how many nodes there are.
    """

    def __init__(
        self,
        host: CommandHost,
        registry: Registry,
        lock: threading.RLock,
        counters: defaultdict[str, int],
        *,
        releases: Releases,
        viewers: Viewers,
        shared_streams: SharedStreams,
        figures: FigureReader,
    ) -> None:
        self._host = host
        self._registry = registry
        self._lock = lock
        self._counters = counters
        self._releases = releases
        self._viewers = viewers
        self._shared_streams = shared_streams
        self._figures = figures

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
            await self._host.membership.remote.send(connection_id, encoded)

    def deliver(self, connection_id: str, payload: Payload) -> None:
        """
        Send one connection of this node an encoded message, by public id or secret handle.

        Raises:
            UnknownConnection: It is not open here.
        """
        public = self._host.stream_id(connection_id) or connection_id
        session = self._host.sessions.get(public)
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
        return here + await self._host.membership.remote.broadcast(encoded, version, route)

    def deliver_all(self, payload: Payload, *, version: str | None = None, route: str | None = None) -> int:
        """
        Send an encoded message to all counted connections of this node, or only to those of one version or route.

        Returns:
            The number of connections that it was handed to.
        """
        with self._lock:
            chosen = [session for session in self._host.sessions.values() if self._matches(session, version, route)]
        for session in chosen:
            call_in_loop(session.loop, session.send, payload)
        return len(chosen)

    def _matches(self, session: Session, version: str | None, route: str | None) -> bool:
        if not session.counted:
            return False
        if version is None and route is None:
            return True
        if session.id not in self._registry:
            return False
        return matches(self._registry.info(session.id), version, route)

    async def revoke(self, connection_id: str) -> bool:
        """
        Withdraw a viewer's right, by public id or secret handle, whichever node it is on.

        Returns:
            False if it had none and no subscription was pending.

        Raises:
            Busy: The node that it is on did not answer, or cannot be looked for; or too many requests wait for other
                nodes.
        """
        return await self.revoke_here(connection_id) or await self._host.membership.remote.revoke(connection_id)

    async def revoke_here(self, connection_id: str) -> bool:
        """
        Withdraw the right of a viewer of this node, by public id or secret handle. No figure follows its return.

        Returns:
            False if it had none and no subscription was pending.
        """
        public = self._shared_streams.stream_of(self._host.stream_id(connection_id) or connection_id)
        session = self._host.sessions.get(public)
        if session is None or not self._viewers.revoke(session):
            return False
        # In another thread, the stream's loop may just be sending what was chosen before.
        await catch_up_with(session.loop, REVOKE_TIMEOUT)
        return True

    async def release(self, version: str) -> ReleaseOutcome:
        """Declare a version current on all nodes."""
        before = self._releases.released
        here = self.release_here(version)
        assert self._releases.released is not None
        found = await self._host.membership.remote.release(self._releases.released)
        reached = 1 + len(found.answers)
        # Without the backend, the nodes that it knew are all that is known of the fleet.
        others = self._figures.stats(rows=False).nodes.expected - 1 if found.asked is None else found.asked
        streams = here + sum(answer.count for answer in found.answers)
        return ReleaseOutcome(
            streams=streams,
            reached=reached,
            expected=max(reached, 1 + others),
            partial=found.asked is None or reached <= found.asked,
            already_current=not streams and before is not None and before.version == version,
        )

    def release_here(self, version: str, number: int = 0) -> int:
        """
        Declare a version current, and tell every stream of this node, viewers' too. See `Releases.declare`.

        Returns:
            The number of streams that were told; 0 for the current version and for a declaration older than the last.
        """
        with self._lock:
            if not self._releases.declare(version, number):
                return 0
            self._registry.declare(version)
            self._host.membership.view.declare(version)
            self._viewers.changed()
            # Tabs that share a stream all hear what is said on it.
            stream_of = self._shared_streams.stream_of
            streams = [session for session in self._host.sessions.values() if stream_of(session.id) == session.id]
        payload = self._releases.message()
        for stream in streams:
            call_in_loop(stream.loop, stream.send, payload)
        self._viewers.notify_observers()
        self._counters["releases"] += 1
        return len(streams)

    async def page(
        self, *, version: str | None, route: str | None, limit: int, cursor: paging.Cursor = paging.START
    ) -> paging.ConnectionPage:
        """
        Page through the connections of all nodes, node by node.

        Args:
            version: Only those of this version.
            route: Only those on this route.
            limit: Rows at most.
            cursor: Of the previous page.

        Raises:
            Busy: Too many requests wait for other nodes.
        """
        return await self._host.membership.remote.page(version=version, route=route, limit=limit, cursor=cursor)

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
        remote = self._host.membership.remote
        return await remote.sorted_page(order, version=version, route=route, limit=limit, after=after)

    async def forget(self, gone: str) -> bool:
        """
        End the doubt about a node that is gone, on all nodes.

        Returns:
            Whether anything of it was unaccounted for.

        Raises:
            Busy: The backend did not answer.
        """
        return await self._host.membership.view.forget(gone)
