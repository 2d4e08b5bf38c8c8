"""What is kept of a handshake for the case that its page wants to watch leads to what keeping all of it would."""

import asyncio
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from headcount import Headcount
from headcount.authorization.deferred import DeferredCheckMaker, HandshakeTemplate
from headcount.authorization.inner_request import InnerRequestCheck, InnerRequests
from headcount.authorization.kept_headers import MAX_KEPT, KeptHeaders

HEADERS = [(b"host", b"shop.example"), (b"cookie", b"session=1; a=\xff"), (b"cookie", b"b=2"), (b"x-\xe9", b"\x00"),
           (b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-key", b"x")]  # fmt: skip


PREFIX = "/deep/__skew"


def requests_of(headcount: Headcount, ip_tracking: bool | str = False) -> InnerRequests:
    return InnerRequests(headcount._authorizer, "/__skew", KeptHeaders(ip_tracking))


def scope(**changed: Any) -> Scope:
    return {
        "type": "websocket", "asgi": {"version": "3.0"}, "scheme": "wss", "server": ("shop.example", 443),
        "path": "/deep/__skew/ws", "raw_path": b"/deep/__skew/ws", "root_path": "", "query_string": b"route=/a",
        "headers": HEADERS, "client": ("192.0.2.7", 1234), "state": {"pool": object()}, **changed,
    }  # fmt: skip


@pytest.mark.parametrize("client", [("192.0.2.7", 1234), None, ["::1", 0]])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("tracking", [False, "anonymized", True])
def test_the_hook_meets_the_same_request(client: Any, wrapped: bool, tracking: bool | str) -> None:
    headcount = Headcount(version="1")
    met: list[dict[str, Any]] = []

    @headcount.authorize_stats
    def look(request: HTTPConnection) -> bool:
        met.append(dict(request.scope))
        return True

    async def beneath(inner: Scope, receive: Receive, send: Send) -> None:
        assert await requests.answer(inner, send)

    requests = requests_of(headcount, tracking)
    handshake = scope(client=client)
    inner = beneath if wrapped else None
    now = InnerRequestCheck(requests, handshake, PREFIX, inner)
    common = HandshakeTemplate(requests, handshake, PREFIX, inner)
    later = DeferredCheckMaker(common, client, HEADERS)()
    assert asyncio.run(now()) == asyncio.run(later())
    first, second = met
    for of_both in (first, second):
        of_both.pop("extensions", None)
        of_both["client"] = tuple(of_both["client"]) if of_both["client"] else None
    assert first == second
    assert (first["client"] is None) is (tracking is False or client is None)
    assert first["headers"] == HEADERS[:4]
    assert first["path"] == "/deep/__skew/authorize"


def test_where_no_address_may_be_kept_the_hook_meets_none_in_its_place() -> None:
    headcount = Headcount(version="1")
    met: list[dict[str, Any]] = []

    @headcount.authorize_stats
    def look(request: HTTPConnection) -> bool:
        met.append(dict(request.scope))
        return True

    headers = [*HEADERS[:2], (b"x-forwarded-for", b"203.0.113.9")]
    common = HandshakeTemplate(requests_of(headcount), scope(headers=headers), PREFIX, None)
    later = DeferredCheckMaker(common, ("192.0.2.7", 1), headers)
    assert later._own is not None
    assert b"203.0.113" not in later._own
    assert b"192.0.2.7" not in later._own
    check = later()
    for _ in range(2):
        asyncio.run(check())
    assert [request["client"] for request in met] == [None, None]
    assert all(request["headers"] == HEADERS[:2] for request in met)


@pytest.mark.parametrize("size", [MAX_KEPT - 200, MAX_KEPT + 1])
def test_headers_that_are_too_large_to_keep_deny_and_are_not_kept(size: int, caplog: pytest.LogCaptureFixture) -> None:
    headcount = Headcount(version="1")
    headcount.authorize_stats(lambda _: True)
    cookie = [(b"cookie", b"x" * size)]
    common = HandshakeTemplate(requests_of(headcount), scope(), PREFIX, None)
    later = DeferredCheckMaker(common, None, cookie)
    allowed = size < MAX_KEPT
    assert (asyncio.run(later()()) is not None) is allowed
    assert (later._own is not None) is allowed
    at_once = InnerRequestCheck(requests_of(headcount), scope(headers=cookie), PREFIX, None)
    assert asyncio.run(at_once()) is not None, "the request itself is still there"
    assert (asyncio.run(at_once()) is not None) is allowed
    assert (at_once.describe() is not None) is allowed
    assert bool(at_once._inner["headers"]) is allowed
    assert any(f"exceed {MAX_KEPT} bytes" in message for message in caplog.messages) is not allowed


def test_where_no_hook_sees_them_only_the_credentials_are_kept() -> None:
    headcount = Headcount(version="1", admin_token="correct horse battery staple")
    headers = [*HEADERS, (b"authorization", b"Bearer x"), (b"user-agent", b"Firefox"), (b"x-tenant", b"7")]
    template = HandshakeTemplate(requests_of(headcount), scope(), PREFIX, None)
    kept = DeferredCheckMaker(template, None, headers)()._inner["headers"]
    assert kept == [HEADERS[1], HEADERS[2], (b"authorization", b"Bearer x")]
    assert template.fits(scope(state=template.scope["state"]), None)
    headcount.authorize_stats(lambda _: True)
    assert not template.fits(scope(state=template.scope["state"]), None), "a hook came later"
    hooked = HandshakeTemplate(requests_of(headcount), scope(), PREFIX, None)
    assert (b"x-tenant", b"7") in DeferredCheckMaker(hooked, None, headers)()._inner["headers"]


def test_pages_of_one_browser_share_what_it_always_sends_and_nothing_else() -> None:
    headcount = Headcount(version="1")
    headcount.authorize_stats(lambda _: True)
    common = HandshakeTemplate(requests_of(headcount), scope(), PREFIX, None)
    browser = [(b"host", b"shop.example"), (b"user-agent", b"Mozilla/5.0"), (b"accept-language", b"eo")]
    one, other = (
        DeferredCheckMaker(
            common, ("192.0.2.7", 1), [*browser[:1], (b"cookie", secret), *browser[1:], (b"x-secret", secret)]
        )
        for secret in (b"first", b"second")
    )
    assert one._shared is other._shared
    assert b"first" not in one._shared
    assert one()._inner["headers"] == [
        (b"host", b"shop.example"),
        (b"cookie", b"first"),
        (b"user-agent", b"Mozilla/5.0"),
        (b"accept-language", b"eo"),
        (b"x-secret", b"first"),
    ]


def test_what_strangers_send_is_not_kept_without_bound() -> None:
    headcount = Headcount(version="1")
    headcount.authorize_stats(lambda _: True)
    common = HandshakeTemplate(requests_of(headcount), scope(), PREFIX, None)
    kept = [DeferredCheckMaker(common, None, [(b"user-agent", b"%d" % number)]) for number in range(2_000)]
    long = DeferredCheckMaker(common, None, [(b"user-agent", b"x" * 20_000)])
    assert len(common._interned) <= 500
    assert sum(map(len, common._interned)) < 1_000_000
    for number, later in enumerate(kept):
        assert later()._inner["headers"] == [(b"user-agent", b"%d" % number)]
    assert long()._inner["headers"] == [(b"user-agent", b"x" * 20_000)]


def test_handshakes_share_only_what_is_the_same() -> None:
    headcount = Headcount(version="1")
    pool = object()
    first = HandshakeTemplate(requests_of(headcount), scope(state={"pool": pool}), PREFIX, None)
    assert first.fits(scope(state={"pool": pool}, headers=[], client=None), None)
    assert not first.fits(scope(state={"pool": pool}, path="/other/__skew/ws"), None)
    assert not first.fits(scope(state={"pool": pool, "user": 1}), None)
    assert not first.fits(scope(state={"pool": pool}), headcount)


def test_objects_that_take_themselves_for_equal_are_not_shared_between_visitors() -> None:
    class User:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    class Array:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = object.__hash__

    headcount = Headcount(version="1")
    for kind in (User, Array):
        first = HandshakeTemplate(requests_of(headcount), scope(state={"user": kind()}), PREFIX, None)
        assert not first.fits(scope(state={"user": kind()}), None)
