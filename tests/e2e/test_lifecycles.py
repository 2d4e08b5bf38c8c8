"""What is counted is what people have open: back/forward cache, offline, a network that hangs, restarts, deploys."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from . import chromium
from .background_tab import background_tab, gate, wait_until_a_ghost_is_dropped
from .conftest import Server, eventually, wait

NewContext = Callable[[], BrowserContext]
SOON = 20
"""Seconds within which a page that is usable again must be counted."""


@pytest.fixture(params=["sse", "ws"])
def strategy(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=["", "&shared=1"], ids=["own", "shared"])
def stream(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def open_page(context: BrowserContext, path: str, query: str) -> Page:
    page = context.new_page()
    page.goto(f"{path}?{query}")
    wait(page, "window.headcount && headcount.getSnapshot().status === 'open'")
    return page


def routes(server: Server) -> dict[str, int]:
    found: dict[str, int] = server.stats()["routes"]
    return found


@pytest.fixture
def caching(browser: Browser, server: Server) -> Iterator[BrowserContext]:
    """A browser with the back/forward cache, which Playwright turns off."""
    with_cache = browser.browser_type.launch(
        executable_path=chromium.find(),
        args=["--no-sandbox", "--disable-gpu", "--enable-features=BackForwardCache"],
        ignore_default_args=["--disable-back-forward-cache"],
    )
    context = with_cache.new_context(base_url=server.url)
    context.add_init_script("addEventListener('pageshow', ({ persisted }) => { window.persisted = persisted; })")
    yield context
    with_cache.close()
    eventually(lambda: server.stats()["total"] == 0, "all pages are gone")


def test_back_forward_cache(caching: BrowserContext, server: Server, strategy: str, stream: str) -> None:
    page = open_page(caching, "/landing", f"v=v1&strategy={strategy}{stream}")
    page.evaluate("window.stamp = 'the very same document'; history.replaceState({}, '', '/present')")
    eventually(lambda: routes(server) == {"/present": 1}, "the page is counted")
    for _ in range(2):
        page.goto("/other")
        eventually(lambda: server.stats()["total"] == 0, "a page in the cache is not open, and not counted")
        page.go_back(wait_until="commit")
        wait(page, "window.persisted === true && window.stamp === 'the very same document'")
        eventually(lambda: server.stats()["total"] == 1, "counted again", seconds=SOON)
        assert (routes(server), server.stats()["versions"]) == ({"/present": 1}, {"v1": 1})


def test_offline_and_online(new_context: NewContext, server: Server, strategy: str, stream: str) -> None:
    context = new_context()
    page = open_page(context, "/a", f"v=v1&strategy={strategy}{stream}")
    eventually(lambda: routes(server) == {"/a": 1}, "the page is counted")
    totals: list[int] = []
    for turn in range(2):
        context.set_offline(True)
        wait(page, "navigator.onLine === false")
        page.evaluate(f"history.pushState({{}}, '', '/offline-{turn}')")
        context.set_offline(False)

        def back(route: str = f"/offline-{turn}") -> bool:
            found = server.stats()
            totals.append(found["total"])
            return bool(found["routes"] == {route: 1})

        eventually(back, "on its present route", seconds=SOON)
        wait(page, "snapshot().status === 'open'")
    assert max(totals) == 1


def test_server_that_hangs(new_context: NewContext, server: Server, strategy: str, stream: str) -> None:
    """It does not answer and does not hang up either: stopped, not killed."""
    page = open_page(new_context(), "/a", f"v=v1&strategy={strategy}{stream}")
    eventually(lambda: server.stats()["total"] == 1, "the page is counted")
    with server.frozen():
        wait(page, "snapshot().status === 'reconnecting'")
    eventually(lambda: server.stats()["total"] == 1, "counted once", seconds=SOON)
    wait(page, "snapshot().status === 'open'")
    assert server.stats()["total"] == 1


@pytest.fixture
def deployed() -> Iterator[Server]:
    """A server that may be started again with another version."""
    server = Server(
        *("uvicorn", "page_app:app", "--port", "{port}", "--log-level", "warning"),
        env={"SESSION_SECRET": "s", "PAGE_VERSION": "v1"},
    )
    yield server
    server.stop()


def test_deploy_in_the_middle(deployed: Server, browser: Browser, strategy: str) -> None:
    server = deployed
    context = browser.new_context(base_url=server.url)
    old = open_page(context, "/old", f"v=v1&strategy={strategy}")
    shared = [open_page(context, f"/{number}", f"v=v1&strategy={strategy}&shared=1") for number in range(2)]
    eventually(lambda: server.stats()["versions"] == {"v1": 3}, "all are on v1")
    server.stop()
    server.env["PAGE_VERSION"] = "v2"
    server.start()
    eventually(lambda: server.stats()["versions"] == {"v1": 3}, "what runs in the pages has not changed")
    wait(old, "snapshot().serverVersion === 'v2'")
    open_page(context, "/new", f"v=v2&strategy={strategy}&shared=1")
    eventually(lambda: server.stats()["versions"] == {"v1": 3, "v2": 1}, "old and new of one browser are told apart")
    shared[0].goto(f"/0?v=v2&strategy={strategy}&shared=1")
    eventually(lambda: server.stats()["versions"] == {"v1": 2, "v2": 2}, "one has reloaded")
    old.evaluate("headcount.reconnect()")
    wait(old, "snapshot().status === 'open'")
    assert routes(server) == {"/old": 1, "/0": 1, "/1": 1, "/new": 1}
    assert server.stats()["versions"] == {"v1": 2, "v2": 2}
    context.close()


def test_bearer_token_over_a_stream_read_by_fetch(new_context: NewContext) -> None:
    page = open_page(new_context(), "/a", "v=v1&watch=1&token=the tests' own door")
    wait(page, "snapshot().authorized === true && snapshot().total === 1")
    other = open_page(new_context(), "/b", "v=v1&watch=1&token=wrong")
    wait(other, "snapshot().authorized === false")
    wait(page, "snapshot().total === 2")
    page.evaluate("history.pushState({}, '', '/c')")
    wait(page, "snapshot().routes['/c'] === 1")


@pytest.fixture
def asking() -> Iterator[Server]:
    """A server that asks event streams every six seconds whether their page is there."""
    server = Server(
        *("uvicorn", "page_app:app", "--port", "{port}", "--log-level", "warning"),
        env={"SESSION_SECRET": "s", "KEEPALIVE": "0.5"},
    )
    yield server
    server.stop()


def test_frozen_page_is_counted(asking: Server, tmp_path: Path, strategy: str, stream: str) -> None:
    with background_tab(tmp_path) as tab:
        tab.open(f"{asking.url}/a?v=v1&strategy={strategy}{stream}")
        eventually(lambda: routes(asking) == {"/a": 1}, "the page is counted")
        tab.freeze()
        wait_until_a_ghost_is_dropped(asking)
        figures = asking.stats()
        assert (figures["versions"], "unaccounted" in figures) == ({"v1": 1}, False)
        assert gate(asking) == 3, "it holds old code"
        tab.wake()
        tab.evaluate("history.pushState({}, '', '/b')")
        eventually(lambda: routes(asking) == {"/b": 1}, "it navigates on")
        assert tab.evaluate("snapshot().status") == "open"
    eventually(lambda: asking.stats()["total"] == 0, "it is gone")
    assert gate(asking, "--exclude-away", timeout="30s") == 0


@pytest.mark.parametrize("refusal", ["none", "400"])
def test_with_more_cookies_than_the_server_s_websockets_take_a_page_is_counted_over_sse(
    browser: Browser, server: Server, refusal: str
) -> None:
    """uvicorn with default settings does not answer such a handshake; with `--ws websockets` it refuses it."""
    own = None
    if refusal == "400":
        command = ("uvicorn", "page_app:app", "--port", "{port}", "--log-level", "warning", "--ws", "websockets")
        own = Server(*command, env={"SESSION_SECRET": "s"})
    there = own or server
    context = browser.new_context(base_url=there.url)
    try:
        for number in range(3):
            context.add_cookies([{"name": f"many-{number}", "value": "x" * 3_000, "url": there.url}])
        page = context.new_page()
        asked: list[str] = []
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.on("request", lambda request: asked.append(request.url) if "/sse" in request.url else None)
        page.goto("/a?v=v1")
        wait(page, "window.headcount && headcount.getSnapshot().status === 'open'")
        assert there.stats()["versions"] == {"v1": 1}
        assert ["/ws" in url for url in asked] == [True, False]
        page.close()
        eventually(lambda: there.stats()["total"] == 0, "the page has left the figures")
    finally:
        context.close()
        if own is not None:
            own.stop()
