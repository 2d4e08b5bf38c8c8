"""The application's own functions: what they are told, in which order, and what they cannot break."""

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from asgi.asgi_client import TRANSPORTS, WAYS, Clock, Site, asynchronous, turn_until, turns
from headcount import ConfigError, Connection, Headcount, UnknownConnection
from headcount.node.hooks import MAX_WAITING, Hooks

both = pytest.mark.parametrize("transport", TRANSPORTS)
every_way = pytest.mark.parametrize("way", WAYS)


@every_way
@both
@pytest.mark.parametrize("kind", ["sync", "async"])
@asynchronous
async def test_hooks_are_told_who_came_moved_and_left(way: str, transport: str, kind: str) -> None:
    site = Site(way, ip_tracking=True)
    told: list[tuple[object, ...]] = []

    def note(what: str, connection: Connection, *rest: str) -> None:
        told.append((what, connection.id, connection.version, connection.route, connection.ip, *rest))

    if kind == "sync":
        site.headcount.on_connection_open(lambda connection: note("open", connection))
        site.headcount.on_route_update(lambda connection, before: note("route", connection, before))
        site.headcount.on_connection_close(lambda connection, reason: note("close", connection, reason))
    else:

        @site.headcount.on_connection_open
        async def opened(connection: Connection) -> None:
            note("open", connection)

        @site.headcount.on_route_update
        async def moved(connection: Connection, previous_route: str) -> None:
            note("route", connection, previous_route)

        @site.headcount.on_connection_close
        async def left(connection: Connection, reason: str) -> None:
            note("close", connection, reason)

    page = await site.stranger.open(transport, "?version=v0&route=/a")
    await site.stranger.navigate(page, "/b?q=1")
    await site.stranger.navigate(page, "/b#top")  # where it is already
    await site.settled()
    await page.leave()
    await turn_until(lambda: len(told) >= 3)
    await turns()
    who = (page.public, "v0")
    assert told == [
        ("open", *who, "/a", "192.0.2.7"),
        ("route", *who, "/b", "192.0.2.7", "/a"),
        ("close", *who, "/b", "192.0.2.7", "client"),
    ]


@both
@asynchronous
async def test_hooks_are_not_told_of_viewers_nor_without_tracking(transport: str) -> None:
    for site, query in ((Site(), "?viewer=1"), (Site(connection_tracking=False), "")):
        told: list[object] = []
        site.headcount.on_connection_open(told.append)
        site.headcount.on_connection_close(lambda *args: told.append(args))  # noqa: B023
        site.headcount.on_route_update(lambda *args: told.append(args))  # noqa: B023
        stream = await site.stranger.open(transport, query)
        await site.stranger.navigate(stream, "/b")
        await site.settled()
        await stream.leave()
        assert told == []


@asynchronous
async def test_registering_gives_the_function_back_and_several_are_called_in_order() -> None:
    site = Site()
    told: list[str] = []

    def first(_: Connection) -> None:
        told.append("first")

    assert site.headcount.on_connection_open(first) is first
    site.headcount.on_connection_open(lambda _: told.append("second"))
    await site.stranger.open("ws")
    assert told == ["first", "second"]


@both
@asynchronous
async def test_slow_open_is_never_overtaken_by_a_move_or_a_close(transport: str) -> None:
    site = Site()
    told: list[str] = []
    release = asyncio.Event()

    @site.headcount.on_connection_open
    async def opened(_: Connection) -> None:
        told.append("open begins")
        await release.wait()
        told.append("open ends")

    @site.headcount.on_route_update
    async def moved(connection: Connection, previous_route: str) -> None:
        told.append(f"{previous_route} to {connection.route}")

    @site.headcount.on_connection_close
    async def left(_: Connection, reason: str) -> None:
        told.append(reason)

    page = await site.stranger.open(transport, "?route=/a")
    for route in ("/b", "/c"):
        await site.stranger.navigate(page, route)
    await site.settled()
    await page.leave()
    await turns()
    assert told == ["open begins"]
    release.set()
    await turn_until(lambda: "client" in told)
    assert told == ["open begins", "open ends", "/a to /b", "/b to /c", "client"]


@both
@asynchronous
async def test_slow_hook_of_one_page_holds_no_other_up(transport: str) -> None:
    site = Site()
    told: list[str] = []
    release = asyncio.Event()

    @site.headcount.on_connection_open
    async def opened(connection: Connection) -> None:
        if connection.route == "/slow":
            await release.wait()
        told.append(connection.route)

    await site.stranger.open(transport, "?route=/slow")
    await site.stranger.open(transport, "?route=/quick")
    await turn_until(lambda: told)
    assert told == ["/quick"]
    release.set()
    await turn_until(lambda: len(told) == 2)


@every_way
@both
@pytest.mark.parametrize("kind", ["sync", "async", "cancelled"])
@asynchronous
async def test_exception_in_a_hook_is_logged_and_counted_and_breaks_nothing(
    way: str, transport: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(way)
    told: list[str] = []

    def fails(*_: Any) -> None:
        raise LookupError("no such thing")

    async def fails_later(*_: Any) -> None:
        await asyncio.sleep(0)
        raise LookupError("no such thing")

    async def waits_for_something_cancelled(*_: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    hook: Any = {"sync": fails, "async": fails_later, "cancelled": waits_for_something_cancelled}[kind]
    site.headcount.on_connection_open(hook)
    site.headcount.on_route_update(hook)
    site.headcount.on_connection_close(hook)
    site.headcount.on_connection_close(lambda *_: told.append("after it"))
    page = await site.stranger.open(transport)
    await site.stranger.navigate(page, "/on")
    await site.settled()
    assert site.node.figures.stats().routes == {"/on": 1}
    await page.leave()
    await turn_until(lambda: site.headcount._hooks.errors == 3)
    assert told == ["after it"]
    assert site.total == 0
    records = [record for record in caplog.records if record.name == "headcount"]
    assert len(records) == 1, "it is the same each time"
    assert all(record.levelno == logging.ERROR and record.exc_info for record in records)
    assert hook.__qualname__ in caplog.text


@both
@asynchronous
async def test_hook_that_hangs_is_cancelled_and_the_next_one_runs(transport: str) -> None:
    site = Site(hook_timeout=0.02)
    told: list[str] = []

    @site.headcount.on_connection_open
    async def hangs(_: Connection) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")

    @site.headcount.on_connection_close
    async def left(_: Connection, reason: str) -> None:
        told.append(reason)

    page = await site.stranger.open(transport)
    await page.leave()
    await turn_until(lambda: len(told) == 2)
    assert told == ["cancelled", "client"]
    assert site.headcount._hooks.errors == 1


@asynchronous
async def test_page_that_navigates_faster_than_the_hook_runs_costs_a_bounded_amount(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(max_messages_per_second=10_000)
    release = asyncio.Event()
    told: list[str] = []

    @site.headcount.on_route_update
    async def slow(connection: Connection, previous_route: str) -> None:
        await release.wait()
        told.append(connection.route)

    @site.headcount.on_connection_close
    async def left(_: Connection, reason: str) -> None:
        told.append(reason)

    flooder = await site.stranger.open("ws", "?route=/flooder")
    other = await site.stranger.open("ws", "?route=/other")
    for number in range(1_000):
        await site.stranger.navigate(flooder, f"/{number}")
    await site.stranger.navigate(other, "/calm")
    await site.settled()
    assert len(asyncio.all_tasks()) < MAX_WAITING + 20
    assert site.headcount._hooks.errors == 1_000 - MAX_WAITING
    assert len([record for record in caplog.records if record.name == "headcount"]) == 1
    await flooder.leave()
    release.set()
    await turn_until(lambda: "client" in told)
    assert told.index("/calm") < told.index("client")
    assert len(told) == MAX_WAITING + 2
    await turn_until(lambda: not site.headcount._hooks._waiting)
    assert not site.headcount._hooks._last


@every_way
@both
@pytest.mark.parametrize("kind", ["sync", "async"])
@asynchronous
async def test_hook_may_send_to_its_page_with_and_without_await(way: str, transport: str, kind: str) -> None:
    site = Site(way)
    if kind == "sync":

        @site.headcount.on_connection_open
        def greets(connection: Connection) -> None:
            connection.send({"type": "welcome", "route": connection.route})
    else:

        @site.headcount.on_connection_open
        async def greets_later(connection: Connection) -> None:
            await connection.send({"type": "welcome", "route": connection.route})

    page = await site.stranger.open(transport, "?route=/a")
    assert await page.next() == {"type": "welcome", "route": "/a"}


@both
@asynchronous
async def test_sending_to_a_page_that_has_left_is_an_error_of_the_hook_only(transport: str) -> None:
    site = Site()

    @site.headcount.on_connection_close
    async def too_late(connection: Connection, reason: str) -> None:
        await connection.send({"type": "bye"})

    page = await site.stranger.open(transport)
    await page.leave()
    await turn_until(lambda: site.headcount._hooks.errors == 1)
    assert site.total == 0


@every_way
@both
@asynchronous
async def test_application_sends_to_one_page(way: str, transport: str) -> None:
    site = Site(way)
    page, other = await site.stranger.open(transport), await site.stranger.open(transport)
    message = {"type": "order", "text": "é\n\r\u2028 data: x\n\n", "nested": {"list": [1, None, True]}}
    await site.headcount.send(page.public, message)
    assert await page.next() == message
    assert not other.unread


@asynchronous
async def test_sending_to_nobody_says_so() -> None:
    site = Site()
    page = await site.stranger.open("ws")
    await page.leave()
    for nobody in (page.public, "", "x", page.handle):
        with pytest.raises(UnknownConnection, match="No open connection"):
            await site.headcount.send(nobody, {"type": "news"})


@pytest.mark.parametrize(
    "wrong", [None, "text", b"bytes", ["list"], 1, {"type": object()}, {"type": {1, 2}.__iter__()}]
)
@asynchronous
async def test_message_that_is_no_json_object_is_refused_before_anybody_gets_it(wrong: Any) -> None:
    site = Site()
    page = await site.stranger.open("ws")
    with pytest.raises(TypeError):
        await site.headcount.send(page.public, wrong)
    with pytest.raises(TypeError):
        await site.headcount.broadcast(wrong)
    await turns()
    assert not page.unread


@both
@asynchronous
async def test_broadcast_reaches_all_or_those_of_a_version_or_on_a_route(transport: str) -> None:
    site = Site()
    pages = {
        name: await site.stranger.open(transport, f"?version={name[:2]}&route=/{name[2:]}")
        for name in ("v1a", "v1b", "v2a", "v2b")
    }
    viewer = await site.admin.open("ws", "?viewer=1")

    async def reached(**chosen: str) -> set[str]:
        count = await site.headcount.broadcast({"type": "news"}, **chosen)
        names = {name for name, page in pages.items() if page.unread}
        for name in names:
            await pages[name].next("news")
        assert count == len(names)
        return names

    assert await reached() == set(pages)
    assert await reached(version="v1") == {"v1a", "v1b"}
    assert await reached(route="/b") == {"v1b", "v2b"}
    assert await reached(version="v2", route="/a") == {"v2a"}
    assert await reached(version="none") == set()
    assert not viewer.unread, "who watches is no page"


@both
@asynchronous
async def test_broadcast_by_label_reaches_pages_that_are_counted_under_other(transport: str) -> None:
    site = Site(max_versions=1, max_routes=1)
    for number in range(3):
        page = await site.stranger.open(transport, f"?version=v{number}0&route=/{number}")
    assert await site.headcount.broadcast({"type": "news"}, version="v20", route="/2") == 1
    await page.next("news")


def test_asynchronous_hook_without_a_loop_is_an_error_and_not_a_forgotten_coroutine() -> None:
    hooks = Hooks(1.0)

    async def hook(connection: Connection) -> None:
        raise AssertionError

    class Nobody:
        id = "x"

    hooks.run([hook], Nobody())  # type: ignore[arg-type]
    assert hooks.errors == 1


def test_loop_that_closes_while_hooks_wait_leaves_no_forgotten_coroutine() -> None:
    site = Site("alone")
    begun: list[str] = []

    @site.headcount.on_connection_open
    async def hangs(_: Connection) -> None:
        begun.append("open")
        await asyncio.Event().wait()

    @site.headcount.on_connection_close
    async def never_begins(_: Connection, reason: str) -> None:
        begun.append("close")

    async def visit() -> None:
        incoming: asyncio.Queue[Any] = asyncio.Queue()

        async def send(_: Any) -> None:
            pass

        scope = site.stranger.scope("GET", "/__skew/sse")
        stream = asyncio.create_task(site.app(scope, incoming.get, send))
        await turn_until(lambda: begun)
        incoming.put_nowait({"type": "http.disconnect"})
        await stream

    asyncio.run(visit())
    assert begun == ["open"]
    assert not site.headcount._hooks._last


REGISTRARS = {
    "authorize_stats": "(request)",
    "on_connection_open": "(connection)",
    "on_connection_close": "(connection, reason)",
    "on_route_update": "(connection, previous_route)",
}


@pytest.mark.parametrize("registrar", REGISTRARS)
@pytest.mark.parametrize(
    "thing", [3, None, "admins_only", [print], "x" * 1_000_000], ids=lambda thing: repr(thing)[:20]
)
def test_what_cannot_be_called_is_no_hook(registrar: str, thing: Any) -> None:
    headcount = Headcount(version="v1")
    with pytest.raises(ConfigError) as caught:
        getattr(headcount, registrar)(thing)
    sentence = str(caught.value)
    assert sentence.startswith(f"{registrar} takes a function that it calls with {REGISTRARS[registrar]}, not ")
    assert len(sentence) < 200
    assert [headcount._authorizer.hook, *headcount._hooks.open] == [None]


async def nothing() -> None:
    """Takes too little."""


def three(one: object, two: object, three: object) -> None:
    """Takes too much."""


def named(*, connection: object) -> None:
    """Takes it by name only."""


@pytest.mark.parametrize("registrar", REGISTRARS)
@pytest.mark.parametrize("hook", [nothing, three, named])
def test_a_function_that_takes_something_else_is_refused_when_it_is_registered(registrar: str, hook: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(Headcount(version="v1"), registrar)(hook)
    assert str(caught.value).startswith(
        f"{registrar} calls its function with {REGISTRARS[registrar]}, but {hook.__name__}"
    )


def test_everything_that_can_be_called_so_is_taken() -> None:
    class Hook:
        def __call__(self, connection: object, reason: str = "none") -> None:
            """Take it."""

        def method(self, *anything: object) -> None:
            """Take it."""

    told: list[object] = []
    for hook in (Hook(), Hook().method, partial(three, 1, 2), told.append, print, lambda connection: None):
        headcount = Headcount(version="v1")
        assert headcount.on_connection_open(hook) is hook
        assert headcount._hooks.open == [hook]


@asynchronous
async def test_page_that_makes_a_hook_fail_again_and_again_cannot_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, seconds = Clock(), Clock()
    site = Site(hook=lambda _: 1 / 0, clock=seconds, max_messages_per_second=10_000)
    for throttle in (site.headcount._hooks._log_throttle, site.headcount._authorizer._log_throttle):
        throttle._clock = clock

    @site.headcount.on_route_update
    def fails(_: Connection, previous_route: str) -> None:
        raise KeyError(previous_route)

    page = await site.stranger.open("ws")
    for number in range(200):
        await site.stranger.navigate(page, f"/{number}")
        await site.stranger.say(page, {"type": "subscribe-stats"})
        await page.next("stats-unauthorized")
        seconds.advance(4.1)  # a page that was refused is checked so often
    assert site.headcount._hooks.errors == site.headcount._authorizer.errors == 200
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["Hook", "authorize_stats"]
    clock.advance(60)
    await site.stranger.navigate(page, "/later")
    await turn_until(lambda: len(caplog.records) == 3)
    assert "199 similar messages suppressed" in caplog.records[2].getMessage()


@both
@asynchronous
async def test_a_message_reaches_a_page_by_its_public_id_and_by_its_handle(transport: str) -> None:
    site = Site()
    page = await site.stranger.open(transport)
    await site.headcount.send(page.public, {"type": "by-id"})
    await site.headcount.send(page.handle, {"type": "by-handle"})
    await page.next("by-id")
    await page.next("by-handle")
    forged = page.handle[:-2] + ("aa" if page.handle[-2:] != "aa" else "bb")
    with pytest.raises(UnknownConnection):
        await site.headcount.send(forged, {"type": "forged"})
    await page.leave()
    with pytest.raises(UnknownConnection) as gone:
        await site.headcount.send(page.handle, {"type": "late"})
    assert page.handle not in str(gone.value), "a secret is no word for a log"
