"""The admin token once, a cookie from then on."""

import re
from typing import Any

import pytest

from headcount.asgi import log_in
from headcount.core import ticket

from .asgi_client import TRANSPORTS, WAYS, Answer, Client, Clock, Site, asynchronous, problem

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
    behind_tls = (await logged_in(site.stranger, **{"x-forwarded-proto": "https"})).header("set-cookie") or ""
    assert behind_tls.endswith("; Secure")


@asynchronous
async def test_log_out_takes_the_cookie_away() -> None:
    site = site_with_token()
    answer = await site.stranger.post("/log-out", {})
    assert answer.header("set-cookie") == "headcount_admin=; Max-Age=0; HttpOnly; SameSite=Strict"


@asynchronous
async def test_an_expired_a_forged_and_a_foreign_cookie_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_with_token()
    forged = ticket.make("another token", 2_000_000_000, bytes(16))
    expired = ticket.make(TOKEN, 1_000_000_000, bytes(16))
    for value in (forged, expired, "", "a.b.c", f"9999999999.{'0' * 32}.", "é"):
        problem(await site.stranger.get("/admin/stats", {"cookie": f"headcount_admin={value}"}), 403)


@asynchronous
async def test_guessing_is_slowed_down_by_address_and_nobody_else_notices() -> None:
    clock = Clock()
    site = site_with_token(clock=clock)
    for _ in range(log_in.MAX_FAILURES):
        problem(await logged_in(site.stranger, "guess"), 401, "not the admin token")
    clock.advance(20)
    answer = await logged_in(site.stranger, TOKEN)
    problem(answer, 429, "40 s")
    assert answer.header("retry-after") == "40"
    assert (await logged_in(Client(site.app, client="198.51.100.1"))).status == 200
    clock.advance(40)
    assert (await logged_in(site.stranger)).status == 200


@asynchronous
async def test_whoever_has_one_ipv6_address_has_the_network() -> None:
    site = site_with_token()
    for number in range(log_in.MAX_FAILURES):
        problem(await logged_in(Client(site.app, client=f"2001:db8::{number}"), "guess"), 401)
    problem(await logged_in(Client(site.app, client="2001:db8::ffff"), "guess"), 429)


@asynchronous
async def test_addresses_that_failed_are_remembered_in_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_in, "MAX_ADDRESSES", 3)
    site = site_with_token()
    for number in range(9):
        await logged_in(Client(site.app, client=f"192.0.2.{number}"), "guess")
    assert len(site.headcount._endpoints._log_in._failures) == 3


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
