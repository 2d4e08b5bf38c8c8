"""The admin token once, a cookie from then on."""

import asyncio
import logging
import re
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from headcount.authorization import tokens
from headcount.core import ticket

from .asgi_client import ADMIN, TRANSPORTS, WAYS, Answer, Client, Site, asynchronous, at_once, problem, turns

TOKEN = "correct horse battery staple"
every_way = pytest.mark.parametrize("way", WAYS)
both = pytest.mark.parametrize("transport", TRANSPORTS)


def site_with_token(way: str = "mounted", **settings: Any) -> Site:
    return Site(way, hook=None, admin_token=TOKEN, **settings)


async def logged_in(client: Client, token: str = TOKEN, **headers: str) -> Answer:
    return await client.post("/log-in", {"token": token}, headers)


def cookie_of(answer: Answer) -> str:
    return (answer.header("set-cookie") or "").partition(";")[0]


@every_way
@both
@asynchronous
async def test_the_cookie_authorises_like_the_token(way: str, transport: str) -> None:
    site = site_with_token(way)
    answer = await logged_in(site.stranger)
    assert (answer.status, answer.json) == (200, {"ok": True})
    admin = Client(site.app, {"cookie": f"other=1; {cookie_of(answer)}"})
    assert (await admin.get("/admin/stats")).status == 200
    figures = await admin.watch(await admin.open(transport, "?viewer=1"))
    assert figures.now["total"] == 0
    problem(await site.stranger.get("/admin/stats"), 401)


@asynchronous
async def test_the_cookie_is_out_of_reach_of_pages_and_other_sites_and_is_not_the_token() -> None:
    site = site_with_token()
    plain = (await logged_in(site.stranger)).header("set-cookie") or ""
    assert re.fullmatch(r"headcount_admin=[\w.=-]+; Max-Age=43200; HttpOnly; SameSite=Strict", plain)
    assert TOKEN not in plain
    assert cookie_of(await logged_in(site.stranger)) != plain.partition(";")[0]


@pytest.mark.parametrize(
    ("headers", "secure"),
    [
        ({"origin": "https://shop.example"}, True),  # a proxy ends TLS and says nothing
        ({"origin": "https://shop.example", "x-forwarded-proto": "http"}, True),
        ({"origin": "HTTPS://shop.example", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "http://shop.example"}, False),
        ({"origin": "http://shop.example", "x-forwarded-proto": "https", "sec-fetch-site": "same-origin"}, False),
        ({"x-forwarded-proto": "https"}, True),  # a program
        ({"x-forwarded-proto": "https, http"}, True),
        ({"x-forwarded-proto": "http, https"}, False),
        ({"forwarded": "for=192.0.2.60;proto=https"}, True),
        ({}, False),
    ],
)
@asynchronous
async def test_the_cookie_is_secure_if_the_browser_s_own_page_is(headers: dict[str, str], secure: bool) -> None:
    site = site_with_token()
    answer = await logged_in(site.stranger, **headers)
    name = "__Secure-headcount_admin" if secure else "headcount_admin"
    attributes = "HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    assert re.fullmatch(rf"{name}=[\w.=-]+; Max-Age=43200; {attributes}", answer.header("set-cookie") or "")
    assert (await site.stranger.get("/admin/stats", {"cookie": cookie_of(answer)})).status == 200
    left = await site.stranger.post("/log-out", {}, {"cookie": cookie_of(answer), **headers})
    assert left.header("set-cookie") == f"{name}=; Max-Age=0; {attributes}"


@every_way
@both
@asynchronous
async def test_log_out_ends_the_ticket_and_every_stream_that_stands_on_it(way: str, transport: str) -> None:
    site = Site(way, admin_token=TOKEN, stats_interval=0.01)
    one, other = [Client(site.app, {"cookie": cookie_of(await logged_in(site.stranger))}) for _ in range(2)]
    streams = [await one.open(transport, query) for query in ("?viewer=1", "", "?shared=1")]
    for stream in streams:
        await one.watch(stream)
    left_alone = [await other.open(transport), await site.admin.open(transport)]
    watching = [await other.watch(left_alone[0]), await site.admin.watch(left_alone[1])]
    assert (await one.post("/log-out", {})).status == 200
    assert len(site.node.viewers.subscriptions) == 2, "before the answer"
    for stream in streams:
        while (await stream.next())["type"] != "stats-unauthorized":
            pass
    await site.stranger.open(transport, "?route=/new")
    for figures in watching:
        while figures.now["total"] != 4:
            await figures.step()
    assert [stream.unread for stream in streams] == [[], [], []]
    problem(await one.get("/admin/stats"), 403)
    await one.say(streams[0], {"type": "subscribe-stats"})
    await streams[0].next("stats-unauthorized")
    assert (await other.get("/admin/stats")).status == 200
    assert cookie_of(await logged_in(one)), "and a new log-in is a new ticket"


@asynchronous
async def test_log_out_ends_a_subscription_that_is_not_decided_yet() -> None:
    waits, goes_on = asyncio.Event(), asyncio.Event()

    class Slow:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"].endswith("/authorize"):
                waits.set()
                await goes_on.wait()
            await self.app(scope, receive, send)

    site = Site("mounted", None, [Middleware(Slow)], admin_token=TOKEN)
    client = Client(site.app, {"cookie": cookie_of(await logged_in(site.stranger))})
    stream = await client.open("ws")
    stream.say({"type": "subscribe-stats"})
    await waits.wait()
    assert (await client.post("/log-out", {})).status == 200
    await turns(50)
    assert [message["type"] for message in stream.unread] == ["stats-unauthorized"], "at once"
    await stream.next()
    goes_on.set()
    await turns(50)
    assert not stream.unread
    assert not site.node.viewers.subscriptions


@asynchronous
async def test_log_out_without_a_good_ticket_ends_nothing() -> None:
    site = site_with_token()
    good = cookie_of(await logged_in(site.stranger))
    key = ticket.derive_key("another token than that", "/__skew")
    for number in range(50):
        forged = ticket.make(key, 2_000_000_000, number.to_bytes(16, "big"))
        for value in (forged, good.partition("=")[2][:-1], "x"):
            assert (await site.stranger.post("/log-out", {}, {"cookie": f"headcount_admin={value}"})).status == 200
    assert site.node.log_outs.ended() == ()
    assert (await site.stranger.get("/admin/stats", {"cookie": good})).status == 200


@asynchronous
async def test_a_server_without_token_logs_out_too() -> None:
    site = Site()
    await site.admin.watch(await site.admin.open("ws"))
    assert (await site.admin.post("/log-out", {})).status == 200
    assert len(site.node.viewers.subscriptions) == 1


@asynchronous
async def test_log_out_takes_the_cookie_away() -> None:
    site = site_with_token()
    answer = await site.stranger.post("/log-out", {})
    assert answer.header("set-cookie") == "headcount_admin=; Max-Age=0; HttpOnly; SameSite=Strict"


@asynchronous
async def test_an_expired_a_forged_and_a_foreign_cookie_are_none() -> None:
    site = site_with_token()
    key = ticket.derive_key(TOKEN, "/__skew")
    forged = ticket.make(ticket.derive_key("another token", "/__skew"), 2_000_000_000, bytes(16))
    foreign = ticket.make(ticket.derive_key(TOKEN, "/elsewhere"), 2_000_000_000, bytes(16))
    expired = ticket.make(key, 1_000_000_000, bytes(16))
    for value in (forged, foreign, expired, "", "a.b.c", f"9999999999.{'0' * 32}.", "é"):
        problem(await site.stranger.get("/admin/stats", {"cookie": f"headcount_admin={value}"}), 403)
    good = ticket.make(key, 2_000_000_000, bytes(16))
    assert (await site.stranger.get("/admin/stats", {"cookie": f"headcount_admin={good}"})).status == 200


@asynchronous
async def test_a_ticket_is_good_in_the_application_that_made_it_only() -> None:
    one = Site("alone", hook=None, admin_token=TOKEN, fleet_name="one")
    cookie = {"cookie": cookie_of(await logged_in(one.stranger))}
    assert (await one.stranger.get("/admin/stats", cookie)).status == 200
    for fleet_name in ("two", None):
        other = Site("alone", hook=None, admin_token=TOKEN, fleet_name=fleet_name)
        problem(await other.stranger.get("/admin/stats", cookie), 403)


WRONG = "a guess that is as long as the token"


async def guess(site: Site, way_in: str) -> Answer:
    """Try a wrong token at one of the ways in."""
    if way_in == "log-in":
        return await logged_in(site.stranger, WRONG)
    return await site.stranger.get(way_in, {"authorization": f"Bearer {WRONG}"})


WAYS_IN = pytest.mark.parametrize("way_in", ["log-in", "/admin/stats", "/metrics", "/admin/nodes"])


@WAYS_IN
@asynchronous
async def test_a_wrong_token_is_answered_late_and_logged(
    way_in: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tokens, "DELAY", 0.2)
    site = site_with_token(metrics_token="only for the scraper")
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with caplog.at_level(logging.WARNING, "headcount"):
        problem(await guess(site, way_in), 401)
    assert loop.time() - begin >= 0.2
    assert "wrong token" in caplog.text
    assert WRONG not in caplog.text


@WAYS_IN
@asynchronous
async def test_however_many_wrong_tokens_come_the_right_one_is_accepted_at_once(
    way_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "DELAY", 5.0)
    site = site_with_token()
    guesses = [asyncio.create_task(guess(site, way_in)) for _ in range(tokens.MAX_WAITING)]
    await turns(100)
    assert not any(task.done() for task in guesses)
    refused = await guess(site, way_in)
    problem(refused, 429, "at once")
    assert refused.header("retry-after") == "1"
    async with asyncio.timeout(4):
        assert (await logged_in(site.stranger)).status == 200
        assert (await site.stranger.get("/admin/stats", {"authorization": f"Bearer {TOKEN}"})).status == 200
    monkeypatch.setattr(tokens, "DELAY", 0.0)
    for task in guesses:
        task.cancel()
    await asyncio.wait(guesses)


@asynchronous
async def test_no_address_of_whoever_guesses_is_kept() -> None:
    site = site_with_token()
    answers = await at_once(*(logged_in(Client(site.app, client=f"192.0.2.{n}"), WRONG) for n in range(20)))
    assert {answer.status for answer in answers} == {401}
    assert "192.0.2" not in repr(vars(site.headcount._endpoints._log_in))


@asynchronous
async def test_the_token_of_an_application_s_own_user_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "DELAY", 60.0)
    no_secret = {"authorization": "Bearer of the application"}
    problem(await Site().stranger.get("/admin/stats", no_secret), 401)
    assert (await Site(admin_token=TOKEN).admin.get("/admin/stats", {**ADMIN, **no_secret})).status == 200


@asynchronous
async def test_another_site_cannot_log_anybody_in_or_out() -> None:
    site = site_with_token()
    for path in ("/log-in", "/log-out"):
        answer = await site.stranger.post(path, {"token": TOKEN}, {"origin": "https://evil.example"})
        problem(answer, 403, "another site")
        assert answer.header("set-cookie") is None
        # A form can be sent by any site; JSON cannot, without the browser asking first.
    form = {"content-type": "application/x-www-form-urlencoded"}
    problem(await site.stranger.request("POST", "/log-in", b"token=x", form), 415)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"token":5}', b"[]", b'{"token":"\\ud800"}', b'{"token":"' + b"x" * 5_000]
)
@asynchronous
async def test_a_malformed_body_is_answered_with_a_sentence(body: bytes) -> None:
    site = site_with_token()
    problem(await site.stranger.post("/log-in", body), 413 if len(body) > 4096 else 400)


@asynchronous
async def test_without_a_token_there_is_nothing_to_log_in_with() -> None:
    site = Site()
    problem(await logged_in(site.stranger), 409, "sign in to the application")


@asynchronous
async def test_get_is_not_how_to_log_in() -> None:
    problem(await site_with_token().stranger.get("/log-in"), 405, "POST")
