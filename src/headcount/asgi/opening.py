"""What a page says when it opens a stream, and whether it may: checked, before anything is kept of it."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from starlette.types import Scope

from ..config import Config
from ..core.address import IPNetwork
from ..errors import Malformed
from .scope import address_of, labels_of, query_of

_QUERY: Final = frozenset({"version", "route", "viewer", "keepalive"})


class Opening(NamedTuple):
    """What the query, the cookie and the peer tell of a new stream."""

    version: str
    route: str
    ip: str | None
    """None unless addresses are tracked."""
    counted: bool
    """False for a viewer's own stream."""
    visible_keepalives: bool
    """SSE only: the client cannot see comments and wants messages."""


def read_opening(scope: Scope, config: Config, networks: Iterable[IPNetwork]) -> Opening:
    """
    Read the request for a stream.

    Raises:
        Malformed: A bad label or flag, or a parameter twice.
    """
    query = query_of(scope, _QUERY)
    version, route = labels_of(scope, query, config.cookie)
    return Opening(
        version,
        route,
        address_of(scope, config.ip_tracking, networks),
        not _flag(query, "viewer", "1"),
        _flag(query, "keepalive", "message"),
    )


def _flag(query: dict[str, str], name: str, value: str) -> bool:
    told = query.get(name)
    if told not in (None, "", "0", value):
        raise Malformed(f"The query parameter {name} is {told[:40]!r}; it takes {value!r} or nothing.")
    return told == value
