"""Peers that do not read, or cannot be sent to: what they cost, and that nobody else pays."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

from headcount.asgi import session as asgi_session
from headcount.asgi.session import AsgiSession
from headcount.core.outbox import Outbox
from headcount.core.payload import Payload
from headcount.node import timers

from .asgi_client import (
    TRANSPORTS,
    WAYS,
    Clock,
    Site,
    Stream,
    WebSocket,
    asynchronous,
    turn_until,
    turns,
)

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "TICK", 0.002)
    monkeypatch.setattr(asgi_session, "CLOSE_TIMEOUT", 0.02)


@every_way
@both
@pytest.mark.parametrize("deltas", [True, False])
@asynchronous
async def test_viewer_that_does_not_read_holds_one_message_and_then_gets_the_newest_figures(
    way: str, transport: str, deltas: bool
) -> None:
    site = Site(way, stats_interval=0.001)
    slow, quick = await site.admin.open(transport), await site.admin.open("ws")
    slow_figures = await site.admin.watch(slow, deltas=deltas)
    quick_figures = await site.admin.watch(quick)
    slow.block()
    attempts = slow.attempts
    page = await site.stranger.open("ws")
    for number in range(50):
        await site.stranger.navigate(page, f"/{number}")
        route = f"/{number}"
        await quick_figures.until(lambda now: route in now["routes"])  # noqa: B023  awaited at once
    session = site.node.sessions[slow.public]
    assert slow.attempts == attempts + 1, "while one message is on its way, no second is begun"
    assert not getattr(session, "_queue", None)
    assert site.node.counters["conflated"] > 10
    slow.unblock()
    await slow_figures.until(lambda now: "/49" in now["routes"])
    late = [message["type"] for message in slow.received[2:]]
    assert late == ["stats-delta" if deltas else "stats", "stats"], "one that was on its way, and the whole"
    assert slow_figures.now == quick_figures.now
    # And from there on as before.
    await site.stranger.navigate(page, "/next")
    await slow_figures.step("stats-delta" if deltas else "stats")
    await quick_figures.step("stats-delta")
    assert slow_figures.now == quick_figures.now


@both
@asynchronous
async def test_viewer_that_recovers_when_nothing_has_changed_gets_nothing_twice(transport: str) -> None:
    site = Site(stats_interval=0.001)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    viewer.block()
    page = await site.stranger.open("ws")
    await turn_until(lambda: site.node.sessions[viewer.public].busy)
    viewer.unblock()
    await figures.total(2)
    await site.settled()
    assert not viewer.unread
    await site.stranger.navigate(page, "/on")
    await figures.step("stats-delta")


@every_way
@both
@asynchronous
async def test_peer_that_does_not_read_is_dropped_in_time(way: str, transport: str) -> None:
    clock = Clock()
    site = Site(way, clock=clock, stats_interval=0.001)
    reasons: list[str] = []
    site.headcount.on_connection_close(lambda connection, reason: reasons.append(f"{connection.route} {reason}"))
    slow = await site.admin.open(transport, "?route=/slow")
    await site.admin.watch(slow)
    quick = await site.admin.open("ws", "?viewer=1")
    figures = await site.admin.watch(quick)
    slow.block()
    await site.stranger.open("ws")
    await figures.total(2)
    await turn_until(lambda: site.node.sessions[slow.public].busy)
    clock.advance(9.9)
    await ticks(site)
    assert not slow.done
    clock.advance(0.2)
    await slow.ended()
    assert reasons == ["/slow slow"]
    assert site.node.counters["closed:slow"] == 1
    await figures.total(1)
    assert slow.public not in site.node.viewers.subscriptions


@both
@asynchronous
async def test_peer_that_reads_at_the_last_moment_stays(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock, stats_interval=0.001)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    for round_ in range(3):
        viewer.block()
        await site.stranger.open("ws")
        await turn_until(lambda: site.node.sessions[viewer.public].busy)
        clock.advance(9.9)
        await ticks(site)
        viewer.unblock()
        await figures.total(2 + round_)
    assert not viewer.done


@both
@asynchronous
async def test_peer_that_stopped_reading_is_told_why_if_it_reads_again_at_once(
    monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    monkeypatch.setattr("headcount.asgi.session.CLOSE_TIMEOUT", 30.0)  # "at once" takes a second on a busy machine
    clock = Clock()
    site = Site(clock=clock)
    slow = await site.stranger.open(transport)
    slow.block()
    await site.headcount.send(slow.public, {"type": "news"})
    clock.advance(11)
    await turn_until(lambda: slow.public not in site.node.sessions)
    slow.unblock()
    await slow.ended()
    if isinstance(slow, WebSocket):
        assert slow.close == (4408, "The client read nothing for 10 s.")
    else:
        assert slow.complete


@both
@asynchronous
async def test_peer_that_never_reads_even_the_beginning_is_dropped(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream: Stream = site.stranger.sse() if transport == "sse" else site.stranger.ws()
    if transport == "ws":
        await turn_until(lambda: stream.received)
    stream.block()
    await turn_until(lambda: site.node.sessions)
    await site.headcount.broadcast({"type": "news"})
    assert site.total == 1
    clock.advance(11)
    await stream.ended()
    assert site.total == 0


@both
@asynchronous
async def test_keepalives_do_not_pile_up_behind_a_peer_that_does_not_read(transport: str) -> None:
    site = Site(keepalive_interval=0.002)
    slow = await site.stranger.open(transport)
    slow.block()
    await turn_until(lambda: site.node.sessions[slow.public].busy)
    attempts = slow.attempts
    await ticks(site, 20)
    assert slow.attempts == attempts


async def ticks(site: Site, count: int = 3) -> None:
    """Wait for some ticks of the pulse."""
    (wheel,) = site.node.timers.by_loop.values()
    for _ in range(count):
        timer = wheel._timer
        await turn_until(lambda: wheel._timer is not timer)  # noqa: B023  awaited at once
    await turns(3)


@every_way
@both
@asynchronous
async def test_application_messages_wait_in_order_and_none_is_lost(way: str, transport: str) -> None:
    site = Site(way, max_queued_messages=10)
    slow = await site.stranger.open(transport)
    slow.block()
    for number in range(11):  # one on its way, ten that wait
        await site.headcount.send(slow.public, {"type": "news", "number": number})
    await turns()
    slow.unblock()
    for number in range(11):
        assert (await slow.next("news"))["number"] == number
    await turns()
    assert not slow.done
    assert not slow.unread


@every_way
@both
@asynchronous
async def test_peer_for_whom_too_many_messages_wait_is_dropped_and_others_get_theirs(way: str, transport: str) -> None:
    site = Site(way, max_queued_messages=10)
    slow, quick = await site.stranger.open(transport), await site.stranger.open(transport)
    slow.block()
    for number in range(30):
        await site.headcount.broadcast({"type": "news", "number": number})
    await slow.ended()
    assert site.node.counters["closed:slow"] == 1
    for number in range(30):
        assert (await quick.next("news"))["number"] == number
    if isinstance(slow, WebSocket):
        assert slow.close is None, "it did not even read that"


KEYS = tuple(f"tab-{number:016}" for number in range(64))


@every_way
@asynchronous
async def test_a_browser_of_64_tabs_is_not_slow_when_each_gets_a_message_at_once(way: str) -> None:
    """It reports all of them before it reads: that they are counted, what is current, and what a hook says to each."""
    site = Site(way, settle_time=0)
    await site.headcount.release("v2", unserved=True)

    @site.headcount.on_connection_open
    async def greet(connection: Any) -> None:
        await connection.send({"type": "greeting", "to": connection.id})

    stream = await site.visitor.open("ws", "?shared=1&version=v1")
    for key in KEYS:
        stream.say_text(json.dumps({"type": "tabs", "set": [{"key": key}]}))
    ids, told, greeted = dict[str, str](), list[str](), dict[str, str]()
    while len(ids) < len(KEYS) or len(told) < len(KEYS) or len(greeted) < len(KEYS):
        message = await stream.next()
        if message["type"] == "tabs":
            ids |= message["ids"]
        elif message["message"]["type"] == "version":
            told += message["tabs"]
        else:
            [key] = message["tabs"]
            greeted[key] = message["message"]["to"]
    assert sorted(told) == sorted(KEYS), "each once"
    assert greeted == ids
    assert not stream.done


@asynchronous
async def test_pings_of_a_peer_that_does_not_read_the_pongs_are_bounded() -> None:
    site = Site(max_queued_messages=10)
    socket = await site.stranger.open("ws")
    socket.block()
    for _ in range(1_000):
        socket.say_text("ping")
    await socket.ended()
    assert site.node.counters["closed:slow"] == 1
    assert socket._incoming.qsize() > 900, "what came after the end was not even read"


@asynchronous
async def test_peer_that_ends_itself_and_leaves_in_one_breath_does_not_cancel_its_server() -> None:
    """
    Its own flood ends the stream with a cancellation, which waits for the next pause.

    Should the peer's goodbye be there without one, that pause is the server's, after the application has returned.
    """
    after: list[str] = []

    async def server(scope: Any, receive: Any, send: Any) -> None:
        await site.headcount(scope, receive, send)
        await asyncio.sleep(0)
        after.append("still alive")

    site = Site("alone", max_queued_messages=2)
    for last in ({"type": "websocket.disconnect", "code": 1001}, {"type": "websocket.receive", "text": "nonsense"}):
        site.stranger.app = server
        socket = await site.stranger.open("ws")
        socket.block()
        for _ in range(4):
            socket.say_text("ping")
        socket.put(last)
        await socket.ended()
    assert after == ["still alive"] * 2


@both
@asynchronous
async def test_figures_do_not_wait_in_the_queue_of_application_messages(transport: str) -> None:
    site = Site(stats_interval=0.001)
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    other = await site.admin.watch(await site.admin.open("ws", "?viewer=1"))
    viewer.block()
    await site.headcount.send(viewer.public, {"type": "news", "number": 1})
    for total in range(2, 5):
        await site.stranger.open("ws")
        await other.total(total)
    await site.headcount.send(viewer.public, {"type": "news", "number": 2})
    viewer.unblock()
    await viewer.next("news")
    await viewer.next("news")
    await figures.step("stats")
    assert figures.now["total"] == 4
    await site.settled()
    assert not viewer.unread


@both
@asynchronous
async def test_withdrawal_is_told_after_what_was_on_its_way_and_nothing_after_it(transport: str) -> None:
    site = Site(stats_interval=0.001)
    viewer = await site.admin.open(transport)
    await site.admin.watch(viewer)
    other = await site.admin.watch(await site.admin.open("ws", "?viewer=1"))
    viewer.block()
    await site.stranger.open("ws")
    await other.total(2)
    await turn_until(lambda: site.node.sessions[viewer.public].busy)
    await site.headcount.revoke(viewer.public)
    await site.stranger.open("ws")
    await other.total(3)
    viewer.unblock()
    assert (await viewer.next())["type"] == "stats-delta"
    await viewer.next("stats-unauthorized")
    await site.settled()
    assert not viewer.unread


@every_way
@both
@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("Unexpected ASGI message"), ValueError("odd")])
@asynchronous
async def test_send_that_raises_ends_that_stream_and_disturbs_nobody(
    way: str, transport: str, error: Exception
) -> None:
    clock = Clock()
    site = Site(way, clock=clock, stats_interval=0.001)
    broken, quick = await site.admin.open(transport), await site.admin.open("ws")
    await site.admin.watch(broken)
    figures = await site.admin.watch(quick)
    broken.break_sending(error)
    for total in (3, 4):
        await site.stranger.open("ws")
        await figures.total(total)
    # A server tells that the peer has gone by receive(). This one does not, and is not believed for ever.
    assert not broken.done
    clock.advance(10.1)
    await broken.ended()
    await figures.total(3)
    assert site.node.counters["closed:broken"] == 1


@both
@asynchronous
async def test_peer_that_leaves_after_a_failed_send_has_left_as_a_client(transport: str) -> None:
    site = Site()
    broken = await site.stranger.open(transport)
    broken.break_sending(OSError("gone"))
    await site.headcount.broadcast({"type": "news"})
    attempts = broken.attempts
    await site.headcount.broadcast({"type": "news"})
    assert broken.attempts == attempts, "once is enough"
    await broken.leave()
    assert site.node.counters["closed:client"] == 1
    assert not site.node.timers.by_loop


@both
@asynchronous
async def test_send_that_fails_after_it_waited_is_a_failed_send(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.stranger.open(transport)
    release = asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        await release

    site.node.sessions[stream.public]._send = send  # type: ignore[attr-defined]
    await site.headcount.send(stream.public, {"type": "news"})
    await site.headcount.send(stream.public, {"type": "more"})
    release.set_exception(OSError("reset by peer"))
    await turns()
    assert not stream.done
    clock.advance(11)
    await stream.ended()
    assert site.node.counters["closed:broken"] == 1


@both
@asynchronous
async def test_message_whose_sending_had_not_begun_is_given_up_when_the_peer_leaves(transport: str) -> None:
    site = Site()
    stream = await site.stranger.open(transport)
    stream.block()
    await site.headcount.broadcast({"type": "news"})
    stream.unblock()
    await stream.next("news")
    # From now on each message has a task of its own, and this one's is cancelled before it begins.
    stream.put(stream._disconnect())
    await site.headcount.broadcast({"type": "late"})
    await stream.ended()
    assert not stream.unread


@both
@asynchronous
async def test_goodbye_that_is_not_read_or_fails_holds_nobody_up(transport: str) -> None:
    site = Site()
    deaf, broken = await site.stranger.open(transport), await site.stranger.open(transport)
    deaf.block()
    broken.break_sending(OSError("gone"))
    await site.headcount.drain()
    await deaf.ended()
    await broken.ended()
    assert not site.node.sessions


@both
@asynchronous
async def test_nothing_is_sent_while_the_node_is_locked(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A send runs middleware, and one that ends its stream runs hooks: either may wait for another thread."""
    site = Site(stats_interval=0.001, reauthorize_interval=0.05)
    locked: set[str] = set()

    def watched(name: str, call: Callable[[Any, Payload], None]) -> Callable[[Any, Payload], None]:
        def checked(session: Any, payload: Payload) -> None:
            if site.node._lock._is_owned():  # type: ignore[attr-defined]
                locked.add(name)
            call(session, payload)

        return checked

    monkeypatch.setattr(Outbox, "send", watched("send", Outbox.send))
    monkeypatch.setattr(AsgiSession, "transmit", watched("transmit", AsgiSession.transmit))
    viewer = await site.admin.open(transport)
    figures = await site.admin.watch(viewer)
    viewer.block()
    await site.stranger.open(transport)
    await turn_until(lambda: site.node.sessions[viewer.public].busy)
    pages = 1
    while not site.node.counters["conflated"]:
        # On a busy machine the check of the right may be overdue, and then a change waits for it.
        await site.stranger.open(transport)
        pages += 1
        await asyncio.sleep(0.02)
    viewer.unblock()
    await figures.total(1 + pages)
    assert await site.headcount.revoke(viewer.public)
    await viewer.next("stats-unauthorized")
    visitor = await site.visitor.open(transport)
    await site.visitor.say(visitor, {"type": "subscribe-stats"})
    await visitor.next("stats-unauthorized")
    await site.admin.watch(viewer)
    monkeypatch.setattr(site.node.check_runner, "run", AsyncMock(return_value=None))
    while (await viewer.next())["type"] != "stats-unauthorized":
        pass
    assert not locked


@every_way
@asynchronous
async def test_a_stream_that_no_page_reads_any_more_is_found_by_asking(way: str) -> None:
    """A service worker that copies responses keeps an event stream open after its page has gone."""
    site = Site(way, keepalive_interval=0.05, route_tracking=True)
    closed: list[str] = []
    site.headcount.on_connection_close(lambda connection, reason: closed.append(reason))
    ghost = await site.stranger.open("sse", "?answers=1")
    old = await site.stranger.open("sse")
    socket = await site.stranger.open("ws", "?answers=1")
    page = await site.stranger.open("sse", "?answers=1&route=/a")
    answers = 0
    while not ghost.done or answers < 3:
        message = await page.next("are-you-there")
        answers += 1
        await site.stranger.navigate(page, "/a")
    assert message == {"type": "are-you-there"}
    assert closed == ["no answer"]
    assert [stream.done for stream in (page, old, socket)] == [False] * 3
    assert [message["type"] for message in (*old.received, *socket.received)] == ["connected", "connected"]
    assert site.node.counters["closed:no answer"] == 1
    await page.leave()
    await turn_until(lambda: page.done)
    assert not any(loop.asked for loop in site.node.timers.by_loop.values()), "nothing is kept of a stream that left"


@every_way
@pytest.mark.parametrize("back", [False, True], ids=["grace over", "comes back"])
@asynchronous
async def test_a_page_that_does_not_answer_may_be_frozen_and_is_unaccounted_for(way: str, back: bool) -> None:
    clock = Clock()
    site = Site(way, clock=clock, keepalive_interval=0.05, stats_interval=0.001, unaccounted_grace=60)
    viewer = await site.admin.open("ws", "?viewer=1")
    figures = await site.admin.watch(viewer)
    seen: list[tuple[int, int]] = []
    frozen = await site.stranger.open("sse", "?answers=1&version=v1")
    await figures.total(1)
    await frozen.next("are-you-there")
    clock.advance(1)
    while figures.now["total"]:
        await figures.step()
        seen.append((figures.now["total"], figures.now.get("unaccounted", 0)))
    assert seen == [(0, 1)], "no figure ever says that the page has gone"
    [absence] = figures.now["absences"]
    assert (absence["total"], absence["versions"], absence["state"]) == (1, {"v1": 1}, "unanswered")
    assert figures.now["partial"]
    if back:
        await site.stranger.open("sse", f"?version=v1&replaces={frozen.handle}")
    else:
        clock.advance(62)
    await figures.until(lambda now: not now["partial"])
    assert (figures.now["total"], figures.now.get("unaccounted", 0)) == (int(back), 0)


@both
@asynchronous
async def test_a_page_that_does_not_read_may_be_frozen_too(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock, stats_interval=0.001)
    page = await site.stranger.open(transport, "?version=v1")
    page.block()
    await site.headcount.broadcast({"type": "news"})
    await turn_until(lambda: site.node.sessions[page.public].busy)
    clock.advance(10.1)
    await page.ended()
    stats = site.node.figures.stats()
    assert (stats.total, stats.unaccounted, stats.partial) == (0, 1, True)
    clock.advance(122)
    stats = site.node.figures.stats()
    assert (stats.unaccounted, stats.partial) == (0, False), "also where no stream is left that keeps a timer"
