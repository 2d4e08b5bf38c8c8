"""Every server that we name to users, started as they start it: what comes in, what viewers see, who has left."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kit.pages import Sse, WebSocket, all_of, ask

from .serving import TAKEN_OVER, Server

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
    pages[8].say_goodbye()
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
