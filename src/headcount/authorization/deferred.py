"""
The check of a WebSocket's viewer, made only when its page wants to watch; most never do.

What a handshake leaves behind must be small, because it stays for as long as the stream is open: a scope of its own
would cost each page ten times as much.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgspec
from starlette.types import ASGIApp, Scope

from .authorizer import AuthorizationCheck
from .inner_request import VISITOR_KEYS, InnerRequestCheck, InnerRequests
from .kept_headers import MAX_KEPT

MakeCheck: TypeAlias = Callable[[], AuthorizationCheck]
"""Makes the check of a stream's viewer."""

_BROWSER_HEADERS: Final = frozenset(
    {b"host", b"origin", b"user-agent", b"accept", b"accept-language", b"accept-encoding", b"cache-control", b"pragma",
     b"dnt", b"sec-gpc", b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform", b"sec-fetch-site", b"sec-fetch-mode",
     b"sec-fetch-dest"}
)  # fmt: skip
"""What all pages of one browser send alike, and so do those of many."""

_MAX_INTERNED_SIZE: Final = 2_000
_MAX_INTERNED: Final = 500
"""So many bytes, and so many browsers: a megabyte at most, whatever visitors send."""

_COMMON_KEYS: Final = (
    *("type", "asgi", "scheme", "server"),
    *("path", "raw_path", "root_path", "app_root_path", "app", "router"),
)
"""Keys of a scope that the handshakes of one path have in common."""

_pack = msgspec.msgpack.Encoder().encode
_unpack_own = msgspec.msgpack.Decoder(tuple[tuple[Any, ...] | None, list[bytes]]).decode
_unpack_shared = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]]).decode


class HandshakeTemplate:
    """
    What the handshakes of one path have in common; see `InnerRequestCheck` for the arguments.

    Args:
        requests: What all inner requests of this Headcount have in common.
        scope: Of any of the handshakes. Its headers and its peer are not kept, nor what middleware put in for its
            visitor.
        prefix: What its path has before the endpoint.
        wrapped_app: The application that Headcount is wrapped round, if it is.
    """

    __slots__ = ("_interned", "_visitor_keys", "credentials_only", "prefix", "requests", "scope", "wrapped_app")

    def __init__(self, requests: InnerRequests, scope: Scope, prefix: str, wrapped_app: ASGIApp | None) -> None:
        self.requests = requests
        self.prefix = prefix
        self.wrapped_app = wrapped_app
        self.credentials_only = _needs_credentials_only(requests, scope, wrapped_app)
        self._visitor_keys = VISITOR_KEYS & scope.keys()
        # Only which keys middleware set: the values are those of one visitor.
        self.scope = {key: scope[key] for key in (*_COMMON_KEYS, "state") if key in scope} | dict.fromkeys(
            self._visitor_keys
        )
        self._interned: dict[bytes, bytes] = {}

    def intern(self, headers: bytes) -> bytes:
        """Return the one object that stands for equal bytes: a few browsers make nearly all handshakes."""
        known = self._interned.get(headers)
        if known is None:
            if len(headers) > _MAX_INTERNED_SIZE:
                return headers
            if len(self._interned) >= _MAX_INTERNED:
                self._interned.clear()  # streams that hold one keep it; new ones share anew
            known = self._interned[headers] = headers
        return known

    def fits(self, scope: Scope, wrapped_app: ASGIApp | None) -> bool:
        """Say whether a handshake differs in nothing but its headers and its peer."""
        if wrapped_app is not self.wrapped_app or VISITOR_KEYS & scope.keys() != self._visitor_keys:
            return False
        if self.credentials_only and not _needs_credentials_only(self.requests, scope, wrapped_app):
            return False  # a hook was registered meanwhile
        if any(scope.get(key) != self.scope.get(key) for key in _COMMON_KEYS):
            return False
        # By identity: these are the application's own objects, and what they take for equal may be two visitors'.
        mine, other = self.scope.get("state") or {}, scope.get("state") or {}
        return mine.keys() == other.keys() and all(mine[name] is other[name] for name in mine)


class DeferredCheckMaker:
    """
    Makes the `InnerRequestCheck` of one handshake; a `MakeCheck`.

    Holds the headers as two strings of bytes, one of them shared with the other pages of this browser, and a template
    with everything that the handshakes of one path have in common.

    Args:
        template: What handshakes of this path have in common.
        client: The scope's.
        headers: Of the handshake.
    """

    __slots__ = ("_own", "_shared", "_template")

    def __init__(self, template: HandshakeTemplate, client: Any, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._template = template
        kept = template.requests.kept
        shared: list[tuple[bytes, bytes | None]] = []
        own: list[bytes] = []
        if template.credentials_only:
            credentials = kept.credentials
            for name, value in headers:
                if name in credentials:
                    shared.append((name, None))
                    own.append(value)
        else:
            names, dropped = kept.names, kept.dropped
            for name, value in headers:
                if name in _BROWSER_HEADERS:
                    shared.append((name, value))
                elif name in dropped:
                    continue
                elif name in names:
                    shared.append((name, None))
                    own.append(value)
                elif (part := kept.other_value(name, value)) is not None:
                    shared.append((name, None))
                    own.append(part)
        packed = _pack(shared)
        self._own: bytes | None = _pack((None if client is None else kept.client(client), own))
        if len(packed) + len(self._own) > MAX_KEPT:
            self._shared, self._own = b"", None
        else:
            self._shared = template.intern(packed)

    def __call__(self) -> InnerRequestCheck:
        """Make it."""
        template = self._template
        if self._own is None:  # too large to keep
            return InnerRequestCheck(template.requests, template.scope, template.prefix, template.wrapped_app)
        client, own = _unpack_own(self._own)
        values = iter(own)
        headers = [(name, next(values) if value is None else value) for name, value in _unpack_shared(self._shared)]
        scope = {**template.scope, "client": client, "headers": headers}
        return InnerRequestCheck(template.requests, scope, template.prefix, template.wrapped_app)


def _needs_credentials_only(requests: InnerRequests, scope: Scope, wrapped_app: ASGIApp | None) -> bool:
    """Say whether no hook and no application ever sees the headers: `headcount serve`."""
    return wrapped_app is None and scope.get("app") is None and requests.authorizer.reads_credentials_only
