"""The published client of nuxt-skew-protection, unmodified, against this server (tests/e2e/nuxt_client/README.md)."""

import json
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


def live(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.inner_text("#stats"))
    return found


def open_page(context: BrowserContext, strategy: str, build: str) -> Page:
    page = context.new_page()
    page.goto(f"/nuxt/{strategy}.html?build={build}&route=/a")
    page.wait_for_selector("#stats")
    return page


def until_live(page: Page, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
    def holds() -> bool:
        page.wait_for_timeout(10)  # lets the page's events in
        return condition(live(page))

    eventually(holds, f"{what}: {live(page)}")


def test_authorised_viewer_sees_figures_navigation_and_leaving(new_context: NewContext, strategy: str) -> None:
    context = new_context()
    log_in(context)
    viewer = open_page(context, strategy, "v2")
    until_live(viewer, lambda seen: seen["authorized"] is True and seen["total"] == 1, "authorised")
    other = open_page(new_context(), strategy, "v1")
    until_live(viewer, lambda seen: seen["versions"] == {"v2": 1, "v1": 1}, "the other page by its cookie's version")
    other.evaluate("go('/shopping')")
    until_live(viewer, lambda seen: seen["routes"] == {"/a": 1, "/shopping": 1}, "navigation")
    seen = live(viewer)
    assert [row["version"] for row in seen["connections"] if row["id"] == seen["yourId"]] == ["v2"]
    other.close()
    until_live(viewer, lambda seen: seen["total"] == 1, "the other page left")


def test_stranger_is_denied(new_context: NewContext, strategy: str) -> None:
    page = open_page(new_context(), strategy, "v1")
    until_live(page, lambda seen: seen["authorized"] is False and seen["total"] == 0, "denied")


def test_client_survives_messages_it_does_not_know(new_context: NewContext, server: Server, strategy: str) -> None:
    context = new_context()
    log_in(context)
    page = open_page(context, strategy, "v2")
    until_live(page, lambda seen: seen["authorized"] is True, "authorised")
    page.request.post("/broadcast", data={"type": "something-new", "x": [1]})
    wait(page, "__messages.some((message) => message.type === 'something-new')")
    open_page(new_context(), strategy, "v1")
    until_live(page, lambda seen: seen["total"] == 2, "figures go on")
    assert page.evaluate("__errors") == []
