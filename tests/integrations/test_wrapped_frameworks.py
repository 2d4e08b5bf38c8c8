"""In other frameworks, wrapped or mounted as each one's users would: the hook meets that framework's own session."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie
from typing import Any

import pytest
from django_site import LOG_IN, django_app
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Scope

from headcount import Headcount
from kit.docs import DOCS, code_in

PAGE = (DOCS / "frameworks.md").read_text("utf-8")


def litestar_app(headcount: Headcount) -> ASGIApp:
    import litestar
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.memory import MemoryStore

    @litestar.get(LOG_IN)
    async def log_in(request: litestar.Request[Any, Any, Any]) -> None:
        request.set_session({"role": "admin"})

    (block,) = [block for block in code_in(PAGE, "python") if block.startswith("from litestar ")]
    names: dict[str, Any] = {"__name__": __name__, "headcount": headcount}
    exec(block, names)  # what users paste
    config = ServerSideSessionConfig()
    return litestar.Litestar(
        [log_in, names["live"]], middleware=[config.middleware], stores={"sessions": MemoryStore()}
    )  # type: ignore[return-value]


def wrapped_litestar_app(headcount: Headcount) -> ASGIApp:
    return headcount.wrap(litestar_app(headcount))


def starlette_app(headcount: Headcount) -> ASGIApp:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def log_in(request: Request) -> Response:
        request.session["role"] = "admin"
        return Response()

    routes = [Route(LOG_IN, log_in)]
    return headcount.wrap(Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, secret_key="k")]))


@pytest.fixture(params=[starlette_app, litestar_app, wrapped_litestar_app, django_app])
def application(request: pytest.FixtureRequest) -> ASGIApp:
    headcount = Headcount(version="v1", route_tracking=True)

    @headcount.authorize_stats
    async def admins_only(request: HTTPConnection) -> bool:
        return request.session.get("role") == "admin"

    make: Callable[[Headcount], ASGIApp] = request.param
    return make(headcount)


def scope_of(kind: str, path: str, cookie: str = "", **more: Any) -> Scope:
    headers = [(b"host", b"testserver")]
    if cookie:
        headers.append((b"cookie", cookie.encode()))
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
        **more,
    }


async def log_in(application: ASGIApp) -> str:
    """Log in and return the session's cookie."""
    started: list[Message] = []

    inbox: asyncio.Queue[Message] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Message) -> None:
        started.append(message)

    await application(scope_of("http", LOG_IN), inbox.get, send)
    assert started[0]["status"] == 200
    (cookie,) = [value.decode() for name, value in started[0]["headers"] if name.lower() == b"set-cookie"]
    (morsel,) = SimpleCookie(cookie).values()
    return f"{morsel.key}={morsel.coded_value}"


async def verdict_of(application: ASGIApp, cookie: str, *headers: tuple[bytes, bytes]) -> str:
    """Ask for statistics over a WebSocket and return the type of the answer."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    inbox.put_nowait({"type": "websocket.connect"})
    scope = scope_of("websocket", "/__skew/ws", cookie, subprotocols=[])
    scope["headers"] += headers
    task = asyncio.ensure_future(application(scope, inbox.get, outbox.put))
    assert (await outbox.get())["type"] == "websocket.accept"
    assert json.loads((await outbox.get())["text"])["type"] == "connected"
    inbox.put_nowait({"type": "websocket.receive", "text": '{"type":"subscribe-stats"}'})
    answer = await asyncio.wait_for(outbox.get(), 5)
    inbox.put_nowait({"type": "websocket.disconnect", "code": 1005})
    await task
    found: str = json.loads(answer["text"])["type"]
    return found


def run(coroutine: Awaitable[str]) -> str:
    async def main() -> str:
        return await coroutine

    return asyncio.run(main())


def test_hook_meets_the_session_of_the_wrapped_application(application: ASGIApp) -> None:
    async def main() -> str:
        return await verdict_of(application, await log_in(application))

    assert run(main()) == "stats"


def test_stranger_is_denied(application: ASGIApp) -> None:
    assert run(verdict_of(application, "")) == "stats-unauthorized"


def test_forged_session_is_denied(application: ASGIApp) -> None:
    assert run(verdict_of(application, "session=eyJyb2xlIjoiYWRtaW4ifQ==; sessionid=admin")) == "stats-unauthorized"


@pytest.mark.parametrize(
    ("proto", "verdict"),
    [(b"https", "stats"), (b"wss", "stats"), (b"http", "stats-unauthorized"), (b"ws", "stats-unauthorized")],
)
def test_django_that_redirects_to_tls_knows_a_websocket_over_tls(
    proto: bytes, verdict: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Traefik sends `X-Forwarded-Proto: wss`."""
    headcount = Headcount(version="v1")
    headcount.authorize_stats(lambda request: request.session.get("role") == "admin")
    application = django_app(headcount)
    from django.test import override_settings

    async def main() -> str:
        cookie = await log_in(application)
        with override_settings(SECURE_SSL_REDIRECT=True):
            redirecting = django_app(headcount)
        return await verdict_of(redirecting, cookie, (b"x-forwarded-proto", proto))

    assert run(main()) == verdict
    told = [record.getMessage() for record in caplog.records if record.name == "headcount"]
    if verdict == "stats":
        assert told == []
    else:
        assert "SECURE_PROXY_SSL_HEADER" in told[0]
        assert "status 301 and a redirect to 'https://testserver/__skew/authorize'" in told[0]
