"""`use_active_connections()` inside the process: the seed's six names, its three examples, and what watching costs."""

import asyncio
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from asgi.asgi_client import Site, asynchronous, turn_until, turns
from headcount import ConnectionInfo, LocalConnections, Observable, Stats


def make(**settings: Any) -> tuple[Site, LocalConnections]:
    """Make an application and its live figures."""
    site = Site(**{"stats_interval": 0.001, "ip_tracking": True, **settings})
    return site, site.headcount.use_active_connections()


@asynchronous
async def test_six_names_are_there_before_anybody_came() -> None:
    _, live = make()
    assert live.total.value == 0
    assert live.versions.value == {}
    assert live.routes.value == {}
    assert live.connections.value == ()
    assert live.your_id.value is None
    assert live.authorized.value is True


@asynchronous
async def test_six_names_are_the_figures_of_the_moment() -> None:
    site, live = make()
    page = await site.stranger.open("ws", "?version=v0&route=/a")
    await site.admin.open("sse", "?viewer=1")
    assert live.total.value == 1
    assert live.versions.value == {"v0": 1}
    assert live.routes.value == {"/a": 1}
    assert live.connections.value == (ConnectionInfo(page.public, "v0", "/a", "192.0.2.7"),)
    await page.leave()
    assert live.total.value == 0
    assert live.stats.value == await site.headcount.stats()


@asynchronous
async def test_it_is_not_counted_and_needs_no_hook() -> None:
    site, live = make(hook=None)
    await site.stranger.open("ws")
    assert live.total.value == 1
    assert live.authorized.value is True
    assert not site.node.viewers.subscriptions


@asynchronous
async def test_figures_cannot_be_changed_by_who_reads_them() -> None:
    site, live = make()
    await site.stranger.open("ws", "?version=v0")
    figures = live.stats.value
    with pytest.raises(TypeError):
        figures.versions["v0"] = 9  # type: ignore[index]
    with pytest.raises(AttributeError):
        figures.total = 9  # type: ignore[misc]
    await site.stranger.open("ws", "?version=v0")
    assert figures.versions == {"v0": 1}, "and they stay what they were"
    assert isinstance(figures.versions, MappingProxyType)


@asynchronous
async def test_value_is_computed_once_for_each_state() -> None:
    site, live = make()
    computed: list[int] = []

    def double(total: int) -> int:
        computed.append(total)
        return 2 * total

    doubled = live.total.map(double)
    assert [doubled.value, doubled.value, doubled.value] == [0, 0, 0]
    await site.stranger.open("ws")
    assert [doubled.value, doubled.value] == [2, 2]
    assert computed == [0, 1]


@asynchronous
async def test_example_one_widget_of_active_users() -> None:
    site, live = make()
    for version, route in (
        ("abc1234567", "/"),
        ("abc1234567", "/products"),
        ("abc1234567", "/"),
        ("def4567890", "/checkout"),
    ):
        await site.stranger.open("ws", f"?version={version}&route={route}")

    def by_count(counts: Any) -> list[tuple[str, int]]:
        return sorted(counts.items(), key=lambda item: -item[1])

    version_list = live.stats.map(
        lambda stats: [
            {"id": version[:8], "count": count, "percentage": round(count / stats.total * 100)}
            for version, count in by_count(stats.versions)
        ]
    )
    top_routes = live.routes.map(lambda routes: by_count(routes)[:5])
    assert live.authorized.value
    assert version_list.value == [
        {"id": "abc12345", "count": 3, "percentage": 75},
        {"id": "def45678", "count": 1, "percentage": 25},
    ]
    assert top_routes.value == [("/", 2), ("/products", 1), ("/checkout", 1)]


@asynchronous
async def test_example_two_tells_when_all_users_have_migrated() -> None:
    site, live = make(version="new")
    old = [await site.stranger.open("ws", "?version=old") for _ in range(3)]
    await site.stranger.open("ws", "?version=new")
    users_on_old_versions = live.versions.map(
        lambda versions: sum(count for version, count in versions.items() if version != site.headcount.version)
    )
    seen: list[int] = []
    stop = users_on_old_versions.subscribe(seen.append)
    assert seen == [], "not the present value, as with Vue's watch"
    for page in old:
        await page.leave()
        await site.settled()
    assert seen == [2, 1, 0]
    await site.stranger.open("ws", "?version=new")
    await site.settled()
    assert seen == [2, 1, 0], "another user on the new version is no news"
    stop()


@asynchronous
async def test_example_three_tells_how_many_are_up_to_date() -> None:
    site, live = make(version="new")

    def up_to_date(stats: Stats) -> dict[str, int]:
        current = stats.versions.get(site.headcount.version, 0)
        percent = round(current / stats.total * 100) if stats.total else 0
        return {"current": current, "outdated": stats.total - current, "percent_current": percent}

    stats = live.stats.map(up_to_date)
    assert stats.value == {"current": 0, "outdated": 0, "percent_current": 0}
    for version in ("new", "new", "old"):
        await site.stranger.open("sse", f"?version={version}")
    assert stats.value == {"current": 2, "outdated": 1, "percent_current": 67}


@asynchronous
async def test_subscriber_is_called_with_each_new_value_until_it_ends_that() -> None:
    site, live = make()
    totals: list[int] = []
    stop = live.total.subscribe(totals.append)
    await site.stranger.open("ws")
    await turn_until(lambda: totals == [1])
    page = await site.stranger.open("ws", "?route=/a")
    await turn_until(lambda: totals == [1, 2])
    await site.stranger.navigate(page, "/b")
    await site.settled()
    assert totals == [1, 2], "a value that did not change is not told"
    stop()
    stop()
    await site.stranger.open("ws")
    await site.settled()
    assert totals == [1, 2]
    assert not site.node._registry.noting, "nobody watches any more"


@asynchronous
async def test_subscriber_that_fails_disturbs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    site, live = make()
    totals: list[int] = []

    def fails(_: int) -> None:
        raise LookupError

    stops = [live.total.subscribe(fails), live.total.subscribe(totals.append)]
    viewer = await site.admin.open("ws", "?viewer=1")
    figures = await site.admin.watch(viewer)
    await site.stranger.open("ws")
    await figures.total(1)
    await turn_until(lambda: totals == [1])
    assert site.node.counters["observer_errors"] == 1
    assert "other observers are not affected" in caplog.text
    for stop in stops:
        stop()


@asynchronous
async def test_subscriber_may_end_itself_and_others_while_it_is_called() -> None:
    site, live = make()
    totals: list[int] = []
    stops: list[Callable[[], None]] = []

    def once(total: int) -> None:
        totals.append(total)
        for stop in stops:
            stop()

    stops.extend(live.total.subscribe(once) for _ in range(3))
    await site.stranger.open("ws")
    await site.settled()
    assert totals == [1]
    assert not site.node.viewers.observers


@asynchronous
async def test_changed_waits_for_the_next_value() -> None:
    site, live = make()
    waiting = asyncio.ensure_future(live.total.changed())
    await turns()
    assert not waiting.done()
    await site.stranger.open("ws")
    assert await waiting == 1
    assert not site.node.viewers.observers


@asynchronous
async def test_changed_that_is_cancelled_leaves_nothing() -> None:
    site, live = make()
    waiting = asyncio.ensure_future(live.total.changed())
    await turn_until(lambda: site.node.viewers.observers)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not site.node.viewers.observers


@asynchronous
async def test_iterating_gives_the_figures_now_and_then_the_newest_after_each_change() -> None:
    site, live = make()
    seen: list[int] = []

    async def read() -> None:
        async for stats in live:
            seen.append(stats.total)
            if stats.total == 3:
                return

    reader = asyncio.ensure_future(read())
    await turn_until(lambda: seen == [0])
    for total in (1, 2, 3):
        await site.stranger.open("ws")
        await turn_until(lambda: seen[-1] == total)  # noqa: B023  awaited at once
    await reader
    assert seen == [0, 1, 2, 3]
    await turns()
    assert not site.node.viewers.observers


@asynchronous
async def test_slow_reader_misses_what_came_between_and_not_the_last() -> None:
    site, live = make()
    seen: list[int] = []
    go_on = asyncio.Event()

    async def read() -> None:
        async for stats in live:
            seen.append(stats.total)
            await go_on.wait()
            if stats.total == 50:
                return

    reader = asyncio.ensure_future(read())
    await turn_until(lambda: seen == [0])
    for _ in range(50):
        await site.stranger.open("ws")
    await site.settled()
    go_on.set()
    await reader
    assert seen == [0, 50]


@asynchronous
async def test_reader_that_is_quick_is_given_four_values_a_second_at_most() -> None:
    site, live = make(stats_interval=0.05)
    seen: list[int] = []

    async def read() -> None:
        async for stats in live:
            seen.append(stats.total)
            if stats.total == 100:
                return

    reader = asyncio.ensure_future(read())
    started = asyncio.get_running_loop().time()
    for _ in range(100):
        await site.stranger.open("ws")
    await reader
    took = asyncio.get_running_loop().time() - started
    assert len(seen) <= 2 + took / 0.05


@asynchronous
async def test_wait_for_returns_the_figures_for_which_it_holds() -> None:
    site, live = make()
    assert (await live.wait_for(lambda stats: stats.total == 0)).total == 0
    waiting = asyncio.ensure_future(live.wait_for(lambda stats: stats.versions.get("new", 0) >= 2))
    for version in ("new", "old", "new"):
        await turns()
        assert not waiting.done()
        await site.stranger.open("ws", f"?version={version}")
    stats = await waiting
    assert stats.versions == {"new": 2, "old": 1}
    assert not site.node.viewers.observers


@asynchronous
async def test_wait_for_can_be_given_up_and_its_condition_may_fail() -> None:
    site, live = make()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await live.wait_for(lambda stats: stats.total == 99)
    with pytest.raises(ZeroDivisionError):
        await live.wait_for(lambda stats: 1 / stats.total)
    assert not site.node.viewers.observers


@asynchronous
async def test_code_for_the_remote_one_works_here_too() -> None:
    site, live = make()
    await site.stranger.open("ws")
    async with live as same:
        assert same is live
        assert same.total.value == 1
        async for stats in same:
            assert stats.total == 1
            break


@asynchronous
async def test_without_connection_tracking_it_stays_empty() -> None:
    site, live = make(connection_tracking=False)
    await site.stranger.open("ws")
    assert live.total.value == 0
    assert live.connections.value == ()


def test_values_can_be_read_without_an_event_loop() -> None:
    _, live = make()
    assert live.total.value == 0
    assert repr(live.total) == "Observable(0)"
    assert isinstance(live.total, Observable)
    with pytest.raises(RuntimeError):
        live.total.subscribe(lambda _: None)
