"""
The messages between the nodes of one fleet.

Figures: a `Report` is a node's whole count at one sequence number; a `Delta` says in absolute counts what changed
between two of them, so it may be applied to any state in between; a `Heartbeat` says that nothing did. All of them
may be lost, repeated, late or out of order (core/fleet_figures.py). No node sends figures unasked: `Interest` says that
a viewer watches, and for how long that holds; `ReportRequest` asks one node for its report.

Commands: each is sent to the node that owns the connection, carries a number `re`, and is answered by an `Answer` with
the same number.

Messages are msgpack maps, so that two versions of the program can be in one fleet: unknown fields are ignored, new ones
have defaults, and a message of an unknown type is ignored. So the tags stay as they are. Size and shape of a message
are checked here, labels where they are new (core/counts.py).

Source: docs/adr/0012-fleet-reports.md

Tests: tests/core/test_fleet_messages.py, tests/core/test_fleet_figures.py, tests/fleet/backends/test_conformance.py.
"""

from typing import Annotated, Any, Final, TypeAlias

import msgspec

from .acknowledgements import MAX_ID
from .current_version import SETTLED
from .cut_reports import LONGEST
from .identity import MAX_HANDLE, MAX_NODE_ID, NODE_ID_PATTERN
from .invitation_counts import InvitationCounts
from .invitations import Reply
from .labels import MAX_ROUTE, MAX_VERSION
from .messages import MAX_REASON, Tab
from .stage import Stage
from .stats import ConnectionInfo
from .ticket import MAX_ENDED, EndedTicket

MAX_BYTES: Final = 32 * 2**20
"""Of one message. A report of 10,000 routes of 512 characters, and 1,000 rows, has 24 MiB at most."""

MAX_ROWS: Final = 100_000
"""Of one message; more than any `max_listed_connections` that makes sense."""

MAX_NUMBER: Final = 2**53
"""Of a release, in ms since 1970: far above what a node takes from another (node/releases.py)."""

MAX_FINGERPRINT: Final = 32

MAX_DEPARTED: Final = 32
"""Versions of pages that a node told to reconnect; more are under `(other)`."""

MAX_BROKEN_OFF: Final = 512
"""Versions of pages that broke off: more than a node counts apart (core/away_pages.py)."""

MAX_KNOWN: Final = 256
"""Versions that a node says it knows; more than it does (core/known_versions.py)."""

NodeId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NODE_ID, pattern=NODE_ID_PATTERN)]
Version = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_VERSION)]
Serves = Annotated[str, msgspec.Meta(max_length=MAX_VERSION)]
"""The version that the node serves; empty: it is of a Headcount that does not say."""
Known = Annotated[tuple[Version, ...], msgspec.Meta(max_length=MAX_KNOWN)]
"""
Versions that the sender knows, and counts apart from all others; empty: it is of a Headcount that does not say, and
counts any version with others when there are many.
"""
Route = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ROUTE)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Rows = Annotated[tuple[ConnectionInfo, ...], msgspec.Meta(max_length=MAX_ROWS)]
Handle = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_HANDLE)]
MessageId = Annotated[str, msgspec.Meta(max_length=MAX_ID)]
Cut = Annotated[float, msgspec.Meta(ge=0, le=LONGEST)]
"""
Seconds after which something ends streams, as clients have proven to the sender (core/cut_reports.py); 0: it knows of
no limit, or is of a Headcount that does not say.
"""
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
EndedTickets = Annotated[tuple[EndedTicket, ...], msgspec.Meta(max_length=MAX_ENDED)]


class Declaration(msgspec.Struct, frozen=True, order=True):
    """
    Which version was declared current: of two, the larger is the newer.

    `number` is the wall clock's in ms where it was declared, but always more than that of the one before.
    """

    number: Number
    version: Version
    unserved: bool = False
    """The operator insisted on it, or no node served it when it was declared: another server delivers the front end."""
    stage: Stage = Stage()
    """How fast its pages are asked; a node of a Headcount that does not know stages asks them all at once."""
    began: Number = 0
    """Of a stage that was changed: the number with which it was declared first; 0: this is the first declaration."""
    beside: Known = ()
    """The versions that nodes served then; empty: it is of a Headcount that does not say."""

    @property
    def release_id(self) -> int:
        """The number by which pages know the release: that of its first declaration, whichever stage it is in."""
        return self.began or self.number


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t"):
    node: NodeId
    """Who sends it."""
    fleet: Annotated[bytes, msgspec.Meta(max_length=MAX_FINGERPRINT)] = b""
    """Fingerprint of its fleet (fleet/border.py); empty: it names none."""


class Report(_Message, frozen=True, tag="report"):
    """A node's own count, whole."""

    sequence: Sequence
    total: Count
    versions: dict[Version, Count]
    routes: dict[Route, Count]
    rows: Rows | None = None
    """As many as were wanted; None: rows were not wanted."""
    released: Declaration | None = None
    serves: Serves = ""
    known: Known = ()
    away: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_BROKEN_OFF)] | None = None
    """Pages that broke off and may come back; None: it is of a Headcount that does not say."""
    remembers: bool = False
    """It has been there since before the first page broke off that may come back."""
    cut: Cut = 0.0


class Delta(_Message, frozen=True, tag="delta"):
    """What changed between `base` and `sequence`. Counts are absolute; 0: the label is gone."""

    base: Sequence
    sequence: Sequence
    total: Count
    versions: dict[Version, Count] = {}
    routes: dict[Route, Count] = {}
    rows: Rows | None = None
    """Rows that are new or changed; None: this node publishes no rows at present."""
    removed: tuple[Handle, ...] = ()
    """Ids of rows that are gone."""
    away: Annotated[dict[Version, Count], msgspec.Meta(max_length=2 * MAX_BROKEN_OFF)] = {}
    """See `Report`."""
    remembers: bool | None = None
    """See `Report`; None: as before."""
    cut: Cut = 0.0


class Heartbeat(_Message, frozen=True, tag="beat"):
    """The node is there, and at this sequence. `re`: as answer to a `FlushRequest`."""

    sequence: Sequence
    re: Sequence = 0
    known: Known = ()
    """As answer to a `FlushRequest`."""
    cut: Cut = 0.0


class Leave(_Message, frozen=True, tag="leave"):
    """The node leaves; none of its earlier messages counts any more."""

    sequence: Sequence
    departed: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_DEPARTED)] = msgspec.field(
        name="away", default_factory=dict
    )
    """Pages that it told to reconnect, and that may be on their way."""
    transit: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    """Seconds that they have."""


class Departures(_Message, frozen=True, tag="away"):
    """The node ended streams of pages that may come back. It is published before the figures without them."""

    departed: Annotated[dict[Version, Count], msgspec.Meta(max_length=MAX_DEPARTED)] = msgspec.field(name="away")
    """How many may be on their way, by version."""
    transit: Annotated[float, msgspec.Meta(ge=0, le=86_400)]
    """Seconds that they have."""
    unanswered: bool = False
    """None of them was told to reconnect elsewhere; they did not answer."""


class Forget(_Message, frozen=True, tag="forget"):
    """An operator says that a node is gone: nothing of it is unaccounted for any more."""

    gone: NodeId


class Join(_Message, frozen=True, tag="hello"):
    """The node is new, or has been out of touch: each node with viewers sends it an `Interest`."""

    released: Declaration | None = None
    serves: Serves = ""
    known: Known = ()


class Interest(_Message, frozen=True, tag="interest"):
    """A viewer watches at this node. Holds for `ttl` seconds after it was received; 0: no viewer does any more."""

    ttl: Annotated[float, msgspec.Meta(ge=0, le=3_600)]
    interval: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    """Shortest time between two deltas that it wants of one node, in seconds: longer in large fleets."""
    rows: Annotated[int, msgspec.Meta(ge=0, le=MAX_ROWS)] = 0
    """How many rows of each node it can use; 0: no viewer there sees rows."""
    released: Declaration | None = None
    known: Known = ()


class ReportRequest(_Message, frozen=True, tag="want"):
    """Asks for a report, with up to `rows` rows; 0: without."""

    rows: Annotated[int, msgspec.Meta(ge=0, le=MAX_ROWS)] = 0


class ReleaseRequest(_Message, frozen=True, tag="current"):
    """Asks which version was declared current and which tickets were ended, because this node may have missed it."""

    re: Sequence


class FlushRequest(_Message, frozen=True, tag="ask"):
    """Asks every node to publish what is pending, and to name its sequence by a `Heartbeat`."""

    re: Sequence
    known: Known = ()


class Navigate(_Message, frozen=True, tag="navigate"):
    """`POST /route` came to another node."""

    re: Sequence
    handle: Handle
    route: Route


class ReportTabs(_Message, frozen=True, tag="tabs"):
    """`POST /tabs` came to another node."""

    re: Sequence
    handle: Handle
    set: tuple[Tab, ...] = ()
    remove: tuple[str, ...] = ()


class ForwardReleaseReply(_Message, frozen=True, tag="release-reply"):
    """`POST /release-reply` came to another node."""

    re: Sequence
    handle: Handle
    version: Version
    reply: Reply
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = ""
    tab: Annotated[str, msgspec.Meta(max_length=64)] = ""


class ForwardAcknowledge(_Message, frozen=True, tag="acknowledge"):
    """`POST /acknowledge` came to another node."""

    re: Sequence
    handle: Handle
    id: MessageId
    tab: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Bye(_Message, frozen=True, tag="bye"):
    """`POST /bye` came to another node."""

    re: Sequence
    handle: Handle
    tab: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Replace(_Message, frozen=True, tag="replace"):
    """A new stream came to another node, and takes the place of this one."""

    handle: Handle
    re: Sequence = 0
    cut: Annotated[float, msgspec.Meta(ge=0, le=LONGEST)] = 0.0
    """Seconds after which something ends the client's streams, as it reports (core/cut_reports.py); 0: no report."""
    shared: bool = False
    """Tabs share the new stream: those of the old one are held until a `ReportTabs` says that the new node has them."""


class Subscribe(_Message, frozen=True, tag="subscribe"):
    """
    `POST /subscribe-stats` came to another node. The owner sends that node an `AuthorizeRequest` when it is this
    request's turn.
    """

    re: Sequence
    handle: Handle
    deltas: bool = False


class Unsubscribe(_Message, frozen=True, tag="unsubscribe"):
    """`POST /unsubscribe-stats` came to another node."""

    re: Sequence
    handle: Handle


class AuthorizeRequest(_Message, frozen=True, tag="decide"):
    """Asks the node to which a `Subscribe` was sent to run the application's hook on that very request."""

    re: Sequence
    request_number: Sequence = msgspec.field(name="of")
    """The `re` of that `Subscribe`."""


class Send(_Message, frozen=True, tag="send"):
    """The application's message to one connection: a JSON object, encoded."""

    re: Sequence
    id: Handle
    message: bytes


class Broadcast(_Message, frozen=True, tag="broadcast"):
    """The application's message to all connections, or those of one version or route."""

    re: Sequence
    message: bytes
    version: str | None = None
    route: str | None = None
    acknowledge: MessageId = ""
    """Id of the message, if pages are to acknowledge it."""


class AcknowledgedRequest(_Message, frozen=True, tag="acknowledged"):
    """Asks how many pages of the node acknowledged a message: the `count`. `ok` is False: it is not known."""

    re: Sequence
    id: MessageId


class DeclareRelease(_Message, frozen=True, tag="release"):
    """A version was declared current."""

    re: Sequence
    version: Version
    number: Number = 0
    """As in `Declaration`; 0: from a node whose version does not number releases, so this one is the newest."""
    unserved: bool = False
    """As in `Declaration`."""
    stage: Stage = Stage()
    """As in `Declaration`."""
    began: Number = 0
    """As in `Declaration`."""
    beside: Known = ()
    """As in `Declaration`."""


class RolloutRequest(_Message, frozen=True, tag="rollout"):
    """Asks what came of the invitations of the node."""

    re: Sequence


class Revoke(_Message, frozen=True, tag="revoke"):
    """Withdraw a viewer's right."""

    re: Sequence
    id: Handle


class EndTickets(_Message, frozen=True, tag="log-out"):
    """Log-outs ended these tickets of the dashboard. Each proves that its sender had it (core/ticket.py)."""

    re: Sequence
    tickets: EndedTickets


class Page(_Message, frozen=True, tag="page"):
    """Asks for one page of the node's connections."""

    re: Sequence
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
    after: Sequence
    version: str | None = None
    route: str | None = None


class SortedPage(_Message, frozen=True, tag="sorted"):
    """Asks for the node's first connections after a position in an order. `next` in the answer: there are more."""

    re: Sequence
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
    sort: str
    after: tuple[str, str] | None = None
    version: str | None = None
    route: str | None = None


class Answer(_Message, frozen=True, tag="answer"):
    """Answers a command. What else it holds depends on the command."""

    re: Sequence
    ok: bool = True
    """False: no such connection, no right, or no."""
    malformed: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    """What is wrong with the client's request, as a sentence for the client."""
    too_many: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    """The client sends more than it may, as a sentence for the client."""
    count: Count = 0
    rows: Rows = ()
    next: Sequence | None = None
    grant: dict[str, Any] | None = None
    """Answer to `AuthorizeRequest`: what the viewer may see, as keyword arguments of `Grant`."""
    request: dict[str, Any] | None = None
    """Answer to `AuthorizeRequest`: the request, described for a check at another node."""
    released: Declaration | None = None
    """Answer to `ReleaseRequest` and `DeclareRelease`: the newest release that the node knows."""
    ended: EndedTickets = ()
    """Answer to `ReleaseRequest`: all tickets that were ended."""
    known: Known = ()
    """Answer to `ReleaseRequest`."""
    agreed: Serves = ""
    """Answer to `ReleaseRequest`: the version that all live nodes serve; empty: they differ, or one does not say."""
    rollout: InvitationCounts | None = None
    """Answer to `RolloutRequest`; None: it knows of no release."""
    agreed_for: Annotated[float, msgspec.Meta(ge=0, le=SETTLED)] = 0.0
    """For how many seconds they have; `SETTLED`: for long enough."""


Command: TypeAlias = (
    Navigate
    | ReportTabs
    | Replace
    | ForwardReleaseReply
    | ForwardAcknowledge
    | Bye
    | Subscribe
    | Unsubscribe
    | AuthorizeRequest
    | Send
    | Broadcast
    | DeclareRelease
    | RolloutRequest
    | AcknowledgedRequest
    | Revoke
    | EndTickets
    | Page
    | SortedPage
)
"""A message that is answered by an `Answer`, unless its `re` is 0."""

PROVEN: Final = (Navigate, ReportTabs, Replace, Bye, Unsubscribe, Answer)
"""
What a node may ask whatever its fleet, because the secret handle of a connection proves that its page asks; and
answers, each of which belongs to an open question. So pages are served while an admin token is being changed.
"""

Question: TypeAlias = ReleaseRequest | Command
"""A message that is answered by an `Answer`."""

FleetMessage: TypeAlias = (
    Report
    | Delta
    | Heartbeat
    | Leave
    | Departures
    | Forget
    | Join
    | Interest
    | ReportRequest
    | FlushRequest
    | ReleaseRequest
    | Answer
    | Command
)

encode = msgspec.msgpack.Encoder().encode
_declaration_decoder = msgspec.msgpack.Decoder(Declaration)
_decoder = msgspec.msgpack.Decoder(FleetMessage)


def decode(data: bytes) -> FleetMessage | None:
    """Decode a message of another node. Returns None if its type is unknown to this version, or if it is malformed."""
    if len(data) > MAX_BYTES:
        return None
    try:
        message: FleetMessage = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return message


def decode_declaration(data: bytes) -> Declaration | None:
    """Decode what `encode` made of a `Declaration`, and a store has kept. Returns None if it is malformed."""
    try:
        return _declaration_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
