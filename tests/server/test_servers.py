"""Every server that we name to users, started as they start it: what comes in, what viewers see, who has left."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kit.pages import Sse, WebSocket, all_of, ask
from kit.processes import BIN, run

from .serving import TAKEN_OVER, Server, daphne_packages

pytestmark = pytest.mark.anyio

MATRIX = [
    (server, app)
    for server in ("uvicorn", "uvicorn-plain", "granian", "hypercorn", "gunicorn", *TAKEN_OVER)
    for app in ("mounted", "wrapped")
    if (server, app) != ("alone", "mounted")
]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[tuple[str, str], Server]]:
    """Start all of them at once: most of the time goes into imports."""
    with ExitStack() as stack:
        started = {(server, app): stack.enter_context(Server(server, app)) for server, app in MATRIX}
        for server in started.values():
            server.wait_ready()
        yield started


@pytest.fixture(params=MATRIX, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def server(request: pytest.FixtureRequest, servers: dict[tuple[str, str], Server]) -> Server:
    return servers[request.param]


async def test_viewers_see_pages_come_navigate_and_leave_however_they_leave(server: Server) -> None:
    url, cookie = server.url, server.sign_in()
    viewers: list[Sse | WebSocket] = [
        await Sse.open(url, cookie=cookie, version="v9", route="/admin"),
        await WebSocket.open(url, cookie=cookie, version="v9", route="/admin"),
    ]
    for viewer in viewers:
        await viewer.subscribe(url, cookie)
    own = [("v9", "/admin")] * 2
    for viewer in viewers:
        await viewer.until_figures(own)
        assert viewer.figures is not None
        assert viewer.figures["yourId"] in {row["id"] for row in viewer.figures["connections"]}

    pages: list[Sse | WebSocket] = [
        *(await all_of([Sse.open(url, version="v1", route="/a") for _ in range(5)])),
        *(await all_of([WebSocket.open(url, version="v2", route="/b") for _ in range(5)])),
    ]
    for viewer in viewers:
        await viewer.until_figures([*own, *[("v1", "/a")] * 5, *[("v2", "/b")] * 5])

    await all_of([page.navigate(url, f"/new/{number}") for number, page in enumerate(pages)])
    moved = [("v1" if number < 5 else "v2", f"/new/{number}") for number in range(10)]
    for viewer in viewers:
        await viewer.until_figures([*own, *moved])

    pages[0].fin()
    pages[1].rst()
    pages[2].half_close()
    pages[5].fin()
    pages[6].rst()
    pages[7].half_close()
    assert isinstance(pages[8], WebSocket)
    pages[8].send_close()
    for viewer in viewers:
        await viewer.until_figures([*own, moved[3], moved[4], moved[9]])

    for viewer in viewers:
        assert len(viewer.of_type("stats")) == 1, "a viewer that asked for deltas and reads gets one snapshot"
        assert len(viewer.of_type("stats-delta")) >= 3
        assert viewer.figures is not None
        assert {(row["version"], row["route"]) for row in viewer.figures["connections"]} == {
            *own,
            moved[3],
            moved[4],
            moved[9],
        }
    status, told = await ask(url, "GET", "/__skew/admin/stats", headers={"Cookie": cookie})
    assert status == 200
    assert {name: told[name] for name in ("total", "versions", "routes")} == viewers[0].counts

    for page in [*pages, *viewers]:
        page.fin()
    await _until_empty(server)
    assert "Traceback" not in server.log


H2C = {"Connection": "close, Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk"}
"""As Java's HttpClient, Ktor and `curl --http2` ask on each new connection."""


async def test_posts_that_ask_for_http_2_are_read_or_the_answer_says_who_lost_them(server: Server) -> None:
    page = await Sse.open(server.url, route="/a")
    body = {"connectionId": page.handle, "route": "/b"}
    status, answer = await ask(server.url, "POST", "/__skew/route", body, headers=H2C)
    if server.name.startswith(("uvicorn,", "gunicorn,")):
        assert status == 400
        assert answer["detail"].startswith(
            "The body is missing: the server dropped it because the request asks for Upgrade: h2c."
        )
    else:
        assert (status, answer) == (200, {"ok": True})
    page.fin()
    await _until_empty(server)


async def test_strangers_see_nothing(server: Server) -> None:
    strangers: list[Sse | WebSocket] = [await Sse.open(server.url), await WebSocket.open(server.url)]
    for stranger in strangers:
        await stranger.subscribe(server.url)
        await stranger.until(lambda s: bool(s.of_type("stats-unauthorized")))
        assert not stranger.of_type("stats")
    status, _ = await ask(server.url, "GET", "/__skew/admin/stats")
    assert status == 401
    for stranger in strangers:
        stranger.fin()
    await _until_empty(server)


async def test_peers_that_send_nonsense_are_told_so_and_nobody_else_notices(server: Server) -> None:
    good = await WebSocket.open(server.url, route="/good")
    bad = await WebSocket.open(server.url)
    bad.send(["no object"])
    await bad.until(lambda s: s.ended)
    assert bad.close_code == 4400
    good.send({"type": "ping"})
    await good.until(lambda s: bool(s.of_type("pong")))
    status, problem = await ask(server.url, "POST", "/__skew/route", {"connectionId": "forged", "route": "/x"})
    assert (status, problem["status"]) == (404, 404)
    status, _ = await ask(server.url, "GET", "/__skew/sse?version=" + "v" * 129)
    assert status == 400
    good.fin()
    await _until_empty(server)


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian", "daphne"])
async def test_pages_of_a_fastapi_application_are_counted(name: str) -> None:
    packages = daphne_packages() if name == "daphne" else None
    with Server(name, "fastapi_app:app", packages=packages) as server:
        server.wait_ready()
        pages: list[Sse | WebSocket] = [
            await Sse.open(server.url, route="/by-sse"),
            await WebSocket.open(server.url, route="/by-ws"),
        ]
        assert (await ask(server.url, "GET", "/figures")) == (200, {"/by-sse": 1, "/by-ws": 1})
        await all_of([page.navigate(server.url, "/next") for page in pages])
        await _until_figures(server, {"/next": 2})
        for page in pages:
            page.fin()
        await _until_figures(server, {})
        assert "Traceback" not in server.log


async def _until_figures(server: Server, routes: dict[str, int]) -> None:
    async with asyncio.timeout(30):
        while await ask(server.url, "GET", "/figures") != (200, routes):
            await asyncio.sleep(0.05)


async def _until_empty(server: Server) -> None:
    """Wait until nothing is left of any stream, in the node or in its timers."""
    async with asyncio.timeout(30):
        while True:
            _, inside = await ask(server.url, "GET", "/debug")
            if not (inside["total"] or inside["sessions"] or inside["subscriptions"]):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("forged", ["6.6.6.6", "6.6.6.6:1234", "6.6.6.6, 6.6.6.6"])
async def test_uvicorn_believes_forged_addresses_and_headcount_does_not(forged: str) -> None:
    with Server("uvicorn", ip_tracking=True) as server:
        server.wait_ready()
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(f"GET /__skew/sse HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: {forged}\r\n\r\n".encode())
        await reader.readuntil(b"connected")
        honest = await Sse.open(server.url)
        _, answer, _ = server.get("/__skew/admin/connections", {"Cookie": server.sign_in()})
        assert [row.get("ip") for row in answer["connections"]] == [None, "127.0.0.1"]
        assert server.log.count("--no-proxy-headers") == 1
        writer.close()
        honest.fin()


@pytest.mark.parametrize(
    ("command", "limit", "level", "says"),
    [
        ("uvicorn", None, "warning", "is not answered, although other requests with them pass"),
        ("uvicorn", "65536", "ok", "A WebSocket opens with 9 kB of cookies, too."),
        ("uvicorn-websockets", None, "warning", "is answered with 400, although other requests with them pass"),
        ("uvicorn-websockets", "65536", "ok", "A WebSocket opens with 9 kB of cookies, too."),
        ("uvicorn-plain", None, "ok", "A WebSocket opens with 9 kB of cookies, too."),
        ("granian", None, "ok", "A WebSocket opens with 9 kB of cookies, too."),
        ("hypercorn", None, "ok", "A WebSocket opens with 9 kB of cookies, too."),
        ("uvicorn-takeover", None, "ok", "A WebSocket opens with 9 kB of cookies, too."),
        ("headcount-serve", None, "ok", "A WebSocket opens with 9 kB of cookies, too."),
    ],
)
async def test_doctor_finds_servers_whose_websockets_take_few_cookies(
    command: str, limit: str | None, level: str, says: str
) -> None:
    with Server(command, environment={} if limit is None else {"WEBSOCKETS_MAX_LINE_LENGTH": limit}) as server:
        server.wait_ready()
        arguments = [BIN / "headcount", "doctor", server.url, "--hold", "0", "--json"]
        doctor = await asyncio.to_thread(run, arguments, timeout=60)
        [found] = [finding for finding in json.loads(doctor.stdout)["findings"] if finding["check"] == "cookies"]
        assert (found["level"], says in found["says"]) == (level, True), found


@pytest.mark.parametrize("transport", [Sse, WebSocket])
@pytest.mark.parametrize("command", ["granian", "hypercorn", "uvicorn-plain", "headcount-serve", *TAKEN_OVER])
async def test_pages_with_many_cookies_are_counted(command: str, transport: type[Sse | WebSocket]) -> None:
    with Server(command, "wrapped" if command == "alone" else "mounted") as server:
        server.wait_ready()
        page = await transport.open(server.url, cookie="a=" + "x" * 16_000, version="v1")
        await page.until(lambda one: bool(one.of_type("connected")))
        page.fin()
