"""`use_active_connections(url)` against `headcount serve`, a process of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from types import MappingProxyType
from typing import Any, Literal

import pytest

from cli.processes import TOKEN, VERSION, Serve
from headcount.client import (
    ClientError,
    NotAuthorized,
    Refused,
    RemoteConnections,
    Stats,
    Unreachable,
    UpdateStrategy,
    fetch_stats,
    release,
    use_active_connections,
)
from headcount.core.current_version import CurrentRelease
from kit.pages import WebSocket, everybody_leaves

pytestmark = pytest.mark.anyio

STRATEGIES: tuple[UpdateStrategy, ...] = ("sse", "ws", "auto")


@pytest.fixture(scope="module")
def shared() -> Iterator[Serve]:
    with Serve(ip_tracking=True, stats_interval=0.02) as server:
        yield server


@pytest.fixture
async def server(shared: Serve) -> AsyncIterator[Serve]:
    """The shared server, without anybody on it before and after."""
    yield shared
    await everybody_leaves()
    async with use_active_connections(shared.url, token=TOKEN) as live:
        async with asyncio.timeout(20):
            await live.wait_for(lambda stats: stats.total == 0)


async def page(server: Serve, version: str = VERSION, route: str = "/") -> WebSocket:
    return await WebSocket.open(server.origin, version=version, route=route)


def values(live: RemoteConnections) -> dict[str, Any]:
    return {
        name: getattr(live, name).value
        for name in ("status", "authorized", "error", "is_stale", "partial", "total", "current_version")
    }


async def stale(live: RemoteConnections, expected: bool) -> None:
    while live.is_stale.value is not expected:
        await live.is_stale.changed()


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_six_names_are_there_when_it_is_open(server: Serve, strategy: UpdateStrategy) -> None:
    await page(server, "v1", "/shopping")
    await page(server, "v1")
    await page(server, "v2")
    async with (
        asyncio.timeout(20),
        use_active_connections(server.origin, token=TOKEN, update_strategy=strategy) as live,
    ):
        assert live.authorized.value is True
        assert live.total.value == 3
        assert live.versions.value == {"v1": 2, "v2": 1}
        assert live.routes.value == {"/": 2, "/shopping": 1}
        assert {(row.version, row.route, row.ip) for row in live.connections.value} == {
            ("v1", "/shopping", "127.0.0.1"),
            ("v1", "/", "127.0.0.1"),
            ("v2", "/", "127.0.0.1"),
        }
        your_id = live.your_id.value
        assert your_id is not None
        assert your_id not in {row.id for row in live.connections.value}, "a viewer is not counted"
        assert values(live) == {
            "status": "open",
            "authorized": True,
            "error": None,
            "is_stale": False,
            "partial": False,
            "total": 3,
            "current_version": VERSION,
        }
        assert live.release.value == CurrentRelease("settled", VERSION, 0)
    assert live.status.value == "closed"
    assert live.is_stale.value is True, "what it still shows is of the past"
    with pytest.raises(TypeError):
        live.versions.value["v1"] = 9  # type: ignore[index]
    assert isinstance(live.versions.value, MappingProxyType)


@pytest.mark.parametrize("strategy", ["sse", "ws"])
@pytest.mark.parametrize("deltas", [True, False])
async def test_figures_stay_those_of_the_server(server: Serve, strategy: Literal["sse", "ws"], deltas: bool) -> None:
    async with (
        asyncio.timeout(30),
        use_active_connections(server.url, token=TOKEN, update_strategy=strategy, deltas=deltas) as live,
    ):
        pages = [await page(server, f"v{number % 3}", f"/{number % 5}") for number in range(30)]
        for number, one in enumerate(pages[:10]):
            await one.navigate(server.origin, f"/moved/{number % 2}")
        for one in pages[20:]:
            one.fin()
        await live.wait_for(lambda stats: stats.total == 20 and stats.routes.get("/moved/1") == 5)
        told = await fetch_stats(server.url, token=TOKEN)
        assert live.versions.value == told.versions
        assert live.routes.value == told.routes
        assert {row.id: row for row in live.connections.value} == {row.id: row for row in told.connections}


async def test_iterating_gives_the_figures_now_and_after_each_change(server: Serve) -> None:
    async with asyncio.timeout(20), use_active_connections(server.url, token=TOKEN) as live:
        seen: list[int] = []
        async for stats in live:
            seen.append(stats.total)
            if stats.total == 3:
                break
            await page(server)
        assert seen == [0, 1, 2, 3]


async def test_values_are_derived_watched_and_awaited(server: Serve) -> None:
    async with asyncio.timeout(20), use_active_connections(server.url, token=TOKEN) as live:
        doubled = live.total.map(lambda total: 2 * total)
        seen: list[int] = []
        stop = doubled.subscribe(seen.append)
        waiting = asyncio.create_task(doubled.changed())
        await asyncio.sleep(0)
        await page(server)
        assert await waiting == 2
        assert seen == [2]
        stop()


async def test_viewer_learns_which_version_is_current(server: Serve) -> None:
    with Serve() as own:
        async with asyncio.timeout(20), use_active_connections(own.url, token=TOKEN) as live:
            assert live.current_version.value == VERSION
            waiting = asyncio.create_task(live.current_version.changed())
            await asyncio.sleep(0)
            await release(own.url, "2026.11.4", unserved=True, token=TOKEN)
            assert await waiting == "2026.11.4"
        async with asyncio.timeout(20), use_active_connections(own.url, token=TOKEN) as live:
            assert live.current_version.value == "2026.11.4", "who comes later is told, too"


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_without_a_right_it_says_so_and_does_not_come_back(server: Serve, strategy: UpdateStrategy) -> None:
    async with asyncio.timeout(20), use_active_connections(server.url, token="wrong", update_strategy=strategy) as live:
        assert live.authorized.value is False
        assert live.status.value == "closed"
        assert live.total.value == 0
        assert "not authorised" in (live.error.value or "")
        with pytest.raises(NotAuthorized, match="token"):
            await live.wait_for(lambda _: True)
        with pytest.raises(NotAuthorized):
            async for _ in live:
                pass


async def test_asking_once_without_a_right_is_refused(server: Serve) -> None:
    with pytest.raises(NotAuthorized, match="admin token"):
        await fetch_stats(server.url)
    with pytest.raises(NotAuthorized):
        await release(server.url, "v9", token="wrong")


async def test_a_release_must_be_a_version(server: Serve) -> None:
    for version in ("", "unknown", "x" * 129, "a\nb"):
        with pytest.raises(Refused, match="version"):
            await release(server.url, version, token=TOKEN)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("gently", [True, False])
async def test_it_comes_back_when_the_server_does(strategy: UpdateStrategy, gently: bool) -> None:
    with Serve(reconnect_spread=0.5) as server:
        async with (
            asyncio.timeout(60),
            use_active_connections(server.url, token=TOKEN, update_strategy=strategy) as live,
        ):
            first = await page(server)
            await live.wait_for(lambda stats: stats.total == 1)
            states: list[str] = []
            live.status.subscribe(states.append)
            await asyncio.to_thread(server.stop, gently=gently)
            await stale(live, True)
            assert live.total.value == 1, "the last that was known"
            await first.until(lambda one: one.ended)
            await asyncio.to_thread(server.start)
            await stale(live, False)
            shown = values(live)
            assert (shown["status"], shown["error"], shown["total"]) == ("open", None, 0)
            await page(server)
            await live.wait_for(lambda stats: stats.total == 1)
            assert states[0] == "reconnecting"
            assert states[-1] == "open"
            await everybody_leaves()


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    server = Serve()
    try:
        async with asyncio.timeout(60), use_active_connections(server.url, token=TOKEN) as live:
            assert live.status.value == "reconnecting"
            assert live.authorized.value is None
            assert "no server is listening" in (live.error.value or "")
            await asyncio.to_thread(server.start)
            assert (await live.wait_for(lambda stats: stats.total == 0)).total == 0
            assert live.error.value is None
    finally:
        server.__exit__()


async def test_asking_once_where_nothing_is() -> None:
    with pytest.raises(Unreachable, match="no server is listening"):
        await fetch_stats("http://127.0.0.1:9", token=TOKEN)


async def test_asking_once_at_another_path(server: Serve) -> None:
    with pytest.raises(Refused, match="base path"):
        await fetch_stats(server.origin + "/elsewhere", token=TOKEN)


async def test_it_is_opened_by_async_with_only(server: Serve) -> None:
    live = use_active_connections(server.url, token=TOKEN)
    assert live.status.value == "idle"
    assert live.authorized.value is None
    with pytest.raises(ClientError, match="async with"):
        async for _ in live:
            pass
    async with live:
        with pytest.raises(ClientError, match="already open"):
            await live.open()
    await live.aclose()
    async with live:
        assert live.authorized.value is True, "it can be opened again"


async def test_iteration_ends_when_it_is_closed(server: Serve) -> None:
    live = use_active_connections(server.url, token=TOKEN)
    totals: list[int] = []

    async def read() -> None:
        totals.extend([stats.total async for stats in live])

    async with live:
        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await reader
    assert totals == [0]


async def test_nothing_runs_on_after_it(server: Serve) -> None:
    before = asyncio.all_tasks()
    async with use_active_connections(server.url, token=TOKEN):
        assert len(asyncio.all_tasks()) > len(before)
    assert asyncio.all_tasks() == before


async def test_plain_with_is_refused_in_an_event_loop(server: Serve) -> None:
    with pytest.raises(RuntimeError, match="async with"), use_active_connections(server.url, token=TOKEN):
        pass


async def test_scripts_read_watch_and_wait(server: Serve) -> None:
    seen: list[int] = []
    opened = threading.Event()

    def script() -> Stats:
        with use_active_connections(server.url, token=TOKEN) as live:
            assert live.authorized.value is True
            live.total.subscribe(seen.append)
            with pytest.raises(TimeoutError):
                live.wait_for(lambda stats: stats.total == 99, timeout=0.01)
            opened.set()
            assert live.wait_for(lambda stats: stats.total == 2, timeout=20).versions == {"v1": 2}
            for stats in live:
                return stats
        raise AssertionError

    running = asyncio.create_task(asyncio.to_thread(script))
    await asyncio.to_thread(opened.wait, 20)
    for _ in range(2):
        await page(server, "v1")
    async with asyncio.timeout(20):
        assert (await running).total == 2
    assert seen[-1] == 2
    assert not [thread for thread in threading.enumerate() if thread.name == "headcount-client"]


async def test_scripts_are_told_that_they_may_not(server: Serve) -> None:
    def script() -> None:
        with use_active_connections(server.url, token="wrong") as live:
            for _ in live:
                raise AssertionError

    with pytest.raises(NotAuthorized):
        await asyncio.to_thread(script)


async def test_scripts_get_the_error_of_wrong_options(server: Serve) -> None:
    def script() -> None:
        with use_active_connections("https://127.0.0.1:9", verify="/absent.pem"):
            raise AssertionError

    with pytest.raises(Exception, match=r"absent\.pem"):
        await asyncio.to_thread(script)
