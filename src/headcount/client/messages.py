"""
The messages of a server. Known fields are checked strictly; unknown fields and message types are ignored.

Source: protocol/README.md#server-to-client; golden messages in protocol/fixtures/messages.json

Tests: tests/client/test_small_parts.py.
"""

from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

import msgspec

from ..core.stats import ConnectionInfo, Nodes, NodeShare, Stats, StatsDelta
from ..errors import Malformed

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
    """The current version. None: an older server, whose own version is current until it sends a release."""


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


def decode_snapshot(content: bytes) -> Stats:
    """
    Read the answer of `GET /admin/stats`.

    Raises:
        Malformed: The answer has another shape.
    """
    try:
        document = msgspec.json.decode(content)
        return msgspec.convert({**document, "type": "stats"}, StatsMessage).figures()
    except (msgspec.MsgspecError, TypeError, UnicodeError) as error:
        raise Malformed(f"The server's statistics are malformed: {error}.") from None


class _Share(msgspec.Struct, rename="camel"):
    node: str
    total: Count
    reporting: bool
    silent_ms: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Shares(msgspec.Struct):
    shares: list[_Share]


_decode_shares = msgspec.json.Decoder(_Shares).decode


def decode_shares(content: bytes) -> list[NodeShare]:
    """
    Read the answer of `GET /admin/nodes`.

    Raises:
        Malformed: The answer has another shape.
    """
    try:
        shares = _decode_shares(content).shares
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Malformed(f"The server's list of nodes is malformed: {error}.") from None
    return [NodeShare(share.node, share.total, share.reporting, share.silent_ms / 1000) for share in shares]


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
