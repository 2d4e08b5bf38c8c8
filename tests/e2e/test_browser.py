"""What people see in a real browser, with the plain client of `/client.js`."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from .conftest import Server, eventually, log_in, wait

NewContext = Callable[[], BrowserContext]


@pytest.fixture(params=["sse", "ws"])
def strategy(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def open_page(context: BrowserContext, path: str, strategy: str, **query: str) -> Page:
    page = context.new_page()
    parameters = "&".join(f"{name}={value}" for name, value in {"strategy": strategy, **query}.items())
    page.goto(f"{path}?{parameters}")
    wait(page, "window.headcount && headcount.getSnapshot().status === 'open'")
    return page


def snapshot(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("snapshot()")
    return found


@pytest.fixture
def viewer(new_context: NewContext, strategy: str) -> Page:
    context = new_context()
    log_in(context)
    return open_page(context, "/admin", strategy, v="v2", watch="1")


@pytest.mark.parametrize("module", ["/__skew/client.js", "/__skew/client.js?another-copy"])
def test_script_that_runs_again_counts_the_page_once(
    new_context: NewContext, viewer: Page, strategy: str, module: str
) -> None:
    """As Turbo and htmx let the scripts of a body run that they swap in."""
    page = open_page(new_context(), "/a", strategy, v="v1", routes="1")
    wait(viewer, "snapshot().total === 2")
    page.evaluate("Object.assign(window, { first: headcount, runs: 0, text: document.scripts[1].textContent })")
    for run, route in enumerate(("/b", "/c"), 1):
        page.evaluate(
            """([route, module]) => {
                history.pushState({}, "", route + location.search)
                const script = document.createElement("script")
                script.type = "module"
                script.textContent = window.text.replace("/__skew/client.js", module) + "window.runs++"
                document.body.replaceChildren(script)
            }""",
            [route, module],
        )
        wait(page, f"window.runs === {run}")
        wait(viewer, f"snapshot().routes['{route}'] === 1")
        assert snapshot(viewer)["versions"] == {"v1": 1, "v2": 1}
    assert page.evaluate("headcount === first")


def test_viewer_sees_exact_figures_and_itself(new_context: NewContext, viewer: Page, strategy: str) -> None:
    visitor = new_context()
    open_page(visitor, "/", strategy, v="v1")
    open_page(visitor, "/shopping", strategy, v="v1")
    open_page(new_context(), "/shopping", strategy, v="v2")
    wait(viewer, "snapshot().total === 4")
    seen = snapshot(viewer)
    assert seen["authorized"] is True
    assert seen["versions"] == {"v1": 2, "v2": 2}
    assert seen["routes"] == {"/": 1, "/shopping": 2, "/admin": 1}
    assert sorted((row["version"], row["route"]) for row in seen["connections"]) == [
        ("v1", "/"),
        ("v1", "/shopping"),
        ("v2", "/admin"),
        ("v2", "/shopping"),
    ]
    assert [row["route"] for row in seen["connections"] if row["id"] == seen["yourId"]] == ["/admin"]
    assert all("ip" not in row for row in seen["connections"])


def test_whole_messages_and_deltas_lead_to_the_same_figures(
    new_context: NewContext, viewer: Page, strategy: str
) -> None:
    other = new_context()
    log_in(other)
    whole = open_page(other, "/whole", strategy, v="v2", watch="1", deltas="0")
    for route in ("/a", "/b", "/c"):
        open_page(new_context(), route, strategy, v="v1")
    for page in (viewer, whole):
        wait(page, "snapshot().total === 5")
    assert snapshot(viewer)["routes"] == snapshot(whole)["routes"]
    assert snapshot(viewer)["connections"] == snapshot(whole)["connections"]


def test_stranger_is_denied_and_sees_zeros(new_context: NewContext, strategy: str) -> None:
    page = open_page(new_context(), "/admin", strategy, v="v2", watch="1")
    wait(page, "snapshot().authorized === false")
    seen = snapshot(page)
    assert (seen["total"], seen["versions"], seen["routes"], seen["connections"]) == (0, {}, {}, [])
    assert seen.get("yourId") is None


def test_navigation_and_closing_a_tab_show_up(new_context: NewContext, viewer: Page, strategy: str) -> None:
    page = open_page(new_context(), "/", strategy, v="v1")
    wait(viewer, "snapshot().routes['/'] === 1")
    page.evaluate("history.pushState({}, '', '/shopping?q=secret#top')")
    wait(viewer, "snapshot().routes['/shopping'] === 1 && !('/' in snapshot().routes)")
    page.evaluate("history.back()")
    wait(viewer, "snapshot().routes['/'] === 1 && !('/shopping' in snapshot().routes)")
    page.close()
    wait(viewer, "snapshot().total === 1")


def test_route_tracked_by_hand(new_context: NewContext, viewer: Page, strategy: str) -> None:
    page = open_page(new_context(), "/", strategy, v="v1")
    page.evaluate("headcount.setRoute('/step-2')")
    wait(viewer, "snapshot().routes['/step-2'] === 1")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_pages_come_back_on_their_present_route_after_a_restart(
    new_context: NewContext, viewer: Page, server: Server, strategy: str, how: signal.Signals
) -> None:
    page = open_page(new_context(), "/landing", strategy, v="v1")
    page.evaluate("history.pushState({}, '', '/present')")
    wait(viewer, "snapshot().routes['/present'] === 1")
    server.stop(how)
    wait(viewer, "snapshot().isStale")
    assert snapshot(viewer)["total"] == 2, "old figures stay on the screen, marked as stale"
    server.start()
    eventually(lambda: server.stats()["total"] == 2, "both are counted again", seconds=30)
    assert server.stats()["routes"] == {"/present": 1, "/admin": 1}
    assert server.stats()["versions"] == {"v1": 1, "v2": 1}
    # Sessions do not survive this server, so the viewer has no right any more.
    wait(viewer, "snapshot().authorized === false && snapshot().total === 0")


def test_revoked_viewer_sees_nothing_more(new_context: NewContext, viewer: Page, server: Server, strategy: str) -> None:
    wait(viewer, "snapshot().authorized === true")
    viewer.request.post(f"/revoke/{snapshot(viewer)['yourId']}")
    wait(viewer, "snapshot().authorized === false && snapshot().total === 0")
    count = viewer.evaluate("snapshots.length")
    open_page(new_context(), "/after", strategy, v="v1")
    eventually(lambda: server.stats()["total"] == 2, "the new page is counted")
    # What was sent before this message would have come before it.
    viewer.evaluate("void headcount.onMessage(message => { window.marked = message.type === 'marker' })")
    viewer.request.post("/broadcast", data={"type": "marker"})
    wait(viewer, "window.marked")
    assert viewer.evaluate("snapshots.length") == count


def test_log_in_and_log_out_show_up(new_context: NewContext, strategy: str) -> None:
    context = new_context()
    page = open_page(context, "/admin", strategy, v="v2", watch="1")
    wait(page, "snapshot().authorized === false")
    log_in(context)
    page.evaluate("headcount.reconnect()")
    wait(page, "snapshot().authorized === true && snapshot().total === 1")
    context.request.post("/log-out")
    page.evaluate("headcount.reconnect()")
    wait(page, "snapshot().authorized === false && snapshot().total === 0")


def test_session_ended_elsewhere_ends_the_right(viewer: Page) -> None:
    wait(viewer, "snapshot().authorized === true")
    viewer.request.post("/end-all-sessions")
    wait(viewer, "snapshot().authorized === false && snapshot().total === 0")


def test_old_and_new_tab_of_one_browser_are_counted_apart(
    new_context: NewContext, server: Server, strategy: str
) -> None:
    context = new_context()
    old = open_page(context, "/", strategy, v="v1")
    open_page(context, "/", strategy, v="v2")
    assert server.stats()["versions"] == {"v1": 1, "v2": 1}
    old.evaluate("headcount.reconnect()")
    wait(old, "snapshot().status === 'open'")
    eventually(lambda: server.stats()["versions"] == {"v1": 1, "v2": 1}, "the old tab is the old one still")


def test_page_that_does_not_stamp_its_version_is_known_by_the_cookie(
    new_context: NewContext, server: Server, strategy: str
) -> None:
    context = new_context()
    open_page(context, "/", strategy)
    assert [cookie["value"] for cookie in context.cookies() if cookie["name"] == "__nkpv"] == ["v2"]
    assert server.stats()["versions"] == {"v2": 1}


def test_application_messages_reach_pages(new_context: NewContext, strategy: str) -> None:
    page = open_page(new_context(), "/", strategy, v="v1")
    page.evaluate("window.got = []; void headcount.onMessage((message) => got.push(message))")
    page.request.post("/broadcast", data={"type": "sale", "text": "<b>50 %</b>"})
    wait(page, "got.length === 1")
    assert page.evaluate("got[0]") == {"type": "sale", "text": "<b>50 %</b>"}
