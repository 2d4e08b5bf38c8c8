"""A page that says goodbye is gone at once; one whose stream breaks off is away until it is back or 48 s are over."""

from typing import Any

import pytest

from headcount.core.away_pages import GRACE
from headcount.core.ends import ENDS, FAREWELLS, FOR_GOOD

from .asgi_client import TRANSPORTS, WAYS, Clock, Site, WebSocket, asynchronous, problem, turn_until

both = pytest.mark.parametrize("transport", TRANSPORTS)
KEYS = ("the-key-of-one-tab", "the-key-of-a-second-tab", "the-key-of-a-third-tab")


def away(site: Site) -> dict[str, int]:
    return dict(site.node.figures.stats().away)


@pytest.mark.parametrize("way", WAYS)
@both
@asynchronous
async def test_a_stream_that_ends_without_a_word_leaves_its_page_away(way: str, transport: str) -> None:
    clock = Clock()
    site = Site(way, clock=clock)
    for version in ("v1", "old", "old"):
        page = await site.visitor.open(transport, f"?version={version}")
        await page.leave()
    assert (site.total, away(site)) == (0, {"v1": 1, "old": 2})
    answer = await site.admin.get("/admin/stats")
    assert (answer.json["away"], answer.json["partial"]) == ({"v1": 1, "old": 2}, False)
    clock.advance(GRACE)
    assert away(site) == {}
    assert "away" not in (await site.admin.get("/admin/stats")).json


@both
@asynchronous
async def test_a_page_that_comes_back_is_away_no_more(transport: str) -> None:
    site = Site()
    first = await site.visitor.open(transport, "?version=old")
    await first.leave()
    await site.visitor.open(transport, "?version=old")
    assert away(site) == {"old": 1}, "another page"
    second = await site.visitor.open(transport, f"?version=old&replaces={first.handle}")
    assert (away(site), site.total) == ({}, 2)
    await site.visitor.open(transport, f"?version=old&replaces={second.handle}")
    assert (away(site), site.total) == ({}, 2), "what was replaced did not break off"


@pytest.mark.parametrize("code", [*sorted(FAREWELLS), 1005, 1006, 1011, 4400])
@asynchronous
async def test_two_close_codes_are_a_farewell(code: int) -> None:
    site = Site()
    page = await site.visitor.open("ws", "?version=old")
    await page.leave(code)
    assert away(site) == ({} if code in FAREWELLS else {"old": 1})


@both
@asynchronous
async def test_bye_ends_the_count_at_once_though_something_goes_on_to_read_the_stream(transport: str) -> None:
    """A service worker or a proxy may keep the stream of a page open that is gone."""
    site = Site()
    causes: list[str] = []
    site.headcount.on_connection_close(lambda connection, cause: causes.append(cause))
    page = await site.visitor.open(transport, "?version=old")
    answer = await site.visitor.post("/bye", {"connectionId": page.handle})
    assert (answer.status, answer.json) == (200, {"ok": True})
    assert (site.total, away(site)) == (0, {})
    await page.ended()
    if isinstance(page, WebSocket):
        assert page.close == (1000, "The page said that it leaves.")
    assert causes == ["client"]


@both
@asynchronous
async def test_bye_may_come_after_the_end_of_the_stream_and_again(transport: str) -> None:
    site = Site()
    page = await site.visitor.open(transport, "?version=old")
    await page.leave()
    assert away(site) == {"old": 1}
    for _ in range(2):
        assert (await site.visitor.post("/bye", {"connectionId": page.handle})).status == 200
        assert away(site) == {}


@asynchronous
async def test_a_beacon_is_text_and_comes_only_from_pages_that_may_connect() -> None:
    site = Site()
    page = await site.visitor.open("sse")
    body = f'{{"connectionId":"{page.handle}"}}'.encode()
    text = {"content-type": "text/plain;charset=UTF-8"}
    foreign = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}
    problem(await site.visitor.post("/bye", body, text | foreign), 403, "another site")
    problem(await site.visitor.post("/route", body, text), 415, "send JSON")
    problem(await site.visitor.post("/bye", body, {"content-type": "text/html"}), 415, "send JSON")
    assert site.total == 1
    assert (await site.visitor.post("/bye", body, text)).status == 200
    assert site.total == 0


@asynchronous
async def test_nobody_says_goodbye_for_another_page() -> None:
    site = Site()
    page = await site.visitor.open("sse", "?version=old")
    shared = await site.visitor.open("ws", "?shared=1&version=old")
    await site.visitor.say(shared, {"type": "tabs", "set": [{"key": KEYS[0]}]})
    await shared.next("tabs")
    for guess in (page.public, f"{page.handle}x", page.handle.swapcase(), "." * 90):
        problem(await site.stranger.post("/bye", {"connectionId": guess}), 404)
    problem(await site.stranger.post("/bye", {"connectionId": ""}), 400, "connectionId")
    problem(await site.stranger.post("/bye", {"connectionId": page.handle, "tab": "?"}), 400, "tab key")
    await site.stranger.post("/bye", {"connectionId": page.handle, "tab": KEYS[1]})
    assert site.total == 2, "the key of a tab is a secret like the handle of a stream"
    problem(await site.stranger.post("/bye", {"connectionId": f"{page.handle}x", "tab": KEYS[0]}), 404)
    assert site.total == 2
    await shared.leave()
    await turn_until(lambda: away(site) == {"old": 1})
    await site.stranger.post("/bye", {"connectionId": page.handle, "tab": KEYS[1]})
    assert away(site) == {"old": 1}


@asynchronous
async def test_bye_is_not_refused_to_a_page_that_sends_too_much() -> None:
    site = Site(max_messages_per_second=1)
    page = await site.visitor.open("sse")
    for number in range(100):
        if (await site.visitor.post("/route", {"connectionId": page.handle, "route": f"/{number}"})).status == 429:
            break
    else:
        raise AssertionError("no limit")
    assert (await site.visitor.post("/bye", {"connectionId": page.handle})).status == 200
    assert site.total == 0


@both
@asynchronous
async def test_a_viewer_is_never_away(transport: str) -> None:
    site = Site()
    viewer = await site.admin.open(transport, "?viewer=1")
    await site.admin.watch(viewer)
    await viewer.leave()
    assert away(site) == {}


@asynchronous
async def test_a_page_that_the_server_ends_for_a_fault_is_away_because_it_comes_back() -> None:
    site = Site()
    page = await site.visitor.open("ws", "?version=old")
    page.say_text("{")
    await page.closed()
    assert away(site) == {"old": 1}


@both
@asynchronous
async def test_a_page_that_was_told_to_reconnect_elsewhere_is_on_its_way_and_not_away(transport: str) -> None:
    site = Site()
    page = await site.visitor.open(transport, "?version=old")
    site.node.drain()
    await page.ended()
    assert away(site) == {}
    assert site.node._departed.departures.counts(site.node.clock()) == {"old": 1}
    await site.visitor.post("/bye", {"connectionId": page.handle})
    assert site.node._departed.departures.counts(site.node.clock()) == {}, "it was closed meanwhile"


async def _shared(site: Site, transport: str, tabs: int, query: str = "") -> Any:
    stream = await site.visitor.open(transport, f"?shared=1&version=old{query}")
    await site.visitor.say(stream, {"type": "tabs", "set": [{"key": key} for key in KEYS[:tabs]]})
    await stream.next("tabs")
    return stream


@both
@asynchronous
async def test_tabs_of_a_stream_that_broke_off_are_away_each_by_itself(transport: str) -> None:
    site = Site()
    stream = await _shared(site, transport, 3)
    await stream.leave()
    await turn_until(lambda: away(site) == {"old": 3}, "when nobody has reported them", 5)
    # One says goodbye, one is reported on the next stream of its browser, one is not.
    assert (await site.visitor.post("/bye", {"connectionId": stream.handle, "tab": KEYS[0]})).status == 200
    assert away(site) == {"old": 2}
    following = await site.visitor.open(transport, f"?shared=1&version=old&replaces={stream.handle}")
    assert away(site) == {"old": 2}, "which of them it has is not known yet"
    await site.visitor.say(following, {"type": "tabs", "set": [{"key": KEYS[1]}]})
    await following.next("tabs")
    assert (away(site), site.total) == ({"old": 1}, 1)


@both
@asynchronous
async def test_a_tab_says_goodbye_beside_others(transport: str) -> None:
    site = Site()
    stream = await _shared(site, transport, 3)
    assert (await site.visitor.post("/bye", {"connectionId": stream.handle, "tab": KEYS[2]})).status == 200
    assert (site.total, away(site)) == (2, {})
    await site.visitor.post("/bye", {"connectionId": stream.handle})
    await stream.ended()
    assert site.total == 2, "the stream ends, and another tab opens the next"
    for key in KEYS[:2]:
        await site.visitor.post("/bye", {"connectionId": stream.handle, "tab": key})
    assert (site.total, away(site)) == (0, {})


@both
@asynchronous
async def test_the_farewell_of_a_tab_may_come_when_the_next_stream_has_its_tabs(transport: str) -> None:
    """Firefox sends beacons late. The next leader is there by then, and does not know the tab that led before."""
    site = Site()
    old = await _shared(site, transport, 2)
    following = await site.visitor.open(transport, f"?shared=1&version=old&replaces={old.handle}")
    await old.ended()
    await site.visitor.say(following, {"type": "tabs", "set": [{"key": KEYS[1]}]})
    assert (await site.visitor.post("/bye", {"connectionId": old.handle, "tab": KEYS[0]})).status == 200
    assert (site.total, away(site)) == (1, {})


@both
@asynchronous
async def test_the_only_tab_of_a_browser_leaves_with_its_stream(transport: str) -> None:
    site = Site()
    stream = await _shared(site, transport, 1)
    await site.visitor.post("/bye", {"connectionId": stream.handle})
    assert (site.total, away(site)) == (0, {})
    stream = await _shared(site, transport, 1)
    await stream.leave()
    assert (site.total, away(site)) == (0, {"old": 1})
    # The farewell of the leader overtakes nothing: it may come after the end of the stream.
    await site.visitor.post("/tabs", {"connectionId": stream.handle, "set": [], "remove": [KEYS[0]]})
    assert away(site) == {}


@asynchronous
async def test_a_viewer_sees_at_once_who_broke_off_and_who_came_back() -> None:
    clock = Clock()
    site = Site(clock=clock, stats_interval=0.01)
    figures = await site.admin.watch(await site.admin.open("ws", "?viewer=1"))
    page = await site.visitor.open("ws", "?version=old")
    await figures.total(1)
    await page.leave()
    assert (await figures.total(0))["away"] == {"old": 1}, "in the same message"
    await site.visitor.open("ws", f"?version=old&replaces={page.handle}")
    assert "away" not in await figures.total(1)
    clock.advance(GRACE)
    assert (await figures.until(lambda now: "awayKnown" in now))["awayKnown"] is True


@asynchronous
async def test_a_node_can_say_once_it_is_older_than_any_page_that_broke_off() -> None:
    """Before, the pages of the process before it may be on their way, and nobody remembers them."""
    clock = Clock()
    site = Site(clock=clock, uptime=0, stats_interval=0.01)
    assert "awayKnown" not in (await site.admin.get("/admin/stats")).json
    clock.advance(GRACE)
    assert (await site.admin.get("/admin/stats")).json["awayKnown"] is True


@pytest.mark.parametrize("known", [(), ("fleet",)])
@asynchronous
async def test_versions_of_strangers_are_away_like_they_are_counted(known: tuple[str, ...]) -> None:
    site = Site(known_versions=known, max_versions=2)
    for version in ("v1", "made-up", "old", "older"):
        page = await site.visitor.open("sse", f"?version={version}")
        await page.leave()
    assert away(site) == ({"v1": 1, "unknown": 3} if known else {"v1": 1, "made-up": 1, "old": 1, "older": 1})


def test_every_end_of_the_server_is_a_farewell_or_not() -> None:
    """Only a page that has another stream, or no right, does not come back for this one."""
    assert {end.cause for end in ENDS if end.cause in FOR_GOOD} == {"replaced", "denied"}
