"""Servers with four workers, started as users start them, without a word of configuration: every figure is whole."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from kit.pages import BASE, Sse, WebSocket, all_of, ask

from .serving import Server

pytestmark = pytest.mark.anyio

Opening = Callable[[], Coroutine[Any, Any, Sse | WebSocket]]

TOKEN = {"Authorization": "Bearer s3cret-of-the-tests"}
SERVERS = (
    "uvicorn-workers",
    "gunicorn-workers",
    "gunicorn-preload",
    "granian-workers",
    "hypercorn-workers",
    "headcount-workers",
)
RESTARTING = tuple(name for name in SERVERS if name not in ("hypercorn-workers", "granian-workers"))
"""Those that start another worker when one is killed; hypercorn and granian stop."""


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """Start all of them at once: most of the time goes into imports."""
    with ExitStack() as stack:
        started = {name: stack.enter_context(Server(name, admin_token="s3cret-of-the-tests")) for name in SERVERS}
        for server in started.values():
            server.wait_ready()
        yield started


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    server = servers[request.param]
    await _all_there(server)
    return server


async def test_every_worker_tells_the_figures_of_all(server: Server) -> None:
    pages = await _pages(server, 40)
    owners = {page.handle[:12] for page in pages}
    assert len(owners) > 1, "connections are spread over workers"
    for _ in range(8):  # by a connection of its own each, so by different workers
        seen = await _stats(server)
        assert seen["total"] == 40
        assert seen["versions"] == {"v0": 14, "v1": 13, "v2": 13}
        assert sum(seen["routes"].values()) == 40
        assert len({row["id"] for row in seen["connections"]}) == 40
        assert seen["partial"] is False
        assert seen["nodes"]["reporting"] == seen["nodes"]["expected"] >= len(owners)
    await _leave(server, pages)


async def test_viewers_at_every_worker_follow_all_pages(server: Server) -> None:
    viewers = await all_of(
        [Sse.open(server.url, token="s3cret-of-the-tests", version="admin", viewer=1) for _ in range(12)]
    )
    for viewer in viewers:
        await _watch(server, viewer)
    pages = await _pages(server, 20)
    for viewer in viewers:
        await viewer.until(lambda s: figures(s)["total"] == 20 and figures(s)["partial"] is False)
    for number, page in enumerate(pages):
        await page.navigate(server.url, f"/moved/{number}")
    moved = {f"/moved/{number}": 1 for number in range(20)}
    for viewer in viewers:
        await viewer.until(lambda s: figures(s)["routes"] == moved)
        assert viewer.figures is not None
        assert {row["route"] for row in viewer.figures["connections"]} == set(moved)
        assert len(viewer.of_type("stats")) == 1, "all of it came as deltas"
    pages[0].rst()
    for viewer in viewers:
        await viewer.until(lambda s: figures(s)["total"] == 19)
    await _leave(server, [*pages, *viewers])


async def test_a_log_out_at_any_worker_ends_the_ticket_and_its_streams_at_all(server: Server) -> None:
    cookies = [await _logged_in(server) for _ in range(2)]
    opens: list[Opening] = [
        partial(kind.open, server.url, cookie=cookie, viewer=1) for cookie in cookies for kind in (Sse, WebSocket) * 6
    ]
    viewers = await all_of([open_() for open_ in opens])
    for viewer, cookie in zip(viewers, [cookie for cookie in cookies for _ in range(12)], strict=True):
        if isinstance(viewer, WebSocket):
            viewer.send({"type": "subscribe-stats"})
        else:
            assert await viewer.post(server.url, "/subscribe-stats", cookie) == 200
        await viewer.until(lambda s: bool(s.of_type("stats")))
    status, _ = await ask(server.url, "POST", BASE + "/log-out", {}, {"Cookie": cookies[0]})
    assert status == 200
    for viewer in viewers[:12]:
        await viewer.until(lambda s: bool(s.of_type("stats-unauthorized")))
    for cookie, expected in zip(cookies, (403, 200), strict=True):
        for _ in range(12):  # each on a connection of its own, so at different workers
            status, _ = await ask(server.url, "GET", BASE + "/admin/stats", None, {"Cookie": cookie})
            assert status == expected
    assert not any(viewer.of_type("stats-unauthorized") for viewer in viewers[12:])
    await _leave(server, viewers)


async def _logged_in(server: Server) -> str:
    """Return the cookie that a log-in sets."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(server.url + BASE + "/log-in", json={"token": "s3cret-of-the-tests"})
    assert answer.status_code == 200
    return answer.headers["set-cookie"].partition(";")[0]


async def test_any_post_may_land_on_any_worker(server: Server) -> None:
    page = await Sse.open(server.url)
    for number in range(20):
        assert await page.post(server.url, "/route", route=f"/{number}") == 200
        assert (await _stats(server))["routes"] == {f"/{number}": 1}
    # A page each: the right of one is checked once in some seconds.
    strangers = await all_of([Sse.open(server.url) for _ in range(10)])
    for stranger in strangers:
        assert await stranger.post(server.url, "/subscribe-stats") == 200
    for stranger in strangers:
        await stranger.until(lambda s: bool(s.of_type("stats-unauthorized")))
        assert not stranger.of_type("stats")
    await _watch(server, page)
    for _ in range(10):
        assert await page.post(server.url, "/unsubscribe-stats") == 200
    await _leave(server, [page, *strangers])


async def test_tabs_may_be_reported_to_any_worker(server: Server) -> None:
    stream = await Sse.open(server.url, shared=1)
    for number in range(10):
        tab = {"key": f"tab-{number}-of-this-browser", "route": f"/{number}"}
        assert await stream.post(server.url, "/tabs", set=[tab]) == 200
        assert (await _stats(server))["total"] == number + 1
    assert await stream.post(server.url, "/tabs", remove=["tab-0-of-this-browser"]) == 200
    assert (await _stats(server))["routes"] == {f"/{number}": 1 for number in range(1, 10)}
    await _leave(server, [stream])


async def test_handles_that_nobody_gave_out_are_unknown_to_all(server: Server) -> None:
    page = await Sse.open(server.url)
    real = page.handle
    forged = (
        real[:-1] + ("A" if real[-1] != "A" else "B"),  # of a node that is there
        "0123456789ab" + real[12:],  # of none
        "x" * 120,
        "",
    )
    for handle in forged * 4:
        status, problem = await ask(server.url, "POST", BASE + "/route", {"connectionId": handle, "route": "/forged"})
        assert status == (404 if handle else 400), problem
    assert (await _stats(server))["routes"] == {"/": 1}
    await _leave(server, [page])


async def test_all_connections_are_paged_over_all_workers(server: Server) -> None:
    pages = await _pages(server, 30)
    seen: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        status, page = await ask(server.url, "GET", f"{BASE}/admin/connections?limit=7&cursor={cursor}", headers=TOKEN)
        assert status == 200
        assert len(page["connections"]) <= 7
        assert (page["total"], page["partial"]) == (30, False)
        seen += [row["id"] for row in page["connections"]]
        cursor = page["cursor"]
    assert sorted(seen) == sorted(page.handle.partition(".")[0] for page in pages)
    await _leave(server, pages)


@pytest.mark.exclusive
@pytest.mark.parametrize("name", RESTARTING)
async def test_a_killed_worker_is_gone_at_once_and_replaced(name: str) -> None:
    with Server(name, admin_token="s3cret-of-the-tests") as server:
        server.wait_ready()
        await _all_there(server)
        pages = await _pages(server, 40)
        viewer = await _viewer_elsewhere(server, pages[0])
        await viewer.until(lambda s: figures(s)["total"] == 40)
        killed = [page for page in pages if page.handle[:12] == pages[0].handle[:12]]
        left = [page for page in pages if page not in killed]
        status, _ = await ask(server.url, "POST", BASE + "/admin/release", {"version": "released"}, TOKEN)
        assert status == 200
        os.kill(await _process_of(server, pages[0]), signal.SIGKILL)
        # The time-out of a silent node is longer.
        await viewer.until(lambda s: figures(s)["total"] == len(left), timeout=5)
        for page in killed:
            await page.until(lambda s: s.ended)
        again = await all_of([Sse.open(server.url, version="again") for _ in range(20)])
        await viewer.until(lambda s: figures(s)["versions"].get("again") == 20 and not figures(s)["partial"])
        totals = [message["total"] for message in viewer.messages if message["type"].startswith("stats")]
        assert max(totals) <= len(pages) + 20
        assert min(totals) >= 0
        assert await again[0].post(server.url, "/route", route="/x") == 200
        # What was declared before it came is known to the new worker, too.
        for page in again:
            await page.until(lambda s: current(s) == "released")
        # The dead worker's handles are nobody's.
        status, _ = await ask(server.url, "POST", BASE + "/route", {"connectionId": killed[0].handle, "route": "/x"})
        assert status == 404


async def test_a_stopped_worker_makes_figures_partial_and_comes_back() -> None:
    # Neither uvicorn nor gunicorn leaves a worker alone that does not answer.
    with Server("headcount-workers") as server:
        server.wait_ready()
        await _all_there(server)
        pages = await _pages(server, 40)
        stopped = pages[0].handle[:12]
        viewer = await _viewer_elsewhere(server, pages[0])
        await viewer.until(lambda s: figures(s)["total"] == 40 and not figures(s)["partial"])
        before_it = len(viewer.messages)
        process = await _process_of(server, pages[0])
        os.kill(process, signal.SIGSTOP)
        try:
            await viewer.until(lambda s: figures(s)["partial"] is True, timeout=10)
            others = sum(page.handle[:12] != stopped for page in pages)
            await viewer.until(lambda s: figures(s)["total"] == others, timeout=12)
            before = len(viewer.messages)
            await asyncio.sleep(3)  # three heartbeats
            told = [message for message in viewer.messages[before:] if message["type"].startswith("stats")]
            assert not any("partial" in message for message in told), "its pages are there, and nobody knows how many"
            assert figures(viewer)["partial"] is True
        finally:
            os.kill(process, signal.SIGCONT)
        await viewer.until(lambda s: figures(s)["total"] == 40 and not figures(s)["partial"], timeout=10)
        totals = {message["total"] for message in viewer.messages[before_it:] if message["type"].startswith("stats")}
        assert totals <= {40, others}, "nothing in between, and nothing twice"


async def test_who_asks_for_the_figures_of_now_learns_that_a_worker_does_not_answer() -> None:
    with Server("headcount-workers", admin_token="s3cret-of-the-tests") as server:
        server.wait_ready()
        pages = await _pages(server, 20)
        whole = await _stats(server)
        assert whole["total"] == 20
        others = sum(page.handle[:12] != pages[0].handle[:12] for page in pages)
        with _paused(await _process_of(server, pages[0])):
            seen = await _answered(server)
            assert seen["partial"] is True, "what it told last, if it did, is not of now"
            assert seen["total"] in (20, others)
            assert seen["nodes"]["reporting"] == whole["nodes"]["reporting"] - 1
        seen = await _stats(server)
        assert (seen["partial"], seen["total"], seen["nodes"]) == (False, 20, whole["nodes"])


@pytest.mark.parametrize("name", SERVERS)
async def test_workers_without_a_directory_say_so_and_mark_their_figures(name: str, tmp_path: Path) -> None:
    directory = tmp_path / f"headcount-{os.geteuid()}"
    directory.mkdir()
    directory.chmod(0o755)  # others may look inside, and would know who is there
    with Server(name, admin_token="s3cret-of-the-tests", environment={"XDG_RUNTIME_DIR": str(tmp_path)}) as server:
        server.wait_ready()
        pages = await _pages(server, 8)
        _, seen = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
        assert seen["partial"] is True
        assert seen["total"] <= 8
        assert 1 <= server.log.count("cannot find one another") <= 4, "each worker says it once"
        for page in pages:
            page.fin()


async def test_two_servers_of_one_application_are_two_fleets() -> None:
    with (
        Server("uvicorn-workers", admin_token="s3cret-of-the-tests") as one,
        Server("uvicorn-workers", admin_token="s3cret-of-the-tests") as two,
    ):
        one.wait_ready()
        two.wait_ready()
        await _pages(one, 10)
        await _pages(two, 5)
        for _ in range(4):
            assert (await _stats(one))["total"] == 10
            assert (await _stats(two))["total"] == 5


def figures(viewer: Sse | WebSocket) -> dict[str, Any]:
    """Return the figures that a viewer knows."""
    assert viewer.figures is not None
    return viewer.figures


async def _pages(server: Server, count: int) -> list[Sse | WebSocket]:
    """Open pages at more than one worker."""
    kinds: tuple[type[Sse | WebSocket], ...] = (Sse, WebSocket)
    openings: list[Opening] = [
        partial(kinds[n % 2].open, server.url, version=f"v{n % 3}", route=f"/{n % 5}") for n in range(count)
    ]
    pages: list[Sse | WebSocket] = await all_of([opening() for opening in openings[: count // 2]])
    rest = openings[count // 2 :]
    if len({page.handle[:12] for page in pages}) > 1 or not server.shares_socket:
        return pages + await all_of([opening() for opening in rest])
    with _paused(await _process_of(server, pages[0])):
        return pages + await all_of([opening() for opening in rest])


@contextmanager
def _paused(process: int) -> Iterator[None]:
    """
    Keep a worker from accepting anything for the moment.

    Workers that share one socket take what comes as they please: with little to do, one may take everything. Not for
    workers that have a socket each, where the kernel gives a paused one its share all the same.
    """
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def _stats(server: Server) -> dict[str, Any]:
    """Return the figures of whichever worker answers; on a busy machine some may be late, and it says so."""
    async with asyncio.timeout(30):
        while True:
            status, seen = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
            assert status == 200, seen
            if not seen["partial"]:
                answer: dict[str, Any] = seen
                return answer


async def _answered(server: Server) -> dict[str, Any]:
    """Return the figures of a worker that runs: the kernel may hand a request to one that is stopped."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(2.5):
                _, seen = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
                answer: dict[str, Any] = seen
                return answer


async def _watch(server: Server, viewer: Sse) -> None:
    status, _ = await ask(
        server.url, "POST", BASE + "/subscribe-stats", {"connectionId": viewer.handle, "deltas": True}, TOKEN
    )
    assert status == 200
    await viewer.until(lambda s: s.figures is not None)


async def _viewer_elsewhere(server: Server, page: Sse | WebSocket) -> Sse:
    """Open a viewer at another worker than that of a page."""
    for _ in range(
        20
    ):  # where each worker has a socket of its own, chance decides, and a paused one would keep its share
        viewer = await Sse.open(server.url, token="s3cret-of-the-tests", viewer=1)
        if viewer.handle[:12] != page.handle[:12]:
            break
        viewer.fin()
    else:
        with _paused(await _process_of(server, page)):
            viewer = await Sse.open(server.url, token="s3cret-of-the-tests", viewer=1)
    await _watch(server, viewer)
    return viewer


async def _process_of(server: Server, page: Sse | WebSocket) -> int:
    """Find the worker that holds a page's connection."""
    mine = page.transport.get_extra_info("sockname")
    for process in server.processes():
        for connection in process.net_connections("tcp"):
            if connection.raddr and tuple(connection.raddr) == mine and connection.laddr.port == server.port:
                pid: int = process.pid
                return pid
    raise AssertionError("no worker has this connection")


async def _leave(server: Server, pages: list[Any]) -> None:
    for page in pages:
        page.fin()
    await _whole(server, [])


def current(page: Sse | WebSocket) -> str:
    """The version that a page has been told is current."""
    told = [message["version"] for message in page.messages if message["type"] == "version"]
    found: str = told[-1] if told else page.messages[0]["currentVersion"]
    return found


async def _all_there(server: Server) -> None:
    """Wait for all workers, where one that starts late would get no share; elsewhere the first request wakes them."""
    async with asyncio.timeout(30):
        while not server.shares_socket and (await _stats(server))["nodes"]["reporting"] < 4:
            await asyncio.sleep(0.05)
    await _whole(server, [])


async def _whole(server: Server, pages: list[Any]) -> None:
    """Wait until the fleet counts exactly these."""
    async with asyncio.timeout(30):
        while True:
            seen = await _stats(server)
            if seen["total"] == len(pages) and not seen["partial"]:
                return
            await asyncio.sleep(0.05)
