"""What viewers are told: the first message, whole figures, deltas, and limits."""

import json
import random
import time
from collections import Counter
from typing import Any

import pytest

from headcount.core import push_policy
from headcount.node import timers

from .asgi_client import (
    TRANSPORTS,
    WAYS,
    Client,
    Clock,
    EventStream,
    Figures,
    Site,
    Stream,
    asynchronous,
    turn_until,
    turns,
)

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)


@every_way
@both
@asynchronous
async def test_connected_is_the_first_message_and_says_what_a_client_needs(way: str, transport: str) -> None:
    site = Site(way, version="2026.11.3", update_strategy="auto", keepalive_interval=20)
    stream = await site.stranger.open(transport, "?version=v1&route=/a")
    assert stream.connected == {
        "type": "connected",
        "version": "2026.11.3",
        "connectionId": stream.handle,
        "timestamp": stream.connected["timestamp"],
        "keepaliveMs": 20_000,
        "updateStrategy": "auto",
        "currentVersion": "2026.11.3",
        "release": {"state": "settled", "version": "2026.11.3", "number": 0},
    }
    assert stream.connected["timestamp"] > 1_600_000_000_000
    assert [message["type"] for message in stream.received] == ["connected"]


@every_way
@both
@asynchronous
async def test_connected_says_which_version_was_declared_current_before_the_page_came(way: str, transport: str) -> None:
    site = Site(way, version="2026.11.3")
    await site.headcount.release("2026.11.4")
    stream = await site.stranger.open(transport, "?version=2026.11.4")
    assert (stream.connected["version"], stream.connected["currentVersion"]) == ("2026.11.3", "2026.11.4")
    assert not stream.unread, "a page of that version has no news to be told"


@every_way
@both
@asynchronous
async def test_pages_hear_the_same_number_of_a_release_by_every_way_and_larger_ones_later(
    way: str, transport: str
) -> None:
    site, numbers = Site(way, version="v1"), []
    page = await site.stranger.open(transport, "?version=v1")
    # The same version again is no news to a page that is there.
    for version, is_news in (("v2", True), ("v1", True), ("v2", True), ("v2", False)):
        await site.headcount.release(version, unserved=True)
        release = (await site.stranger.get("/health?version=v1")).json["release"]
        numbers.append(release["number"])
        assert release == {"state": "declared", "version": version, "number": numbers[-1]}
        late = await site.stranger.open(transport, "?version=v0")
        assert late.connected["release"] == release
        assert (await late.next("version"))["release"] == release
        if is_news:
            assert (await page.next("version"))["release"] == release
    assert not page.unread
    assert numbers == sorted(set(numbers))
    viewer = await site.admin.open(transport, "?version=v2")
    await site.admin.watch(viewer)
    assert viewer.received[-1]["release"]["number"] == numbers[-1]


@every_way
@asynchronous
async def test_event_stream_has_headers_that_keep_caches_and_proxies_from_holding_it_back(way: str) -> None:
    stream = await Site(way).stranger.open("sse")
    assert stream.status == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert "no-transform" in stream.headers["cache-control"]
    assert "no-store" in stream.headers["cache-control"]
    assert stream.headers["x-accel-buffering"] == "no"
    assert "content-length" not in stream.headers


@every_way
@both
@asynchronous
async def test_subscriber_gets_whole_figures_at_once(way: str, transport: str) -> None:
    site = Site(way, ip_tracking=True)
    page = await site.stranger.open("ws", "?version=v0&route=/cart")
    viewer = await site.admin.open(transport, "?version=v1&route=/admin")
    figures = await site.admin.watch(viewer)
    assert viewer.received[-1] == {
        "type": "stats",
        "total": 2,
        "versions": {"v0": 1, "v1": 1},
        "routes": {"/cart": 1, "/admin": 1},
        "connections": [
            {"id": page.public, "version": "v0", "route": "/cart", "ip": "192.0.2.7"},
            {"id": viewer.public, "version": "v1", "route": "/admin", "ip": "192.0.2.7"},
        ],
        "revision": figures.now["revision"],
        "connectionsTruncated": False,
        "nodes": {"reporting": 1, "expected": 1, "versions": {"v1": 1}},
        "partial": False,
        "currentVersion": "v1",
        "release": {"state": "settled", "version": "v1", "number": 0},
        "yourId": viewer.public,
    }


@both
@asynchronous
async def test_your_id_is_the_public_id_and_no_handle_is_ever_shown(transport: str) -> None:
    site = Site()
    pages = [await site.stranger.open(kind) for kind in TRANSPORTS]
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    pages += [await site.stranger.open("sse")]
    now = await figures.total(4)
    assert {row["id"] for row in now["connections"]} == {page.public for page in [*pages, viewer]}
    assert figures.your_id == viewer.public
    told = json.dumps(viewer.received[1:])
    assert not any(page.handle in told for page in [*pages, viewer])


@every_way
@both
@asynchronous
async def test_first_change_after_a_quiet_time_is_told_at_once(way: str, transport: str) -> None:
    clock = Clock()
    site = Site(way, clock=clock, stats_interval=3600)  # what waits for the interval does not come in this test
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    await site.stranger.open("ws")
    await figures.total(2)
    clock.advance(3601)
    await site.stranger.open("sse")
    await figures.total(3)


@both
@pytest.mark.parametrize("deltas", [True, False])
@asynchronous
async def test_a_second_holds_at_most_four_pushes_however_many_changes(transport: str, deltas: bool) -> None:
    assert Site().headcount.config.stats_interval == 0.25
    clock = Clock()
    # Ten times as fast is soon enough for a test.
    site = Site(clock=clock, stats_interval=0.025, max_messages_per_second=1_000)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer, deltas=deltas)
    before = len(viewer.received)
    pushes: list[float] = []
    started = clock.now
    flushes = site.node.counters["flushes"]
    page = await site.stranger.open("ws")
    for number in range(200):
        page.say({"type": "route-update", "route": f"/{number}"})
        clock.advance(0.001)
        await turns(1)
        if site.node.counters["flushes"] > flushes:
            flushes = site.node.counters["flushes"]
            pushes.append(clock.now)
    await figures.until(lambda now: now["routes"].get("/199") == 1)
    # In 0.2 s of the node's clock one push each 0.025 s, the first one at once, and the last one still to come.
    assert len(viewer.received) - before <= 0.2 / 0.025 + 2
    assert pushes
    assert pushes[0] - started <= 0.003


@both
@asynchronous
async def test_deltas_follow_one_another_and_add_up_to_a_fresh_snapshot(transport: str) -> None:
    chance = random.Random(f"figures {transport}")
    site = Site(stats_interval=0.001, ip_tracking=True, max_listed_connections=6, max_routes=5, max_versions=3)
    viewer = await site.admin.open(transport, "?viewer=1")
    figures = await site.admin.watch(viewer)
    pages: list[Stream] = []
    kinds: Counter[str] = Counter()
    for _ in range(400):
        what = chance.random()
        if what < 0.35 or not pages:
            query = f"?version=v{chance.randrange(6)}&route=/{chance.randrange(9)}"
            pages.append(await site.stranger.open(chance.choice(TRANSPORTS), query))
        elif what < 0.6:
            await pages.pop(chance.randrange(len(pages))).leave()
        else:
            await site.stranger.navigate(chance.choice(pages), f"/{chance.randrange(9)}")
        if chance.random() < 0.2:
            await site.settled()
            while viewer.unread:
                kinds[(await figures.step())["type"]] += 1
            fresh = await site.admin.open("sse", "?viewer=1")
            whole = (await site.admin.watch(fresh)).now
            assert _comparable(figures.now) == _comparable(whole)
            await fresh.leave()
            while len(pages) > 12:
                await pages.pop().leave()
    assert kinds["stats-delta"] > 20
    assert set(kinds) == {"stats-delta"}


def _comparable(now: dict[str, Any]) -> dict[str, Any]:
    return {**now, "connections": sorted(now["connections"], key=lambda row: str(row["id"]))}


@both
@asynchronous
async def test_viewer_that_asked_for_no_deltas_gets_whole_figures_each_time(transport: str) -> None:
    site = Site(stats_interval=0.001)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer, deltas=False)
    for total in (2, 3):
        await site.stranger.open("ws")
        await figures.total(total)
    assert {message["type"] for message in viewer.received[1:]} == {"stats"}


@both
@asynchronous
async def test_changes_of_one_moment_are_one_push_and_opposite_ones_leave_no_key(transport: str) -> None:
    site = Site(stats_interval=0.001)
    viewer = await site.admin.open(transport)
    page = await site.stranger.open("ws", "?route=/a")
    figures = await site.admin.watch(viewer)
    for route in ("/b", "/c", "/a"):
        page.say({"type": "route-update", "route": route})
    delta = await figures.step("stats-delta")
    assert (delta["routes"], delta["connections"]) == ({}, {"set": [], "remove": []})
    assert delta["revision"] == delta["base"] + 3


@both
@asynchronous
async def test_navigating_to_the_same_route_is_no_change(transport: str) -> None:
    site = Site()
    viewer = await site.admin.open("ws")
    page = await site.stranger.open(transport, "?route=/a")
    figures = await site.admin.watch(viewer)
    await site.stranger.navigate(page, "/a")
    await site.stranger.navigate(page, "/a?page=2#top")
    await site.stranger.navigate(page, "/b")
    delta = await figures.step("stats-delta")
    assert delta["revision"] == delta["base"] + 1


@every_way
@both
@asynchronous
async def test_viewers_own_stream_is_not_counted_but_knows_who_it_is(way: str, transport: str) -> None:
    site = Site(way)
    viewer = await site.admin.open(transport, "?viewer=1&version=v9&route=/admin")
    figures = await site.admin.watch(viewer)
    assert (figures.now["total"], figures.now["versions"], figures.now["connections"]) == (0, {}, [])
    assert figures.your_id == viewer.public
    await site.stranger.open("sse")
    now = await figures.total(1)
    assert viewer.public not in json.dumps(now)


@every_way
@both
@asynchronous
async def test_viewer_without_a_right_is_closed_in_time(way: str, transport: str, quick_ticks: None) -> None:
    clock = Clock()
    site = Site(way, clock=clock)
    silent = await site.stranger.open(transport, "?viewer=1")
    denied = await site.visitor.open(transport, "?viewer=1")
    await site.visitor.say(denied, {"type": "subscribe-stats"})
    await denied.next("stats-unauthorized")
    allowed = await site.admin.open(transport, "?viewer=1")
    await site.admin.watch(allowed)
    clock.advance(9.9)
    await _ticks(site)
    assert not silent.done
    assert not denied.done
    clock.advance(0.2)
    await silent.ended()
    await denied.ended()
    if transport == "ws":
        assert silent.close[0] == denied.close[0] == 1008
    else:
        assert silent.complete
        assert denied.complete
    clock.advance(30)
    await _ticks(site)
    assert not allowed.done
    assert site.node.counters["closed:denied"] == 2


async def _ticks(site: Site, count: int = 3) -> None:
    """Wait for some ticks of the pulse, by the hand of its wheel."""
    (wheel,) = site.node.timers.by_loop.values()
    for _ in range(count):
        hand = wheel._timer
        await turn_until(lambda: wheel._timer is not hand)  # noqa: B023  awaited at once


@every_way
@both
@asynchronous
async def test_after_unsubscribing_nothing_more_is_told(way: str, transport: str) -> None:
    site = Site(way, stats_interval=0.001)
    viewer = await site.admin.open(transport)
    other = await site.admin.open("ws")
    figures = await site.admin.watch(viewer)
    others = await site.admin.watch(other)
    await site.admin.say(viewer, {"type": "unsubscribe-stats"})
    await turn_until(lambda: viewer.public not in site.node.viewers.subscriptions)
    await site.stranger.open("sse")
    await others.total(3)
    await site.headcount.send(viewer.public, {"type": "marker"})
    while (await viewer.next())["type"] != "marker":
        pass
    assert [m["type"] for m in viewer.received if m["type"] != "stats-delta"] == ["connected", "stats", "marker"]
    assert figures.now["total"] == 2
    # And it may come back, to whole figures.
    await site.admin.say(viewer, {"type": "subscribe-stats", "deltas": True})
    assert (await viewer.next("stats"))["total"] == 3


@every_way
@both
@asynchronous
async def test_subscribing_twice_is_answered_twice_and_served_once(way: str, transport: str) -> None:
    site = Site(way, stats_interval=0.001)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer, deltas=False)
    figures = await site.admin.watch(viewer, deltas=True)
    assert len(site.node.viewers.subscriptions) == 1
    await site.stranger.open("ws")
    await figures.step("stats-delta")
    await turns()
    assert not viewer.unread


@both
@asynchronous
async def test_without_route_tracking_no_route_is_told(transport: str) -> None:
    site = Site(route_tracking=False)
    page = await site.stranger.open(transport, "?route=/secret-a")
    viewer = await site.admin.open("ws", "?route=/secret-b")
    figures = await site.admin.watch(viewer)
    assert figures.now["routes"] == {}
    assert {row["route"] for row in figures.now["connections"]} == {"/"}
    await site.stranger.navigate(page, "/secret-c")
    await site.stranger.open(transport, "?route=/secret-d")
    await figures.total(3)
    assert "secret" not in json.dumps(viewer.received)
    assert "secret" not in (await site.admin.get("/admin/connections")).body.decode()


@every_way
@both
@asynchronous
async def test_without_connection_tracking_streams_stay_open_and_nothing_is_counted(way: str, transport: str) -> None:
    site = Site(way, connection_tracking=False)
    stream = await site.admin.open(transport)
    await site.admin.say(stream, {"type": "subscribe-stats"})
    await stream.next("stats-unauthorized")
    assert site.total == 0
    assert await site.headcount.broadcast({"type": "news"}) == 1
    await stream.next("news")
    assert (await site.admin.get("/admin/stats")).status == 409
    assert not stream.done


@both
@asynchronous
async def test_list_is_cut_at_its_limit_while_totals_stay_whole(transport: str) -> None:
    site = Site(max_listed_connections=3, stats_interval=0.001)
    pages = [await site.stranger.open("ws", f"?version=v{n % 2}&route=/{n}") for n in range(5)]
    viewer = await site.admin.open(transport, "?viewer=1")
    figures = await site.admin.watch(viewer)
    assert figures.now["total"] == 5
    assert figures.now["versions"] == {"v0": 3, "v1": 2}
    assert len(figures.now["routes"]) == 5
    assert [row["id"] for row in figures.now["connections"]] == [page.public for page in pages[:3]]
    assert figures.now["connectionsTruncated"] is True
    # Those that were not listed move up, and the list says so when it is whole again.
    await pages[0].leave()
    await pages[1].leave()
    now = await figures.total(3)
    assert {row["id"] for row in now["connections"]} == {page.public for page in pages[2:]}
    assert now["connectionsTruncated"] is False


@both
@asynchronous
async def test_labels_beyond_their_limits_are_counted_together(transport: str) -> None:
    site = Site(max_versions=2, max_routes=2, version="current")
    for number in range(4):
        await site.stranger.open(transport, f"?version=made-up-{number}&route=/{number}")
    await site.stranger.open(transport, "?version=current&route=/")
    viewer = await site.admin.open("ws", "?viewer=1")
    now = (await site.admin.watch(viewer)).now
    assert sum(now["versions"].values()) == sum(now["routes"].values()) == now["total"] == 5
    assert now["versions"] == {"made-up-0": 1, "made-up-1": 1, "(other)": 2, "current": 1}
    assert now["routes"] == {"/0": 1, "/1": 1, "(other)": 2, "/": 1}


@asynchronous
async def test_a_hundred_thousand_routes_leave_maps_and_messages_bounded() -> None:
    site = Site(max_routes=50, max_listed_connections=10, stats_interval=0.001, max_messages_per_second=1_000_000)
    viewer = await site.admin.open("ws", "?viewer=1")
    figures = await site.admin.watch(viewer)
    pages = [await site.stranger.open("ws") for _ in range(60)]
    sessions = [site.node.sessions[page.public] for page in pages]
    from headcount.core.messages import RouteUpdate

    for number in range(100_000):
        site.node.on_message(sessions[number % 60], RouteUpdate(f"/made-up/{number}"), _no_ask)
        if number % 1_000 == 0:
            await turns(3)
    await site.settled()
    while viewer.unread:
        await figures.step()
    assert figures.now["total"] == 60
    assert len(figures.now["routes"]) <= 51
    assert sum(figures.now["routes"].values()) == 60
    assert max(len(json.dumps(message)) for message in viewer.received) < 20_000
    registry = site.node._registry
    assert len(registry._routes.counts) <= 51
    assert len(registry._routes._before or {}) <= 102
    assert len(registry._rows._before or {}) <= 60


def _no_ask() -> Any:
    raise AssertionError("nobody subscribed")


@both
@asynchronous
async def test_two_viewers_see_the_same_figures(transport: str) -> None:
    site = Site(stats_interval=0.001)
    streams = [await site.admin.open(transport), await site.admin.open("ws")]
    figures = [await site.admin.watch(stream) for stream in streams]
    for _ in range(3):
        await site.stranger.open("sse")
    now = [await each.total(5) for each in figures]
    assert now[0] == now[1]


@both
@asynchronous
async def test_version_is_the_pages_own_then_the_cookies_and_never_the_servers(transport: str) -> None:
    site = Site(version="server")
    cookie = {"cookie": "__nkpv=from%2Fcookie"}
    for query, headers in (("?version=stamp", cookie), ("", cookie), ("", {}), ("?version=", cookie)):
        await site.stranger.open(transport, query, headers)
    assert site.node.figures.stats().versions == {"stamp": 1, "from/cookie": 2, "unknown": 1}


@both
@asynchronous
async def test_bad_version_in_a_cookie_locks_nobody_out(transport: str) -> None:
    site = Site()
    for cookie in ("__nkpv=" + "x" * 200, "__nkpv=a%0Ab", "__nkpv=%ED%A0%80", "__nkpv", "=;=;;__nkpv=;", "__NKPV=v1"):
        await site.stranger.open(transport, headers={"cookie": cookie})
    versions = dict(site.node.figures.stats().versions)
    assert versions.pop("unknown") >= 5
    assert all("\n" not in version and len(version) <= 128 for version in versions)


@asynchronous
async def test_cookie_can_be_switched_off() -> None:
    site = Site(cookie=False)
    await site.stranger.open("sse", headers={"cookie": "__nkpv=v7"})
    assert site.node.figures.stats().versions == {"unknown": 1}


@every_way
@both
@asynchronous
async def test_leaving_is_told_and_leaves_nothing(way: str, transport: str) -> None:
    site = Site(way, stats_interval=0.001)
    viewer = await site.admin.open("ws", "?viewer=1")
    figures = await site.admin.watch(viewer)
    page = await site.stranger.open(transport, "?version=v0&route=/a")
    await figures.total(1)
    await page.leave()
    now = await figures.total(0)
    assert (now["versions"], now["routes"], now["connections"]) == ({}, {}, [])
    await viewer.leave()
    assert not site.node.sessions
    assert not site.node.viewers.subscriptions
    assert not site.node.timers.by_loop


@both
@asynchronous
async def test_keepalives_come_within_the_interval(transport: str, quick_ticks: None) -> None:
    site = Site(keepalive_interval=0.02)
    stream: Stream = await site.stranger.open(transport)
    plain = await site.stranger.open("sse", "?keepalive=message")
    await turn_until(lambda: plain.keepalives)
    if isinstance(stream, EventStream):
        await turn_until(lambda: "\n\n:\n\n" in stream.text)
        assert not stream.keepalives, "a comment lets the page's code sleep on"
    else:
        await turn_until(lambda: stream.keepalives)


@asynchronous
async def test_keepalives_of_those_who_come_together_are_spread_and_begin_after_half_the_interval() -> None:
    site = Site(keepalive_interval=20 * timers.TICK)
    for _ in range(40):
        await site.stranger.open("ws")
    (wheel,) = site.node.timers.by_loop.values()
    # From the hand on, in the order in which it will reach them.
    ahead = [len(wheel._slots[(wheel._hand + step) % 20]) for step in range(1, 21)]
    assert ahead == [0] * 10 + [4] * 10


@asynchronous
async def test_each_stream_has_its_keepalive_in_each_turn_of_the_wheel(quick_ticks: None) -> None:
    site = Site(keepalive_interval=0.02)
    streams = [await site.stranger.open("ws") for _ in range(20)]
    await turn_until(lambda: all(stream.keepalives >= 2 for stream in streams))
    counts = [stream.keepalives for stream in streams]
    assert max(counts) - min(counts) <= 1


@asynchronous
async def test_ping_is_answered_and_is_no_part_of_a_word() -> None:
    site = Site()
    page = await site.stranger.open("ws")
    page.say_text("ping")
    await page.next("pong")
    page.say({"type": "ping"})
    await page.next("pong")
    for route in ("/shopping", "/ping", "/typing?ping=ping"):
        page.say({"type": "route-update", "route": route})
    page.say({"type": "something-with-ping", "ping": "ping"})
    page.say_bytes(b'{"type":"ping"}')
    await page.next("pong")
    assert not page.unread
    assert site.node.figures.stats().routes == {"/typing": 1}
    assert site.node.counters["unknown_messages"] == 1


@both
@asynchronous
async def test_admin_figures_are_those_of_the_stream(transport: str) -> None:
    site = Site(ip_tracking=True)
    await site.stranger.open(transport, "?version=v0&route=/a")
    viewer = await site.admin.open("ws", "?viewer=1")
    figures: Figures = await site.admin.watch(viewer)
    answer = await site.admin.get("/admin/stats")
    assert answer.json == figures.now
    assert answer.header("cache-control") == "no-store"


@asynchronous
async def test_a_node_alone_has_everything() -> None:
    site = Site()
    await site.stranger.open("ws")
    assert (await site.stranger.get("/admin/nodes")).status == 401
    assert (await site.admin.get("/admin/nodes")).json == {
        "shares": [{"node": site.node.id, "total": 1, "reporting": True, "silentMs": 0, "version": "v1"}],
        "nodes": {"reporting": 1, "expected": 1, "versions": {"v1": 1}},
        "partial": False,
    }


@asynchronous
async def test_anonymized_addresses_are_cut_before_they_are_kept() -> None:
    site = Site(ip_tracking="anonymized")
    await site.stranger.open("sse")
    await Client(site.app, client="2001:db8:1:2:3::4").open("ws")
    assert [row.ip for row in site.node.figures.stats().connections] == ["192.0.2.0", "2001:db8:1::"]


@both
@pytest.mark.parametrize("deltas", [True, False])
@asynchronous
async def test_a_viewer_is_sent_so_many_bytes_a_second_whatever_changes(
    transport: str, deltas: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_policy, "MAX_BYTES_PER_SECOND", 5_000)
    site = Site(stats_interval=0.001)
    viewer = await site.admin.open(transport, "?viewer=1")
    figures = await site.admin.watch(viewer, deltas=deltas)
    await site.stranger.open("sse", "?route=/" + "a" * 500)
    await figures.total(1)
    started = time.monotonic()
    for _ in range(5):
        await site.stranger.open("sse", "?route=/b")
    await figures.total(6)
    assert time.monotonic() - started > 0.1, "after about a thousand bytes"
    assert site.node.counters["flushes"] <= 3, "what happens meanwhile is one message"
