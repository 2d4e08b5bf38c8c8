"""`authorize_url`: another server says who may watch, and is told no more than it needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from asgi.asgi_client import TRANSPORTS, Client, Site, asynchronous, at_once, problem, turn_until
from headcount import ConfigError, Headcount
from headcount.authorization import by_url
from headcount.authorization.by_url import UrlCheck
from kit.listener import Listener

both = pytest.mark.parametrize("transport", TRANSPORTS)

SUBSCRIBE = {"type": "subscribe-stats", "deltas": True}


@pytest.fixture(autouse=True)
def _quickly_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close connections that are not used any more after a moment: each test waits until nothing of it is left."""
    assert by_url.IDLE == 5.0
    monkeypatch.setattr(by_url, "IDLE", 0.05)


class BackEnd:
    """A tiny HTTP server that answers as it is told, and keeps what it was asked."""

    stays = False
    """Connections are kept after the answer."""
    connections = 0

    def __init__(self) -> None:
        self.answer: bytes | None = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self.url = ""

    def says(self, status: int, headers: str = "", body: bytes = b"") -> None:
        """Answer with this status from now on."""
        self.answer = b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n" % (status, headers.encode(), len(body)) + body

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve requests, one unless connections stay."""
        self.connections += 1
        try:
            await self._serve(reader, writer)
            while self.stays:
                await self._serve(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.strip().split("\r\n")
        pairs = [field.partition(": ") for field in fields]
        self.requests.append((line, [(name.lower(), value) for name, _, value in pairs]))
        if self.answer is None:
            await reader.read()  # says nothing until it is left alone
        else:
            writer.write(self.answer)
            await writer.drain()


@asynccontextmanager
async def back_end() -> AsyncIterator[BackEnd]:
    """Run one."""
    handler = BackEnd()
    async with Listener(handler) as server:
        handler.url = f"{server.url}/may-watch?what=stats"
        yield handler


def make(url: str, way: str = "alone", **settings: Any) -> Site:
    """Make a site whose viewers `url` decides about."""
    return Site(way, hook=None, authorize_url=url, **settings)


@pytest.mark.parametrize("way", ["alone", "mounted", "wrapped"])
@both
@asynchronous
async def test_who_is_allowed_there_may_watch_here(way: str, transport: str) -> None:
    async with back_end() as server:
        site = make(server.url, way)
        await site.admin.watch(await site.admin.open(transport))
        assert (await site.admin.get("/admin/stats")).status == 200
        server.says(403)
        stream = await site.visitor.open(transport)
        await site.visitor.say(stream, SUBSCRIBE)
        await stream.next("stats-unauthorized")
        problem(await site.visitor.get("/admin/stats"), 403)


@both
@asynchronous
async def test_cookies_and_authorization_are_handed_on_and_nothing_else(transport: str) -> None:
    async with back_end() as server:
        site = make(server.url)
        headers = {
            "cookie": "sid=1; theme=dark",
            "authorization": "Basic dTpw",
            "x-forwarded-for": "192.0.2.99",
            "user-agent": "Secret Browser",
            "x-secret": "secret",
            "referer": "https://secret.example/",
            "accept-language": "secret",
        }
        client = Client(site.app, headers)
        await client.watch(await client.open(transport))
        ((line, told),) = server.requests
        assert line == "GET /may-watch?what=stats HTTP/1.1"
        sent = dict(told)
        assert (sent["cookie"], sent["authorization"]) == ("sid=1; theme=dark", "Basic dTpw")
        assert "secret" not in str(told).lower()
        assert "192.0.2" not in str(told)
        assert set(sent) <= {"host", "accept", "accept-encoding", "connection", "user-agent", "cookie", "authorization"}


@asynchronous
async def test_cookies_that_came_in_several_lines_arrive_as_one() -> None:
    """HTTP/2 may split them; and a cookie may hold any byte."""
    async with back_end() as server:
        site = make(server.url)
        scope = site.stranger.scope("GET", "/__skew/admin/stats")
        scope["headers"] += [(b"cookie", b"a=1"), (b"cookie", b"b=\xff\xe9")]
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await site.app(scope, receive, send)
        assert sent[0]["status"] == 200
        assert dict(server.requests[0][1])["cookie"] == "a=1; b=\xff\xe9"


@asynchronous
async def test_stranger_without_either_is_denied_without_asking() -> None:
    async with back_end() as server:
        site = make(server.url)
        problem(await site.stranger.get("/admin/stats"), 401)
        stream = await site.stranger.open("ws")
        stream.say(SUBSCRIBE)
        await stream.next("stats-unauthorized")
        assert server.requests == []


@pytest.mark.parametrize("status", [200, 201, 204, 299])
@asynchronous
async def test_success_allows(status: int) -> None:
    async with back_end() as server:
        server.says(status)
        assert (await make(server.url).admin.get("/admin/stats")).status == 200


@pytest.mark.parametrize("status", [301, 302, 307, 304, 400, 401, 403, 404, 418, 429, 500, 503])
@asynchronous
async def test_anything_else_denies_and_no_redirect_is_followed(status: int) -> None:
    async with back_end() as server:
        server.says(status, f"location: {server.url}\r\n", b"" if status == 304 else b"it says yes, really")
        problem(await make(server.url).admin.get("/admin/stats"), 403)
        assert len(server.requests) == 1


@asynchronous
async def test_server_that_says_nothing_denies_in_time() -> None:
    async with back_end() as server:
        server.answer = None
        site = make(server.url, authorize_timeout=0.05)
        problem(await site.admin.get("/admin/stats"), 403)


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200", b"\x00" * 100])
@asynchronous
async def test_server_that_answers_nonsense_denies(answer: bytes) -> None:
    async with back_end() as server:
        server.answer = answer
        problem(await make(server.url).admin.get("/admin/stats"), 403)


@asynchronous
async def test_answer_with_a_long_body_is_not_read() -> None:
    async with back_end() as server:
        server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n" + b"x" * 1_000
        assert (await make(server.url).admin.get("/admin/stats")).status == 200


@both
@asynchronous
async def test_server_that_is_down_denies(transport: str) -> None:
    async with back_end() as server:
        url = server.url
    site = make(url)
    stream = await site.admin.open(transport)
    await site.admin.say(stream, SUBSCRIBE)
    await stream.next("stats-unauthorized")
    assert site.headcount._authorizer.errors == 1


@asynchronous
async def test_many_questions_at_once_hold_nobody_up() -> None:
    async with back_end() as server:
        site = make(server.url, admin_token="token of this test")
        answers = await at_once(*(site.admin.get("/admin/stats") for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert len(server.requests) == 1, "they share one question, because their credentials are the same"
        others = [Client(site.app, {"cookie": f"sid={number}"}) for number in range(20)]
        answers = await at_once(*(client.get("/admin/stats") for client in others))
        assert {answer.status for answer in answers} == {200}
        assert len(server.requests) == 21
        assert (await site.stranger.get("/admin/stats", {"authorization": "Bearer token of this test"})).status == 200
        assert len(server.requests) == 21, "a right token needs no question"


def request(cookie: str, **headers: str) -> HTTPConnection:
    pairs = {"cookie": cookie, **headers}.items()
    return HTTPConnection({"type": "http", "headers": [(name.encode(), value.encode()) for name, value in pairs]})


@asynchronous
async def test_a_verdict_holds_for_a_second_for_the_same_credentials_and_no_others() -> None:
    now = [100.0]
    async with back_end() as server:
        check = UrlCheck(server.url, 5, clock=lambda: now[0])
        assert await check(request("sid=1"))
        server.says(403)
        assert await check(request("sid=1"))
        for other in (request("sid=2"), request("sid=1", authorization="x")):
            assert not await check(other)
        assert len(server.requests) == 3, "without a credential nobody is asked"
        now[0] += 1
        assert not await check(request("sid=1"))
        server.says(200)
        assert not await check(request("sid=1")), "a no holds as long"
        now[0] += 1
        assert await check(request("sid=1"))
        assert not [key for key in check._verdicts if b"sid" in key], "no credential is kept"
        await check.close()


@asynchronous
async def test_a_failure_is_remembered_neither_as_yes_nor_as_no() -> None:
    async with back_end() as server:
        check = UrlCheck(server.url, 5, clock=lambda: 100.0)
        server.answer = b"nonsense\r\n\r\n"
        for _ in range(2):
            with pytest.raises(httpx2.RemoteProtocolError):
                await check(request("sid=1"))
        server.says(200)
        assert await check(request("sid=1"))
        await check.close()


@asynchronous
async def test_remembered_verdicts_are_bounded() -> None:
    assert by_url.MAX_REMEMBERED == 1_024
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_url, "MAX_REMEMBERED", 16)
        await _ask_for_many()


async def _ask_for_many() -> None:
    async with back_end() as server:
        server.stays = True
        check = UrlCheck(server.url, 5, clock=lambda: 100.0)
        for number in range(26):
            await check(request(f"sid={number}"))
        assert len(check._verdicts) == 16
        await check.close()


@asynchronous
async def test_connections_are_kept_and_closed_at_the_end() -> None:
    async with back_end() as server:
        server.stays = True
        site = make(server.url)
        for number in range(5):
            assert (await Client(site.app, {"cookie": f"sid={number}"}).get("/admin/stats")).status == 200
        assert (len(server.requests), server.connections) == (5, 1)
        await site.node.leave()
        assert (await site.admin.get("/admin/stats")).status == 200
        assert server.connections == 2
        await site.node.leave()


@asynchronous
async def test_a_connection_that_the_back_end_closed_meanwhile_denies_nobody() -> None:
    async with back_end() as server:
        server.stays = True
        site = make(server.url)
        assert (await Client(site.app, {"cookie": "sid=0"}).get("/admin/stats")).status == 200
        server.stays = False
        for number in range(1, 6):
            assert (await Client(site.app, {"cookie": f"sid={number}"}).get("/admin/stats")).status == 200
        await site.node.leave()


@asynchronous
async def test_who_leaves_takes_the_answer_from_nobody_who_asked_the_same() -> None:
    async with back_end() as server:
        server.answer = None
        check = UrlCheck(server.url, 0.3)
        first = asyncio.create_task(check(request("sid=1")))
        second = asyncio.create_task(check(request("sid=1")))
        await turn_until(lambda: server.requests)
        first.cancel()
        with pytest.raises(TimeoutError):
            await second
        assert first.cancelled()
        assert len(server.requests) == 1
        await check.close()


def test_url_and_hook_together_are_refused() -> None:
    headcount = Headcount(version="v1", authorize_url="http://127.0.0.1:1/")
    with pytest.raises(ConfigError, match="authorize_url"):
        headcount.authorize_stats(lambda _: True)


def test_settings_of_a_proxy_in_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cookies of viewers would go to it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    async def ask() -> None:
        async with back_end() as server:
            assert (await make(server.url).admin.get("/admin/stats")).status == 200
            await turn_until(lambda: server.requests)

    asynchronous(ask)()
