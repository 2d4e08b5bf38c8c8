"""What a page says when it opens a stream, and whether it may: checked, before anything is kept of it."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from starlette.types import Scope

from ..config import Config
from ..core.address import IPNetwork
from ..core.labels import parse_route, parse_version
from ..errors import Malformed
from ..node.listening_sockets import Listener
from ..node.node import Node
from ..node.session import Session
from .scope import address_of, query_of, version_in_cookie

_QUERY: Final = frozenset({"version", "route", "viewer", "shared", "replaces", "keepalive", "reconnect"})


_MAX_REMEMBERED: Final = 256
"""Bytes of a query; longer ones are read anew each time."""


class Opening(NamedTuple):
    """What the query, the cookie and the peer tell of a new stream."""

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
    """Secret handle of the stream that it comes after; "" for none."""
    again: bool = False
    """The client had a stream before, by its own word."""

    def open(self, node: Node, session: Session, listener: Listener | None) -> None:
        """Take the stream into the node, in place of the one that it replaces."""
        if self.replaces:
            node.replace(self.replaces)
        if self.shared:
            node.tabs.expect(session, self.version, self.ip)
        node.open(session, self.version, self.route, self.ip, listener)


def read_opening(scope: Scope, config: Config, networks: Iterable[IPNetwork]) -> Opening:
    """
    Read the request for a stream.

    Raises:
        Malformed: A bad label or flag, or a parameter twice.
    """
    text: bytes = scope["query_string"]
    # One that names a stream is this page's alone, and names it by its secret.
    again = len(text) <= _MAX_REMEMBERED and b"replaces" not in text
    opening = _read_again(text) if again else _read(text)
    if not opening.version:
        opening = opening._replace(version=version_in_cookie(scope, config.cookie))
    if config.ip_tracking is not False:
        opening = opening._replace(ip=address_of(scope, config.ip_tracking, networks))
    return opening


def _read(text: bytes) -> Opening:
    """
    Read a query; without a version when it has none.

    The page's own stamp decides, because a cookie is shared by all tabs of a browser and a new tab overwrites it.
    """
    query = query_of(text, _QUERY)
    viewer, shared = _flag(query, "viewer", "1"), _flag(query, "shared", "1")
    if viewer and shared:
        raise Malformed("viewer=1 is for a stream that is not counted, shared=1 for one whose tabs are; send one.")
    return Opening(
        parse_version(query["version"]) if query.get("version") else "",
        parse_route(query.get("route", "")),
        None,
        not (viewer or shared),
        _flag(query, "keepalive", "message"),
        shared,
        query.get("replaces", ""),
        query.get("reconnect") == "1",
    )


# Of all that open a stream, many come with the same query: that of the front page.
_read_again = lru_cache(maxsize=512)(_read)


def _flag(query: dict[str, str], name: str, value: str) -> bool:
    told = query.get(name)
    if told not in (None, "", "0", value):
        raise Malformed(f"The query parameter {name} is {told[:40]!r}; it takes {value!r} or nothing.")
    return told == value
