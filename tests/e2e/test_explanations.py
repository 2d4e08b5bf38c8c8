"""What a page says, in a real browser, when something between it and the server keeps a stream from opening."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from kit.ports import free_port
from kit.proxies import PRODUCTS, RunningProxy

from .conftest import Server, eventually, wait

HOST_REWRITTEN = """
server {
    listen 80;
    location / {
        proxy_pass http://127.0.0.1:8000;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_buffering off;
    }
}
"""
"""Without a directive for Host, nginx sends the name of the upstream server."""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def proxy(server: Server, tmp_path: Path) -> Iterator[RunningProxy]:
    nginx = PRODUCTS["nginx"]
    if nginx.missing:
        pytest.skip(nginx.missing)
    with RunningProxy(nginx, HOST_REWRITTEN, tmp_path, server.port) as running:
        yield running


def _error(page: Page) -> str:
    wait(page, "window.headcount?.getSnapshot().error")
    error: str = page.evaluate("headcount.getSnapshot().error")
    return error


def test_a_page_behind_a_proxy_that_rewrites_host_says_why_its_websocket_is_refused(
    page: Page, proxy: RunningProxy
) -> None:
    page.goto(f"{proxy.origin}/page?v=v1&strategy=ws")
    assert _error(page) == (
        f"{proxy.origin}/__skew answered 403 (application/problem+json): The handshake of this WebSocket comes from "
        f"another site, {proxy.origin}. If this application is reached under that origin, add it to public_origins; if "
        "it is another site of yours, to allowed_origins."
    )


def test_a_page_behind_a_proxy_that_rewrites_host_is_counted_and_navigates(
    page: Page, proxy: RunningProxy, server: Server
) -> None:
    page.goto(f"{proxy.origin}/page?v=v1&routes=true")
    eventually(lambda: server.stats()["routes"] == {"/page": 1}, "the page is counted")
    page.evaluate("history.pushState({}, '', '/elsewhere')")
    eventually(lambda: server.stats()["routes"] == {"/elsewhere": 1}, "the page navigates")


@pytest.mark.parametrize("strategy", ["auto", "sse", "ws"])
def test_a_page_that_another_origin_does_not_allow_says_so(page: Page, server: Server, strategy: str) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    page.goto(f"{server.url}/page?v=v1&strategy={strategy}&url={elsewhere}&delay=50")
    assert _error(page) == (
        f"{elsewhere}/__skew answers, but the browser hides it from pages of {server.url} (CORS); add that "
        "origin to allowed_origins."
    )


def test_a_request_that_is_led_to_another_origin_says_so(page: Page, server: Server) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    page.goto(f"{server.url}/page?v=v1&strategy=sse&base=/away/{elsewhere.rpartition(':')[2]}")
    assert _error(page) == (
        f"{server.url}/away/{server.port} is redirected to another origin. Does something ask for a log-in?"
    )


@pytest.mark.parametrize("strategy", ["auto", "sse", "ws"])
def test_a_page_on_https_that_asks_a_server_on_http_says_so(page: Page, server: Server, strategy: str) -> None:
    def from_server(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("https://shop.example", server.url)))

    page.route("https://shop.example/**", from_server)
    page.goto(f"https://shop.example/page?v=v1&strategy={strategy}&url=http://live.example&delay=50")
    wait(page, "/on https may not/.test(window.headcount?.getSnapshot().error)")
    assert _error(page) == "A page on https may not use http://live.example/__skew. Serve Headcount on https."


def test_a_server_that_is_away_is_no_refusal(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/page?v=v1&strategy=sse&url=http://localhost:{free_port()}&delay=50")
    assert _error(page).startswith("The connection to http://localhost:")
