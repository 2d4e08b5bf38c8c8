"""Tabs of one browser that share a stream: Web Locks, BroadcastChannel and the real server."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Error, Page

from .conftest import Server, eventually, every_total, log_in, wait

NewContext = Callable[[], BrowserContext]


@pytest.fixture(params=["sse", "ws"])
def strategy(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def open_tab(context: BrowserContext, path: str, strategy: str, version: str = "v1", *, watch: bool = False) -> Page:
    page = context.new_page()
    page.streams = 0  # type: ignore[attr-defined]

    def opened(_: Any) -> None:
        page.streams += 1  # type: ignore[attr-defined]

    page.on("request", lambda request: opened(request) if "/__skew/sse" in request.url else None)
    page.on("websocket", opened)
    page.goto(f"{path}?shared=1&strategy={strategy}&v={version}{'&watch=1' if watch else ''}")
    wait(page, "window.headcount && headcount.getSnapshot().status === 'open'")
    return page


def open_viewer(context: BrowserContext) -> Page:
    """Open a page of somebody who may see the figures; `snapshots` has all that it received."""
    log_in(context)
    viewer = context.new_page()
    viewer.goto("/admin?watch=1&strategy=ws&v=viewer")
    wait(viewer, "window.headcount && snapshot().authorized")
    return viewer


def streams(*pages: Page) -> int:
    """Streams that these pages have opened so far."""
    return sum(page.streams for page in pages)  # type: ignore[attr-defined]


def figures(server: Server) -> tuple[dict[str, int], dict[str, int]]:
    stats = server.stats()
    return stats["versions"], stats["routes"]


def test_eight_tabs_over_http_1_load_and_share_one_stream(
    new_context: NewContext, server: Server, strategy: str
) -> None:
    context = new_context()
    pages = [open_tab(context, f"/{number}", strategy, "v1" if number % 2 else "v2") for number in range(8)]
    eventually(lambda: server.stats()["total"] == 8, "eight tabs are counted")
    assert figures(server) == ({"v1": 4, "v2": 4}, {f"/{number}": 1 for number in range(8)})
    assert streams(*pages) == 1
    # The seventh connection of an unshared browser would hang here.
    assert pages[-1].evaluate("fetch('/other').then((response) => response.ok)")


def test_each_tab_is_followed_by_itself(new_context: NewContext, server: Server, strategy: str) -> None:
    context = new_context()
    first, second = (open_tab(context, route, strategy) for route in ("/a", "/b"))
    eventually(lambda: figures(server)[1] == {"/a": 1, "/b": 1}, "both are counted")
    second.evaluate("history.pushState({}, '', '/c?secret=1')")
    eventually(lambda: figures(server)[1] == {"/a": 1, "/c": 1}, "the follower navigated")
    first.evaluate("history.pushState({}, '', '/d')")
    eventually(lambda: figures(server)[1] == {"/d": 1, "/c": 1}, "the leader navigated")
    second.close()
    eventually(lambda: figures(server)[1] == {"/d": 1}, "the follower left")


def test_another_tab_takes_over_and_nobody_is_ever_counted_twice(
    new_context: NewContext, server: Server, strategy: str
) -> None:
    viewer = open_viewer(new_context())
    context = new_context()
    pages = [open_tab(context, f"/{number}", strategy) for number in range(4)]
    wait(viewer, "snapshot().versions.v1 === 4")
    for left in (3, 2, 1):
        pages.pop(0).close()
        wait(viewer, f"snapshot().versions.v1 === {left}")
        wait(viewer, f"Object.keys(snapshot().routes).filter((route) => route !== '/admin').length === {left}")
    assert viewer.evaluate("Math.max(...snapshots.map(({ versions }) => versions.v1 ?? 0))") == 4
    # Its place is held until then. To evaluate lets the events of the page come.
    eventually(lambda: pages[0].evaluate("1") and streams(*pages), "the last tab has a stream of its own")
    assert streams(*pages) == 1


def test_a_tab_that_crashes_is_missed(new_context: NewContext, server: Server, strategy: str) -> None:
    context = new_context()
    open_tab(context, "/leader", strategy)
    follower = open_tab(context, "/follower", strategy)
    eventually(lambda: server.stats()["total"] == 2, "both are counted")
    with pytest.raises(Error, match="crash"):
        follower.goto("chrome://crash")
    eventually(lambda: figures(server)[1] == {"/leader": 1}, "the follower is gone")


def test_a_leader_that_crashes_takes_nobody_with_it(new_context: NewContext, server: Server, strategy: str) -> None:
    viewer = open_viewer(new_context())
    context = new_context()
    leader, *others = (open_tab(context, f"/{number}", strategy) for number in range(4))
    wait(viewer, "snapshot().versions.v1 === 4")
    viewer.evaluate("snapshots.length = 0")
    with pytest.raises(Error, match="crash"):
        leader.goto("chrome://crash")
    wait(viewer, "snapshot().versions.v1 === 3")
    assert streams(*others) == 1
    assert viewer.evaluate("Math.min(...snapshots.map(({ versions }) => versions.v1 ?? 0))") == 3


def test_all_tabs_see_figures_of_one_subscription_and_themselves(
    new_context: NewContext, server: Server, strategy: str
) -> None:
    context = new_context()
    log_in(context)
    pages = [open_tab(context, f"/{number}", strategy, watch=True) for number in range(3)]
    for page in pages:
        wait(page, "snapshot().authorized === true && snapshot().total === 3")
        assert page.evaluate("snapshot().connections.find(({ id }) => id === snapshot().yourId).route") == (
            page.evaluate("location.pathname")
        )
    pages[1].evaluate("history.pushState({}, '', '/moved')")
    for page in pages:
        wait(page, "snapshot().routes['/moved'] === 1")
    leader, *followers = pages
    leader.close()
    for page in followers:
        wait(page, "snapshot().authorized === true && snapshot().total === 2 && !snapshot().isStale")
        assert page.evaluate("snapshot().connections.find(({ id }) => id === snapshot().yourId).route") == (
            page.evaluate("location.pathname")
        )


def test_log_in_and_log_out_in_any_tab_are_the_whole_browser_s(new_context: NewContext, strategy: str) -> None:
    context = new_context()
    pages = [open_tab(context, f"/{number}", strategy, watch=True) for number in range(2)]
    for page in pages:
        wait(page, "snapshot().authorized === false")
    log_in(context)
    pages[1].evaluate("headcount.reconnect()")
    for page in pages:
        wait(page, "snapshot().authorized === true && snapshot().total === 2")
    context.request.post("/log-out")
    pages[1].evaluate("headcount.reconnect()")
    for page in pages:
        wait(page, "snapshot().authorized === false && snapshot().total === 0")


def test_messages_reach_the_tab_they_are_for(new_context: NewContext, server: Server, strategy: str) -> None:
    context = new_context()
    pages = [open_tab(context, route, strategy) for route in ("/a", "/b")]
    eventually(lambda: server.stats()["total"] == 2, "both are counted")
    for page in pages:
        page.evaluate("window.got = []; void headcount.onMessage((message) => got.push(message))")
    row = next(row for row in server.stats()["connections"] if row["route"] == "/b")
    context.request.post(f"/send/{row['id']}", data={"type": "hello"})
    wait(pages[1], "got.length === 1")
    context.request.post("/broadcast", data={"type": "sale"})
    wait(pages[0], "got.length === 1")
    wait(pages[1], "got.length === 2")
    assert pages[0].evaluate("got") == [{"type": "sale"}]
    assert pages[1].evaluate("got") == [{"type": "hello"}, {"type": "sale"}]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_all_tabs_come_back_after_a_restart(
    new_context: NewContext, server: Server, strategy: str, how: signal.Signals
) -> None:
    context = new_context()
    pages = [open_tab(context, f"/{number}", strategy) for number in range(3)]
    eventually(lambda: server.stats()["total"] == 3, "all are counted")
    server.stop(how)
    for page in pages:
        wait(page, "snapshot().status === 'reconnecting'")
    server.start()
    eventually(lambda: server.stats()["total"] == 3, "all are counted again", seconds=30)
    assert figures(server)[1] == {"/0": 1, "/1": 1, "/2": 1}


def test_hidden_tabs_are_marked_and_a_browser_without_locks_shares_nothing(
    new_context: NewContext, server: Server, strategy: str
) -> None:
    context = new_context()
    page = open_tab(context, "/a", strategy)
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { get: () => true, configurable: true });"
        "void document.dispatchEvent(new Event('visibilitychange'))"
    )
    eventually(lambda: [row.get("hidden") for row in server.stats()["connections"]] == [True], "it is hidden")
    page.evaluate("delete document.hidden; void document.dispatchEvent(new Event('visibilitychange'))")
    eventually(lambda: [row.get("hidden") for row in server.stats()["connections"]] == [None], "it is visible")
    lacking = new_context()
    lacking.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })")
    pages = [open_tab(lacking, route, strategy) for route in ("/b", "/c")]
    assert streams(*pages) == 2
    eventually(lambda: figures(server)[1] == {"/a": 1, "/b": 1, "/c": 1}, "each is counted by its own stream")


def test_no_figure_shows_that_another_tab_leads(new_context: NewContext, server: Server, strategy: str) -> None:
    """`make handovers` does it two hundred times."""
    viewer = open_viewer(new_context())
    context = new_context()
    tabs = [open_tab(context, f"/{number}", strategy) for number in range(3)]
    for number in range(int(os.environ.get("HANDOVERS", "3"))):
        wait(viewer, "snapshot().versions.v1 === 3")
        before, leader = streams(*tabs[1:]), tabs.pop(0)
        viewer.evaluate("snapshots.length = 0")
        if number % 3 == 2:
            with pytest.raises(Error, match="crash"):
                leader.goto("chrome://crash")
            leader.close()
        else:
            leader.close()
        wait(viewer, "snapshot().versions.v1 === 2")
        eventually(lambda: all(tab.evaluate("1") for tab in tabs), "the events of the tabs have come")
        eventually(
            lambda before=before: tabs[0].evaluate("1") and streams(*tabs) == before + 1,  # type: ignore[misc]
            "one of the others leads",
        )
        lowest = viewer.evaluate("Math.min(...snapshots.map(({ versions }) => versions.v1 ?? 0))")
        highest = viewer.evaluate("Math.max(...snapshots.map(({ versions }) => versions.v1 ?? 0))")
        assert (lowest, highest <= 3) == (2, True), f"hand-over {number}"
        tabs.append(open_tab(context, f"/new-{number}", strategy))


def test_a_frozen_leader_loses_the_lock(new_context: NewContext, server: Server, strategy: str) -> None:
    context = new_context()
    leader = open_tab(context, "/leader", strategy)
    follower = open_tab(context, "/follower", strategy)
    eventually(lambda: server.stats()["total"] == 2, "both are counted")
    frozen = context.new_cdp_session(leader)
    frozen.send("Debugger.enable")
    with every_total(server) as seen:
        frozen.send("Debugger.pause")
        follower.evaluate("history.pushState({}, '', '/moved')")
        eventually(lambda: "/moved" in figures(server)[1], "the follower is the leader now")
        assert figures(server)[1].get("/moved") == 1
        frozen.send("Debugger.resume")
        frozen.send("Debugger.disable")
        eventually(lambda: figures(server)[1] == {"/leader": 1, "/moved": 1}, "both are counted, each once")
    assert set(seen) == {2}


def test_a_tab_that_is_left_and_comes_back_is_counted_once(
    new_context: NewContext, server: Server, strategy: str
) -> None:
    context = new_context()
    for page in [open_tab(context, route, strategy) for route in ("/leader", "/follower")]:
        page.goto("/other")
        eventually(lambda: server.stats()["total"] == 1, "the page that was left is gone")
        page.go_back()
        eventually(lambda: server.stats()["total"] == 2, "it is back")
    assert figures(server)[1] == {"/leader": 1, "/follower": 1}
