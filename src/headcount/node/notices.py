"""
Messages of the application to many pages, with a count of those that acknowledge them.

Tests: tests/asgi/test_notices.py, tests/server/test_notices.py.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from ..core import messages
from ..core.acknowledgements import Acknowledgements
from ..core.payload import Payload
from ..core.registry import Registry, matches
from ..fleet.membership import Membership
from ..loops import call_in_loop
from .session import Session
from .shared_streams import SharedStreams

MAX_WAIT: Final = 60.0
"""Seconds for which the sender may wait for acknowledgements."""

_POLL: Final = 0.25
"""Seconds between two counts."""


class NoticeHost(Protocol):
    """The node. Its membership is read each time, because a fork replaces it."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams, and the tabs of shared ones, by public id."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""


class Acknowledged(NamedTuple):
    """
    What came of a message.

    Attributes:
        sent: Pages that it was handed to.
        acknowledged: Those whose client said in time that it has passed the message on.
        partial: A node did not answer, so there may be more of both.
    """

    sent: int
    acknowledged: int
    partial: bool


class Notices:
    """
    Sends messages to the pages of this node, and to those of the others.

    Args:
        host: The node.
        registry: Its connections.
        lock: The node's.
        shared_streams: Streams that tabs share.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        host: NoticeHost,
        registry: Registry,
        lock: threading.RLock,
        shared_streams: SharedStreams,
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._registry = registry
        self._lock = lock
        self._shared_streams = shared_streams
        self._clock = clock
        self._acknowledgements = Acknowledgements()

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
        found = await self._host.membership.remote.broadcast(encoded, version, route)
        return here + sum(answer.count for answer in found.answers)

    async def broadcast_acknowledged(
        self, message: Mapping[str, Any], *, version: str | None, route: str | None, wait: float
    ) -> Acknowledged:
        """
        Send a JSON object as `broadcast` does, and count the pages that acknowledge it.

        Args:
            message: The message. Pages get it with an `acknowledge` field, which it must not have.
            version: Only to those of this version.
            route: Only to those on this route.
            wait: Seconds to wait for acknowledgements; returns earlier when all pages have sent theirs.

        Raises:
            TypeError: See `broadcast`; or the message has a field `acknowledge`.
        """
        messages.application(message)  # or it raises
        if "acknowledge" in message:
            raise TypeError("The message has a field 'acknowledge', which is the name of the one that is added.")
        number = os.urandom(8).hex()
        encoded = messages.application({**message, "acknowledge": number})
        deadline = asyncio.get_running_loop().time() + min(wait, MAX_WAIT)
        sent = self.deliver_all(Payload(encoded), version=version, route=route, acknowledge=number)
        remote = self._host.membership.remote
        found = await remote.broadcast(encoded, version, route, number)
        sent += sum(answer.count for answer in found.answers)
        partial = found.asked is None or len(found.answers) < found.asked
        while True:
            found = await remote.acknowledged(number)
            here = self.acknowledged(number)
            partial = partial or here is None  # too many other messages are under way
            acknowledged = (here or 0) + sum(answer.count for answer in found.answers if answer.ok)
            left = deadline - asyncio.get_running_loop().time()
            if acknowledged >= sent or left <= 0:
                partial = partial or found.asked is None or sum(answer.ok for answer in found.answers) < found.asked
                return Acknowledged(sent, acknowledged, partial)
            await asyncio.sleep(min(_POLL, left))

    def deliver_all(
        self, payload: Payload, *, version: str | None = None, route: str | None = None, acknowledge: str = ""
    ) -> int:
        """
        Send an encoded message to all counted connections of this node, or only to those of one version or route.

        Args:
            payload: The message.
            version: Only to those of this version.
            route: Only to those on this route.
            acknowledge: Id of a message that pages acknowledge.

        Returns:
            The number of connections that it was handed to.
        """
        with self._lock:
            chosen = [session for session in self._host.sessions.values() if self._matches(session, version, route)]
            if acknowledge:
                self._acknowledgements.expire(self._clock())
                self._acknowledgements.sent(acknowledge, (session.id for session in chosen), self._clock())
        for session in chosen:
            call_in_loop(session.loop, session.send, payload)
        return len(chosen)

    def acknowledge(self, session: Session, message: messages.Acknowledge) -> None:
        """Note that a page acknowledges a message, if it was sent it."""
        page: Session | None = session
        if message.tab:
            page = self._shared_streams.tab_of(session.id, message.tab)
        if page is not None:
            with self._lock:
                self._acknowledgements.acknowledge(message.id, page.id)

    def acknowledged(self, number: str) -> int | None:
        """Return how many pages of this node acknowledged a message; None: it is not known here."""
        with self._lock:
            return self._acknowledgements.count(number)

    def _matches(self, session: Session, version: str | None, route: str | None) -> bool:
        if not session.counted:
            return False
        if version is None and route is None:
            return True
        if session.id not in self._registry:
            return False
        return matches(self._registry.info(session.id), version, route)
