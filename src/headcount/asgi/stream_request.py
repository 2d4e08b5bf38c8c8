"""Opening a stream, in one place for all transports: the request, whether there is room, and the first message."""

import time
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from starlette.types import Scope

from ..core import messages
from ..core.current_version import UNSETTLED, CurrentRelease
from ..core.cut_reports import parse_cut_after
from ..core.ends import GOING_AWAY, End
from ..core.labels import parse_claimed_version, parse_route
from ..errors import Malformed
from ..node.figures import FigureReader
from ..node.listening_sockets import Listener
from ..node.node_parts import NodeParts
from ..node.session import Session
from .request_head import RequestHead, parse_query

_QUERY: Final = frozenset(
    {"version", "route", "viewer", "shared", "replaces", "keepalive", "reconnect", "cutAfter", "answers", "release"}
)


_MAX_CACHED_QUERY: Final = 256
"""Bytes of a query; longer ones are read anew each time."""


class StreamRequest(NamedTuple):
    """What the query, the cookie and the peer say about a new stream."""

    version: str
    route: str
    ip: str | None
    """None unless addresses are tracked."""
    counted: bool
    """False for a viewer's own stream, and for one that tabs share."""
    visible_keepalives: bool
    """SSE only: the client cannot see comments and wants messages."""
    shared: bool = False
    """Tabs will be reported on it (node/shared_streams.py)."""
    replaces: str = ""
    """Secret handle of the stream that it replaces; "" for none."""
    reconnect: bool = False
    """The client says that it had a stream before."""
    cut_after: float = 0.0
    """Seconds after which something ends this client's streams, as it has noticed; 0: it has noticed nothing."""
    answers: bool = False
    """SSE only: the client answers `are-you-there`."""
    release_id: int = 0
    """Of the release that the page was asked to come to, as it says; 0: of none."""


class StreamRefused(Exception):  # noqa: N818  a verdict, not an error
    """
    No stream is opened now.

    Args:
        end: Code and sentence for the client.
        reconnect: The client says that it had a stream before.
    """

    def __init__(self, end: End, *, reconnect: bool) -> None:
        super().__init__(end.reason)
        self.end = end
        self.reconnect = reconnect


class AdmittedStream(msgspec.Struct, frozen=True):
    """A stream that may be opened. Its transport sends `connected` first, and then calls `enter`."""

    parts: NodeParts
    request: StreamRequest
    listener: Listener | None
    id: str
    """Public id."""
    connected: bytes
    """The first message."""
    address: bytes | None = None
    """What stands for the client's address, if the connections of one address are limited."""

    def enter(self, session: Session) -> None:
        """Enter the stream into the node, in place of the one that it replaces."""
        parts, request = self.parts, self.request
        if self.address is not None and (by_address := parts.admission.by_address) is not None:
            by_address.add(session.id, self.address, shared=request.shared)
        if request.shared:
            parts.replacements.add_shared_stream(
                session, request.version, request.ip, request.replaces, request.cut_after
            )
        elif request.replaces:
            version = request.version if request.counted else None
            parts.replacements.replace(request.replaces, session.id, version, request.cut_after)
        parts.node.open(
            session,
            request.version,
            request.route,
            request.ip,
            self.listener,
            reports_cut=request.cut_after > 0,
            release_id=request.release_id,
        )


class StreamGate:
    """
    Admits streams to a node.

    Args:
        parts: The node of this process, and what belongs to it.
        figures: The node's, which say which version is current.
    """

    def __init__(self, parts: NodeParts, figures: FigureReader) -> None:
        self._parts = parts
        self._figures = figures
        self._greeting: tuple[CurrentRelease, bytes] | None = None
        """The current version, and the template of the `connected` message that names it."""

    def admit(self, head: RequestHead) -> AdmittedStream:
        """
        Check a request for a stream.

        Raises:
            Malformed: A bad label or flag, or a parameter twice.
            StreamRefused: The server is going away, or full.
        """
        node, admission = self._parts.node, self._parts.admission
        request = read_stream_request(head)
        listener = admission.find_listener(head.scope.get("server"))
        by_address = admission.by_address
        address = None if by_address is None else by_address.key(head.find_address())
        if (end := admission.refusal(listener, address)) is not None:
            if end is not GOING_AWAY:
                node.counters[f"refused:{end.cause}"] += 1
            raise StreamRefused(end, reconnect=request.reconnect)
        if request.reconnect:
            node.counters["reconnects"] += 1
        public, handle = node.new_ids()
        return AdmittedStream(self._parts, request, listener, public, self._connected(handle, request), address)

    def _is_withheld(self, request: StreamRequest) -> bool:
        """Say whether a page waits for its turn. One that was asked before hears it again, by a message of its own."""
        is_page = request.counted or request.shared
        return is_page and self._parts.rollout.is_withheld(
            "" if request.shared else request.version, request.release_id
        )

    def _connected(self, handle: str, request: StreamRequest) -> bytes:
        config, release = self._parts.node.config, self._figures.release
        if self._parts.rollout.is_staged and self._is_withheld(request):
            release = UNSETTLED
        if self._greeting is None or self._greeting[0] != release:
            keepalive = round(config.keepalive_interval * 1000)
            self._greeting = release, messages.greeting(config.version, keepalive, config.update_strategy, release)
        return self._greeting[1] % (handle.encode("ascii"), time.time_ns() // 1_000_000)


def read_stream_request(head: RequestHead) -> StreamRequest:
    """
    Read the request for a stream.

    Raises:
        Malformed: A bad label or flag, or a parameter twice.
    """
    scope: Scope = head.scope
    text: bytes = scope["query_string"]
    # A query that names a stream is not cached: one page sends it once, and it contains that stream's secret handle.
    cached = len(text) <= _MAX_CACHED_QUERY and b"replaces" not in text
    request = _read_cached(text) if cached else _read(text)
    if not request.version:
        request = request._replace(version=head.cookie_version)
    address = head.address_to_keep()
    return request if address is None else request._replace(ip=address)


def _read(text: bytes) -> StreamRequest:
    """
    Read a query; without a version when it has none.

    The page's own stamp decides, because a cookie is shared by all tabs of a browser and a new tab overwrites it.
    """
    query = parse_query(text, _QUERY)
    viewer, shared = _flag(query, "viewer", "1"), _flag(query, "shared", "1")
    if viewer and shared:
        raise Malformed(
            "viewer=1 and shared=1 exclude one another; send viewer=1 for a stream that is not counted, shared=1 for "
            "a stream whose tabs are counted."
        )
    return StreamRequest(
        version=parse_claimed_version(query.get("version", "")),
        route=parse_route(query.get("route", "")),
        ip=None,
        counted=not (viewer or shared),
        visible_keepalives=_flag(query, "keepalive", "message"),
        shared=shared,
        replaces=query.get("replaces", ""),
        # Not a _flag: it is only counted, and a client that sends another value must not lose its stream for that.
        reconnect=query.get("reconnect") == "1",
        cut_after=parse_cut_after(query.get("cutAfter", "")),
        answers=_flag(query, "answers", "1"),
        release_id=_number(query.get("release", "")),
    )


# Of all that open a stream, many come with the same query: that of the front page.
_read_cached = lru_cache(maxsize=512)(_read)


def _number(text: str) -> int:
    """Return the number of a release. What is none is 0: a page must not lose its stream for that."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 16 else 0


def _flag(query: dict[str, str], name: str, value: str) -> bool:
    given = query.get(name)
    if given not in (None, "", "0", value):
        raise Malformed(f"The query parameter {name} is {given[:40]!r}; it takes {value!r} or nothing.")
    return given == value
