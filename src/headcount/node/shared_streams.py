"""
Tabs that share one stream, counted as if each had its own.

A browser opens six HTTP/1.1 connections to an origin, so eight tabs with an event stream each would keep the ninth from
loading. One of them, the leader, opens a stream with `shared=1` instead and reports the others on it. The stream itself
is not counted; each tab is a `Session` of the node like any other, with a public id, a version, a route and hooks of
its own, but messages to it travel on the shared stream.

    _streams {stream id: SharedStream}  shared streams, each with `{key: TabSession}`, at most `MAX_TABS`
    _by_key  {key: TabSession}          every tab once, whichever stream it is on
    _held    {stream id: SharedStream}  streams with tabs that wait for the next leader to report them, oldest first

The second map is why leadership may move: a tab that another stream reports is moved there, never counted again. Later
reports on the old stream, and its end, have no effect on that tab.

When a stream ends and its browser has other tabs, one of those opens the next stream in a moment. Until then the tabs
are held: they stay counted, for `HOLD` seconds. The next stream names the ended one by its secret handle and takes its
tabs at once, each with its public id, without a hook and without a change of a figure. Tabs that it does not report
within `HOLD` seconds are dropped: the tab that led, for one.

If the next stream comes to another node, the old one holds the tabs all the same. The new node counts each tab that is
reported to it, and then has the old one drop it: for a moment a tab may be counted twice, but never not at all.

Source: protocol/README.md#tabs-that-share-a-stream, docs/adr/0010-one-stream-per-browser.md
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Final, Protocol

import msgspec

from ..core import messages
from ..core.away_pages import GRACE
from ..core.ends import BROKEN, CANCELLED, CLIENT, LOOP_CLOSED, REPLACED, STALLED, UNANSWERED, End
from ..core.payload import Payload
from ..errors import Malformed
from ..loops import call_in_loop
from .admission import Admission
from .session import Session

MAX_TABS: Final = 64
"""Tabs of one stream. A browser with more gives the rest streams of their own."""

MAX_TAB_VERSIONS: Final = 8
"""
Versions of the tabs of one stream: a browser has pages of two or three. More are made up, and would let one stream fill
the counts of all versions. A browser with more gives the rest streams of their own.
"""

HOLD: Final = 1.5
"""Seconds for which tabs are held. Timers notice half a second late at most, so nobody is counted 2 s after leaving."""

MAX_HELD: Final = 1_000
"""Streams whose tabs a node holds at the same time. Above it, the tabs of those that ended first are dropped."""

MAX_WAITING: Final = 16
"""Messages that wait for the next stream of tabs that are held; further ones are lost."""

_FOLLOWED: Final = frozenset({CLIENT, CANCELLED, BROKEN.cause, REPLACED.cause, STALLED.cause})
"""Causes after which the browser's next leader is expected here. After a drain it goes to another server."""


class TabHost(Protocol):
    """What the tabs of shared streams need of their node."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams, and the tabs of shared ones, by public id."""

    @property
    def admission(self) -> Admission:
        """The node's limits."""

    @property
    def counters(self) -> MutableMapping[str, int]:
        """Events by name."""

    def new_ids(self) -> tuple[str, str]:
        """Return a new public id and its secret handle, for a new connection."""

    def open(self, session: Session, version: str, route: str, ip: str | None) -> None:
        """Take a new stream into the figures."""

    def close(self, session: Session, cause: str, *, farewell: bool = False) -> None:
        """Take a stream out of the figures; `farewell`: its page said that it leaves. Idempotent."""

    def tab_reported(self, key: str) -> None:
        """Note a tab that is counted anew: it may have been away."""

    def tab_moved(self, session: Session) -> None:
        """Note a tab that is on another stream than before."""

    def navigate(self, session: Session, route: str) -> None:
        """Move a page to another route."""

    def page_returned(self, handle: str, version: str) -> None:
        """Note a page whose previous stream was on a node that may be gone."""

    def drop_tabs_elsewhere(self, handle: str, keys: list[str]) -> None:
        """Tell the node of the previous stream to stop counting these tabs."""

    def set_hidden(self, session: Session, hidden: bool) -> None:
        """Note that a page went to the background or came back."""


class SharedStream(msgspec.Struct):
    """One shared stream: what its tabs have from it, and who they are."""

    session: Session
    version: str
    """Of tabs that do not say theirs: the cookie's, or `unknown`."""
    ip: str | None
    tabs: "dict[str, TabSession]" = msgspec.field(default_factory=dict)
    batch: tuple[Payload, list[str]] | None = None
    """A message that goes out in this turn of the loop, and the keys of the tabs that it is for."""
    left_at: float = float("-inf")
    """When a tab left last. The leader's farewell may come just before the end of its stream."""
    unconfirmed: set[str] = msgspec.field(default_factory=set)
    """Keys of the tabs that are held: counted, and not reported on this stream."""
    held_until: float = 0.0
    """When the unconfirmed tabs are dropped."""
    ended: bool = False
    """All its tabs are held, until another stream takes them."""
    cause: str = CLIENT
    """Why it ended. Its tabs are closed with this cause, unless another stream takes them."""
    remote_handle: str = ""
    """Secret handle of a stream of another node that this one replaces; "" for none."""
    remote_until: float = 0.0
    """Until when that node may hold the tabs of its stream, or count them as away."""
    returned: bool = False
    """A page has come back that was on that stream."""
    waiting: list[tuple[list[str], Payload]] = msgspec.field(default_factory=list)
    """Messages that came after its end, with the keys of their tabs, at most `MAX_WAITING`."""


class TabSession:
    """One tab. A `headcount.node.session.Session`: to the node it is a stream like any other."""

    __slots__ = (
        *("_shared_streams", "counted", "deadline", "id", "key", "loop", "paid_until", "session", "slot", "stream"),
        "version",
    )

    def __init__(
        self,
        shared_streams: "SharedStreams",
        stream: SharedStream,
        session: Session,
        connection_id: str,
        tab: messages.Tab,
    ) -> None:
        self.id = connection_id
        self.key = tab.key
        self.version = tab.version
        self.stream = stream
        self.session = session
        self.loop: asyncio.AbstractEventLoop = session.loop
        self.counted = True
        self.slot = 0
        self.paid_until = 0.0
        self.deadline: float | None = None
        self._shared_streams = shared_streams

    @property
    def busy(self) -> bool:
        """A message is still on its way on the stream."""
        return self.session.busy

    def transmit(self, payload: Payload) -> None:
        """Send the tab a message."""
        self.send(payload)

    def send(self, payload: Payload) -> None:
        """Send the tab a message, with those of its neighbours that get the same one."""
        self._shared_streams.send(self, payload)

    def keepalive(self, ask: bool = False) -> bool:  # noqa: ARG002
        """Do nothing: the stream is kept open by itself, and its leader is asked."""
        return False

    def end(self, end: End) -> None:
        """Do nothing: a tab ends with its stream, or when the leader says so."""


class SharedStreams:
    """
    The shared streams of a node.

    Args:
        host: The node, which counts the tabs. Everything but `check_report`, `stream_of` and `drop_held` is called in
            the loop of the stream, and not under the node's lock, because the application's hooks run.
        viewer_timeout: Seconds for which a stream without tabs stays open.
        clock: Monotonic seconds.
    """

    def __init__(self, host: TabHost, viewer_timeout: float, clock: Callable[[], float]) -> None:
        self._host = host
        self._viewer_timeout = viewer_timeout
        self._clock = clock
        self._streams: dict[str, SharedStream] = {}
        self._by_key: dict[str, TabSession] = {}
        self._held: dict[str, SharedStream] = {}
        self._lock = threading.Lock()
        """A tab may move from the stream of one loop to that of another, and each loop runs in its thread."""

    @property
    def tab_count(self) -> int:
        """How many tabs are counted, those that are held included."""
        return len(self._by_key)

    @property
    def uncounted(self) -> int:
        """How many sessions are only the streams of tabs; at least as many others are tabs. O(1)."""
        return min(len(self._by_key), len(self._streams))

    def is_shared(self, connection_id: str) -> bool:
        """Say whether an id is that of an open stream which tabs share."""
        return connection_id in self._streams

    def tabs_on(self, connection_id: str) -> int:
        """Return how many tabs a stream carries; 0 for a page's own."""
        stream = self._streams.get(connection_id)
        return 0 if stream is None else len(stream.tabs)

    def tab_of(self, connection_id: str, key: str) -> TabSession | None:
        """Return the tab of a stream that a key names; None: there is none."""
        stream = self._streams.get(connection_id)
        return None if stream is None else stream.tabs.get(key)

    def tab_versions(self) -> dict[str, str]:
        """Return the version of one tab of each stream that has tabs, by the id of the stream. O(shared streams)."""
        streams = [*self._streams.items(), *self._held.items()]
        return {
            stream_id: tab.version or stream.version
            for stream_id, stream in streams
            for tab in list(stream.tabs.values())[:1]
        }

    def add(
        self, session: Session, version: str, ip: str | None, replaced: str | None = None, remote_handle: str = ""
    ) -> None:
        """
        Add a shared stream. It must be opened in the node at once.

        Args:
            session: The stream.
            version: Of tabs that do not say theirs.
            ip: Of its tabs.
            replaced: Id of the stream that it replaces, which its client proved by the secret handle.
            remote_handle: Secret handle of the stream of another node that it replaces; "" for none.
        """
        stream = self._streams[session.id] = SharedStream(session, version, ip, remote_handle=remote_handle)
        stream.remote_until = self._clock() + GRACE
        old = self._held.get(replaced) if replaced is not None else None
        # Timers and hooks of a tab stay in their loop; in another one, its tabs are reported as new ones.
        if old is None or not old.ended or old.session.loop is not session.loop:
            return
        with self._lock:
            self._held.pop(old.session.id, None)
            stream.tabs, old.tabs, old.unconfirmed = old.tabs, {}, set()
            for tab in stream.tabs.values():
                tab.stream, tab.session = stream, session
        self._hold(stream)
        for keys, payload in old.waiting:
            session.send(Payload(messages.to_tabs(keys, payload.json)))

    def on_closed(self, session: Session, cause: str, *, farewell: bool = False) -> None:
        """
        Hold the tabs of a stream that ended, or take them out of the figures.

        Args:
            session: The stream.
            cause: Why it ended.
            farewell: The page that had it said that it leaves; which of several tabs that was, is not known.
        """
        stream = self._streams.pop(session.id, None)
        if stream is None:
            return
        if len(stream.tabs) > MAX_TABS:
            self._drop_unconfirmed(stream)  # else a client that opens stream after stream collects tabs
        self._held.pop(session.id, None)
        # A lone tab is its own leader, and has left, unless its next stream is here already.
        others = len(stream.tabs) > 1 or cause == REPLACED.cause or self._clock() < stream.left_at + HOLD
        if stream.tabs and others and cause in _FOLLOWED:
            stream.ended = True
            if cause in UNANSWERED:
                stream.cause = cause  # else the tabs that are held have left with it
            self._hold(stream)
            return
        for tab in list(stream.tabs.values()):
            self._drop(tab, cause, farewell=farewell and not others)

    def _hold(self, stream: SharedStream) -> None:
        with self._lock:
            stream.unconfirmed = set(stream.tabs)
            stream.held_until = self._clock() + HOLD
            self._held[stream.session.id] = stream
            oldest = next(iter(self._held.values())) if len(self._held) > MAX_HELD else None
        if oldest is not None:
            self._drop_unconfirmed_in_loop(oldest)

    def expire(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Drop the tabs of a loop that nobody has reported in time. O(held streams)."""
        for stream in list(self._held.values()):
            if stream.session.loop is loop and now >= stream.held_until:
                self._drop_unconfirmed(stream)

    def drop_held(self, stream_id: str | None = None) -> None:
        """Drop the tabs that an ended stream left behind; None: those of all ended streams. Thread-safe."""
        held = list(self._held.values()) if stream_id is None else [self._held.get(stream_id)]
        for stream in held:
            if stream is not None and stream.ended:
                self._drop_unconfirmed_in_loop(stream)

    def forget_closed_loops(self) -> None:
        """Drop the tabs that were held in loops that are closed. O(held streams)."""
        for stream in list(self._held.values()):
            if stream.session.loop.is_closed():
                self._drop_unconfirmed(stream, LOOP_CLOSED)

    def _drop_unconfirmed_in_loop(self, stream: SharedStream) -> None:
        if not call_in_loop(stream.session.loop, self._drop_unconfirmed, stream):
            self._drop_unconfirmed(stream, LOOP_CLOSED)

    def _drop_unconfirmed(self, stream: SharedStream, cause: str = "") -> None:
        with self._lock:
            left = [stream.tabs[key] for key in stream.unconfirmed if key in stream.tabs]
        for tab in left:
            self._drop(tab, cause or stream.cause)

    def remove_held(self, stream_id: str | None, keys: Iterable[str]) -> bool:
        """
        Remove tabs from a stream that has ended: the leader's farewell may come after the end of its stream.

        Args:
            stream_id: Of the ended stream, proven by its handle; None: none.
            keys: Of the tabs.

        Returns:
            False if the stream holds no tabs.
        """
        stream = self._held.get(stream_id) if stream_id is not None else None
        if stream is None or not stream.ended:
            return False
        with self._lock:
            left = [stream.tabs[key] for key in keys if key in stream.tabs]
        for tab in left:
            if not call_in_loop(tab.loop, self._drop_left, tab):
                self._drop(tab, LOOP_CLOSED, farewell=True)
        return True

    def leave(self, key: str) -> None:
        """Stop counting a tab that says that it leaves, whichever stream it is on. In any loop."""
        tab = self._by_key.get(key)
        if tab is not None and not call_in_loop(tab.loop, self._leave_in_loop, tab):
            self._drop(tab, LOOP_CLOSED, farewell=True)

    def _leave_in_loop(self, tab: TabSession) -> None:
        stream, now = tab.stream, self._clock()
        stream.left_at = now
        self._drop_left(tab)
        if not stream.tabs:
            stream.session.deadline = now + self._viewer_timeout

    def stream_of(self, connection_id: str) -> str:
        """Return the id of the stream that a tab is on; any other id as it is."""
        session = self._host.sessions.get(connection_id)
        return session.session.id if isinstance(session, TabSession) else connection_id

    def check_report(self, session: Session, report: messages.Tabs) -> None:
        """
        Say whether a stream may report this.

        Raises:
            Malformed: It is not shared, or has too many tabs, or they have too many versions.
        """
        stream = self._streams.get(session.id)
        if stream is None:
            raise Malformed("This stream was not opened with shared=1; report tabs only on one that was.")
        with self._lock:
            confirmed = stream.tabs.keys() - stream.unconfirmed
        keys = confirmed - set(report.remove) | {tab.key for tab in report.set}
        if len(keys) > MAX_TABS:
            raise Malformed(f"A shared stream carries at most {MAX_TABS} tabs; open another stream for the others.")
        if len(report.set) > 1 or len(keys) > MAX_TAB_VERSIONS:
            versions = {tab.version or stream.version for tab in report.set}
            changed = {tab.key for tab in report.set}
            with self._lock:
                versions.update(
                    tab.version or stream.version for key, tab in stream.tabs.items() if key in keys - changed
                )
            if len(versions) > MAX_TAB_VERSIONS:
                raise Malformed(
                    f"The tabs of a shared stream run at most {MAX_TAB_VERSIONS} versions; open another stream for the "
                    "others."
                )

    def receive_report(self, session: Session, report: messages.Tabs) -> End | None:
        """
        Apply a report in the stream's loop, unless a limit refuses its new tabs. In any loop.

        Returns:
            The limit, of which nothing of the report is applied.

        Raises:
            Malformed: As `check_report`.
        """
        self.check_report(session, report)
        tabs = self._streams[session.id].tabs
        new = sum(tab.key not in self._by_key for tab in report.set) - sum(key in tabs for key in report.remove)
        end = self._host.admission.tabs_refusal(session.id, len(tabs), new) if new > 0 else None
        if end is not None:
            self._host.counters[f"refused:{end.cause}"] += 1
            return end
        call_in_loop(session.loop, self.apply_report, session, report)
        return None

    def apply_report(self, session: Session, report: messages.Tabs) -> None:
        """Bring the figures up to date with a checked report, and tell the stream the public ids of its tabs."""
        stream = self._streams.get(session.id)
        if stream is None:
            return  # it ended meanwhile
        try:
            self.check_report(session, report)
        except Malformed:
            return  # another loop checked several reports before the first of them came here
        for key in report.remove:
            gone = stream.tabs.get(key)
            if gone is not None:
                stream.left_at = self._clock()
                self._drop_left(gone)
        ids: dict[str, str] = {}
        came = [tab.key for tab in report.set if tab.key not in stream.tabs]
        for tab in report.set:
            ids[tab.key] = self._set_tab(stream, session, tab)
            with self._lock:
                self._confirm(stream, tab.key)
        if stream.remote_handle and came:
            if not stream.returned:
                # One handle proves one page. How many tabs the old stream had, only its node knew.
                stream.returned = True
                self._host.page_returned(stream.remote_handle, report.set[0].version or stream.version)
            if self._clock() < stream.remote_until:
                self._host.drop_tabs_elsewhere(stream.remote_handle, came)
        session.deadline = None if stream.tabs else self._clock() + self._viewer_timeout
        session.send(Payload(messages.tabs(ids)))

    def send(self, tab: TabSession, payload: Payload) -> None:
        """Send one tab a message. Called for many tabs of one stream in a row, it goes out once."""
        stream = tab.stream
        if stream.batch is not None and stream.batch[0] is payload:
            stream.batch[1].append(tab.key)
            return
        stream.batch = (payload, [tab.key])
        tab.loop.call_soon(self._send_batch, stream, *stream.batch)

    def _send_batch(self, stream: SharedStream, payload: Payload, keys: list[str]) -> None:
        if stream.batch is not None and stream.batch[1] is keys:
            stream.batch = None
        by_stream: dict[str, tuple[SharedStream, list[str]]] = {}
        for key in keys:
            tab = self._by_key.get(key)
            now = stream if tab is None else tab.stream  # it may have moved since
            by_stream.setdefault(now.session.id, (now, []))[1].append(key)
        for now, some in by_stream.values():
            if now.session.id in self._streams:
                call_in_loop(now.session.loop, now.session.send, Payload(messages.to_tabs(some, payload.json)))
            elif len(now.waiting) < MAX_WAITING:
                now.waiting.append((some, payload))

    def _set_tab(self, stream: SharedStream, session: Session, tab: messages.Tab) -> str:
        host = self._host
        known = self._by_key.get(tab.key)
        if known is not None and (known.version != tab.version or known.loop is not session.loop):
            # A page does not change its version while it is open, and timers stay in their loop: this is another one.
            known = None
        if known is None:
            known = TabSession(self, stream, session, host.new_ids()[0], tab)
            with self._lock:
                # The one above, or one that another loop has reported since.
                before = self._by_key.get(tab.key)
                self._by_key[tab.key] = stream.tabs[tab.key] = known
            if before is not None and not call_in_loop(before.loop, self._drop, before, REPLACED.cause):
                self._drop(before, LOOP_CLOSED)
            host.open(known, tab.version or stream.version, tab.route, stream.ip)
            host.tab_reported(tab.key)
        else:
            if known.stream is not stream:
                with self._lock:
                    self._detach(known)
                if not known.stream.tabs:
                    known.session.deadline = self._clock() + self._viewer_timeout
                with self._lock:
                    known.stream, known.session = stream, session
                    stream.tabs[tab.key] = known
                host.tab_moved(known)
            elif tab.key in stream.unconfirmed:  # it came with the tabs of the stream that this one replaces
                host.tab_moved(known)
            host.navigate(known, tab.route)
        host.set_hidden(known, tab.hidden)
        return known.id

    def _detach(self, tab: TabSession) -> None:
        stream = tab.stream
        if stream.tabs.get(tab.key) is tab:
            del stream.tabs[tab.key]
            self._confirm(stream, tab.key)

    def _confirm(self, stream: SharedStream, key: str) -> None:
        """Hold a tab no longer: it was reported, moved or dropped. Under the lock."""
        if key in stream.unconfirmed:
            stream.unconfirmed.discard(key)
            if not stream.unconfirmed:
                self._held.pop(stream.session.id, None)

    def _drop_left(self, tab: TabSession) -> None:
        self._drop(tab, CLIENT, farewell=True)

    def _drop(self, tab: TabSession, cause: str, *, farewell: bool = False) -> None:
        # Another loop may have dropped it later than it was asked to: the key may be a newer tab's by now.
        with self._lock:
            if self._by_key.get(tab.key) is tab:
                del self._by_key[tab.key]
            self._detach(tab)
        self._host.close(tab, cause, farewell=farewell)
