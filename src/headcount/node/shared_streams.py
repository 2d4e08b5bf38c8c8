"""
Tabs that share one stream, counted as if each had its own.

A browser opens six HTTP/1.1 connections to an origin, so eight tabs with an event stream each would keep the ninth from
loading. One of them, the leader, opens a stream with `shared=1` instead and reports the others on it. The stream itself
is not counted; each tab is a `Session` of the node like any other, with a public id, a version, a route and hooks of
its own, but messages to it travel on the shared stream.

    _streams {stream id: Stream}   shared streams, each with `{key: TabSession}`, at most `MAX_TABS`
    _by_key  {key: TabSession}     every tab once, whichever stream it is on

The second map is why leadership may move: a tab that another stream reports is moved there, never counted again. What
the old stream still says of it, or its end, does not touch it any more.

Source: protocol/README.md#tabs-that-share-a-stream, docs/adr/0010-one-stream-per-browser.md
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from ..core import messages
from ..core.ends import CLIENT, LOOP_CLOSED, REPLACED, End
from ..core.payload import Payload
from ..errors import Malformed
from ..loops import call_in_loop
from .session import Session

MAX_TABS: Final = 64
"""Tabs of one stream. A browser with more gives the rest streams of their own."""


class TabHost(Protocol):
    """What the tabs of shared streams need of their node."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams by public id."""

    def identify(self) -> tuple[str, str]:
        """Make the public id and the secret handle of a new connection."""

    def open(self, session: Session, version: str, route: str, ip: str | None) -> None:
        """Take a new stream into the figures."""

    def close(self, session: Session, reason: str) -> None:
        """Take a stream out of the figures. Idempotent."""

    def navigate(self, session: Session, route: str) -> None:
        """Move a page to another route."""

    def hide(self, session: Session, hidden: bool) -> None:
        """Note that a page went to the background or came back."""


class Stream(msgspec.Struct):
    """One shared stream: what its tabs have from it, and who they are."""

    session: Session
    version: str
    """Of tabs that do not say theirs: the cookie's, or `unknown`."""
    ip: str | None
    tabs: "dict[str, TabSession]" = msgspec.field(default_factory=dict)
    together: tuple[Payload, list[str]] | None = None
    """Keys of tabs that were just handed the same message, which then goes out once."""


class TabSession:
    """One tab. A `headcount.node.session.Session`: to the node it is a stream like any other."""

    __slots__ = ("_tabs", "counted", "deadline", "id", "key", "loop", "session", "slot", "stream", "version")

    def __init__(self, tabs: "Tabs", stream: Stream, session: Session, connection_id: str, tab: messages.Tab) -> None:
        self.id = connection_id
        self.key = tab.key
        self.version = tab.version
        self.stream = stream
        self.session = session
        self.loop: asyncio.AbstractEventLoop = session.loop
        self.counted = True
        self.slot = 0
        self.deadline: float | None = None
        self._tabs = tabs

    @property
    def busy(self) -> bool:
        """A message is still on its way on the stream."""
        return self.session.busy

    def transmit(self, payload: Payload) -> None:
        """Send the tab a message."""
        self.post(payload)

    def post(self, payload: Payload) -> None:
        """Send the tab a message, with those of its neighbours that get the same one."""
        self._tabs.post(self, payload)

    def keepalive(self) -> None:
        """Do nothing: the stream is kept open by itself."""

    def end(self, end: End) -> None:
        """Do nothing: a tab ends with its stream, or when the leader says so."""


class Tabs:
    """
    The shared streams of a node.

    Args:
        host: The node, which counts the tabs. Everything but `check` and `stream_of` is to be called in the loop of the
            stream, and not under the node's lock, because the application's hooks run.
        viewer_timeout: Seconds for which a stream without tabs stays open.
        clock: Monotonic seconds.
    """

    def __init__(self, host: TabHost, viewer_timeout: float, clock: Callable[[], float]) -> None:
        self._host = host
        self._viewer_timeout = viewer_timeout
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._by_key: dict[str, TabSession] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, connection_id: object) -> bool:
        """Say whether an id is a shared stream's."""
        return connection_id in self._streams

    def expect(self, session: Session, version: str, ip: str | None) -> None:
        """Take a stream for a shared one. It must be opened in the node at once."""
        self._streams[session.id] = Stream(session, version, ip)

    def closed(self, session: Session, reason: str) -> None:
        """Take the tabs of a stream that ended out of the figures."""
        stream = self._streams.pop(session.id, None)
        if stream is not None:
            for tab in list(stream.tabs.values()):
                self._drop(tab, reason)

    def stream_of(self, connection_id: str) -> str:
        """Return the id of the stream that a tab is on; any other id as it is."""
        session = self._host.sessions.get(connection_id)
        return session.session.id if isinstance(session, TabSession) else connection_id

    def check(self, session: Session, report: messages.Tabs) -> None:
        """
        Say whether a stream may report this.

        Raises:
            Malformed: It is not shared, or has too many tabs.
        """
        stream = self._streams.get(session.id)
        if stream is None:
            raise Malformed("Tabs are reported on a stream that was opened with shared=1; this one is its page's own.")
        keys = stream.tabs.keys() - set(report.remove) | {tab.key for tab in report.set}
        if len(keys) > MAX_TABS:
            raise Malformed(f"A shared stream carries at most {MAX_TABS} tabs; open another stream for the others.")

    def report(self, session: Session, report: messages.Tabs) -> None:
        """Bring the figures up to date with a checked report, and tell the stream the public ids of its tabs."""
        stream = self._streams.get(session.id)
        if stream is None:
            return  # it ended meanwhile
        for key in report.remove:
            gone = stream.tabs.get(key)
            if gone is not None:
                self._drop(gone, CLIENT)
        ids: dict[str, str] = {}
        for tab in report.set:
            ids[tab.key] = self._set(stream, session, tab)
        session.deadline = None if stream.tabs else self._clock() + self._viewer_timeout
        session.post(Payload(messages.tabs(ids)))

    def post(self, tab: TabSession, payload: Payload) -> None:
        """Send one tab a message. Called for many tabs of one stream in a row, it goes out once."""
        stream = tab.stream
        if stream.together is not None and stream.together[0] is payload:
            stream.together[1].append(tab.key)
            return
        stream.together = (payload, [tab.key])
        tab.loop.call_soon(self._post, stream, *stream.together)

    def _post(self, stream: Stream, payload: Payload, keys: list[str]) -> None:
        if stream.together is not None and stream.together[1] is keys:
            stream.together = None
        if stream.session.id in self._streams:
            stream.session.post(Payload(messages.to_tabs(keys, payload.json)))

    def _set(self, stream: Stream, session: Session, tab: messages.Tab) -> str:
        host = self._host
        known = self._by_key.get(tab.key)
        if known is not None and (known.version != tab.version or known.loop is not session.loop):
            # A page does not change its version while it is open, and timers stay in their loop: this is another one.
            if not call_in_loop(known.loop, self._drop, known, REPLACED.cause):
                self._drop(known, LOOP_CLOSED)
            known = None
        if known is None:
            known = TabSession(self, stream, session, host.identify()[0], tab)
            self._by_key[tab.key] = stream.tabs[tab.key] = known
            host.open(known, tab.version or stream.version, tab.route, stream.ip)
        else:
            if known.stream is not stream:
                del known.stream.tabs[tab.key]
                if not known.stream.tabs:
                    known.session.deadline = self._clock() + self._viewer_timeout
                known.stream, known.session = stream, session
                stream.tabs[tab.key] = known
            host.navigate(known, tab.route)
        host.hide(known, tab.hidden)
        return known.id

    def _drop(self, tab: TabSession, reason: str) -> None:
        # Another loop may have dropped it later than it was asked to: the key may be a newer tab's by now.
        for tabs in (self._by_key, tab.stream.tabs):
            if tabs.get(tab.key) is tab:
                del tabs[tab.key]
        self._host.close(tab, reason)
