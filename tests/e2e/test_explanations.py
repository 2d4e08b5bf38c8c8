"""What a page says, in a real browser, when something between it and the server keeps a stream from opening."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

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
"""nginx names itself the upstream's Host, unless it is told to pass Host on."""


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
