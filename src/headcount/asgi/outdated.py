"""
Requests of outdated pages: a pure ASGI middleware, and a dependency for FastAPI.

    app.add_middleware(OutdatedClients, headcount=headcount, answer=409)

    @app.post("/orders", dependencies=[Depends(refuse_outdated(headcount))])

Tests: tests/asgi/test_outdated.py.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ConfigError
from .app import Headcount
from .responses import Problem, respond_problem

Answer: TypeAlias = Literal[409, 426, "header"]
"""What an outdated client gets: a status in place of the answer, or the answer with the header `HEADER`."""

HEADER: Final = "x-headcount-outdated"
"""Response header that holds the current version, percent-encoded as in the cookie, for a client that is outdated."""

DETAIL: Final = "This page is outdated: another version of the application is current. Reload the page."
"""Sent in place of the answer."""

_ANSWERS: Final = (409, 426, "header")


class OutdatedClients:
    """
    Pure ASGI middleware: answers outdated clients, as `Headcount.is_client_outdated` knows them.

    Reading a document is exempt, because that is how a page gets the current version: a navigation, and a `fetch` that
    asks for HTML, as a page of `headcount-client/release` sends before it reloads. So are the scripts, styles and
    images of a page, reports of the browser, preflights, everything below `base_path`, and every protocol other than
    HTTP. A form that is posted is not exempt.

    Args:
        app: The application.
        headcount: Says who is outdated.
        answer: 409 or 426: that status, with `application/problem+json`, and the application is not called. `header`:
            the application's answer, with the header `x-headcount-outdated`.
        query: Query parameter that holds the client's version; None: none does.

    Raises:
        ConfigError: `answer` is something else.
    """

    def __init__(self, app: ASGIApp, headcount: Headcount, answer: Answer = 409, query: str | None = "version") -> None:
        if answer not in _ANSWERS:
            raise ConfigError(f'answer is {answer!r}; give 409, 426 or "header".')
        self._app = app
        self._headcount = headcount
        self._answer = answer
        self._query = query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (
            scope["type"] != "http"
            or self._is_exempt(scope)
            or not self._headcount.is_client_outdated(HTTPConnection(scope), query=self._query)
        ):
            await self._app(scope, receive, send)
            return
        line = (HEADER.encode(), _current(self._headcount).encode())
        if self._answer == "header":

            async def send_with_header(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message.get("headers", ()), line]}
                await send(message)

            await self._app(scope, receive, send_with_header)
            return
        await respond_problem(send, Problem(self._answer, DETAIL, [line]))

    def _is_exempt(self, scope: Scope) -> bool:
        bases = {self._headcount.base_path, scope.get("root_path", "") + self._headcount.base_path}
        path = scope["path"]
        if scope["method"] == "OPTIONS" or any(path == base or path.startswith(base + "/") for base in bases):
            return True
        headers = Headers(scope=scope)
        destination = headers.get("sec-fetch-dest")
        if scope["method"] not in ("GET", "HEAD"):
            return destination == "report"
        # Older browsers send no Sec-Fetch headers, and `fetch` names no destination: there, HTML makes it a document.
        return (
            headers.get("sec-fetch-mode") == "navigate"
            or destination not in (None, "empty")
            or "text/html" in headers.get("accept", "")
        )


def refuse_outdated(
    headcount: Headcount, status: Literal[409, 426] = 409, query: str | None = "version"
) -> Callable[[HTTPConnection], Awaitable[None]]:
    """
    Return a dependency for FastAPI that refuses requests of outdated clients: `Depends(refuse_outdated(headcount))`.

    Args:
        headcount: Says who is outdated.
        status: Of the answer.
        query: Query parameter that holds the client's version; None: none does.

    Raises:
        ConfigError: The status is neither 409 nor 426.
    """
    if status not in (409, 426):
        raise ConfigError(f"status is {status!r}; give 409 or 426.")

    async def refuse(connection: HTTPConnection) -> None:
        if headcount.is_client_outdated(connection, query=query):
            raise HTTPException(status, DETAIL, {HEADER: _current(headcount)})

    return refuse


def _current(headcount: Headcount) -> str:
    return quote(headcount.current_version or "", safe="")
