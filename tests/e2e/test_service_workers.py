"""
The recipes of the docs that keep a service worker away from Headcount, word for word, and what happens without them.

`service_workers/build.mjs` builds the pages with Workbox, with vite-plugin-pwa, and with a worker written by hand.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from selenium.webdriver.remote.webdriver import WebDriver

from . import engines
from .background_tab import background_tab, gate
from .conftest import Server, eventually, wait

HERE = Path(__file__).parent
WORKERS = ["workbox", "vite-pwa", "plain"]

MUTE = "navigator.sendBeacon = () => false"
"""Keeps a page from saying goodbye, as one does that crashes."""

WATCHED = 45
"""Seconds for which the total is looked at, or longer, until Firefox has cut a stream."""

CUT_WITHIN = 100
"""Seconds. It is about 30 on an idle machine, and was 75 on a busy one."""

LINGERS = 80
"""Seconds within which the server finds by asking that a page behind a worker has gone: 75 by docs/browser.md."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("built")
    subprocess.run(["node", "build.mjs", str(built)], cwd=HERE / "service_workers", check=True)
    return built


@contextmanager
def serving(built: Path, **env: str) -> Iterator[Server]:
    server = Server(
        *("uvicorn", "worker_app:app", "--port", "{port}", "--log-level", "warning"),
        env={"BUILT": str(built), **env},
    )
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(built: Path) -> Iterator[Server]:
    with serving(built) as server:
        yield server


@pytest.fixture(scope="module")
def server_that_asks_often(built: Path) -> Iterator[Server]:
    with serving(built, KEEPALIVE="0.5") as server:
        yield server


@pytest.fixture
def context(browser: Browser, server: Server) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()
    has_total(server, 0)


def has_total(server: Server, total: int) -> None:
    eventually(lambda: server.stats()["total"] == total, f"{total} pages are counted")


def open_page(context: BrowserContext, server: Server, worker: str, strategy: str) -> Page:
    """Open a page that the worker controls, which is each but the first."""
    page = context.new_page()
    page.goto(f"http://{worker}.localhost:{server.port}/?strategy={strategy}")
    wait(page, "navigator.serviceWorker.ready.then(({ active }) => active.state === 'activated')")
    page.reload()
    assert page.evaluate("navigator.serviceWorker.controller?.scriptURL.endsWith('/sw.js')")
    wait(page, "headcount.getSnapshot().status === 'open'")
    return page


@pytest.mark.parametrize(
    ("suffix", "strategy"),
    [
        pytest.param("", "sse", id="with the recipe"),
        # No worker sees the WebSocket with which such a page begins.
        pytest.param("-bare", "auto", id="without it, by the client's own choice"),
    ],
)
@pytest.mark.parametrize("worker", WORKERS)
def test_a_page_behind_a_worker_is_counted_navigates_and_leaves(
    context: BrowserContext, server: Server, worker: str, suffix: str, strategy: str
) -> None:
    page = open_page(context, server, worker + suffix, strategy)
    has_total(server, 1)
    page.evaluate("history.pushState(null, '', '/shop')")
    eventually(lambda: server.stats()["routes"] == {"/shop": 1}, "the navigation is reported")
    page.close()
    has_total(server, 0)


@pytest.mark.parametrize("worker", WORKERS)
def test_without_the_recipe_an_event_stream_outlives_its_page_until_it_is_asked(
    browser: Browser, server_that_asks_often: Server, worker: str
) -> None:
    server = server_that_asks_often
    context = browser.new_context()
    page = open_page(context, server, f"{worker}-bare", "sse")
    page.evaluate(MUTE)
    page.close()
    open_page(context, server, f"{worker}-bare", "sse")
    eventually(lambda: server.stats()["total"] > 1, "the page that was closed is still counted")
    has_total(server, 1)
    context.close()
    has_total(server, 0)


def test_a_frozen_page_behind_a_worker_is_unaccounted_for_until_it_wakes(built: Path, tmp_path: Path) -> None:
    """The server asks whether it is there, and cannot tell it from a page that has gone."""
    with serving(built, KEEPALIVE="0.5") as server, background_tab(tmp_path) as tab:
        url = f"http://plain-bare.localhost:{server.port}/?strategy=sse"
        tab.open(url)
        tab.wait("navigator.serviceWorker.ready.then(({ active }) => active.state === 'activated')")
        tab.open(url)
        assert tab.evaluate("!!navigator.serviceWorker.controller")
        eventually(lambda: server.stats()["total"] == 1, "the page is counted")
        tab.freeze()
        eventually(lambda: server.stats()["total"] == 0, "the frozen page is dropped")
        figures = server.stats()
        assert [(each["total"], each["state"]) for each in figures["absences"]] == [(1, "unanswered")]
        assert gate(server) == 3, "it holds old code"
        tab.wake()
        eventually(lambda: (found := server.stats())["total"] == 1 and not found["partial"], "it is counted again")


@pytest.mark.parametrize(("worker", "title"), [("vite-pwa", "Headcount"), ("vite-pwa-bare", "behind a service worker")])
def test_the_dashboard_is_reached_with_the_recipe(
    context: BrowserContext, server: Server, worker: str, title: str
) -> None:
    page = open_page(context, server, worker, "auto")
    page.goto(f"http://{worker}.localhost:{server.port}/__skew/dashboard/")
    expect(page).to_have_title(title)


@pytest.fixture(scope="module")
def firefox() -> Iterator[WebDriver]:
    found = engines.ENGINES["firefox"]
    if found.missing:
        if os.environ.get("CI"):
            pytest.fail(found.skip_line)
        pytest.skip(found.skip_line)
    with engines.start("firefox") as driver:
        yield driver


@contextmanager
def firefox_page(driver: WebDriver, server: Server, worker: str, strategy: str) -> Iterator[None]:
    """Open a page that the worker controls, and close it."""
    (first,) = driver.window_handles
    driver.switch_to.new_window("tab")
    url = f"http://{worker}.localhost:{server.port}/?strategy={strategy}"

    def holds(expression: str) -> None:
        eventually(lambda: driver.execute_script(f"return {expression}"), expression)

    driver.get(url)
    holds("navigator.serviceWorker.ready.then(({ active }) => active.state === 'activated')")
    # `refresh` of WebDriver would go past the worker.
    driver.get(url)
    holds("navigator.serviceWorker.controller?.scriptURL.endsWith('/sw.js')")
    holds("headcount.getSnapshot().status === 'open'")
    yield
    driver.close()
    driver.switch_to.window(first)


@pytest.mark.parametrize(("suffix", "strategy"), [("", "sse"), ("-bare", "auto")])
@pytest.mark.parametrize("worker", WORKERS)
def test_firefox_counts_a_page_behind_a_worker(
    firefox: WebDriver, server: Server, worker: str, suffix: str, strategy: str
) -> None:
    with firefox_page(firefox, server, worker + suffix, strategy):
        has_total(server, 1)
        firefox.execute_script("history.pushState(null, '', '/shop')")
        eventually(lambda: server.stats()["routes"] == {"/shop": 1}, "the navigation is reported")
    has_total(server, 0)


def test_a_stream_that_a_worker_keeps_open_in_firefox_is_dropped(
    firefox: WebDriver, server_that_asks_often: Server
) -> None:
    server = server_that_asks_often
    with firefox_page(firefox, server, "plain-bare", "sse"):
        eventually(lambda: server.stats()["total"] >= 1, "the page is counted")
    with firefox_page(firefox, server, "plain-bare", "sse"):
        has_total(server, 1)
    has_total(server, 0)


def test_a_page_whose_streams_a_worker_cuts_in_firefox_stays_in_the_figures(firefox: WebDriver, server: Server) -> None:
    """Firefox ends an idle worker, even one that only passes requests on, and each stream that goes through it."""
    with firefox_page(firefox, server, "passing", "sse"):
        has_total(server, 1)
        totals: list[int] = []
        streams: set[str] = set()
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < WATCHED or (len(streams) < 2 and passed < CUT_WITHIN):
            figures = server.stats()
            totals.append(figures["total"])
            streams.update(connection["id"] for connection in figures["connections"])
            time.sleep(0.05)
    share = sum(totals) / len(totals)
    print(f"counted {share:.1%} of {passed:.0f} s, on {len(streams)} streams")
    assert len(streams) > 1, "a stream was cut"
    assert share >= 0.97
    assert max(totals) == 1
    # The worker holds the last stream until Firefox ends it.
    eventually(lambda: server.stats()["total"] == 0, "the page is gone", LINGERS)
