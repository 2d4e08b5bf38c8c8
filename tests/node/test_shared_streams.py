"""Tabs that share one stream: each is counted once, apart, whichever of them holds the stream."""

from typing import Any

import pytest

from asgi.asgi_client import (
    TRANSPORTS,
    Client,
    Clock,
    Site,
    Stream,
    WebSocket,
    asynchronous,
    problem,
    turn_until,
    turns,
)
from headcount.core import messages
from headcount.node import shared_streams, timers
from headcount.node.shared_streams import MAX_TAB_VERSIONS, MAX_TABS

both = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(autouse=True)
def _no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held, and for how long, is tested in test_handing_over.py."""
    monkeypatch.setattr(shared_streams, "HOLD", 0.0)
    monkeypatch.setattr(timers, "TICK", 0.002)


def key(name: str) -> str:
    return f"key-of-the-tab-{name}"


def tab(name: str, version: str = "v1", route: str = "/", **fields: Any) -> dict[str, Any]:
    return {"key": key(name), "version": version, "route": route, **fields}


async def report(client: Client, stream: Stream, *tabs: dict[str, Any], remove: tuple[str, ...] = ()) -> dict[str, str]:
    """Report tabs and return the public ids the server answers with, by key."""
    await client.say(stream, {"type": "tabs", "set": list(tabs), "remove": [key(name) for name in remove]})
    ids: dict[str, str] = (await stream.next("tabs"))["ids"]
    return ids


@both
@asynchronous
async def test_tabs_are_counted_and_their_stream_is_not(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1&version=v9&route=/nowhere")
    assert site.total == 0
    ids = await report(site.visitor, stream, tab("a", "v1", "/a"), tab("b", "v2", "/b?secret=1", hidden=True))
    stats = site.node.figures.stats()
    assert (stats.total, stats.versions, stats.routes) == (2, {"v1": 1, "v2": 1}, {"/a": 1, "/b": 1})
    assert [(row.id, row.version, row.hidden) for row in stats.connections] == [
        (ids[key("a")], "v1", False),
        (ids[key("b")], "v2", True),
    ]
    assert await report(site.visitor, stream, remove=("a",)) == {}
    assert site.node.figures.stats().versions == {"v2": 1}
    await stream.leave()
    await turn_until(lambda: site.total == 0, "its tabs are gone")
    assert site.node.shared_streams.tab_count == 0


@both
@asynchronous
async def test_viewers_see_tabs_come_navigate_hide_and_leave(transport: str) -> None:
    site = Site(stats_interval=0.001)
    figures = await site.admin.watch(await site.admin.open("ws", "?viewer=1"))
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a"), tab("b"))
    await figures.total(2)
    await report(site.visitor, stream, tab("b", route="/b", hidden=True))
    now = await figures.until(lambda now: now["routes"] == {"/": 1, "/b": 1})
    assert [row.get("hidden") for row in now["connections"]] == [None, True]
    await report(site.visitor, stream, tab("b", route="/b"))
    now = await figures.until(lambda now: not any("hidden" in row for row in now["connections"]))
    await stream.leave()
    await figures.total(0)


@both
@asynchronous
async def test_a_release_is_told_to_each_tab_once(transport: str) -> None:
    site = Site(version="v1")
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a", "v1"), tab("b", "v2"))
    assert await site.headcount.release("v2") == 1, "one message, on one stream"
    assert (await stream.next("version"))["version"] == "v2"
    await report(site.visitor, stream, tab("c", "v2"))
    ids = await report(site.visitor, stream, tab("d", "v1"))
    assert list(ids) == [key("d")]
    late = await stream.next("to")
    assert (late["tabs"], late["message"]["version"]) == ([key("d")], "v2")
    await stream.leave()
    again = await site.visitor.open(transport, "?shared=1&version=v1")
    assert again.connected["currentVersion"] == "v2"
    assert await report(site.visitor, again, tab("e", "v2"))
    told = [message["type"] for message in (*stream.received, *again.received)]
    assert (told.count("version"), told.count("to")) == (1, 1)


@asynchronous
async def test_what_a_report_does_not_name_stays() -> None:
    site = Site()
    stream = await site.visitor.open("ws", "?shared=1")
    first = await report(site.visitor, stream, tab("a", route="/a"))
    second = await report(site.visitor, stream, tab("b"))
    again = await report(site.visitor, stream, tab("a", route="/a"), remove=("never-there",))
    assert again == first
    assert first.keys().isdisjoint(second)
    assert site.node.figures.stats().routes == {"/a": 1, "/": 1}


@both
@asynchronous
async def test_a_tab_without_a_version_has_that_of_the_cookie_and_never_the_server_s(transport: str) -> None:
    site = Site()
    silent = await site.stranger.open(transport, "?shared=1")
    await report(site.stranger, silent, {"key": key("a")})
    said = await site.stranger.open(transport, "?shared=1", {"cookie": "__nkpv=v7"})
    await report(site.stranger, said, {"key": key("b")})
    assert site.node.figures.stats().versions == {"unknown": 1, "v7": 1}


@both
@asynchronous
async def test_a_tab_moves_with_the_leadership_and_is_never_counted_twice(transport: str) -> None:
    site = Site()
    told: list[tuple[str, str]] = []
    site.headcount.on_connection_open(lambda connection: told.append(("open", connection.id)))
    site.headcount.on_connection_close(lambda connection, reason: told.append(("close", connection.id)))
    old = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, old, tab("leader"), tab("a"), tab("b"))
    new = await site.visitor.open(transport, "?shared=1")
    assert await report(site.visitor, new, tab("a", route="/a"), tab("b")) == {
        name: ids[name] for name in (key("a"), key("b"))
    }
    assert site.node.figures.stats().routes == {"/": 2, "/a": 1}
    # What the old stream still says does not touch a tab that has left it.
    await report(site.visitor, old, remove=("a",))
    assert site.total == 3
    await old.leave()
    await turn_until(lambda: site.node.figures.stats().routes == {"/": 1, "/a": 1}, "the leader's tab has gone")
    assert told == [
        ("open", ids[key("leader")]),
        ("open", ids[key("a")]),
        ("open", ids[key("b")]),
        ("close", ids[key("leader")]),
    ]


@both
@asynchronous
async def test_tabs_can_be_taken_off_a_stream_by_its_handle(transport: str) -> None:
    site = Site()
    old = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, old, tab("a"), tab("b"))
    body = {"connectionId": old.handle, "remove": [key("a"), key("b")]}
    assert (await site.visitor.post("/tabs", body)).status == 200
    assert site.total == 0
    await old.leave()
    problem(await site.visitor.post("/tabs", body), 404, "connectionId")


@asynchronous
async def test_a_page_of_another_version_under_the_same_key_is_another_connection() -> None:
    site = Site()
    stream = await site.visitor.open("ws", "?shared=1")
    first = await report(site.visitor, stream, tab("a", "v1"))
    second = await report(site.visitor, stream, tab("a", "v2"))
    assert first != second
    assert site.node.figures.stats().versions == {"v2": 1}


@both
@asynchronous
async def test_messages_reach_the_tabs_they_are_for_and_go_out_once(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1")
    ids = await report(site.visitor, stream, tab("a", route="/a"), tab("b", route="/b"), tab("c", route="/b"))
    await site.headcount.send(ids[key("a")], {"type": "hello"})
    assert await stream.next() == {"type": "to", "tabs": [key("a")], "message": {"type": "hello"}}
    assert await site.headcount.broadcast({"type": "sale"}, route="/b") == 2
    assert await stream.next() == {"type": "to", "tabs": [key("b"), key("c")], "message": {"type": "sale"}}
    assert await site.headcount.broadcast({"type": "all"}) == 3
    assert (await stream.next())["tabs"] == [key("a"), key("b"), key("c")]
    await turns()
    assert not stream.unread


@asynchronous
async def test_a_hook_may_answer_the_tab_that_opened() -> None:
    site = Site()

    @site.headcount.on_connection_open
    def welcome(connection: Any) -> None:
        connection.send({"type": "welcome", "route": connection.route})

    stream = await site.visitor.open("ws", "?shared=1")
    await report(site.visitor, stream, tab("a", route="/a"))
    assert await stream.next("to") == {
        "type": "to", "tabs": [key("a")], "message": {"type": "welcome", "route": "/a"},
    }  # fmt: skip


@both
@asynchronous
async def test_a_shared_stream_may_watch_and_its_right_can_be_withdrawn_by_a_tab_s_id(transport: str) -> None:
    site = Site()
    stream = await site.admin.open(transport, "?shared=1")
    ids = await report(site.admin, stream, tab("a"))
    figures = await site.admin.watch(stream)
    assert figures.now["total"] == 1
    assert [row["id"] for row in figures.now["connections"]] == [ids[key("a")]]
    assert await site.headcount.revoke(ids[key("a")])
    assert (await stream.next())["type"] == "stats-unauthorized"
    assert site.total == 1, "only the right is gone, not the tab"


@both
@asynchronous
async def test_a_refused_viewer_s_tabs_stay(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a"))
    await site.visitor.say(stream, {"type": "subscribe-stats"})
    await stream.next("stats-unauthorized")
    viewer = await site.visitor.open(transport, "?viewer=1")
    clock.advance(11)
    await turn_until(lambda: viewer.done, "a viewer's own stream without a right ends")
    assert not stream.done
    assert site.total == 1


@both
@asynchronous
async def test_a_shared_stream_without_tabs_is_closed(transport: str) -> None:
    clock = Clock()
    site = Site(clock=clock)
    never = await site.visitor.open(transport, "?shared=1")
    emptied = await site.visitor.open(transport, "?shared=1")
    used = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, emptied, tab("a"))
    await report(site.visitor, emptied, remove=("a",))
    await report(site.visitor, used, tab("b"))
    clock.advance(11)
    await turn_until(lambda: never.done and emptied.done, "streams without tabs end")
    if isinstance(never, WebSocket):
        assert await never.closed() == (4400, "This stream was opened with shared=1, but no tab was reported on it.")
    assert not used.done


@both
@asynchronous
async def test_more_tabs_than_a_browser_has_are_refused(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1")
    for number in range(0, MAX_TABS, 16):
        await report(site.visitor, stream, *(tab(f"{number + i}") for i in range(16)))
    assert await report(site.visitor, stream, tab("another"), remove=("0",)), "one left, one came"
    assert site.total == MAX_TABS
    too_many = {"set": [tab("one-too-many")]}
    if isinstance(stream, WebSocket):
        stream.say({"type": "tabs", **too_many})
        code, reason = await stream.closed()
        assert (code, "64 tabs" in reason) == (4400, True)
        await turn_until(lambda: site.total == 0, "its tabs are gone")
    else:
        answer = await site.visitor.post("/tabs", {"connectionId": stream.handle, **too_many})
        problem(answer, 400, "64 tabs")
        assert site.total == MAX_TABS


@both
@asynchronous
async def test_only_a_shared_stream_takes_tabs(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport)
    if isinstance(stream, WebSocket):
        stream.say({"type": "tabs", "set": [tab("a")]})
        assert (await stream.closed())[0] == 4400
    else:
        answer = await site.visitor.post("/tabs", {"connectionId": stream.handle, "set": [tab("a")]})
        problem(answer, 400, "shared=1")
        assert site.total == 1


@asynchronous
async def test_a_viewer_s_stream_cannot_be_shared() -> None:
    site = Site()
    problem(await site.admin.get("/sse?viewer=1&shared=1"), 400, "exclude one another")


@asynchronous
async def test_tabs_fill_the_server_as_connections_do() -> None:
    site = Site(max_connections=4)
    stream = await site.visitor.open("ws", "?shared=1")
    await report(site.visitor, stream, tab("a"), tab("b"), tab("c"))
    await site.visitor.open("ws")
    problem(await site.visitor.get("/sse"), 503, "full")
    await report(site.visitor, stream, tab("a", route="/moved"), tab("d"), remove=("b",))
    assert site.total == 4, "one more came when one had left"


@asynchronous
async def test_streams_without_tabs_fill_the_server_too() -> None:
    site = Site(max_connections=2)
    await site.visitor.open("ws", "?shared=1")
    await site.visitor.open("sse", "?shared=1")
    problem(await site.visitor.get("/sse"), 503, "full")


@asynchronous
async def test_a_report_of_tabs_for_which_there_is_no_room_changes_nothing() -> None:
    site = Site(max_connections=3)
    sse, ws = await site.visitor.open("sse", "?shared=1"), await site.visitor.open("ws", "?shared=1")
    await report(site.visitor, sse, tab("a"))
    await report(site.visitor, ws, tab("b"))
    body = {"connectionId": sse.handle, "set": [tab("c"), tab("d")], "remove": []}
    answer = await site.visitor.post("/tabs", body)
    problem(answer, 503, "This server is full; reconnect later.")
    assert int(answer.headers["retry-after"]) >= 1
    assert site.total == 2
    await site.visitor.say(ws, {"type": "tabs", "set": [tab("e"), tab("f")], "remove": []})
    assert await ws.closed() == (1013, "This server is full; reconnect later.")
    await turn_until(lambda: site.total == 1)
    assert site.node.counters["refused:full"] == 2


@both
@asynchronous
async def test_a_stream_s_tabs_are_of_at_most_eight_versions(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1&version=v0")
    await report(site.visitor, stream, *(tab(f"{n}", f"v{n}") for n in range(MAX_TAB_VERSIONS)))
    await report(site.visitor, stream, tab("a", "v1"), tab("b", ""))
    await report(site.visitor, stream, tab("c", "new"), remove=("7",))
    message = {"type": "tabs", "set": [tab("d", "newer")], "remove": []}
    if isinstance(stream, WebSocket):
        await site.visitor.say(stream, message)
        code, reason = await stream.closed()
        assert (code, "at most 8 versions" in reason) == (4400, True)
    else:
        problem(await site.visitor.post("/tabs", {**message, "connectionId": stream.handle}), 400, "at most 8 versions")
        assert len(site.node.figures.stats().versions) == MAX_TAB_VERSIONS


@asynchronous
async def test_renaming_tabs_one_by_one_fills_no_more_than_eight_versions() -> None:
    site = Site()
    stream = await site.visitor.open("ws", "?shared=1")
    await report(site.visitor, stream, *(tab(f"{n}") for n in range(20)))
    for number in range(20):
        await site.visitor.say(stream, {"type": "tabs", "set": [tab(f"{number}", f"made-up-{number}")], "remove": []})
    await stream.closed()
    assert len(site.node.figures.stats().versions) == 0


@both
@asynchronous
async def test_drain_ends_a_shared_stream_once_and_takes_its_tabs_out(transport: str) -> None:
    site = Site()
    stream = await site.visitor.open(transport, "?shared=1")
    await report(site.visitor, stream, tab("a"), tab("b"))
    await site.headcount.drain()
    await stream.ended()
    assert [message["type"] for message in stream.unread] == ["drain"]
    assert site.total == 0


@asynchronous
async def test_without_tracking_tabs_get_messages_and_are_not_counted() -> None:
    site = Site(connection_tracking=False)
    stream = await site.visitor.open("ws", "?shared=1")
    await report(site.visitor, stream, tab("a"))
    assert site.total == 0
    assert await site.headcount.broadcast({"type": "sale"}) == 1
    assert (await stream.next("to"))["tabs"] == [key("a")]


@asynchronous
async def test_reports_that_were_checked_before_either_was_applied_do_not_add_up_past_the_limit() -> None:
    """A POST is checked in its own loop, and applied in that of the stream."""
    site = Site()
    stream = await site.visitor.open("ws", "?shared=1")
    session = site.node.sessions[stream.public]
    reports = [
        messages.checked_tabs(tuple(messages.Tab(key(f"{part}-{n}"), "v1") for n in range(MAX_TABS)), ())
        for part in "ab"
    ]
    for each in reports:
        site.node.shared_streams.check_report(session, each)
    for each in reports:
        site.node.shared_streams.apply_report(session, each)
    assert site.total == MAX_TABS
