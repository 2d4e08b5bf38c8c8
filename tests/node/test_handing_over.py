"""A shared stream changes hands, and the tabs that stay never leave the figures (headcount/node/shared_streams.py)."""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest

from asgi.asgi_client import TRANSPORTS, WAYS, Clock, Site, Stream, asynchronous, problem, turn_until, turns
from headcount.core.ends import CLIENT
from headcount.node import shared_streams, timers
from headcount.node.node import Node
from headcount.node.shared_streams import HOLD, MAX_TABS

from .test_shared_streams import key, report, tab

P = ParamSpec("P")

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "TICK", 0.002)
    monkeypatch.setattr(shared_streams, "HOLD", HOLD)  # and as it was behind the test


def handing_over(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test as `asynchronous` does; behind it, nothing is held any more."""

    @functools.wraps(test)
    async def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await test(*args, **kwargs)
        finally:
            shared_streams.HOLD = 0.0  # type: ignore[misc]

    return asynchronous(run)


class Events:
    """What the hooks of a site were called with, and every total that a viewer could have seen."""

    def __init__(self, site: Site) -> None:
        self.calls: list[tuple[str, str]] = []
        site.headcount.on_connection_open(lambda connection: self.calls.append(("open", connection.id)))
        site.headcount.on_connection_close(lambda connection, reason: self.calls.append((reason, connection.id)))
        self.totals: list[int] = []
        registry = site.node._registry
        for name in ("open", "close"):
            self._watch(registry, name)

    def _watch(self, registry: Any, name: str) -> None:
        change = getattr(registry, name)

        def changed(*arguments: Any) -> Any:
            result = change(*arguments)
            if result is not None:  # else it was not in the figures
                self.totals.append(registry.total)
            return result

        setattr(registry, name, changed)


async def drop_held_tabs(site: Site, clock: Clock) -> None:
    """Let the time pass for which tabs are held."""
    clock.advance(HOLD + 0.1)
    await turn_until(lambda: not site.node.shared_streams._held, "nothing is held any more")


@both
@handing_over
async def test_two_hundred_hand_overs_are_invisible_but_for_the_tab_that_closed(transport: str) -> None:
    site = Site()
    names = [f"{number}" for number in range(8)]
    leader = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, leader, *(tab(name) for name in names))
    events = Events(site)
    for number in range(200):
        closing, *staying = names
        if number % 2:
            await report(site.visitor, leader, remove=(closing,))
        await leader.leave()
        new = await site.visitor.open(transport, f"?shared=1&replaces={leader.handle}")
        again = await report(site.visitor, new, *(tab(name) for name in staying), remove=(closing,))
        assert again == {key(name): ids[key(name)] for name in staying}, "each has its public id"
        # Another tab is opened in place of the closed one.
        names = [*staying, f"new-{number}"]
        ids = {**again, **await report(site.visitor, new, tab(names[-1]))}
        leader = new
    assert (min(events.totals), max(events.totals)) == (7, 8)
    assert site.total == 8
    assert [call for call, _ in events.calls] == [CLIENT, "open"] * 200


@every_way
@both
@handing_over
async def test_tabs_of_a_leader_that_crashed_are_adopted_at_once(way: str, transport: str) -> None:
    clock = Clock()
    site = Site(way, clock=clock)
    old = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, old, tab("leader"), tab("a"), tab("b"))
    events = Events(site)
    await old.leave()
    assert site.total == 3
    new = await site.visitor.open(transport, f"?shared=1&replaces={old.handle}")
    assert site.total == 3, "adopted, before they are reported"
    await report(site.visitor, new, tab("a"), tab("b", route="/b"))
    assert site.total == 3
    await drop_held_tabs(site, clock)
    assert site.node.figures.stats().routes == {"/": 1, "/b": 1}
    assert events.totals == [2]
    assert events.calls == [(CLIENT, ids[key("leader")])]


@both
@handing_over
async def test_a_leader_that_is_frozen_is_replaced_without_a_dip(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    frozen = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, frozen, tab("frozen"), tab("a"))
    frozen.block()
    events = Events(site)
    new = await site.visitor.open(transport, f"?shared=1&replaces={frozen.handle}")
    assert await report(site.visitor, new, tab("a")) == {key("a"): ids[key("a")]}
    assert site.total == 2
    # It wakes in time, and introduces itself to the new leader.
    assert await report(site.visitor, new, tab("frozen")) == {key("frozen"): ids[key("frozen")]}
    await assert_nothing_is_held(site, clock)
    assert (site.total, events.totals, events.calls) == (2, [], [])


async def assert_nothing_is_held(site: Site, clock: Clock) -> None:
    """Let the time pass, and show that nothing was waiting for it."""
    assert not site.node.shared_streams._held
    clock.advance(HOLD + 0.1)
    await asyncio.sleep(0.02)


@both
@handing_over
async def test_a_lone_tab_that_opens_its_next_stream_is_counted_throughout(transport: str) -> None:
    site = Site()
    old = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, old, tab("a"))
    events = Events(site)
    new = await site.visitor.open(transport, f"?shared=1&replaces={old.handle}")
    assert await report(site.visitor, new, tab("a")) == ids
    assert (site.total, events.totals, events.calls) == (1, [], [])


@both
@handing_over
async def test_a_lone_tab_that_closes_leaves_at_once(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a"))
    await stream.leave()
    assert (site.total, site.node.shared_streams.tab_count) == (0, 0)


@both
@handing_over
async def test_tabs_that_nobody_reports_are_dropped_in_time(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a"), tab("b"))
    await stream.leave()
    clock.advance(HOLD - 0.1)
    await asyncio.sleep(0.02)
    assert site.total == 2
    assert HOLD + 0.5 <= 2, "a tick late, and still within two seconds"
    clock.advance(0.2)
    await turn_until(lambda: site.total == 0, "the whole browser has gone")
    assert (site.node.shared_streams.tab_count, site.node.shared_streams._held) == (0, {})


@both
@handing_over
async def test_the_farewell_of_a_leader_may_come_after_the_end_of_its_stream(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("leader"), tab("a"))
    events = Events(site)
    await stream.leave()
    body = {"connectionId": stream.handle, "remove": [key("leader"), key("never-there")]}
    assert (await site.visitor.post("/tabs", body)).status == 200
    assert events.totals == [1]
    # Nothing else can be said of it.
    for path, fields in (("/tabs", {"set": [tab("c")]}), ("/route", {"route": "/x"}), ("/subscribe-stats", {})):
        answer = await site.visitor.post(path, {"connectionId": stream.handle, **fields})
        assert answer.status in (200, 404)
    assert (site.total, site.node.shared_streams.tab_count) == (1, 1)
    await drop_held_tabs(site, clock)
    problem(await site.visitor.post("/tabs", body), 404, "connectionId")
    assert site.total == 0


@both
@handing_over
async def test_a_farewell_before_the_end_leaves_the_only_other_tab_counted(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, stream, tab("leader"), tab("a"))
    events = Events(site)
    await report(site.visitor, stream, remove=("leader",))
    await stream.leave()
    new = await site.visitor.open(transport, f"?shared=1&replaces={stream.handle}")
    assert await report(site.visitor, new, tab("a"), remove=("leader",)) == {key("a"): ids[key("a")]}
    assert events.totals == [1]
    await assert_nothing_is_held(site, clock)
    assert site.total == 1


@both
@handing_over
async def test_only_the_secret_handle_adopts_tabs(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, stream, tab("a"), tab("b"))
    await stream.leave()
    for guess in (stream.public, f"{stream.handle}x", *ids.values(), "." * 100):
        await site.stranger.open(transport, f"?shared=1&replaces={guess}")
    # Nor does a page that does not share: it has no place for them.
    assert site.total == 2
    await drop_held_tabs(site, clock)
    assert site.total == 0


@both
@handing_over
async def test_a_stream_that_is_not_shared_takes_no_tabs_over(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a"), tab("b"))
    await site.visitor.open(transport, f"?route=/own&replaces={stream.handle}")
    assert site.node.figures.stats().routes == {"/own": 1}
    again = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, again, tab("a"), tab("b"))
    await again.leave()
    await site.visitor.open(transport, f"?route=/own&replaces={again.handle}")
    assert site.node.figures.stats().routes == {"/own": 2}


@handing_over
async def test_a_client_cannot_collect_tabs_by_opening_stream_after_stream() -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.visitor.open("ws", "?shared=1")
    for turn in range(4):
        for number in range(0, MAX_TABS, 16):
            await report(site.visitor, stream, *(tab(f"{turn}-{number + i}") for i in range(16)))
        assert site.total <= 2 * MAX_TABS
        old, stream = stream, await site.visitor.open("ws", f"?shared=1&replaces={stream.handle}")
        assert old.done or site.total <= MAX_TABS
        assert site.total == MAX_TABS
    await drop_held_tabs(site, clock)
    assert site.total == 0


@handing_over
async def test_a_full_browser_may_change_its_leader_and_open_a_tab() -> None:
    site = Site()
    stream = await site.visitor.open("ws", "?shared=1")
    for number in range(0, MAX_TABS, 16):
        await report(site.visitor, stream, *(tab(f"{number + i}") for i in range(16)))
    await stream.leave()
    new = await site.visitor.open("ws", f"?shared=1&replaces={stream.handle}")
    for number in range(1, MAX_TABS - 1, 16):
        await report(site.visitor, new, *(tab(f"{n}") for n in range(number, min(number + 16, MAX_TABS))))
    assert await report(site.visitor, new, tab("another"))
    await report(site.visitor, new, remove=("0",))
    assert site.total == MAX_TABS


@handing_over
async def test_a_node_holds_the_tabs_of_a_bounded_number_of_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_streams, "MAX_HELD", 3)
    clock = Clock()
    site = Site(clock=clock)
    for number in range(5):
        stream = await site.visitor.open("ws", "?shared=1")
        await report(site.visitor, stream, tab(f"{number}-a", route=f"/{number}"), tab(f"{number}-b"))
        await stream.leave()
    assert len(site.node.shared_streams._held) == 3
    assert site.node.figures.stats().routes == {"/": 3, "/2": 1, "/3": 1, "/4": 1}, "those that ended first are gone"
    await drop_held_tabs(site, clock)
    assert site.total == 0


@both
@handing_over
async def test_a_server_that_drains_holds_nobody(transport: str) -> None:
    site = Site()
    crashed = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, crashed, tab("a"), tab("b"))
    await crashed.leave()
    stream = await site.stranger.open(transport, "?shared=1")
    await report(site.stranger, stream, tab("c"), tab("d"))
    assert site.total == 4
    assert not site.node.is_idle
    await site.headcount.drain()
    await stream.ended()
    assert (site.total, site.node.shared_streams.tab_count) == (0, 0)


@both
@handing_over
async def test_a_process_without_streams_may_leave_its_fleet_although_tabs_are_held(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a"), tab("b"))
    await stream.leave()
    assert site.node.is_idle
    await drop_held_tabs(site, clock)
    assert site.node.is_idle


@both
@handing_over
async def test_messages_wait_for_the_next_leader(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, stream, tab("leader"), tab("a"))
    await stream.leave()
    await site.headcount.send(ids[key("a")], {"type": "hello"})
    assert await site.headcount.broadcast({"type": "sale"}) == 2
    for _ in range(100):
        await site.headcount.send(ids[key("a")], {"type": "flood"})
    await turns()
    new = await site.visitor.open(transport, f"?shared=1&replaces={stream.handle}")
    assert await new.next() == {"type": "to", "tabs": [key("a")], "message": {"type": "hello"}}
    assert await new.next() == {"type": "to", "tabs": [key("leader"), key("a")], "message": {"type": "sale"}}
    await site.visitor.say(new, {"type": "tabs", "set": [tab("a")]})
    await turn_until(lambda: any(message["type"] == "tabs" for message in new.unread))
    assert len(new.unread) <= shared_streams.MAX_WAITING


@both
@handing_over
async def test_a_message_of_the_very_moment_of_a_hand_over_is_not_lost(transport: str) -> None:
    for turn in range(12):
        site = Site()
        stream = await site.visitor.open(transport, "?shared=1")
        await report(site.visitor, stream, tab("leader"), tab("a"))
        opening = asyncio.ensure_future(site.visitor.open(transport, f"?shared=1&replaces={stream.handle}"))
        for _ in range(turn):
            await asyncio.sleep(0)
        assert await site.headcount.broadcast({"type": "sale"}) == 2
        new = await opening
        await turns()
        got = [message for each in (stream, new) for message in each.received if message["type"] == "to"]
        assert got == [{"type": "to", "tabs": [key("leader"), key("a")], "message": {"type": "sale"}}], turn
        await new.leave()


@both
@handing_over
async def test_a_viewer_sees_one_change_when_the_leading_tab_closes(transport: str) -> None:
    site = Site(stats_interval=0.001)
    figures = await site.admin.watch(await site.admin.open("ws", "?viewer=1"))
    stream: Stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("leader"), tab("a"), tab("b"))
    await figures.total(3)
    await report(site.visitor, stream, remove=("leader",))
    await stream.leave()
    new = await site.visitor.open(transport, f"?shared=1&replaces={stream.handle}")
    await report(site.visitor, new, tab("a"), tab("b", route="/moved"))
    seen = []
    while figures.now["routes"] != {"/": 1, "/moved": 1}:
        await figures.step()
        seen.append(figures.now["total"])
    assert set(seen) == {2}


@both
@handing_over
async def test_a_browser_whose_node_has_vanished_returns_one_page_with_the_version_of_its_tab(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()
    returned: list[tuple[str, str]] = []
    monkeypatch.setattr(Node, "page_returned", lambda _, handle, version: returned.append((handle, version)))
    own = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, own, tab("a"))
    await site.visitor.open(transport, f"?shared=1&replaces={own.handle}")
    assert not returned, "it was on this node"
    handle = f"0123456789ab{'0' * 20}.{'x' * 22}"
    stream = await site.visitor.open(transport, f"?shared=1&version=v9&replaces={handle}")
    assert not returned, "a tab has not been reported yet"
    await report(site.visitor, stream, remove=("never-there",))
    await report(site.visitor, stream, tab("b", "v7"), tab("c", "v8"))
    await report(site.visitor, stream, tab("d", "v7"))
    assert returned == [(handle, "v7")]
    await site.visitor.open(transport, f"?shared=1&replaces={'x' * 500}")
    assert len(returned) == 1


@handing_over
async def test_tabs_that_leave_in_another_thread_meanwhile_are_not_released_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the removal of a tab from its stream and that of its key, another loop may look at both."""
    site = Site(clock=Clock())
    tabs = site.node.shared_streams
    old = await site.visitor.open("sse", "?shared=1")
    await report(site.visitor, old, tab("leader"), tab("a"), tab("b"))
    await old.leave()
    await turn_until(lambda: bool(tabs._held), "the tabs are held")
    [stream] = tabs._held.values()
    confirm = tabs._confirm
    failures: list[Exception] = []
    looks: list[threading.Thread] = []

    def look() -> None:
        try:
            tabs._drop_unconfirmed(stream)
        except (KeyError, RuntimeError) as error:
            failures.append(error)

    def halfway(at: shared_streams.SharedStream, key: str) -> None:
        if not looks:
            looks.append(threading.Thread(target=look))
            looks[0].start()
            looks[0].join(0.2)
        confirm(at, key)

    monkeypatch.setattr(tabs, "_confirm", halfway)
    tabs._drop(stream.tabs[key("a")], CLIENT)
    looks[0].join()
    assert failures == []
    assert site.total == 0
