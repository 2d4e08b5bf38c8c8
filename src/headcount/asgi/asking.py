"""
Asking for the right to watch, with the application's own session and user.

The hook must meet the same request whether a page asks over SSE or WebSocket, and whether Headcount is mounted in the
application or wrapped round it. A POST that came through a mounted application has its session already. Everything else
(a WebSocket, which HTTP middleware does not see; a stream answered outside the application; a right that is asked for
again) is decided on an inner request: `GET {base}/authorize` with the headers of the request in question, sent through
the application's own middleware, which no client can send.
"""

from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Scope, Send

from ..authorize import Authorizer, Grant

PATH: Final = "/authorize"
_EXTENSION: Final = "headcount.authorize"

_HOP_BY_HOP = frozenset(
    {b"connection", b"upgrade", b"content-length", b"content-type", b"transfer-encoding", b"sec-websocket-key",
     b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol", b"te", b"expect"}
)  # fmt: skip


class _Verdict:
    """Travels in the inner request's scope, where no client can put it, and brings the answer back."""

    __slots__ = ("grant", "reached")

    def __init__(self) -> None:
        self.grant: Grant | None = None
        self.reached = False


class Asking:
    """
    Asks for one viewer's right. Each call asks anew.

    Args:
        authorizer: Asks the token and the hook.
        scope: The request that asked to watch.
        prefix: Its path without the endpoint, to build the inner request's.
        app: The application whose middleware an inner request goes through; None: there is none.
        at_hand: The first time, decide on `scope` itself: it came through that middleware.
    """

    __slots__ = ("_app", "_authorizer", "_inner", "_now")

    def __init__(
        self, authorizer: Authorizer, scope: Scope, prefix: str, app: ASGIApp | None, *, at_hand: bool
    ) -> None:
        self._authorizer = authorizer
        self._app = app
        self._now: Scope | None = scope if at_hand else None
        # Kept while the viewer watches: what it takes to ask again, and nothing that middleware added.
        self._inner = _inner_scope(scope, prefix)

    async def __call__(self) -> Grant | None:
        """Return what the viewer may see now, or None."""
        scope, self._now = self._now, None
        if scope is not None or self._app is None:
            return await self._authorizer.decide(HTTPConnection(scope or self._fresh(_Verdict())))
        verdict = _Verdict()
        inner = self._fresh(verdict)
        status = await _status_of(self._app, inner)
        if verdict.reached:
            return verdict.grant
        if status in (401, 403, 407) or 300 <= status < 400 or status >= 500:
            return None  # the application's own middleware refused this visitor
        # Wrapped, the application knows no such path; but its middleware has left session and user in the scope.
        return await self._authorizer.decide(HTTPConnection(inner))

    def _fresh(self, verdict: _Verdict) -> Scope:
        inner = dict(self._inner)
        inner["headers"] = list(self._inner["headers"])
        inner["state"] = dict(self._inner["state"])
        inner["extensions"] = {_EXTENSION: verdict}
        return inner


async def answer_inner(authorizer: Authorizer, scope: Scope, send: Send) -> bool:
    """Answer an inner request. Returns False when it is none, but a stranger's."""
    verdict = (scope.get("extensions") or {}).get(_EXTENSION)
    if not isinstance(verdict, _Verdict):
        return False
    verdict.grant = await authorizer.decide(HTTPConnection(scope))
    verdict.reached = True
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    return True


def _inner_scope(scope: Scope, prefix: str) -> Scope:
    path = prefix + PATH
    return {
        "type": "http",
        "asgi": scope.get("asgi", {"version": "3.0"}),
        "http_version": "1.1",
        "method": "GET",
        "scheme": {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http")),
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": scope.get("app_root_path", scope.get("root_path", "")),
        "query_string": b"",
        "headers": [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "state": dict(scope.get("state") or {}),
    }


async def _status_of(app: ASGIApp, scope: Scope) -> int:
    status = 500
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    await app(scope, receive, send)
    return status
