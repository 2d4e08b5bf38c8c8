"""
The messages of a server. Known fields are checked strictly; unknown fields and message types are ignored.

Source: protocol/README.md#server-to-client; golden messages in protocol/fixtures/messages.json

Tests: tests/client/test_small_parts.py.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from ..core.stats import ABSENCE_STATES, Absence, AbsenceState, ConnectionInfo, Nodes, NodeShare, Stats, StatsDelta
from ..errors import Malformed

T = TypeVar("T")
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Counts: TypeAlias = dict[str, Count]


class Connected(msgspec.Struct, tag_field="type", tag="connected", rename="camel"):
    """The first message of a stream. Durations in ms."""

    version: str
    connection_id: str
    timestamp: int = 0
    keepalive_ms: int | None = None
    update_strategy: str | None = None
    current_version: str | None = None
    """The current version. None: it is not known."""


class _Absence(msgspec.Struct):
    node: Annotated[str, msgspec.Meta(max_length=64)]
    total: Count | None = None
    versions: _Counts = {}
    state: str = "vanished"
    since: Count = 0

    def absence(self) -> Absence:
        """Return it as the figures hold it. A state that this version does not know is the one that says least."""
        known: AbsenceState = next((state for state in ABSENCE_STATES if state == self.state), "vanished")
        return Absence(self.node, self.total, MappingProxyType(self.versions), known, self.since)


class StatsMessage(msgspec.Struct, tag_field="type", tag="stats", rename="camel"):
    """A complete snapshot."""

    total: Count
    versions: _Counts = {}
    routes: _Counts = {}
    connections: tuple[ConnectionInfo, ...] = ()
    revision: Count = 0
    connections_truncated: bool = False
    nodes: Nodes = Nodes(1, 1)
    partial: bool = False
    absences: tuple[_Absence, ...] = ()
    current_version: str | None = None
    your_id: str | None = None

    def figures(self) -> Stats:
        """Return the snapshot."""
        return Stats(
            total=self.total,
            versions=MappingProxyType({label: count for label, count in self.versions.items() if count}),
            routes=MappingProxyType({label: count for label, count in self.routes.items() if count}),
            connections=self.connections,
            revision=self.revision,
            connections_truncated=self.connections_truncated,
            nodes=self.nodes,
            partial=self.partial,
            absences=tuple(absence.absence() for absence in self.absences),
            current_version=self.current_version,
        )


class _Rows(msgspec.Struct, frozen=True):
    set: tuple[ConnectionInfo, ...] = ()
    remove: tuple[str, ...] = ()


class DeltaMessage(msgspec.Struct, tag_field="type", tag="stats-delta", rename="camel"):
    """What changed."""

    base: Count
    revision: Count
    total: Count
    versions: _Counts = {}
    routes: _Counts = {}
    connections: _Rows = _Rows()
    connections_truncated: bool | None = None
    nodes: Nodes | None = None
    partial: bool | None = None
    absences: tuple[_Absence, ...] | None = None
    current_version: str | msgspec.UnsetType | None = msgspec.UNSET

    def delta(self) -> StatsDelta:
        """Return the delta."""
        return StatsDelta(
            base=self.base,
            revision=self.revision,
            total=self.total,
            versions=self.versions,
            routes=self.routes,
            set=self.connections.set,
            removed=self.connections.remove,
            connections_truncated=self.connections_truncated,
            nodes=self.nodes,
            partial=self.partial,
            absences=None if self.absences is None else tuple(absence.absence() for absence in self.absences),
            current_version=self.current_version,
        )


class Unauthorized(msgspec.Struct, tag_field="type", tag="stats-unauthorized"):
    """The subscription was denied, or the right was withdrawn."""


class Released(msgspec.Struct, tag_field="type", tag="version"):
    """A version was declared current."""

    version: str


class Drain(msgspec.Struct, tag_field="type", tag="drain", rename="camel"):
    """The server is stopping; reconnect after `reconnect_ms`."""

    reconnect_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Other(msgspec.Struct):
    """Another type: a keepalive, or a message of the application."""

    type: str


ServerMessage: TypeAlias = Connected | StatsMessage | DeltaMessage | Unauthorized | Released | Drain | Other

_decode_known: "msgspec.json.Decoder[Any]" = msgspec.json.Decoder(
    Connected | StatsMessage | DeltaMessage | Unauthorized | Released | Drain
)
_decode_type = msgspec.json.Decoder(Other).decode
_KNOWN = frozenset({"connected", "stats", "stats-delta", "stats-unauthorized", "version", "drain"})


_ALWAYS = frozenset({"total", "versions", "routes", "connections"})
"""Fields of every answer with figures; the JSON of another program may have a `total`, too."""


def decode_snapshot(content: bytes) -> Stats:
    """
    Read the answer of `GET /admin/stats`.

    Raises:
        Malformed: The answer has another shape.
    """
    try:
        document = msgspec.json.decode(content)
        if missing := _ALWAYS - document.keys():
            raise TypeError(f"{min(missing)} is missing")
        return msgspec.convert({**document, "type": "stats"}, StatsMessage).figures()
    except (msgspec.MsgspecError, AttributeError, TypeError, UnicodeError) as error:
        raise Malformed(f"The server's statistics are malformed: {error}.") from None


class _Share(msgspec.Struct, rename="camel"):
    node: str
    total: Count
    reporting: bool
    silent_ms: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Shares(msgspec.Struct, rename="camel"):
    shares: list[_Share]
    absences: tuple[_Absence, ...] = ()
    cut_after_ms: Annotated[int, msgspec.Meta(ge=0)] = 0


_decode_shares = msgspec.json.Decoder(_Shares).decode


def decode_shares(content: bytes) -> list[NodeShare]:
    """
    Read the answer of `GET /admin/nodes`.

    Raises:
        Malformed: The answer has another shape.
    """
    return decode_fleet(content).shares


class FleetNodes(NamedTuple):
    """
    The nodes of a fleet: those that are there, and those that are gone and unaccounted for.

    `cut_after`: seconds after which something ends streams, as clients have reported to the answering node; 0: unknown.
    """

    shares: list[NodeShare]
    absences: tuple[Absence, ...]
    cut_after: float = 0.0


def decode_fleet(content: bytes) -> FleetNodes:
    """
    Read the answer of `GET /admin/nodes`, absent nodes included.

    Raises:
        Malformed: The answer has another shape.
    """
    found = _answer(_decode_shares, content, "list of nodes")
    shares = [NodeShare(share.node, share.total, share.reporting, share.silent_ms / 1000) for share in found.shares]
    return FleetNodes(shares, tuple(absence.absence() for absence in found.absences), found.cut_after_ms / 1000)


class Health(msgspec.Struct):
    """The answer of `GET /health`. `seen`: how the request arrived, if asked with `seen=1`."""

    ok: bool
    version: str
    uptime: float
    seen: dict[str, Any] = {}


_decode_health = msgspec.json.Decoder(Health).decode


def decode_health(content: bytes) -> Health:
    """
    Read the answer of `GET /health`.

    Raises:
        Malformed: The answer has another shape.
    """
    return _answer(_decode_health, content, "health")


def decode_version(content: bytes) -> str:
    """Read the version in the answer of `GET /health`. Raises the errors of `decode_health`."""
    return decode_health(content).version


class Reached(msgspec.Struct, frozen=True):
    """How many nodes declared a version current, of how many."""

    reached: Annotated[int, msgspec.Meta(ge=0)]
    expected: Annotated[int, msgspec.Meta(ge=0)]


class ReleaseResult(msgspec.Struct, frozen=True):
    """
    What came of a release.

    Attributes:
        version: The version that is current now.
        told: Streams that were told; 0 if the version was current already.
        nodes: How many nodes were reached; None: an older server, which does not say.
        partial: A node was not reached, or the server does not know the other nodes.
        already_current: The version was current already; None: an older server, which does not say.
    """

    version: str
    told: Annotated[int, msgspec.Meta(ge=0)]
    nodes: Reached | None = None
    partial: bool = False
    already_current: bool | None = msgspec.field(default=None, name="alreadyCurrent")


class _Release(ReleaseResult, frozen=True):
    ok: bool = False


_decode_release = msgspec.json.Decoder(_Release).decode


def decode_release(content: bytes, version: str) -> ReleaseResult:
    """
    Read the answer of `POST /admin/release`.

    Raises:
        Malformed: The answer has another shape, or is about another version.
    """
    answer = _answer(_decode_release, content, "answer to a release")
    if not answer.ok or answer.version != version:
        raise Malformed("The server's answer does not confirm this release.")
    return ReleaseResult(answer.version, answer.told, answer.nodes, answer.partial, answer.already_current)


class _Forgotten(msgspec.Struct):
    ok: bool
    node: str


_decode_forgotten = msgspec.json.Decoder(_Forgotten).decode


def decode_forgotten(content: bytes, node: str) -> None:
    """
    Check the answer of `POST /admin/nodes/forget`.

    Raises:
        Malformed: The answer has another shape, or is about another node.
    """
    answer = _answer(_decode_forgotten, content, "answer")
    if not answer.ok or answer.node != node:
        raise Malformed("The server's answer does not confirm that this node is forgotten.")


def _answer(decode: Callable[[bytes], T], content: bytes, what: str) -> T:
    try:
        return decode(content)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Malformed(f"The server's {what} is malformed: {error}.") from None


def decode(data: str | bytes) -> ServerMessage:
    """
    Read one message of a server.

    Raises:
        Malformed: The data is not a message, or a field of a known message is invalid.
    """
    try:
        message: ServerMessage = _decode_known.decode(data)
    except msgspec.ValidationError as error:
        try:
            other = _decode_type(data)
        except msgspec.MsgspecError:
            raise Malformed("The server sent JSON that is not a message.") from None
        if other.type in _KNOWN:
            raise Malformed(f"The server sent an invalid {other.type} message: {error}.") from None
        return other
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Malformed("The server sent a message that is not JSON.") from None
    return message
