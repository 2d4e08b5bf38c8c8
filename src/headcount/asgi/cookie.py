"""
The version cookie, for pages that do not stamp their build id.

A stamp in the page's own bundle is better: a cookie is shared by all tabs of a browser, so an old tab that reconnects
after a new one was opened is counted as new (docs/adr/0007-version-of-the-page.md).
"""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .app import Headcount
from .request_head import RequestHead, RequestRules

MAX_AGE = 7 * 24 * 3600
"""Seconds."""


class VersionCookie:
    """
    Pure ASGI middleware: sets the cookie on HTML documents.

        app.add_middleware(VersionCookie, headcount=headcount)

    A response with Set-Cookie is not kept by shared caches, so none is set on a document that may be kept (`public`,
    `s-maxage`, a `max-age` above 0, a later `Expires`, or the same for CDNs), nor where the page has the right cookie
    already.
    """

    def __init__(self, app: ASGIApp, headcount: Headcount) -> None:
        self._app = app
        self._headcount = headcount
        self._rules = RequestRules.of(headcount.config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        name = self._headcount.config.cookie
        if scope["type"] != "http" or scope["method"] != "GET" or not isinstance(name, str):
            await self._app(scope, receive, send)
            return
        version = self._headcount.version
        if not _is_document(Headers(scope=scope)) or RequestHead(scope, "", self._rules).cookie_version == version:
            await self._app(scope, receive, send)
            return

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html") and not _is_cacheable(headers):
                    headers.append("set-cookie", _cookie(name, version, secure=scope.get("scheme") == "https"))
            await send(message)

        await self._app(scope, receive, send_with_cookie)


def _is_document(headers: Headers) -> bool:
    # Browsers say so; older ones do not, and then a page is what accepts HTML.
    destination = headers.get("sec-fetch-dest")
    return destination == "document" if destination is not None else "text/html" in headers.get("accept", "")


def _is_cacheable(headers: MutableHeaders) -> bool:
    # Caches that know one of the other headers take that instead of the common one.
    if any(_lasts(_directives(headers, name)) for name in ("cdn-cache-control", "surrogate-control")):
        return True
    directives = _directives(headers, "cache-control")
    if directives.keys() & {"private", "no-store"}:
        return False
    if directives.keys() & {"s-maxage", "max-age"}:
        return _lasts(directives)
    return "public" in directives or _expires_later(headers)


def _directives(headers: MutableHeaders, name: str) -> dict[str, str]:
    parts = (part.strip().lower().partition("=") for part in ",".join(headers.getlist(name)).split(","))
    return {key.strip(): value.strip().strip('"') for key, _, value in parts}


def _lasts(directives: Mapping[str, str]) -> bool:
    # A max-age that is no number counts as cacheable: a page without the cookie is better than a cached cookie.
    return "public" in directives or any(directives.get(name, "0").strip("0") for name in ("s-maxage", "max-age"))


def _expires_later(headers: MutableHeaders) -> bool:
    try:
        return parsedate_to_datetime(headers["expires"]).timestamp() > time.time()
    except (KeyError, ValueError):  # none, or "0" and the like, which means that it has expired
        return False


def _cookie(name: str, version: str, *, secure: bool) -> str:
    # Readable by the page: the client shows which version it runs.
    text = f"{name}={quote(version, safe='')}; Path=/; Max-Age={MAX_AGE}; SameSite=Lax"
    return text + "; Secure" if secure else text
