"""Several Headcounts, several event loops, several tests in one process: none knows of the other."""

import asyncio
import contextvars
import gc
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from fastapi import FastAPI
from starlette.middleware.sessions import SessionMiddleware

from headcount import Headcount
from headcount.core import messages
from headcount.core.payload import Payload
from headcount.node import check_pace

from .asgi_client import (
    ADMIN,
    PATIENCE,
    SECRET,
    TRANSPORTS,
    VISITOR,
    WAYS,
    Client,
    Figures,
    Site,
    Stream,
    admins_only,
    asynchronous,
    timers,
    turn_until,
    turns,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer Starlette would rather have another HTTP library, which we need not have
    from starlette.testclient import TestClient

T = TypeVar("T")

NEWS = Payload(messages.application({"type": "news"}))

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)


def soon(condition: Callable[[], Any]) -> None:
    """Wait until something holds that other threads do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


_broken_off: list[asyncio.Task[Any]] = []


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        self._context = contextvars.copy_context()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in that loop and wait for the result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def stop(self) -> None:
        """Let it go as `asyncio.run` does: everything is cancelled first."""
        if self.loop.is_closed():
            return
        self.run(self._cancel_all())
        self.break_off()

    def break_off(self) -> None:
        """Close it in the middle of what it does."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        # Never collected: a coroutine that is closed after its loop complains in the middle of asyncio's own queues.
        _broken_off.extend(asyncio.all_tasks(self.loop))
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            assert task is not None
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def loops() -> Iterator[Callable[[], Loop]]:
    """Make loops; they are gone after the test."""
    from .asgi_client import _open

    token = _open.set([])
    made: list[Loop] = []

    def make() -> Loop:
        made.append(Loop())
        return made[-1]

    yield make
    for loop in made:
        loop.stop()
    _open.reset(token)
    gc.collect()


@both
@asynchronous
async def test_two_headcounts_in_one_application_know_nothing_of_each_other(transport: str) -> None:
    shop = Headcount(version="shop-1", base_path="/__shop", route_tracking=True)
    blog = Headcount(version="blog-1", base_path="/__blog")
    shop.authorize_stats(lambda _: True)
    app = FastAPI()
    app.mount(shop.base_path, shop)
    wrapped = blog.wrap(app)
    in_shop, in_blog = Client(wrapped, base="/__shop"), Client(wrapped, base="/__blog")
    page = await in_shop.open(transport)
    reader = await in_blog.open(transport)
    assert (page.connected["version"], reader.connected["version"]) == ("shop-1", "blog-1")
    figures = await in_shop.watch(page)
    assert figures.now["total"] == 1
    await in_blog.say(reader, {"type": "subscribe-stats"})
    await reader.next("stats-unauthorized")
    # The handle of the one is nothing to the other, and neither is its id.
    for path in ("/route", "/subscribe-stats"):
        assert (await in_blog.post(path, {"connectionId": page.handle, "route": "/x"})).status == 404
    assert await blog.broadcast({"type": "news"}) == 1
    await reader.next("news")
    assert not page.unread
    await blog.drain()
    await reader.ended()
    assert not page.done
    assert (await shop.stats()).total == 1


@every_way
@both
@asynchronous
async def test_without_a_stream_there_is_no_task_and_no_timer(way: str, transport: str) -> None:
    before = len(asyncio.all_tasks())
    site = Site(way)
    live = site.headcount.use_active_connections()
    assert live.total.value == 0
    assert (timers(), len(asyncio.all_tasks())) == ([], before)
    # The flush after the last change would be due in a quarter of a second: nobody waits for it any more.
    pages = [await site.stranger.open(transport) for _ in range(3)]
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer)
    await pages.pop().leave()
    await turns()
    await pages.pop().leave()
    assert len(timers()) == 2, "one pulse, one flush"
    await viewer.leave()
    assert len(timers()) == 1
    await pages.pop().leave()
    assert timers() == []
    assert len(asyncio.all_tasks()) == before
    assert not site.node.timers.by_loop


def test_importing_reads_opens_starts_and_patches_nothing() -> None:
    program = """
import os, sys, threading, asyncio
class Watched(dict):
    def __getitem__(self, key): assert not str(key).startswith("HEADCOUNT"), key; return super().__getitem__(key)
    def get(self, key, *rest): assert not str(key).startswith("HEADCOUNT"), key; return super().get(key, *rest)
os.environ["HEADCOUNT_BASE_PATH"] = "nonsense"
import starlette.requests, msgspec, anyio, anyio.to_thread
before = sorted(os.listdir("/dev/fd"))
os.environ = Watched(os.environ)
import headcount
assert sorted(os.listdir("/dev/fd")) == before
assert threading.active_count() == 1
assert "uvicorn" not in sys.modules and "httpx2" not in sys.modules and "fastapi" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)


def test_one_application_serves_several_loops_one_after_another() -> None:
    site = Site(stats_interval=0.001)  # as a module of an application has it

    async def visit() -> None:
        viewer = await site.admin.open("ws")
        figures = await site.admin.watch(viewer)
        assert figures.now["total"] == 1
        page = await site.stranger.open("sse")
        await figures.total(2)
        await page.leave()
        await figures.total(1)

    for _ in range(3):
        asynchronous(visit)()
        assert site.total == 0
    assert site.node.counters["opened"] == site.node.counters["closed"] == 6


def test_loop_that_ends_with_streams_open_leaves_none_of_them() -> None:
    """`asyncio.run` cancels what is left, so the streams end properly."""
    site = Site(stats_interval=0.001)

    async def visit() -> None:
        from .asgi_client import _open

        _open.set([])
        for transport in TRANSPORTS:
            await site.admin.watch(await site.admin.open(transport))
        assert site.total == 2

    asyncio.run(visit())
    gc.collect()
    assert not site.node.sessions
    assert not site.node.viewers.subscriptions
    assert not site.node.timers.by_loop
    asynchronous(visit)()


def make_app() -> tuple[FastAPI, Headcount]:
    """Make an application as a module holds it."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=SECRET)
    headcount = Headcount(version="v1", route_tracking=True, stats_interval=0.001)
    headcount.authorize_stats(admins_only)
    app.mount(headcount.base_path, headcount)
    return app, headcount


def test_two_clients_of_starlette_at_once_are_both_counted_and_told() -> None:
    """Without a context manager, each `websocket_connect` of a TestClient runs in a loop of its own."""
    app, headcount = make_app()
    with (
        TestClient(app).websocket_connect("/__skew/ws?route=/admin", headers=ADMIN) as viewer,
        TestClient(app).websocket_connect("/__skew/ws?route=/shop", headers=VISITOR) as page,
    ):
        assert viewer.receive_json()["type"] == "connected"
        handle = page.receive_json()["connectionId"]
        assert headcount.node.figures.local_stats().total == 2
        viewer.send_json({"type": "subscribe-stats", "deltas": True})
        stats = viewer.receive_json()
        assert (stats["total"], stats["routes"]) == (2, {"/admin": 1, "/shop": 1})
        page.send_json({"type": "route-update", "route": "/cart"})
        delta = viewer.receive_json()
        assert (delta["base"], delta["routes"]) == (stats["revision"], {"/shop": 0, "/cart": 1})
        # A POST runs in a third loop.
        answer = TestClient(app).post("/__skew/route", json={"connectionId": handle, "route": "/checkout"})
        assert answer.json() == {"ok": True}
        assert viewer.receive_json()["routes"] == {"/cart": 0, "/checkout": 1}
        page.send_json({"type": "subscribe-stats"})
        assert page.receive_json() == {"type": "stats-unauthorized"}
        with TestClient(app).websocket_connect("/__skew/ws?version=v0") as third:
            third.receive_json()
            assert viewer.receive_json()["total"] == 3
        assert viewer.receive_json()["total"] == 2
    assert not headcount.node.sessions
    assert not headcount.node.timers.by_loop


def test_subscription_posted_in_another_loop_is_told_on_the_stream(loops: Callable[[], Loop]) -> None:
    site = Site()
    here, there = loops(), loops()
    stream = here.run(site.admin.open("sse"))
    there.run(site.admin.post("/subscribe-stats", {"connectionId": stream.handle, "deltas": True}))
    figures = here.run(stream.figures())
    there.run(site.stranger.open("ws"))
    here.run(figures.total(2))
    there.run(site.visitor.post("/subscribe-stats", {"connectionId": stream.handle}))
    here.run(stream.next("stats-unauthorized"))
    assert not site.node.viewers.subscriptions


def test_right_revoked_from_another_thread_is_gone_at_once(
    loops: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_pace, "INTERVAL", 0.02)
    site = Site(stats_interval=0.001)
    here, there = loops(), loops()
    viewer = here.run(site.admin.open("ws"))
    here.run(site.admin.watch(viewer))
    for _ in range(20):
        page = there.run(site.stranger.open("ws"))
        assert there.run(site.headcount.revoke(viewer.public))
        assert not site.node.viewers.subscriptions
        there.run(page.leave())
        here.run(_withdrawn(viewer))
        here.run(_nothing_unread(viewer))
        here.run(site.admin.watch(viewer))


def test_nothing_is_sent_after_a_revocation_in_another_thread_has_returned(
    loops: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the stream has decided to send figures, and not sent them yet, when another one revokes."""
    site = Site(stats_interval=0.001)
    here, there = loops(), loops()
    viewer = here.run(site.admin.open("ws"))
    here.run(site.admin.watch(viewer))
    viewers = site.node.viewers
    session = site.node.sessions[viewer.public]
    events: list[str] = []
    deciding, revoked = threading.Event(), threading.Event()
    is_current, transmit = viewers._policy.is_current, type(session).transmit

    def hold(push: Any) -> bool:
        current = is_current(push)
        if current and threading.current_thread() is here.thread:
            deciding.set()
            revoked.wait(0.1)  # it waits for this thread, so this must end first
        return current

    def note(session: Any, payload: Payload) -> None:
        if payload.json.startswith((b'{"type":"stats"', b'{"type":"stats-delta"')):
            events.append("sent")
        transmit(session, payload)

    monkeypatch.setattr(viewers._policy, "is_current", hold)
    monkeypatch.setattr(type(session), "transmit", note)
    there.run(site.stranger.open("ws"))
    assert deciding.wait(PATIENCE)
    assert there.run(site.headcount.revoke(viewer.public))
    events.append("revoked")
    revoked.set()
    here.run(_withdrawn(viewer))
    here.run(_nothing_unread(viewer))
    assert events[-2:] == ["sent", "revoked"]


def test_a_revocation_does_not_wait_for_a_loop_that_does_not_run(
    loops: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headcount.node.fleet_commands.REVOKE_TIMEOUT", 0.01)
    site = Site()
    here, there = loops(), loops()
    viewer = here.run(site.admin.open("ws"))
    here.run(site.admin.watch(viewer))
    release = threading.Event()
    here.loop.call_soon_threadsafe(release.wait, PATIENCE)
    try:
        assert there.run(site.headcount.revoke(viewer.public))
    finally:
        release.set()
    here.run(_withdrawn(viewer))


async def _withdrawn(stream: Stream) -> None:
    while (await stream.next())["type"] != "stats-unauthorized":
        pass


async def _nothing_unread(stream: Stream) -> None:
    await turns(50)
    assert not stream.unread


def test_a_tab_that_two_loops_report_at_the_same_moment_is_counted_once(
    loops: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()
    sides = loops(), loops()
    streams = [side.run(site.visitor.open("ws", "?shared=1")) for side in sides]
    both_looked, new_ids = threading.Barrier(2), site.node.new_ids

    def new_ids_together() -> tuple[str, str]:
        both_looked.wait(PATIENCE)  # neither has found the tab
        return new_ids()

    monkeypatch.setattr(site.node, "new_ids", new_ids_together)
    tab = {"key": "key-of-the-only-tab", "version": "v1", "route": "/"}
    said = [
        asyncio.run_coroutine_threadsafe(site.visitor.say(stream, {"type": "tabs", "set": [tab]}), side.loop)
        for side, stream in zip(sides, streams, strict=True)
    ]
    for each in said:
        each.result(PATIENCE)
    for side, stream in zip(sides, streams, strict=True):
        side.run(stream.next("tabs"))
    soon(lambda: site.total == 1)
    assert site.node.shared_streams.tab_count == 1


def test_hooks_of_a_page_run_in_order_although_its_posts_come_in_by_another_loop(loops: Callable[[], Loop]) -> None:
    site = Site()
    told: list[str] = []
    release = threading.Event()

    @site.headcount.on_connection_open
    async def opened(_: Any) -> None:
        while not release.is_set():
            await asyncio.sleep(0.001)
        told.append("open")

    @site.headcount.on_route_update
    async def moved(connection: Any, _: str) -> None:
        told.append(connection.route)

    here, there = loops(), loops()
    page = here.run(site.stranger.open("sse"))
    for route in ("/a", "/b"):
        there.run(site.stranger.navigate(page, route))
    assert told == []
    release.set()
    soon(lambda: len(told) == 3)
    assert told == ["open", "/a", "/b"]
    assert site.headcount._hooks.errors == 0


@both
def test_stream_that_is_replaced_from_another_loop_ends_in_its_own(transport: str, loops: Callable[[], Loop]) -> None:
    site = Site()
    told, release, threads = _hooks_that_wait(site)
    here, there = loops(), loops()
    page = here.run(site.stranger.open(transport))
    stays = here.run(site.stranger.open(transport))
    there.run(site.stranger.open(transport, f"?replaces={page.handle}"))
    here.run(page.ended())
    release.set()
    soon(lambda: told.count(("close", page.public)))
    assert told.index(("open", page.public)) < told.index(("close", page.public))
    assert threads["close"] == threads[stays.public]
    assert site.headcount._hooks.errors == 0
    soon(lambda: not site.headcount._hooks._waiting)
    assert site.total == 2


def test_tab_that_a_stream_of_another_loop_reports_is_closed_in_its_own(loops: Callable[[], Loop]) -> None:
    site = Site()
    told, release, threads = _hooks_that_wait(site)
    here, there = loops(), loops()
    report = {"type": "tabs", "set": [{"key": "a-tab-of-this-browser"}]}

    async def lead() -> tuple[Stream, str]:
        stream = await site.visitor.open("ws", "?shared=1")
        await site.visitor.say(stream, report)
        (public,) = (await stream.next("tabs"))["ids"].values()
        return stream, public

    old, before = here.run(lead())
    stays = here.run(site.stranger.open("ws"))
    _, after = there.run(lead())
    assert before != after
    release.set()
    soon(lambda: told.count(("close", before)))
    assert told.index(("open", before)) < told.index(("close", before))
    assert threads["close"] == threads[stays.public]
    assert site.node.shared_streams.tab_count == 1
    here.run(old.leave())
    assert site.total == 2
    assert site.node.shared_streams.tab_count == 1, "the tab is the new stream's"


def _hooks_that_wait(site: Site) -> tuple[list[tuple[str, str]], threading.Event, dict[str, int]]:
    """Register hooks. Those of opening wait for the event; all note what happened, and in which thread."""
    told: list[tuple[str, str]] = []
    threads: dict[str, int] = {}
    release = threading.Event()

    @site.headcount.on_connection_open
    async def opened(connection: Any) -> None:
        threads[connection.id] = threading.get_ident()
        while not release.is_set():
            await asyncio.sleep(0.001)
        told.append(("open", connection.id))

    @site.headcount.on_connection_close
    async def closed(connection: Any, _: str) -> None:
        threads["close"] = threading.get_ident()
        told.append(("close", connection.id))

    return told, release, threads


def test_drain_and_messages_reach_the_pages_of_every_loop(loops: Callable[[], Loop]) -> None:
    site = Site()
    streams = [(loop, loop.run(site.stranger.open(kind))) for loop in (loops(), loops()) for kind in TRANSPORTS]
    assert site.node.notices.deliver_all(NEWS) == 4
    for loop, stream in streams:
        loop.run(stream.next("news"))
    site.node.drain()
    for loop, stream in streams:
        loop.run(stream.next("drain"))
        loop.run(stream.ended())


def test_viewers_in_several_loops_follow_a_random_history_without_a_gap(loops: Callable[[], Loop]) -> None:
    """`Figures` refuses any delta that does not start where the last message of its stream ended."""
    site = Site(stats_interval=0.001, ip_tracking=True)
    workers = [loops() for _ in range(3)]
    watching = [(loop, loop.run(_watch(site, transport))) for loop in workers for transport in TRANSPORTS]

    async def live(seed: int) -> None:
        chance = random.Random(seed)
        pages: list[Stream] = []
        for _ in range(150):
            if not pages or chance.random() < 0.4:
                pages.append(await site.stranger.open(chance.choice(TRANSPORTS), f"?version=v{chance.randrange(3)}"))
            elif chance.random() < 0.4:
                await pages.pop(chance.randrange(len(pages))).leave()
            else:
                await site.stranger.navigate(chance.choice(pages), f"/{chance.randrange(5)}")
            if chance.random() < 0.1:
                figures = watching[seed * 2 + 1][1]
                figures.stream.block()
                await turns(chance.randrange(30))
                figures.stream.unblock()
        while pages:
            await pages.pop().leave()

    running = [asyncio.run_coroutine_threadsafe(live(seed), loop.loop) for seed, loop in enumerate(workers)]
    for future in running:
        future.result(60)
    revision = site.node.figures.stats().revision
    for loop, figures in watching:
        now = loop.run(figures.until(lambda now: now["revision"] == revision))
        assert now["total"] == 0
        assert (now["versions"], now["routes"], now["connections"]) == ({}, {}, [])


async def _watch(site: Site, transport: str) -> Figures:
    stream = await site.admin.open(transport, "?viewer=1")
    return await site.admin.watch(stream)


class Held:
    """Holds a loop in the middle of a callback, as a busy one is, so that what others call in it has to wait."""

    def __init__(self, loop: Loop, then: Callable[[], None] = lambda: None) -> None:
        self._then = then
        self._entered = threading.Event()
        self._release = threading.Event()
        loop.loop.call_soon_threadsafe(self._hold)
        assert self._entered.wait(PATIENCE)

    def _hold(self) -> None:
        self._entered.set()
        self._release.wait(PATIENCE)
        self._then()

    def release(self) -> None:
        """Let it go on."""
        self._release.set()


def test_delta_that_a_whole_has_overtaken_is_not_sent(loops: Callable[[], Loop]) -> None:
    """It was chosen in one loop, and on its way to another when the figures were sent whole there."""
    site = Site(stats_interval=0.001)
    flushing, here = loops(), loops()
    flushing.run(_watch(site, "ws"))
    figures = here.run(_watch(site, "ws"))
    subscription = site.node.viewers.subscriptions[figures.your_id]
    held = Held(here, then=lambda: site.node.viewers._send_snapshot(subscription))
    flushes = site.node.counters["flushes"]
    flushing.run(site.stranger.open("ws"))
    soon(lambda: site.node.counters["flushes"] > flushes)
    held.release()
    here.run(figures.step("stats"))
    flushing.run(site.stranger.open("ws"))
    here.run(figures.total(2))


def test_whole_that_was_on_its_way_when_its_viewer_unsubscribed_is_not_sent(loops: Callable[[], Loop]) -> None:
    site = Site()
    here, there = loops(), loops()
    stream = here.run(site.admin.open("sse"))
    held = Held(here)
    for path in ("/subscribe-stats", "/unsubscribe-stats"):
        assert there.run(site.admin.post(path, {"connectionId": stream.handle})).status == 200
    held.release()
    site.node.notices.deliver_all(Payload(messages.application({"type": "marker"})))
    here.run(stream.next("marker"))


def test_loop_closed_in_the_middle_leaves_no_ghost(loops: Callable[[], Loop]) -> None:
    site = Site()
    reasons: list[str] = []
    site.headcount.on_connection_close(lambda _, reason: reasons.append(reason))
    loop = loops()
    kept = [loop.run(site.stranger.open(transport)) for transport in TRANSPORTS]
    kept.append(loop.run(site.admin.open("ws", "?viewer=1")))
    loop.run(site.admin.watch(kept[-1]))
    loop.break_off()
    assert site.node.figures.stats().total == 0
    assert reasons == ["loop closed"] * 2
    assert not site.node.sessions
    assert not site.node.viewers.subscriptions
    assert site.node.listing.list_connections(version=None, route=None, limit=10, after=0) == ([], None)
    assert site.node.notices.deliver_all(NEWS) == 0
    site.node.drain()


def test_viewers_elsewhere_are_told_that_a_loop_has_gone(loops: Callable[[], Loop], quick_ticks: None) -> None:
    site = Site(stats_interval=0.001)
    doomed, here = loops(), loops()
    # The first viewer's loop is the one that flushes; it goes in the middle of that.
    first = doomed.run(site.admin.open("ws"))
    doomed.run(site.admin.watch(first))
    doomed.run(site.stranger.open("sse"))
    viewer = here.run(site.admin.open("ws"))
    figures = here.run(site.admin.watch(viewer))
    here.run(figures.total(3))
    here.run(site.stranger.open("ws"))
    doomed.break_off()
    here.run(figures.total(2))


def test_change_that_a_closed_loop_was_to_tell_is_told_by_another(loops: Callable[[], Loop], quick_ticks: None) -> None:
    site = Site(stats_interval=0.1)
    doomed, here = loops(), loops()
    doomed.run(_watch(site, "ws"))
    figures = here.run(_watch(site, "ws"))
    here.run(site.stranger.open("ws"))
    here.run(figures.total(1))
    here.run(site.stranger.open("ws"))
    assert site.node.viewers._flush_loop is doomed.loop
    doomed.break_off()
    here.run(figures.total(2))


def test_whoever_watches_in_a_loop_that_is_closed_is_forgotten(loops: Callable[[], Loop]) -> None:
    site = Site(stats_interval=0.001)
    live = site.headcount.use_active_connections()
    doomed, here = loops(), loops()

    async def watch() -> None:
        live.total.subscribe(lambda _: None)

    doomed.run(watch())
    assert site.node.viewers.observers
    doomed.break_off()
    pages = [here.run(site.stranger.open("ws")) for _ in range(3)]
    assert not site.node.viewers.observers
    assert not site.node._registry.noting, "nobody watches, so nothing is noted"
    assert len(pages) == 3


@pytest.mark.parametrize("blocked", [True, False])
def test_stream_of_a_closed_loop_that_is_collected_late_harms_nobody(blocked: bool) -> None:
    site = Site()
    loop = asyncio.new_event_loop()

    async def never() -> Any:
        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        if blocked and message["type"] == "http.response.body":
            await never()

    async def begin() -> Coroutine[Any, Any, None]:
        stream = site.headcount(site.stranger.scope("GET", "/__skew/sse"), never, send)
        stream.send(None)  # by hand, so that it is this test that closes it, and not the collector
        return stream

    stream = loop.run_until_complete(begin())
    assert site.total == 1
    loop.run_until_complete(asyncio.sleep(0))
    _broken_off.extend(asyncio.all_tasks(loop))
    loop.close()
    assert site.total == 0
    stream.close()
    assert not site.node.sessions
    assert site.node.counters["closed"] == 1


@asynchronous
async def test_what_opens_and_closes_a_thousand_times_leaves_nothing() -> None:
    from .asgi_client import _open

    site = Site("alone", admin_token="token of this test", stats_interval=0.001)
    client = Client(site.app, {"authorization": "Bearer token of this test"})
    for _ in range(3):  # so that everything that is made once is there
        await (await client.open("ws")).leave()
    sizes = _sizes(site)
    for number in range(1_000):
        stream = await client.open(TRANSPORTS[number % 2], f"?route=/{number}&version=v{number}")
        if number % 10 == 0:
            await client.watch(stream)
        await stream.leave()
        _open.get().clear()
    await turn_until(lambda: len(asyncio.all_tasks()) == 1)
    assert _sizes(site) == sizes


def _sizes(site: Site) -> dict[str, int]:
    node, registry = site.node, site.node._registry
    containers: dict[str, Any] = {
        "sessions": node.sessions,
        "subscriptions": node.viewers.subscriptions,
        "asking": node.viewers.pending,
        "pulses": node.timers.by_loop,
        "observers": node.viewers.observers,
        "wholes": node.viewers._snapshots,
        "tasks": node.viewers._tasks,
        "listed": registry._rows.shown,
        "unlisted": registry._rows.spare,
        "versions": registry._versions.counts,
        "routes": registry._routes.counts,
        "noted": registry._rows._before or {},
    }
    return {name: len(container) for name, container in containers.items()}
