"""
Asking for the right to watch, with the application's own session and user.

The hook must meet the same request whether a page asks over SSE or WebSocket, and whether Headcount is mounted in the
application or wrapped round it. A POST that came through a mounted application has its session already. Everything else
(a WebSocket, which HTTP middleware does not see; a stream answered outside the application; a right that is asked for
again) is decided on an inner request: `GET {base}/authorize` with the headers of the request in question, sent through
the application's own middleware, which no client can send.

Mounted, the application is the innermost one, the only one that can be found. Where session or user come from further
out, inner requests are without them; then nobody is authorised, on any way in, and the log says what to do instead.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, Literal

import msgspec
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Scope, Send

from ..authorization.authorizer import Authorizer, Grant
from .scope import prefix_of

logger = logging.getLogger("headcount")

PATH: Final = "/authorize"
_EXTENSION: Final = "headcount.authorize"

MAX_HEADERS: Final = 65_536
"""Bytes of the headers that are handed to another process."""

_DESCRIBED: Final = ("scheme", "path", "root_path", "client", "server")


class _Described(msgspec.Struct):
    scheme: Literal["http", "https"]
    path: str
    root_path: str
    headers: list[tuple[bytes, bytes]]
    state: list[str]
    mounted: bool
    visitor: list[Literal["auth", "session", "user"]] = []
    client: tuple[str, int] | None = None
    server: tuple[str, int | str | None] | None = None


_HOP_BY_HOP = frozenset(
    {b"connection", b"upgrade", b"content-length", b"content-type", b"transfer-encoding", b"sec-websocket-key",
     b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol", b"te", b"expect"}
)  # fmt: skip

_ADDRESSES: Final = frozenset({b"cf-connecting-ip", b"x-forwarded-for", b"x-real-ip", b"forwarded", b"true-client-ip"})
"""Where proxies tell the client's address."""

_ALIKE: Final = frozenset(
    {b"host", b"origin", b"user-agent", b"accept", b"accept-language", b"accept-encoding", b"cache-control", b"pragma",
     b"dnt", b"sec-gpc", b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform", b"sec-fetch-site", b"sec-fetch-mode",
     b"sec-fetch-dest"}
)  # fmt: skip
"""What all pages of one browser send alike, and so do those of many."""

_MAX_ALIKE: Final = 2_000
_MAX_SHARED: Final = 500
"""So many bytes, and so many browsers: a megabyte at most, whatever strangers send."""

_VISITOR: Final = frozenset({"session", "user", "auth"})
"""Where middleware puts what it knows of a visitor."""


class _Verdict:
    """
    Travels in the inner request's scope, where no client can put it, and brings the answer back.

    Args:
        ask: Ask the hook; else only see what is there.
    """

    __slots__ = ("_ask", "grant", "reached", "seen")

    def __init__(self, *, ask: bool = True) -> None:
        self.grant: Grant | None = None
        self.reached = False
        self.seen: frozenset[str] = frozenset()
        self._ask = ask

    async def decide(self, authorizer: Authorizer, scope: Scope) -> None:
        self.seen = _VISITOR & scope.keys()
        if self._ask:
            self.grant = await authorizer.decide(HTTPConnection(scope))
        self.reached = True


class _State(dict[str, Any]):
    """The `state` of an inner request; notes what the application's middleware puts in."""

    # Those of dict do not go through `__setitem__`.
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__(state)
        self.written: set[str] = set()

    def __setitem__(self, key: str, value: Any) -> None:
        self.written.add(key)
        super().__setitem__(key, value)


class InnerRequestCheck:
    """
    Asks for one viewer's right. Each call asks anew.

    Args:
        authorizer: Asks the token and the hook.
        scope: The request that asked to watch.
        base_path: Where Headcount is, in the application that it is mounted in or wrapped round.
        endpoint: What of the path comes after that.
        wrapped: The application that Headcount is wrapped round. None: Headcount is mounted in `scope["app"]`, or
            stands alone.
        at_hand: The request itself may be decided on, the first time, if it came through the application's middleware.
            Else only what its headers say counts.
        forget_address: Asked again, there is no address any more, because none may be kept.
    """

    __slots__ = ("_app", "_at_hand", "_authorizer", "_forget_address", "_inner", "_mounted", "_visitor")

    def __init__(
        self,
        authorizer: Authorizer,
        scope: Scope,
        base_path: str,
        endpoint: str,
        wrapped: ASGIApp | None,
        *,
        at_hand: bool = True,
        forget_address: bool = False,
    ) -> None:
        self._authorizer = authorizer
        self._mounted = wrapped is None
        self._app: ASGIApp | None = scope.get("app") if wrapped is None else wrapped
        # The first time, a mounted request is decided on itself, because it came through the application's middleware.
        self._at_hand: Scope | None = scope if at_hand and self._mounted and scope["type"] == "http" else None
        self._forget_address = forget_address
        # Kept while the viewer watches: what it takes to ask again, and nothing that middleware added.
        self._inner = _inner_scope(scope, base_path, endpoint)
        self._visitor: frozenset[str] = _VISITOR & scope.keys() if self._mounted else frozenset()
        """What some middleware knows of the visitor."""

    async def __call__(self) -> Grant | None:
        """Return what the viewer may see now, or None."""
        try:
            return await self._ask()
        finally:
            if self._forget_address:
                self._forget_address = False
                self._inner["client"] = None
                self._inner["headers"] = [line for line in self._inner["headers"] if line[0] not in _ADDRESSES]

    async def _ask(self) -> Grant | None:
        scope, self._at_hand = self._at_hand, None
        if self._app is None:
            return await self._authorizer.decide(HTTPConnection(scope or self._fresh(_Verdict())))
        if await self._missing(self._app):
            return None
        verdict = _Verdict()
        inner = self._fresh(verdict)
        # A state is kept only as far as it is the server's own, its lifespan's. What middleware put in for this visitor
        # would be found again after the log-out; an inner request tells the two apart.
        if scope is not None and not scope.get("state"):
            return await self._authorizer.decide(HTTPConnection(scope))
        state: _State = inner["state"]
        status = await _status_of(self._app, inner)
        if self._mounted:
            kept = state.keys() - state.written if inner.get("state") is state else ()
            self._inner["state"] = {key: state[key] for key in kept}
        if self._mounted or verdict.reached:
            # A request that did not reach us was answered by the application's middleware, whatever it said.
            return verdict.grant
        if not (200 <= status < 300 or status in (404, 405)):
            return None  # the application's own middleware refused this visitor
        # Wrapped, the application knows no such path; but its middleware has left session and user in the scope.
        return await self._authorizer.decide(HTTPConnection(inner))

    async def _missing(self, app: ASGIApp) -> frozenset[str]:
        """Return what is known of the visitor and never comes with inner requests. They are looked at once an app."""
        seen = self._authorizer.seen_by_app.get(app, frozenset())
        if self._visitor <= seen:
            return frozenset()
        verdict = _Verdict(ask=False)
        await _status_of(app, self._fresh(verdict))
        if not verdict.reached:
            return frozenset()  # the application answered in our place, and will say no to the question itself
        told = app in self._authorizer.seen_by_app
        self._authorizer.seen_by_app[app] = seen = seen | verdict.seen
        missing = self._visitor - seen
        if missing and not told:
            logger.error(
                "Nobody can be authorised: the request's %s comes from outside of the application that Headcount is "
                "mounted in, where Headcount cannot ask again. Instead of mounting it, wrap the outermost application: "
                "application = headcount.wrap(application).",
                " and ".join(sorted(missing)),
            )
        return missing

    def describe(self) -> dict[str, Any] | None:
        """
        Return what it takes to ask again in another process of this application, once this has been asked.

        The server's own state is named, not copied: the other process has one of its own.
        """
        inner = self._inner
        if sum(len(name) + len(value) for name, value in inner["headers"]) > MAX_HEADERS:
            return None
        return {
            **{name: inner[name] for name in _DESCRIBED},
            "headers": inner["headers"],
            "state": [key for key in inner["state"] if isinstance(key, str)],
            "mounted": self._mounted,
            "visitor": sorted(self._visitor),
        }

    def _fresh(self, verdict: _Verdict) -> Scope:
        inner = dict(self._inner)
        inner["headers"] = list(self._inner["headers"])
        inner["state"] = _State(self._inner["state"])
        inner["extensions"] = {_EXTENSION: verdict}
        return inner


class DeferredCheck:
    """
    What makes an `InnerRequestCheck` of a handshake, should its page want to watch; most never do.

    Holds the headers as two strings of bytes, one with what other pages of this browser send alike, and shares all that
    the handshakes of one path have in common: a scope of its own would cost each page ten times as much.
    """

    __slots__ = ("_alike", "_common", "_own")

    def __init__(self, common: "HandshakeTemplate", client: Any, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._common = common
        left_out = common.left_out
        alike: list[tuple[bytes, bytes | None]] = []
        own: list[bytes] = []
        for name, value in headers:
            if name in _ALIKE:
                alike.append((name, value))
            elif name not in left_out:
                alike.append((name, None))
                own.append(value)
        self._alike = common.shared(_pack(alike))
        self._own = _pack((None if common.forget_address else client, own))

    def __call__(self, peer: tuple[str, int] | None) -> InnerRequestCheck:
        """Make it. `peer` is the address that the socket is connected to, which stands in for one that was not kept."""
        client, own = _unpack_own(self._own)
        values = iter(own)
        headers = [(name, next(values) if value is None else value) for name, value in _unpack_alike(self._alike)]
        if client is None:
            client = peer
        common = self._common
        scope = {**common.scope, "client": client, "headers": headers}
        return InnerRequestCheck(
            common.authorizer,
            scope,
            common.base_path,
            common.endpoint,
            common.wrapped,
            forget_address=common.forget_address,
        )


class HandshakeTemplate:
    """
    What the handshakes of one path share; see `InnerRequestCheck` for the arguments.

    `scope` is that of any of them, without what is its own. With `forget_address` nothing is kept that tells where a
    page comes from.
    """

    __slots__ = (
        *("_shared", "authorizer", "base_path", "endpoint", "forget_address", "left_out", "scope", "visitor"),
        "wrapped",
    )

    def __init__(
        self,
        authorizer: Authorizer,
        scope: Scope,
        base_path: str,
        endpoint: str,
        wrapped: ASGIApp | None,
        *,
        forget_address: bool,
    ) -> None:
        self.forget_address = forget_address
        self.left_out = _HOP_BY_HOP | _ADDRESSES if forget_address else _HOP_BY_HOP
        self.authorizer = authorizer
        self.base_path = base_path
        self.endpoint = endpoint
        self.wrapped = wrapped
        self.visitor = _VISITOR & scope.keys()
        # Of what middleware knows of the visitor only that it does: the rest would be of the first of them.
        self.scope = {key: scope[key] for key in (*_COMMON, "state") if key in scope} | dict.fromkeys(self.visitor)
        self._shared: dict[bytes, bytes] = {}

    def shared(self, alike: bytes) -> bytes:
        """Return the one object that stands for equal bytes: a few browsers make nearly all handshakes."""
        known = self._shared.get(alike)
        if known is None:
            if len(alike) > _MAX_ALIKE:
                return alike
            if len(self._shared) >= _MAX_SHARED:
                self._shared.clear()  # who holds them keeps them; those who come share anew
            known = self._shared[alike] = alike
        return known

    def fits(self, scope: Scope, wrapped: ASGIApp | None) -> bool:
        """Say whether a handshake differs in nothing but its headers and its peer."""
        if wrapped is not self.wrapped or _VISITOR & scope.keys() != self.visitor:
            return False
        if any(scope.get(key) != self.scope.get(key) for key in _COMMON):
            return False
        # By identity: these are the application's own objects, and what they take for equal may be two visitors'.
        mine, other = self.scope.get("state") or {}, scope.get("state") or {}
        return mine.keys() == other.keys() and all(mine[name] is other[name] for name in mine)


_COMMON: Final = (
    *("type", "asgi", "scheme", "server"),
    *("path", "raw_path", "root_path", "app_root_path", "app", "router"),
)

_pack = msgspec.msgpack.Encoder().encode
_unpack_own = msgspec.msgpack.Decoder(tuple[tuple[Any, ...] | None, list[bytes]]).decode
_unpack_alike = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]]).decode


def asking_of(
    authorizer: Authorizer, request: Mapping[str, Any], app: ASGIApp | None, state: Mapping[str, Any]
) -> InnerRequestCheck | None:
    """
    Make what asks here on a request that another process described.

    Args:
        authorizer: Of this process.
        request: What `InnerRequestCheck.describe` returned there.
        app: The application that this process's Headcount is mounted in or wrapped round.
        state: Of any request to this process; only what the server itself put there is used.

    Returns:
        None when it describes no request.
    """
    try:
        told = msgspec.convert(request, _Described)
    except msgspec.ValidationError:
        return None
    if sum(len(name) + len(value) for name, value in told.headers) > MAX_HEADERS or (app is None and not told.mounted):
        return None
    scope: Scope = {
        **dict.fromkeys(told.visitor),
        "type": "http",
        "scheme": told.scheme,
        "path": told.path,
        "raw_path": told.path.encode("utf-8", "surrogatepass"),
        "root_path": told.root_path,
        "headers": told.headers,
        "client": told.client,
        "server": told.server,
        "state": {key: state[key] for key in told.state if key in state},
        "app": app,
    }
    return InnerRequestCheck(authorizer, scope, "", PATH, None if told.mounted else app, at_hand=False)


async def answer_inner(authorizer: Authorizer, scope: Scope, send: Send) -> bool:
    """Answer an inner request. Returns False when it is none, but a stranger's."""
    if not is_inner(scope):
        return False
    verdict: _Verdict = scope["extensions"][_EXTENSION]
    await verdict.decide(authorizer, scope)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    return True


def is_inner(scope: Scope) -> bool:
    """Say whether a request is one of ours, asking for a right: then the right is all that matters of it."""
    return isinstance((scope.get("extensions") or {}).get(_EXTENSION), _Verdict)


def _inner_scope(scope: Scope, base_path: str, endpoint: str) -> Scope:
    prefix = prefix_of(scope, endpoint)
    path = prefix + PATH
    root = scope.get("app_root_path", scope.get("root_path", ""))
    state = dict(scope.get("state") or {})
    if "router" in scope and scope["router"] is not getattr(scope.get("app"), "router", None):
        # `app` is itself mounted in another, whose router it is and whose root path stands here. What that one's
        # middleware knows of the visitor would be found again in the state for ever: it sees no inner request.
        root = prefix.removesuffix(base_path)
        state.clear()
    return {
        "type": "http",
        "asgi": scope.get("asgi", {"version": "3.0"}),
        "http_version": "1.1",
        "method": "GET",
        "scheme": {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http")),
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": root,
        "query_string": b"",
        "headers": [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "state": state,
    }


async def _status_of(app: ASGIApp, scope: Scope) -> int:
    status = 500
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            # Like a client that waits for its answer. To say that it left would make Django cancel the request.
            await asyncio.get_running_loop().create_future()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    await app(scope, receive, send)
    return status
