"""What is kept of a handshake for the case that its page wants to watch leads to what keeping all of it would."""

import asyncio
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from headcount import Headcount
from headcount.authorization.deferred import DeferredCheckMaker, HandshakeTemplate
from headcount.authorization.inner_request import InnerRequestCheck, InnerRequests

HEADERS = [(b"host", b"shop.example"), (b"cookie", b"session=1; a=\xff"), (b"cookie", b"b=2"), (b"x-\xe9", b"\x00"),
           (b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-key", b"x")]  # fmt: skip


PREFIX = "/deep/__skew"


def requests_of(headcount: Headcount, *, forget_address: bool = False) -> InnerRequests:
    return InnerRequests(headcount._authorizer, "/__skew", forget_address=forget_address)


def scope(**changed: Any) -> Scope:
    return {
        "type": "websocket", "asgi": {"version": "3.0"}, "scheme": "wss", "server": ("shop.example", 443),
        "path": "/deep/__skew/ws", "raw_path": b"/deep/__skew/ws", "root_path": "", "query_string": b"route=/a",
        "headers": HEADERS, "client": ("192.0.2.7", 1234), "state": {"pool": object()}, **changed,
    }  # fmt: skip


@pytest.mark.parametrize("client", [("192.0.2.7", 1234), None, ["::1", 0]])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_hook_meets_the_same_request(client: Any, wrapped: bool) -> None:
    headcount = Headcount(version="1")
    met: list[dict[str, Any]] = []

    @headcount.authorize_stats
    def look(request: HTTPConnection) -> bool:
        met.append(dict(request.scope))
        return True

    async def beneath(inner: Scope, receive: Receive, send: Send) -> None:
        assert await requests.answer(inner, send)

    requests = requests_of(headcount)
    handshake = scope(client=client)
    inner = beneath if wrapped else None
    now = InnerRequestCheck(requests, handshake, PREFIX, inner)
    common = HandshakeTemplate(requests, handshake, PREFIX, inner)
    later = DeferredCheckMaker(common, client, HEADERS)(None)
    assert asyncio.run(now()) == asyncio.run(later())
    first, second = met
    for of_both in (first, second):
        of_both.pop("extensions", None)
        of_both["client"] = tuple(of_both["client"]) if of_both["client"] else None
    assert first == second
    assert first["headers"] == HEADERS[:4]
    assert first["path"] == "/deep/__skew/authorize"


def test_where_no_address_may_be_kept_the_hook_meets_that_of_the_socket_once() -> None:
    headcount = Headcount(version="1")
    met: list[dict[str, Any]] = []

    @headcount.authorize_stats
    def look(request: HTTPConnection) -> bool:
        met.append(dict(request.scope))
        return True

    headers = [*HEADERS[:2], (b"x-forwarded-for", b"203.0.113.9")]
    common = HandshakeTemplate(requests_of(headcount, forget_address=True), scope(headers=headers), PREFIX, None)
    later = DeferredCheckMaker(common, ("192.0.2.7", 1), headers)
    assert b"203.0.113" not in later._own
    assert b"192.0.2.7" not in later._own
    asking = later(("198.51.100.1", 2))
    asyncio.run(asking())
    asyncio.run(asking())
    assert [request["client"] for request in met] == [("198.51.100.1", 2), None]
    assert all(request["headers"] == HEADERS[:2] for request in met)


def test_pages_of_one_browser_share_what_it_always_sends_and_nothing_else() -> None:
    headcount = Headcount(version="1")
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
    assert one(None)._inner["headers"] == [
        (b"host", b"shop.example"),
        (b"cookie", b"first"),
        (b"user-agent", b"Mozilla/5.0"),
        (b"accept-language", b"eo"),
        (b"x-secret", b"first"),
    ]


def test_what_strangers_send_is_not_kept_without_bound() -> None:
    headcount = Headcount(version="1")
    common = HandshakeTemplate(requests_of(headcount), scope(), PREFIX, None)
    kept = [DeferredCheckMaker(common, None, [(b"user-agent", b"%d" % number)]) for number in range(2_000)]
    long = DeferredCheckMaker(common, None, [(b"user-agent", b"x" * 60_000)])
    assert len(common._interned) <= 500
    assert sum(map(len, common._interned)) < 1_000_000
    for number, later in enumerate(kept):
        assert later(None)._inner["headers"] == [(b"user-agent", b"%d" % number)]
    assert long(None)._inner["headers"] == [(b"user-agent", b"x" * 60_000)]


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
