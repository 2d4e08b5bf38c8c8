"""Requests of outdated pages: the middleware, and the dependency for FastAPI."""

import json
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from headcount import ConfigError, Headcount, OutdatedClients, refuse_outdated
from headcount.core.current_version import CurrentRelease
from headcount.node.figures import FigureReader

from .asgi_client import asynchronous

OLD = {"x-headcount-version": "v1"}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"fine"})


async def ask(app: Any, headers: dict[str, str] | None = None, **changes: Any) -> tuple[int, dict[str, str], bytes]:
    """Send one request; return status, headers and body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/cart",
        "query_string": b"",
        "scheme": "http",
        "root_path": "",
        "http_version": "1.1",
        "server": ("shop.example", 80),
        "client": ("192.0.2.1", 9),
        "headers": [(name.encode(), value.encode()) for name, value in {**(headers or {}), "host": "a"}.items()],
        **changes,
    }
    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("status", [409, 426])
@asynchronous
async def test_an_outdated_client_gets_the_status_and_what_to_do(status: Any) -> None:
    app = OutdatedClients(application, headcount=Headcount(version="v 2é"), answer=status)
    told, headers, body = await ask(app, OLD)
    assert (told, headers["content-type"], headers["cache-control"]) == (status, "application/problem+json", "no-store")
    assert headers["x-headcount-outdated"] == "v%202%C3%A9"
    assert json.loads(body)["detail"].endswith("Reload the page.")
    assert (await ask(app, {}))[::2] == (200, b"fine"), "a program has no version"


@asynchronous
async def test_a_header_leaves_the_answer_as_it_is() -> None:
    app = OutdatedClients(application, headcount=Headcount(version="v2"), answer="header")
    assert await ask(app, OLD) == (200, {"a": "b", "x-headcount-outdated": "v2"}, b"fine")
    assert await ask(app, {"x-headcount-version": "v2"}) == (200, {"a": "b"}, b"fine")


@pytest.mark.parametrize(
    ("headers", "changes", "exempt"),
    [
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, {}, True),
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, {"method": "HEAD"}, True),
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, {}, True),
        ({"sec-fetch-mode": "cors", "sec-fetch-dest": "script"}, {}, True),
        ({"accept": "text/html,*/*"}, {}, True),
        ({"sec-fetch-mode": "cors", "sec-fetch-dest": "empty", "accept": "text/html"}, {}, True),
        ({"sec-fetch-mode": "no-cors", "sec-fetch-dest": "report"}, {"method": "POST"}, True),
        ({}, {"method": "OPTIONS"}, True),
        ({}, {"path": "/__skew/sse"}, True),
        ({}, {"path": "/shop/__skew/health", "root_path": "/shop"}, True),
        ({}, {"path": "/__skewer"}, False),
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, {"method": "POST"}, False),
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, {"method": "POST"}, False),
        ({"sec-fetch-mode": "cors", "sec-fetch-dest": "empty", "accept": "text/html"}, {"method": "POST"}, False),
        ({"sec-fetch-mode": "cors", "sec-fetch-dest": "empty", "accept": "*/*"}, {}, False),
        ({"accept": "text/html"}, {"method": "POST"}, False),
        ({"accept": "application/json"}, {}, False),
    ],
)
@asynchronous
async def test_documents_and_what_they_load_are_exempt(
    headers: dict[str, str], changes: dict[str, Any], exempt: bool
) -> None:
    app = OutdatedClients(application, headcount=Headcount(version="v2"))
    assert (await ask(app, {**OLD, **headers}, **changes))[0] == (200 if exempt else 409)


@asynchronous
async def test_another_protocol_reaches_the_application() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        await OutdatedClients(app, headcount=Headcount(version="v2"))({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "websocket"]


@pytest.mark.parametrize(
    ("headers", "query", "outdated"),
    [
        ({}, b"version=v1", True),
        ({}, b"version=v2", False),
        ({"cookie": "__nkpv=v2"}, b"version=v1", True),
        ({"x-headcount-version": "v2"}, b"version=v1", False),
        ({"cookie": "__nkpv=v1"}, b"version=", True),
        ({}, b"version=v1&version=v1", False),
        ({}, b"version=" + b"x" * 129, False),
        ({}, b"version=%00", False),
        ({"x-headcount-version": "x" * 129}, b"", False),
        ({"x-headcount-version": "(other)"}, b"version=v1", False),
    ],
)
def test_the_version_is_in_the_header_the_query_or_the_cookie(
    headers: dict[str, str], query: bytes, outdated: bool
) -> None:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = HTTPConnection({"type": "http", "path": "/", "query_string": query, "headers": lines})
    assert Headcount(version="v2").is_client_outdated(request) is outdated


@asynchronous
async def test_the_released_version_decides_and_without_a_current_one_nobody_is_outdated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headcount = Headcount(version="v2")
    app = OutdatedClients(application, headcount=headcount)
    await headcount.release("v1")
    assert (await ask(app, OLD))[0] == 200
    assert (await ask(app, {"x-headcount-version": "v2"}))[1]["x-headcount-outdated"] == "v1"
    monkeypatch.setattr(FigureReader, "current_version", CurrentRelease("orphaned", "v1").current)
    for version in ("v1", "v2"):
        assert (await ask(app, {"x-headcount-version": version}))[0] == 200


@asynchronous
async def test_a_parameter_of_the_application_is_not_read_if_it_says_so() -> None:
    headcount = Headcount(version="v2")
    for query, status in (("version", 409), (None, 200), ("build", 200)):
        app = OutdatedClients(application, headcount=headcount, query=query)
        assert (await ask(app, query_string=b"version=v1"))[0] == status


@asynchronous
async def test_a_dependency_refuses_the_routes_that_have_it() -> None:
    headcount, app = Headcount(version="v2"), FastAPI()

    @app.get("/guarded", dependencies=[Depends(refuse_outdated(headcount, 426))])
    async def guarded() -> str:
        return "fine"

    @app.get("/open")
    async def unguarded() -> str:
        return "fine"

    status, headers, body = await ask(app, OLD, path="/guarded")
    assert (status, headers["x-headcount-outdated"]) == (426, "v2")
    assert "Reload the page" in json.loads(body)["detail"]
    assert (await ask(app, {"x-headcount-version": "v2"}, path="/guarded"))[0] == 200
    assert (await ask(app, OLD, path="/open"))[0] == 200


def test_another_answer_is_a_wrong_setting() -> None:
    headcount = Headcount(version="v2")
    with pytest.raises(ConfigError, match="give 409, 426 or"):
        OutdatedClients(application, headcount=headcount, answer=410)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give 409 or 426"):
        refuse_outdated(headcount, 500)  # type: ignore[arg-type]
