"""
Every message of the wire: its type, how it is read, how it is written.

Reading is strict about shape and lenient about news: a known type with a wrong field is malformed, an unknown type is
`Unknown` and changes nothing. Types are compared, never searched for: a route called `/shopping` holds no ping.

Source: protocol/README.md; golden messages in protocol/fixtures/messages.json
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from ..errors import Malformed, TooLarge
from .acknowledgements import MAX_ID
from .current_version import CurrentRelease
from .invitations import Reply
from .labels import ROOT, parse_claimed_version, parse_route
from .stats import Stats, StatsDelta, away_fields, known_release_fields, release_fields, unaccounted_fields
from .visibility import EVERYTHING, Visibility

MAX_MESSAGE: Final = 4_096
"""Bytes of one message or POST body from a client."""


MAX_REASON: Final = 32
"""Characters of what keeps a page."""


class SubscribeStats(msgspec.Struct, frozen=True, tag_field="type", tag="subscribe-stats"):
    """The page wants to watch; `deltas`: it can apply them."""

    deltas: bool = False


class UnsubscribeStats(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribe-stats"):
    """The page stops watching."""


class RouteUpdate(msgspec.Struct, frozen=True, tag_field="type", tag="route-update"):
    """The page navigated."""

    route: str


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Answered by a pong."""


class Unknown(msgspec.Struct, frozen=True):
    """Well-formed, of a type this version does not know."""

    type: str


class Tab(msgspec.Struct, frozen=True):
    """
    One tab of a browser whose tabs share a stream.

    `key` is a secret that the tab made when it was loaded: by it the server knows the tab again on another stream.
    """

    key: str
    version: str = ""
    route: str = ROOT
    hidden: bool = False


class Tabs(msgspec.Struct, frozen=True, tag_field="type", tag="tabs"):
    """Tabs that came, changed or left; `remove` is applied first. Tabs that are not named stay as they are."""

    set: tuple[Tab, ...] = ()
    remove: tuple[str, ...] = ()


class Bye(msgspec.Struct, frozen=True):
    """The page, or one tab of those that share its stream, says that it leaves. It comes by POST only."""

    tab: str = ""
    """Key of the tab; "": the stream is the page's own."""


class ReleaseReply(msgspec.Struct, frozen=True, tag_field="type", tag="release-reply"):
    """What the page does about a release that it was told of."""

    version: str
    reply: Reply
    reason: str = ""
    """Of `deferred`: the name of what keeps the page."""
    tab: str = ""
    """Key of the tab; "": the stream is the page's own."""


class Acknowledge(msgspec.Struct, frozen=True, tag_field="type", tag="acknowledge"):
    """The page has a message of the application, and has passed it on."""

    id: str
    """What stood in the message's `acknowledge`."""
    tab: str = ""
    """Key of the tab; "": the stream is the page's own."""


ClientMessage: TypeAlias = (
    SubscribeStats | UnsubscribeStats | RouteUpdate | Tabs | Bye | ReleaseReply | Acknowledge | Ping | Unknown
)


class RouteBody(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /route`."""

    connection_id: str
    route: str


class SubscribeBody(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /subscribe-stats`."""

    connection_id: str
    deltas: bool = False


class UnsubscribeBody(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /unsubscribe-stats`."""

    connection_id: str


class TabsBody(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /tabs`."""

    connection_id: str
    set: tuple[Tab, ...] = ()
    remove: tuple[str, ...] = ()


class ByeBody(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /bye`."""

    connection_id: str
    tab: str = ""


class AcknowledgeBody(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /acknowledge`."""

    connection_id: str
    id: str
    tab: str = ""


class ReleaseReplyBody(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /release-reply`."""

    connection_id: str
    version: str
    reply: Reply
    reason: str = ""
    tab: str = ""


class _Typed(msgspec.Struct, frozen=True):
    type: str


_decode_known = msgspec.json.Decoder(
    SubscribeStats | UnsubscribeStats | RouteUpdate | Tabs | ReleaseReply | Acknowledge | Ping
).decode
_decode_type = msgspec.json.Decoder(_Typed).decode
_encode = msgspec.json.Encoder().encode

_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")
_KNOWN = frozenset(
    {"subscribe-stats", "unsubscribe-stats", "route-update", "tabs", "release-reply", "acknowledge", "ping"}
)


def decode(data: str | bytes) -> ClientMessage:
    """
    Read one WebSocket message of a client.

    Args:
        data: A text frame, or a binary frame that holds the same text.

    Returns:
        The message; a `RouteUpdate` holds a checked route without query and fragment.

    Raises:
        Malformed: Not JSON, not an object, no string `type`, or a wrong field.
        TooLarge: More than 4 KiB.
    """
    size = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode("utf-8", "surrogatepass"))
    if size > MAX_MESSAGE:
        raise TooLarge(f"The message has {size} bytes; at most {MAX_MESSAGE} are allowed.")
    try:
        message: ClientMessage = _decode_known(data)
    except msgspec.ValidationError as error:
        # An unknown tag is a validation error too; only the type alone can tell them apart.
        name = _read(_decode_type, data).type
        if name in _KNOWN:
            raise Malformed(f"The {name} message is wrong: {_sentence(error)}") from None
        return Unknown(name)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if data in ("ping", b"ping"):
            return Ping()
        raise Malformed(f"The message is not valid JSON: {_sentence(error)}") from None
    if isinstance(message, RouteUpdate):
        route = checked_route(message.route)
        return message if route is message.route else RouteUpdate(route)
    if isinstance(message, Tabs):
        return checked_tabs(message.set, message.remove)
    if isinstance(message, ReleaseReply):
        return checked_release_reply(message.version, message.reply, message.reason, message.tab)
    if isinstance(message, Acknowledge):
        return checked_acknowledge(message.id, message.tab)
    return message


def decode_body(data: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
    """
    Read the body of a POST.

    Raises:
        Malformed: Not JSON, not an object, or a field that is missing or wrong.
    """
    return _read(decoder.decode, data)


def checked_route(route: str) -> str:
    """Check the route of an update. Unlike in a URL, an empty one is malformed: the page said nothing."""
    if not route:
        raise Malformed("The route is empty; send the path that the page shows, such as /products.")
    return parse_route(route)


def checked_tabs(tabs: tuple[Tab, ...], remove: tuple[str, ...]) -> Tabs:
    """Check keys and labels of a report of tabs; a tab without a version keeps ""."""
    for key in (*remove, *(tab.key for tab in tabs)):
        _check_key(key)
    return Tabs(
        tuple(Tab(tab.key, parse_claimed_version(tab.version), checked_route(tab.route), tab.hidden) for tab in tabs),
        remove,
    )


def checked_bye(tab: str) -> Bye:
    """Check the key of a tab that leaves; "" for a page with a stream of its own."""
    if tab:
        _check_key(tab)
    return Bye(tab)


def checked_release_reply(version: str, reply: Reply, reason: str, tab: str) -> ReleaseReply:
    """Check what a page answers to a release."""
    if tab:
        _check_key(tab)
    if len(reason) > MAX_REASON:
        raise Malformed(f"The reason has {len(reason)} characters; send at most {MAX_REASON}, such as form.")
    return ReleaseReply(parse_claimed_version(version), reply, reason, tab)


def checked_acknowledge(number: str, tab: str) -> Acknowledge:
    """Check the id of a message, and the key of the tab that has it."""
    if tab:
        _check_key(tab)
    if not 0 < len(number) <= MAX_ID:
        raise Malformed("The id of the message is empty or too long; send what stood in its acknowledge.")
    return Acknowledge(number, tab)


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise Malformed(f"{key[:40]!r} is not a valid tab key; send 16 to 64 letters, digits, - and _.")


def greeting(version: str, keepalive: int, update_strategy: str, release: CurrentRelease) -> bytes:
    """
    Encode the first message of a stream, but for what is each connection's own.

    `% (handle, now)` completes it, with the secret handle in ASCII and the time in ms since 1970.

    Args:
        version: The server's.
        keepalive: In ms.
        update_strategy: What the server would like clients to use.
        release: Which version is current, and why.
    """
    whole = _encode(
        {
            "type": "connected",
            "version": version,
            "connectionId": "",
            "timestamp": 0,
            "keepaliveMs": keepalive,
            "updateStrategy": update_strategy,
            **known_release_fields(release),
        }
    )
    # In a version, a quotation mark stands behind a backslash, so this is found where it was put.
    before, _, after = whole.replace(b"%", b"%%").partition(b'"connectionId":"","timestamp":0')
    return before + b'"connectionId":"%b","timestamp":%d' + after


def stats(figures: Stats, visibility: Visibility = EVERYTHING) -> bytes:
    """
    Encode a snapshot as far as it may be seen, without `yourId`.

    Everything but `yourId` is the same for all subscribers of one visibility, so it is encoded once; `addressed` adds
    the rest.
    """
    shown = visibility.stats(figures)
    return _encode(
        {
            "type": "stats",
            "total": shown.total,
            "versions": dict(shown.versions),
            "routes": dict(shown.routes),
            "connections": shown.connections,
            "revision": shown.revision,
            "connectionsTruncated": shown.connections_truncated,
            "nodes": shown.nodes,
            "partial": shown.partial,
            **release_fields(shown.release),
            **away_fields(shown),
            **unaccounted_fields(shown.absences),
        }
    )


def addressed(snapshot: bytes, your_id: str) -> bytes:
    """Add `yourId` to what `stats` made. Ids are ours and need no escaping."""
    return snapshot[:-1] + b',"yourId":"' + your_id.encode("ascii") + b'"}'


def stats_delta(delta: StatsDelta, visibility: Visibility = EVERYTHING) -> bytes:
    """Encode a delta as far as it may be seen."""
    delta = visibility.delta(delta)
    message: dict[str, Any] = {
        "type": "stats-delta",
        "base": delta.base,
        "revision": delta.revision,
        "total": delta.total,
        "versions": delta.versions,
        "routes": delta.routes,
        "connections": {"set": delta.set, "remove": delta.removed},
    }
    if delta.connections_truncated is not None:
        message["connectionsTruncated"] = delta.connections_truncated
    if delta.nodes is not None:
        message["nodes"] = delta.nodes
    if delta.partial is not None:
        message["partial"] = delta.partial
    if delta.release is not None:
        message |= {"currentVersion": None, **release_fields(delta.release)}
    if delta.away:
        message["away"] = delta.away
    if delta.away_known is not None:
        message["awayKnown"] = delta.away_known
    if delta.absences is not None:
        message |= {"unaccounted": 0, "absences": [], **unaccounted_fields(delta.absences)}
    return _encode(message)


def version(release: CurrentRelease, now: int) -> bytes:
    """
    Encode the news of a release, which has a version, to which pages that know how may reply.

    Args:
        release: The release.
        now: Milliseconds since 1970.
    """
    return _encode(
        {
            "type": "version",
            "version": release.version,
            "timestamp": now,
            "release": release_fields(release)["release"],
            "reply": True,
        }
    )


def drain(reconnect: int) -> bytes:
    """Encode the request to come back after `reconnect` ms."""
    return _encode({"type": "drain", "reconnectMs": reconnect})


def application(message: Mapping[str, Any]) -> bytes:
    """
    Encode a message of the application.

    Raises:
        TypeError: Not a mapping, or holds something that is no JSON, itself or an unpaired surrogate.
    """
    if not isinstance(message, Mapping):
        raise TypeError(f"A message is a JSON object, so pass a dict, not {type(message).__name__}.")
    try:
        return _encode(dict(message))
    except (UnicodeEncodeError, RecursionError) as error:
        raise TypeError(f"The message cannot be written as JSON: {_sentence(error)}") from error


def tabs(ids: Mapping[str, str]) -> bytes:
    """Encode the answer to a report of tabs: the public id of each tab in it by its key."""
    return _encode({"type": "tabs", "ids": ids})


def to_tabs(keys: list[str], message: bytes) -> bytes:
    """Encode an application's message (`application`) for some of the tabs that share a stream."""
    return _encode({"type": "to", "tabs": keys, "message": msgspec.Raw(message)})


STATS_UNAUTHORIZED: Final = _encode({"type": "stats-unauthorized"})
KEEPALIVE: Final = _encode({"type": "keepalive"})
ARE_YOU_THERE: Final = _encode({"type": "are-you-there"})
PONG: Final = _encode({"type": "pong"})


def _read(decode_typed: Any, data: str | bytes) -> Any:
    try:
        return decode_typed(data)
    except msgspec.ValidationError as error:
        raise Malformed(f"The JSON is invalid: {_sentence(error)}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Malformed(f"The message is not valid JSON: {_sentence(error)}") from None


_WRONG_TYPE: Final = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `\$\.([^`]+)`)?")
_MISSING: Final = re.compile(r"Object missing required field `([^`]+)`")
_KINDS: Final = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
}
"""JSON's own words for what msgspec calls as Python does."""


def _sentence(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply."
    text = str(error) or "it cannot be read"
    if found := _WRONG_TYPE.fullmatch(text):
        expected, came = (
            " or ".join(_KINDS.get(kind, kind) for kind in part.split(" | ")) for part in found.group(1, 2)
        )
        return f"{found[3] or 'it'} is {came}; send {expected}."
    if found := _MISSING.fullmatch(text):
        return f"the field {found[1]} is missing."
    return text if text.endswith(".") else text + "."
