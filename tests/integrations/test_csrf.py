"""CSRF protection and compression of frameworks, with the real libraries, set up as docs/frameworks.md says."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django_site import django_app
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi.asgi_client import Client, asynchronous, turn_until
from headcount import Headcount
from kit.docs import DOCS, code_in

PAGE = (DOCS / "frameworks.md").read_text("utf-8")
TRUE = {"x-role": "admin"}


def code_of(first: str) -> str:
    """Return the block of the page that begins with these words."""
    (found,) = [block for block in code_in(PAGE, "python") if block.startswith(first)]
    return found


async def change(_: Request) -> Response:
    return PlainTextResponse("changed")


def starlette_csrf(headcount: Headcount) -> ASGIApp:
    from starlette_csrf.middleware import CSRFMiddleware

    app = Starlette(
        routes=[Route("/settings", change, methods=["POST"])],
        middleware=[Middleware(CSRFMiddleware, secret="k"), Middleware(SessionMiddleware, secret_key="k")],
    )
    return headcount.wrap(app)


def asgi_csrf(headcount: Headcount) -> ASGIApp:
    app = Starlette(routes=[Route("/settings", change, methods=["POST"])])
    app.mount(headcount.base_path, headcount)
    names: dict[str, Any] = {"app": app, "headcount": headcount, "secret": "k"}
    exec(code_of("from asgi_csrf"), names)
    application: ASGIApp = names["application"]
    return application


def litestar_csrf(headcount: Headcount) -> ASGIApp:
    import litestar
    from litestar.config.csrf import CSRFConfig

    @litestar.post("/settings")
    async def settings() -> None:
        return None

    names: dict[str, Any] = {"__name__": __name__, "headcount": headcount}
    exec(code_of("from litestar import"), names)
    return litestar.Litestar([settings, names["live"]], csrf_config=CSRFConfig(secret="k" * 32))  # type: ignore[return-value]


LIBRARIES: list[Callable[[Headcount], ASGIApp]] = [starlette_csrf, asgi_csrf, litestar_csrf, django_app]


@pytest.mark.parametrize("make", LIBRARIES)
@asynchronous
async def test_pages_navigate_and_watch_beside_csrf_protection(make: Callable[[Headcount], ASGIApp]) -> None:
    headcount = Headcount(version="v1", route_tracking=True)

    @headcount.authorize_stats
    async def admins_only(request: HTTPConnection) -> bool:
        return request.headers.get("x-role") == "admin"

    client = Client(make(headcount), {**TRUE, "cookie": "session=of-a-visitor", "origin": "http://shop.example"})
    # The application's own routes are protected, or this test would prove nothing.
    refused = await client.request("POST", "http://shop.example/settings", b"{}", {"content-type": "application/json"})
    assert refused.status == 403
    for transport in ("sse", "ws"):
        stream = await client.open(transport)
        await client.navigate(stream, "/shopping")
        figures = await client.watch(stream)
        assert figures.now["routes"] == {"/shopping": 1}
        await stream.leave()
    foreign = {"origin": "https://evil.example"}
    body = {"connectionId": "x.y", "route": "/"}
    assert (await client.post("/route", body, foreign)).status == 403


@pytest.mark.parametrize("excluded", [True, False])
@asynchronous
async def test_compression_of_litestar_leaves_event_streams_alone_as_the_docs_set_it_up(excluded: bool) -> None:
    import litestar
    from litestar.config.compression import CompressionConfig

    headcount = Headcount(version="v1")
    names: dict[str, Any] = {"__name__": __name__, "headcount": headcount}
    exec(code_of("from litestar import"), names)
    exec(code_of("from litestar.config.compression"), names)
    config = names["compression"] if excluded else CompressionConfig(backend="gzip")
    client: Any = Client(litestar.Litestar([names["live"]], compression_config=config))  # type: ignore[arg-type]
    stream = client.sse(headers={"accept-encoding": "gzip"})
    await turn_until(lambda: stream.status is not None)
    assert stream.headers["content-encoding"] == ("identity" if excluded else "gzip")
    await stream.leave()


class Refuses:
    """Middleware that answers what it does not like, as frameworks do."""

    def __init__(self, app: ASGIApp, status: int, location: str = "") -> None:
        self.app = app
        self.status = status
        self.location = location

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/authorize"):
            headers = [(b"location", self.location.encode())] if self.location else []
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.app(scope, receive, send)


@pytest.mark.parametrize("way", ["mounted", "wrapped"])
@pytest.mark.parametrize(
    ("status", "location", "words"),
    [
        (301, "https://shop.example/__skew/authorize", "SECURE_PROXY_SSL_HEADER"),
        (307, "/__skew/authorize/", "adds or removes a slash"),
        (302, "/log-in", "not signed in"),
        (403, "", "CSRF"),
        (400, "", "ALLOWED_HOSTS"),
    ],
)
@asynchronous
async def test_an_application_that_answers_in_our_place_is_logged_once(
    way: str, status: int, location: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    headcount = Headcount(version="v1")
    headcount.authorize_stats(lambda _: True)
    app: Any = Starlette(middleware=[Middleware(Refuses, status, location)])
    if way == "mounted":
        app.mount(headcount.base_path, headcount)
    else:
        app = headcount.wrap(app)
    client = Client(app)
    with caplog.at_level(logging.WARNING, "headcount"):
        for _ in range(2):
            stream = await client.open("ws")
            stream.say({"type": "subscribe-stats"})
            await stream.next("stats-unauthorized")
    [record] = caplog.records
    assert words in record.getMessage()
    assert f"status {status}" in record.getMessage()


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-forwarded-proto", "wss"),
        ("x-forwarded-proto", "WSS"),
        ("x-forwarded-proto", "wss, http"),
        ("x-forwarded-scheme", "wss"),
        ("forwarded", 'for=192.0.2.1;proto=wss;host=ws, for=10.0.0.1;proto="ws"'),
    ],
)
@asynchronous
async def test_the_scheme_of_a_websocket_is_that_of_a_request_for_the_application(header: str, value: str) -> None:
    """Traefik sends wss; Django's SECURE_SSL_REDIRECT knows https only."""
    seen: list[str | None] = []
    headcount = Headcount(version="v1")

    @headcount.authorize_stats
    async def look(request: HTTPConnection) -> bool:
        seen.append(request.headers.get(header))
        return True

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    client = Client(headcount.wrap(app), {header: value})
    await client.watch(await client.open("ws"))
    expected = {
        "wss": "https",
        "WSS": "https",
        "wss, http": "https, http",
    }.get(value, 'proto=https;host=ws, proto="http"')  # and no address
    assert seen == [expected]
