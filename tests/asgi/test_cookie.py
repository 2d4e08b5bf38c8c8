"""The middleware that sets the version cookie."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from headcount import Headcount, VersionCookie
from headcount.asgi.request_head import RequestHead, RequestRules
from headcount.core.labels import MAX_VERSION, UNKNOWN, is_version

Lines = Sequence[tuple[bytes, bytes]]

HTML = (b"content-type", b"text/html; charset=utf-8")
NAVIGATION = (b"sec-fetch-dest", b"document")
COOKIE = b"__nkpv=v1; Path=/; Max-Age=604800; SameSite=Lax"


def serve(
    headers: Lines = (HTML,),
    request: Lines = (NAVIGATION,),
    *,
    status: int = 200,
    headcount: Headcount | None = None,
    **scope: Any,
) -> list[Message]:
    """Serve one request with an application that answers `headers`; return what was sent."""
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b"<!doctype html>", "more_body": True})
        await send({"type": "http.response.body", "body": b"<p>"})

    async def send(message: Message) -> None:
        sent.append(message)

    asked = {"type": "http", "method": "GET", "scheme": "http", "path": "/", "headers": list(request), **scope}
    middleware = VersionCookie(application, headcount=headcount or Headcount(version="v1"))
    asyncio.run(middleware(asked, no_receive, send))
    assert [message.get("body") for message in sent[1:]] == [b"<!doctype html>", b"<p>"]
    return sent


async def no_receive() -> Message:
    raise AssertionError("Nothing is read from the request.")


def cookies(sent: list[Message]) -> list[bytes]:
    return [value for name, value in sent[0]["headers"] if name == b"set-cookie"]


def test_a_document_gets_the_cookie_and_the_page_can_read_it() -> None:
    assert cookies(serve()) == [COOKIE]


def test_the_cookie_is_secure_on_https_only() -> None:
    assert cookies(serve(scheme="https")) == [COOKIE + b"; Secure"]
    assert cookies(serve(scheme="http")) == [COOKIE]


def test_other_headers_stay_as_they_are_and_in_their_order() -> None:
    headers = [(b"x-a", b"1"), HTML, (b"set-cookie", b"session=1"), (b"set-cookie", b"other=2"), (b"x-a", b"2")]
    sent = serve(headers)
    assert sent[0] == {
        "type": "http.response.start",
        "status": 200,
        "headers": [*headers, (b"set-cookie", COOKIE)],
    }


@pytest.mark.parametrize(
    "request_headers",
    [
        [(b"sec-fetch-dest", b"document")],
        [(b"sec-fetch-dest", b"document"), (b"accept", b"*/*")],
        [(b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")],
        [NAVIGATION, (b"cookie", b"__nkpv=v0")],
        [NAVIGATION, (b"cookie", b"__nkpv=" + b"x" * 200)],
        [NAVIGATION, (b"cookie", b"session=v1")],
    ],
    ids=str,
)
def test_a_browser_that_opens_a_page_gets_the_cookie(request_headers: Lines) -> None:
    assert cookies(serve(request=request_headers)) == [COOKIE]


@pytest.mark.parametrize(
    "request_headers",
    [
        [],
        [(b"accept", b"*/*")],
        [(b"accept", b"application/json")],
        [(b"sec-fetch-dest", b"empty"), (b"accept", b"text/html")],
        [(b"sec-fetch-dest", b"iframe"), (b"accept", b"text/html")],
        [(b"sec-fetch-dest", b"script")],
    ],
    ids=str,
)
def test_what_is_no_navigation_gets_none(request_headers: Lines) -> None:
    assert cookies(serve(request=request_headers)) == []


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "OPTIONS"])
def test_only_a_get_gets_the_cookie(method: str) -> None:
    assert cookies(serve(method=method)) == []


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b"text/event-stream", b"image/png", b""])
def test_what_is_no_html_gets_none(content_type: bytes) -> None:
    assert cookies(serve([(b"content-type", content_type)])) == []
    assert cookies(serve([])) == []


@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 304, 401, 404, 500])
def test_only_an_answer_200_gets_the_cookie(status: int) -> None:
    assert cookies(serve(status=status)) == []


@pytest.mark.parametrize(
    "lines",
    [
        [b"public"],
        [b"Public, Max-Age=60"],
        [b"max-age=60"],
        [b"max-age=10"],
        [b"no-cache, max-age=60"],
        [b"s-maxage=60"],
        [b"s-maxage=60, max-age=0"],
        [b"must-revalidate,public"],
        [b"must-revalidate", b"max-age=60"],
        [b"max-age=0", b"s-maxage=1"],
    ],
    ids=str,
)
def test_a_document_that_may_be_kept_gets_none(lines: list[bytes]) -> None:
    assert cookies(serve([HTML, *((b"cache-control", line) for line in lines)])) == []


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b""],
        [b"no-cache"],
        [b"no-store"],
        [b"max-age=0, must-revalidate"],
        [b"s-maxage=0"],
        [b"private, max-age=600"],
        [b"max-age=600", b"Private"],
        [b"no-store, public"],
    ],
    ids=str,
)
def test_a_document_that_no_shared_cache_keeps_gets_the_cookie(lines: list[bytes]) -> None:
    assert cookies(serve([HTML, *((b"cache-control", line) for line in lines)])) == [COOKIE]


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([(b"expires", b"Fri, 31 Dec 2999 23:59:59 GMT")], True),
        ([(b"expires", b"Fri, 31 Dec 2999 23:59:59 GMT"), (b"cache-control", b"private")], False),
        ([(b"expires", b"Fri, 31 Dec 2999 23:59:59 GMT"), (b"cache-control", b"max-age=0")], False),
        ([(b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT")], False),
        ([(b"expires", b"0")], False),
        ([(b"expires", b"-1")], False),
        ([(b"cdn-cache-control", b"max-age=60"), (b"cache-control", b"private")], True),
        ([(b"surrogate-control", b"max-age=60")], True),
        ([(b"cdn-cache-control", b"max-age=0")], False),
        ([(b"cache-control", b"max-age=00")], False),
        ([(b"cache-control", b'max-age="60"')], True),
        ([(b"cache-control", b"max-age=forever")], True),
    ],
    ids=str,
)
def test_every_way_to_let_caches_keep_a_document_is_known(lines: list[tuple[bytes, bytes]], kept: bool) -> None:
    assert cookies(serve([HTML, *lines])) == ([] if kept else [COOKIE])


def test_a_page_that_has_the_right_cookie_gets_none() -> None:
    assert cookies(serve(request=[NAVIGATION, (b"cookie", b"a=b; __nkpv=v1")])) == []
    assert cookies(serve(request=[NAVIGATION, (b"cookie", b"a=b"), (b"cookie", b"__nkpv=v1")])) == []


def test_the_cookie_has_the_configured_name_or_is_not_there() -> None:
    assert cookies(serve(headcount=Headcount(version="v1", cookie="build"))) == [COOKIE.replace(b"__nkpv", b"build")]
    assert cookies(serve(headcount=Headcount(version="v1", cookie=False))) == []


labels = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=MAX_VERSION)


@given(labels.filter(lambda label: is_version(label) and label != UNKNOWN))
def test_any_version_comes_back_as_it_was(version: str) -> None:
    headcount = Headcount(version=version)
    (line,) = cookies(serve(headcount=headcount))
    pair, *attributes = line.split(b"; ")
    assert attributes == COOKIE.split(b"; ")[1:]
    assert pair.isascii()
    assert not set(pair[len(b"__nkpv=") :]) & set(b' ",;\\')
    request = [NAVIGATION, (b"cookie", b"a=b; " + pair + b"; c=d")]
    head = RequestHead({"headers": request}, "", RequestRules(cookie="__nkpv"))
    assert head.cookie_version == version
    assert cookies(serve(request=request, headcount=headcount)) == []


def test_a_response_without_headers_passes() -> None:
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "headers": [NAVIGATION]}
    asyncio.run(VersionCookie(application, headcount=Headcount(version="v1"))(scope, no_receive, send))
    assert sent[0]["status"] == 200
    assert not sent[0].get("headers")


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_no_request_passes_untouched(kind: str) -> None:
    passed: list[object] = []

    async def application(*arguments: object) -> None:
        passed.extend(arguments)

    async def send(message: Message) -> None:
        raise AssertionError

    scope = {"type": kind}
    asyncio.run(VersionCookie(application, headcount=Headcount(version="v1"))(scope, no_receive, send))
    assert passed[0] is scope
    assert passed[1:] == [no_receive, send]
