"""Requests that name another host: of a page that was rebound to this machine, or of no name that is allowed."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from asgi.asgi_client import TRANSPORTS, WAYS, Answer, Call, Client, Site, answer_of, asynchronous, problem
from headcount import Grant

every_way = pytest.mark.parametrize("way", WAYS)
both = pytest.mark.parametrize("transport", TRANSPORTS)

EVIL = "evil.example:8000"
TOKEN = {"authorization": "Bearer admin-token-0123456789"}


class OnLoopback(Client):
    """Somebody whose requests come to this machine's own address."""

    def scope(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Any:
        """Make the scope of a request."""
        return {**super().scope(method, target, headers), "server": ("127.0.0.1", 8000)}


def open_to_all(way: str, host: str, **settings: Any) -> tuple[Site, OnLoopback]:
    """Make a server as in development: whoever asks may watch."""
    site = Site(way, lambda _: Grant(release=True), admin_token="admin-token-0123456789", **settings)
    # What a page may set on a request to what its browser takes for its own site.
    headers = {"host": host, "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
    return site, OnLoopback(site.app, headers)


@every_way
@both
@asynchronous
async def test_a_page_that_was_rebound_to_this_machine_sees_nothing(
    way: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    site, page = open_to_all(way, EVIL)
    stream = await page.open(transport, "?viewer=1")
    await page.say(stream, {"type": "subscribe-stats"})
    await stream.next("stats-unauthorized")
    for path in (
        "/admin/stats",
        "/admin/connections",
        "/admin/nodes",
        "/admin/history",
        "/admin/history/rollouts",
        "/metrics",
    ):
        problem(await page.get(path), 403, EVIL, "allowed_hosts")
    problem(await page.post("/admin/release", {"version": "v9"}), 403, "allowed_hosts")
    assert site.node.releases.current == "v1"
    records = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text for text in records if EVIL in text and "allowed_hosts" in text]


@every_way
@both
@pytest.mark.parametrize(
    "host",
    ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "shop.example", "shop.example:443", "www.shop.example:8000"],
)
@asynchronous
async def test_the_developer_and_pages_behind_a_proxy_see_everything(way: str, transport: str, host: str) -> None:
    _, page = open_to_all(way, host, public_origins=["https://www.shop.example"])
    await page.watch(await page.open(transport, "?viewer=1"))
    assert (await page.get("/admin/stats")).status == 200
    assert (await page.post("/admin/release", {"version": "v9"})).status == 200


@every_way
@both
@asynchronous
async def test_a_token_is_believed_under_every_name(way: str, transport: str) -> None:
    site, _ = open_to_all(way, EVIL)
    page = OnLoopback(site.app, {"host": EVIL, **TOKEN})
    await page.watch(await page.open(transport, "?viewer=1"))
    assert (await page.get("/admin/stats")).status == 200


@every_way
@asynchronous
async def test_without_a_hook_a_log_in_is_what_helps(way: str) -> None:
    site = Site(way, None, admin_token="admin-token-0123456789")
    problem(await OnLoopback(site.app, {"host": EVIL}).get("/admin/stats"), 401, "token")


@every_way
@asynchronous
async def test_the_name_that_the_operator_allows_is_no_other_site(way: str) -> None:
    _, page = open_to_all(way, EVIL, allowed_hosts=["evil.example"])
    await page.watch(await page.open("ws", "?viewer=1"))
    assert (await page.get("/admin/stats")).status == 200


@every_way
@asynchronous
async def test_with_allowed_hosts_no_other_name_is_answered(way: str) -> None:
    site = Site(way, allowed_hosts=["*.shop.example"])
    for host, is_allowed in (("www.shop.example", True), ("localhost:8000", True), ("evil.example", False)):
        client = Client(site.app, {"host": host})
        socket = client.ws()
        if is_allowed:
            await socket.opened()
            await client.open("sse")
        else:
            assert ((await socket.closed())[0], socket.accepted) == (1008, False)
            for path in ("/sse", "/client.js", "/dashboard/", "/admin/stats", "/ws", "/nothing"):
                problem(await client.get(path), 403, host, "allowed_hosts")
            problem(await client.post("/route", {}), 403, "allowed_hosts")
        assert (await client.get("/health")).status == 200, "load balancers ask by address"


async def answer_to(client: Client, path: str, version: str, hosts: list[bytes]) -> Answer:
    scope = client.scope("GET", client.base + path)
    scope["headers"] = [(b"host", host) for host in hosts]
    scope["http_version"] = version
    call = Call(client.app, scope)
    call.put({"type": "http.request", "body": b"", "more_body": False})
    call.start()
    await call.ended()
    return answer_of(call)


@every_way
@pytest.mark.parametrize("path", ["/health", "/client.js", "/admin/stats", "/sse", "/ws", "/dashboard/"])
@asynchronous
async def test_a_request_with_two_hosts_or_of_no_known_version_is_invalid(way: str, path: str) -> None:
    client = Site(way).stranger
    for version in ("1.0", "1.1", "2"):
        problem(await answer_to(client, path, version, [b"shop.example", b"shop.example"]), 400, "more than one Host")
    for version in ("2.0", "0.9", "1.2", "11"):
        problem(await answer_to(client, path, version, [b"shop.example"]), 400, f"HTTP {version}")


@every_way
@pytest.mark.parametrize("version", ["1.0", "1.1", "2", "3"])
@asynchronous
async def test_whether_a_request_needs_a_host_is_left_to_the_server(way: str, version: str) -> None:
    client = Site(way).stranger
    assert (await answer_to(client, "/health", version, [])).status == 200
    assert (await answer_to(client, "/health", version, [b"shop.example"])).status == 200


@every_way
@pytest.mark.parametrize(("version", "hosts"), [("1.1", 2), ("2.0", 1)])
@asynchronous
async def test_an_invalid_handshake_is_refused(way: str, version: str, hosts: int) -> None:
    socket = Site(way).stranger.ws()
    socket._scope.update(http_version=version, headers=[(b"host", b"shop.example")] * hosts)
    assert ((await socket.closed())[0], socket.accepted) == (1008, False)
