"""
The messages of a server. Known fields are checked strictly; unknown fields and message types are ignored.

Source: protocol/README.md#server-to-client; golden messages in protocol/fixtures/messages.json

Tests: tests/client/test_small_parts.py.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from ..core.current_version import STATES, CurrentRelease, State
from ..core.stats import (
    ABSENCE_STATES,
    Absence,
    AbsenceState,
    ConnectionInfo,
    Nodes,
    NodeShare,
    Stats,
    StatsDelta,
    VersionCount,
)
from ..errors import Malformed

T = TypeVar("T")
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Counts: TypeAlias = dict[str, Count]


class _Release(msgspec.Struct):
    state: str
    version: str | None = None
    number: Count | None = None


def _release(current: str | None, release: _Release | None) -> CurrentRelease | None:
    """Return the release as the figures hold it. An older server says only which version is current."""
    if release is None:
        return None if current is None else CurrentRelease("settled", current)
    # A state that this version does not know is taken for what it means: a version is current, or none is.
    otherwise: State = "unsettled" if current is None else "settled"
    known = next((state for state in STATES if state == release.state), otherwise)
    return CurrentRelease(known) if known == "unsettled" else CurrentRelease(known, release.version, release.number)


class Connected(msgspec.Struct, tag_field="type", tag="connected", rename="camel"):
    """The first message of a stream. Durations in ms."""

    version: str
    connection_id: str
    timestamp: int = 0
    keepalive_ms: int | None = None
    update_strategy: str | None = None
    current_version: str | None = None
    """The current version. None: it is not known."""
    release: _Release | None = None

    def current_release(self) -> CurrentRelease | None:
        """Return which version is current, and why; None: it is not known."""
        return _release(self.current_version, self.release)


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
    away: _Counts = {}
    away_known: bool = False
    absences: tuple[_Absence, ...] = ()
    current_version: str | None = None
    release: _Release | None = None
    your_id: str | None = None
    of_version: VersionCount | None = None

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
            away=MappingProxyType({label: count for label, count in self.away.items() if count}),
            away_known=self.away_known,
            absences=tuple(absence.absence() for absence in self.absences),
            release=_release(self.current_version, self.release),
            of_version=self.of_version,
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
    away: _Counts = {}
    away_known: bool | None = None
    absences: tuple[_Absence, ...] | None = None
    current_version: str | msgspec.UnsetType | None = msgspec.UNSET
    release: _Release | None = None

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
            away=self.away,
            away_known=self.away_known,
            release=self._changed_release(),
        )

    def _changed_release(self) -> CurrentRelease | None:
        if isinstance(self.current_version, msgspec.UnsetType):
            return None
        return _release(self.current_version, self.release) or CurrentRelease("unsettled")


class Unauthorized(msgspec.Struct, tag_field="type", tag="stats-unauthorized"):
    """The subscription was denied, or the right was withdrawn."""


class Released(msgspec.Struct, tag_field="type", tag="version"):
    """A version was declared current."""

    version: str
    release: _Release | None = None

    def current_release(self) -> CurrentRelease:
        """Return it with its number. An older server sends none."""
        return _release(self.version, self.release or _Release("declared", self.version)) or CurrentRelease("unsettled")


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
    version: str | None = None

    def share(self) -> NodeShare:
        """Return it as the figures hold it. A server that does not say a version, or an empty one, knows none."""
        return NodeShare(self.node, self.total, self.reporting, self.silent_ms / 1000, self.version or None)


class _Shares(msgspec.Struct, rename="camel"):
    shares: list[_Share]
    absences: tuple[_Absence, ...] = ()
    cut_after_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    strangers: tuple[str, ...] = ()


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

    `cut_after`: seconds after which something ends streams, the shortest that a node knows of; 0: unknown.
    `strangers`: ids of nodes with another secret under the same fleet name.
    """

    shares: list[NodeShare]
    absences: tuple[Absence, ...]
    cut_after: float = 0.0
    strangers: tuple[str, ...] = ()


def decode_fleet(content: bytes) -> FleetNodes:
    """
    Read the answer of `GET /admin/nodes`, absent nodes included.

    Raises:
        Malformed: The answer has another shape.
    """
    found = read_answer(_decode_shares, content, "list of nodes")
    shares = [share.share() for share in found.shares]
    absences = tuple(absence.absence() for absence in found.absences)
    return FleetNodes(shares, absences, found.cut_after_ms / 1000, found.strangers)


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
    return read_answer(_decode_health, content, "health")


def decode_version(content: bytes) -> str:
    """Read the version in the answer of `GET /health`. Raises the errors of `decode_health`."""
    return decode_health(content).version


class Reached(msgspec.Struct, frozen=True):
    """How many nodes declared a version current, of how many."""

    reached: Annotated[int, msgspec.Meta(ge=0)]
    expected: Annotated[int, msgspec.Meta(ge=0)]


class Unreached(msgspec.Struct, frozen=True):
    """
    A node that did not declare a version: its id, and why.

    Reasons are `silent`, `refused`, `stranger` and `disconnected`; a newer server may have others.
    """

    node: Annotated[str, msgspec.Meta(max_length=64)]
    reason: Annotated[str, msgspec.Meta(max_length=64)] = ""


class ReleaseResult(msgspec.Struct, frozen=True):
    """
    What came of a release.

    Attributes:
        version: The version that is current now.
        told: Streams that were told; 0 if the version was current already.
        nodes: How many nodes were reached; None: an older server, which does not say.
        partial: A node was not reached, or the server does not know the other nodes.
        already_current: The version was current already; None: an older server, which does not say.
        unreached: Nodes that did not declare it; None: an older server, which does not say.
    """

    version: str
    told: Annotated[int, msgspec.Meta(ge=0)]
    nodes: Reached | None = None
    partial: bool = False
    already_current: bool | None = msgspec.field(default=None, name="alreadyCurrent")
    unreached: tuple[Unreached, ...] | None = None


class _ReleaseAnswer(ReleaseResult, frozen=True):
    ok: bool = False


_decode_release = msgspec.json.Decoder(_ReleaseAnswer).decode


def decode_release(content: bytes, version: str | None) -> ReleaseResult:
    """
    Read the answer of `POST /admin/release`. `version` is None if the server was to choose it.

    Raises:
        Malformed: The answer has another shape, or is about another version.
    """
    answer = read_answer(_decode_release, content, "answer to a release")
    if not answer.ok or not answer.version or version not in (None, answer.version):
        raise Malformed("The server's answer does not confirm this release.")
    return ReleaseResult(
        answer.version, answer.told, answer.nodes, answer.partial, answer.already_current, answer.unreached
    )


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
    answer = read_answer(_decode_forgotten, content, "answer")
    if not answer.ok or answer.node != node:
        raise Malformed("The server's answer does not confirm that this node is forgotten.")


def read_answer(decode: Callable[[bytes], T], content: bytes, what: str) -> T:
    """Decode an answer. Raises `Malformed` if it has another shape; `what` names it in the error."""
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
