"""
Checking a viewer's right with the application's own session and user.

The hook must meet the same request whether a page subscribes over SSE or WebSocket, and whether Headcount is mounted in
the application or wrapped round it. A POST that came through a mounted application has its session already. Everything
else (a WebSocket, which HTTP middleware does not see; a stream answered outside the application; a later check) is
decided on an inner request: `GET {base}/authorize` with the headers of the request in question, sent through the
application's own middleware. No client can send one.

Mounted, the application is the innermost one, the only one that can be found. Where session or user come from further
out, inner requests are without them; then every viewer is denied, on any way in, and the log says what to do instead.

Tests: tests/asgi/test_authorization.py, tests/integrations/test_wrapped_frameworks.py.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import msgspec
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Scope, Send

from ..core.origin import SCHEME_HEADERS
from ..log_throttle import LogThrottle
from .authorizer import AuthorizationCheck, Authorizer, Grant
from .kept_headers import CREDENTIALS, MAX_KEPT, KeptHeaders, size_of
from .refusal_log import InnerResponse, RefusalLog
from .token_check import check_from_verdict, verdict_of, without_ticket

logger = logging.getLogger("headcount")

PATH: Final = "/authorize"
_EXTENSION: Final = "headcount.authorize"

_DESCRIBED: Final = ("scheme", "path", "root_path", "client", "server")

_PROTO_HEADERS: Final = frozenset({*(name.encode() for name in SCHEME_HEADERS), b"forwarded"})
"""Where proxies put the scheme. Some write wss there for a WebSocket (Traefik), which no framework takes for TLS."""

VISITOR_KEYS: Final = frozenset({"session", "user", "auth"})
"""Where middleware puts what it knows of a visitor in the scope."""


class _Description(msgspec.Struct):
    """A request, as another process describes it."""

    scheme: Literal["http", "https"]
    path: str
    root_path: str
    headers: list[tuple[bytes, bytes]]
    state: list[str]
    mounted: bool
    visitor: list[Literal["auth", "session", "user"]] = []
    client: tuple[str, int] | None = None
    server: tuple[str, int | str | None] | None = None


class _Verdict:
    """
    Travels in the inner request's scope, where no client can put it, and brings the answer back.

    Args:
        call_hook: Call the hook; else only note which keys of the visitor are there.
    """

    __slots__ = ("_call_hook", "grant", "reached", "visitor_keys")

    def __init__(self, *, call_hook: bool = True) -> None:
        self.grant: Grant | None = None
        self.reached = False
        self.visitor_keys: frozenset[str] = frozenset()
        self._call_hook = call_hook

    async def decide(self, authorizer: Authorizer, scope: Scope) -> None:
        self.visitor_keys = VISITOR_KEYS & scope.keys()
        if self._call_hook:
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


class InnerRequests:
    """
    The inner requests of one Headcount: what they have in common, and what is known of the application they go to.

    Args:
        authorizer: Checks the token and calls the hook.
        base_path: Where Headcount is, in the application that it is mounted in or wrapped round.
        kept: What is kept of a request, and shown to the hook.
    """

    def __init__(self, authorizer: Authorizer, base_path: str, kept: KeptHeaders) -> None:
        self.authorizer = authorizer
        self.base_path = base_path
        self.kept = kept
        self._log_throttle = LogThrottle()
        self._app: ASGIApp | None = None
        self._state: Mapping[str, Any] | None = None
        self._refusals = RefusalLog(base_path)
        self._visitor_keys: dict[ASGIApp, frozenset[str]] = {}
        """Keys of a visitor that were seen in inner requests, by application. Each is looked at once."""

    def wrap(self, app: ASGIApp) -> None:
        """Note the application that Headcount is wrapped round."""
        self._app, self._state = app, None

    def learn_app(self, scope: Scope, wrapped_app: ASGIApp | None) -> None:
        """Note from the first request which application this is, and the server's own state."""
        if self._state is None:
            self._app = scope.get("app") if wrapped_app is None else wrapped_app
            self._state = scope.get("state") or {}

    def check_from_description(self, request: Mapping[str, Any]) -> "AuthorizationCheck | None":
        """
        Make the check of a request that another process of this application received.

        Args:
            request: What `InnerRequestCheck.describe` returned there.

        Returns:
            None when it describes no request.
        """
        verdict = request.get("admin")
        if verdict is not None:
            return check_from_verdict(self.authorizer, verdict)
        try:
            described = msgspec.convert(request, _Description)
        except msgspec.ValidationError:
            return None
        if size_of(described.headers) > MAX_KEPT or (self._app is None and not described.mounted):
            return None
        state = self._state or {}
        scope: Scope = {
            **dict.fromkeys(described.visitor),
            "type": "http",
            "scheme": described.scheme,
            "path": described.path,
            "root_path": described.root_path,
            "headers": described.headers,
            "client": described.client,
            "server": described.server,
            # Only what the server itself put into this process's state.
            "state": {key: state[key] for key in described.state if key in state},
            "app": self._app,
        }
        prefix = described.path.removesuffix(PATH)
        wrapped_app = None if described.mounted else self._app
        return InnerRequestCheck(self, scope, prefix, wrapped_app, use_request_itself=False)

    async def answer(self, scope: Scope, send: Send) -> bool:
        """Answer an inner request. Returns False for any other, which came from outside."""
        if not is_inner(scope):
            return False
        verdict: _Verdict = scope["extensions"][_EXTENSION]
        await verdict.decide(self.authorizer, scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return True

    def note_refusal(self, inner: Scope, response: InnerResponse) -> None:
        """Log that the application answered an inner request itself, once for each way to do so."""
        self._refusals.note(str(inner.get("path", "")), str(inner.get("scheme", "")), response)

    def note_too_large(self) -> None:
        """Log that a viewer is denied because too many bytes of headers would have to be kept."""
        if (suppressed := self._log_throttle.suffix_if_due("too large")) is not None:
            logger.warning(
                "A viewer was denied: the request's headers exceed %d bytes, the most that Headcount keeps for "
                "checking a right again. Send fewer or shorter cookies.%s",
                MAX_KEPT,
                suppressed,
            )

    async def missing_keys(self, app: ASGIApp, known: frozenset[str], inner: "InnerRequestCheck") -> frozenset[str]:
        """Return those keys of a visitor that an outer middleware set, and that never come with inner requests."""
        seen = self._visitor_keys.get(app, frozenset())
        if known <= seen:
            return frozenset()
        verdict = _Verdict(call_hook=False)
        await _response_of(app, inner.fresh_scope(verdict))
        if not verdict.reached:
            return frozenset()  # the application answered in our place, and will deny the check itself
        logged = app in self._visitor_keys
        self._visitor_keys[app] = seen = seen | verdict.visitor_keys
        missing = known - seen
        if missing and not logged:
            logger.error(
                "Every viewer is denied: middleware outside the mounted application sets the request's %s, so "
                "Headcount cannot check rights again. Wrap the outermost application instead of mounting: "
                "application = headcount.wrap(application).",
                " and ".join(sorted(missing)),
            )
        return missing


class InnerRequestCheck:
    """
    Checks one viewer's right; an `AuthorizationCheck`. Each call checks anew.

    Args:
        requests: What all inner requests of this Headcount have in common.
        scope: The request that asked to watch. Without headers, if they were too large: then every check denies.
        prefix: What its path has before the endpoint: the prefix of proxies, the mount point, the base path.
        wrapped_app: The application that Headcount is wrapped round. None: Headcount is mounted in `scope["app"]`, or
            stands by itself.
        use_request_itself: The first check may be made on the request itself, if it came through the application's
            middleware. Else only what its headers say counts.
    """

    __slots__ = ("_app", "_first_scope", "_inner", "_mounted", "_requests", "_too_large", "_visitor_keys")

    def __init__(
        self,
        requests: InnerRequests,
        scope: Scope,
        prefix: str,
        wrapped_app: ASGIApp | None,
        *,
        use_request_itself: bool = True,
    ) -> None:
        self._requests = requests
        self._mounted = wrapped_app is None
        self._app: ASGIApp | None = scope.get("app") if wrapped_app is None else wrapped_app
        # Kept while the viewer watches: what it takes to check again, and nothing that middleware added.
        self._inner = _inner_scope(scope, prefix, requests.base_path, requests.kept)
        itself = use_request_itself and self._mounted and scope["type"] == "http"
        self._first_scope: Scope | None = None
        if itself:
            self._first_scope = {**scope, "client": self._inner["client"], "headers": self._inner["headers"]}
        self._too_large = "headers" not in scope
        self._visitor_keys: frozenset[str] = VISITOR_KEYS & scope.keys() if self._mounted else frozenset()
        """Keys of the visitor that some middleware set on the request."""

    async def __call__(self) -> Grant | None:
        """Return what the viewer may see now, or None."""
        if self._too_large:
            self._requests.note_too_large()
            return None
        try:
            return await self._check()
        finally:
            if size_of(self._inner["headers"]) > MAX_KEPT:
                self._too_large = True
                self._inner["headers"] = []

    def contains(self, nonce: bytes) -> bool:
        """Say whether the cookies of the viewer contain a ticket with this nonce, in hexadecimal digits."""
        return any(name == b"cookie" and nonce in value for name, value in self._inner["headers"])

    async def _check(self) -> Grant | None:
        scope, self._first_scope = self._first_scope, None
        authorizer = self._requests.authorizer
        if self._app is None:
            return await authorizer.decide(HTTPConnection(scope or self.fresh_scope(_Verdict())))
        if await self._requests.missing_keys(self._app, self._visitor_keys, self):
            return None
        verdict = _Verdict()
        inner = self.fresh_scope(verdict)
        # A state is kept only as far as it is the server's own, its lifespan's. What middleware put in for this visitor
        # would be found again after the log-out; an inner request tells the two apart.
        if scope is not None and not scope.get("state"):
            return await authorizer.decide(HTTPConnection(scope))
        state: _State = inner["state"]
        response = await _response_of(self._app, inner)
        if self._mounted:
            kept = state.keys() - state.written if inner.get("state") is state else ()
            self._inner["state"] = {key: state[key] for key in kept}
        if verdict.reached:
            return verdict.grant
        if self._mounted or not (200 <= response.status < 300 or response.status in (404, 405)):
            # The application answered in our place, which denies.
            self._requests.note_refusal(inner, response)
            return None
        # Wrapped, the application knows no such path; but its middleware has left session and user in the scope.
        return await authorizer.decide(HTTPConnection(inner))

    def visitor(self) -> tuple[bytes, str]:
        """Return the credentials and the address, "" if unknown, of who asks."""
        client = self._inner["client"]
        return b"\n".join(value for _, value in self._credentials()), str(client[0]) if client else ""

    def question(self) -> tuple[object, ...]:
        """Return what is asked."""
        return self._app, self._inner["path"], self._inner["client"], self._inner["headers"]

    def _credentials(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that prove who the visitor is."""
        return [line for line in self._inner["headers"] if line[0] in CREDENTIALS]

    def describe(self) -> dict[str, Any] | None:
        """
        Return what another process of this application needs to check again, once this has been called.

        If the admin token authorised the request, the other process gets this verdict instead of the token. The
        server's own state is named, not copied: the other process has one of its own.
        """
        inner = self._inner
        verdict = verdict_of(self._requests.authorizer, inner["headers"])
        if verdict is not None:
            return {"admin": msgspec.structs.asdict(verdict)}
        if self._too_large:
            self._requests.note_too_large()
            return None
        return {
            **{name: inner[name] for name in _DESCRIBED},
            "headers": without_ticket(inner["headers"]),
            "state": [key for key in inner["state"] if isinstance(key, str)],
            "mounted": self._mounted,
            "visitor": sorted(self._visitor_keys),
        }

    def fresh_scope(self, verdict: _Verdict) -> Scope:
        """Make the scope of the next inner request."""
        inner = dict(self._inner)
        inner["headers"] = list(self._inner["headers"])
        inner["state"] = _State(self._inner["state"])
        inner["extensions"] = {_EXTENSION: verdict}
        return inner


def is_inner(scope: Scope) -> bool:
    """Say whether a request is one of ours that checks a right: then nothing else of it matters."""
    return isinstance((scope.get("extensions") or {}).get(_EXTENSION), _Verdict)


def _inner_scope(scope: Scope, prefix: str, base_path: str, kept: KeptHeaders) -> Scope:
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
        "headers": [_header_of_http(name, value) for name, value in kept.filter(scope.get("headers", ()))],
        "client": kept.client(scope.get("client")),
        "server": scope.get("server"),
        "state": state,
    }


async def _response_of(app: ASGIApp, scope: Scope) -> InnerResponse:
    status, location = 500, ""
    body_sent = False

    async def receive() -> Message:
        nonlocal body_sent
        if body_sent:
            # Like a client that waits for its answer. To say that it left would make Django cancel the request.
            await asyncio.get_running_loop().create_future()
        body_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, location
        if message["type"] == "http.response.start":
            status = message["status"]
            found = [value for name, value in message.get("headers", ()) if name.lower() == b"location"]
            location = found[0].decode("latin-1") if found else ""

    await app(scope, receive, send)
    return InnerResponse(status, location)


def _header_of_http(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return a header as it is on an HTTP request: a WebSocket's scheme in it becomes that of the request."""
    if name in _PROTO_HEADERS and b"ws" in value.lower():
        value = (_FORWARDED_SCHEME if name == b"forwarded" else _WEBSOCKET_SCHEME).sub(_http_scheme, value)
    return name, value


def _http_scheme(found: re.Match[bytes]) -> bytes:
    return b"https" if found[0].lower() == b"wss" else b"http"


_WEBSOCKET_SCHEME: Final = re.compile(rb"(?<![^\s,])wss?(?![^\s,])", re.IGNORECASE)
_FORWARDED_SCHEME: Final = re.compile(rb"(?:(?<=proto=)|(?<=proto=\"))wss?(?![^\s,;\"])", re.IGNORECASE)
