"""The dashboard in a real browser: log-in, figures, filters, states in words, policy, and accessibility."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import APIResponse, Browser, BrowserContext, Locator, Page, Route, WebSocketRoute, expect

from .conftest import Server, eventually, proxy_in_front_of, wait

AXE = Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"
TOKEN = "the tests' own door"
DASHBOARD = "/__skew/dashboard/"


@pytest.fixture(scope="module")
def crowd() -> Iterator[Server]:
    """3,000 connections that stand still, so that what is shown can be compared with what is there."""
    server = Server(
        *("uvicorn", "crowd_app:app", "--port", "{port}", "--log-level", "warning"),
        env={"CROWD": "3000", "CROWD_ROUTES": "300", "CROWD_MOVES": "0"},
    )
    yield server
    server.stop()


@pytest.fixture
def context(browser: Browser, crowd: Server) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=crowd.url)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that must not complain, and must not ask anything of another origin."""
    page = context.new_page()
    complaints: list[str] = []
    foreign: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if "//127.0.0.1:" in request.url else foreign.append(request.url))
    yield page
    assert [
        text for text in complaints if not re.search(r"status of (401|426|429)|ERR_CONNECTION_REFUSED|WebSocket", text)
    ] == []
    assert foreign == []


def log_in(page: Page, path: str = DASHBOARD) -> None:
    page.goto(path)
    page.get_by_label("Admin token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Connections", exact=False).last).to_be_visible()


def is_seen(text: Locator) -> bool:
    """Say whether a text has room: one for screen readers only is visible to Playwright, but a pixel high."""
    box = text.bounding_box()
    return box is not None and min(box["width"], box["height"]) > 8


def ids(page: Page) -> list[str]:
    """Return the whole ids of the connections in sight."""
    found: list[str] = page.locator(".connections .space .row > .id button").evaluate_all(
        "all => all.map((one) => one.title)"
    )
    return found


def cells(page: Page, table: str, column: str) -> list[str]:
    return page.locator(f".{table} .space .row > .{column}").all_inner_texts()


def keep_drawn_texts(context: BrowserContext) -> None:
    """The labels of axes and marks are drawn, so they are not in the document."""
    context.add_init_script(
        "const drawn = CanvasRenderingContext2D.prototype.fillText;"
        "CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {"
        "  this.canvas.drawn = [...(this.canvas.drawn ?? []), text]; drawn.call(this, text, ...rest) }"
    )


def test_the_charts_of_a_server_that_has_just_started_show_two_minutes(browser: Browser, server: Server) -> None:
    context = browser.new_context(base_url=server.url)
    keep_drawn_texts(context)
    page = context.new_page()
    log_in(page, f"{DASHBOARD}?counted")
    for chart in (".total", ".versions"):
        # Marks are a minute apart: two minutes have two at least, and a few seconds none or one.
        wait(
            page,
            f"new Set(document.querySelector('{chart} canvas')?.drawn?.filter((text) => /:/.test(text))).size >= 2",
        )
    context.close()


def test_releases_are_marked_in_both_charts(page: Page, context: BrowserContext) -> None:
    keep_drawn_texts(context)

    def drawn_in_both(text: str) -> bool:
        lists = [page.evaluate(f"document.querySelector('{chart} canvas')?.drawn") for chart in (".total", ".versions")]
        return all(text in (texts or ()) for texts in lists)

    log_in(page)
    eventually(lambda: drawn_in_both("2026.11.4"), "the release of the last hour is marked")
    assert not drawn_in_both("2026.11.3"), "nothing was released when the hour began"
    declared = page.evaluate("Date.now()") - 60_000
    release = {"state": "declared", "version": "2026.11.3", "number": declared}
    altered(page, release=release, currentVersion="2026.11.3")
    page.reload()
    eventually(lambda: drawn_in_both("2026.11.3"), "a declaration is marked before a sample has it")


@pytest.mark.parametrize("chart", ["total", "versions"])
def test_a_chart_says_what_was_at_a_moment(page: Page, chart: str) -> None:
    log_in(page)
    slider, tip = page.locator(f".{chart}").get_by_role("slider"), page.locator(f".{chart} .tip")
    box = slider.bounding_box()
    assert box
    slider.hover(position={"x": box["width"] * 0.25, "y": 80})
    expect(tip).to_contain_text(re.compile(r"^\s*\d+:\d+:\d+.*2,\d{3} connections"))
    assert tip.locator(".name").all_inner_texts() == ["2026.11.3", "2026.11.2", "unknown", "2026.10.9"]
    earlier = tip.locator("b").inner_text()
    slider.hover(position={"x": box["width"] * 0.8, "y": 80})
    expect(tip.locator(".name").first).to_have_text("2026.11.4")
    assert tip.locator("b").inner_text() != earlier
    inside = tip.bounding_box()
    assert inside
    assert box["x"] <= inside["x"]
    assert inside["x"] + inside["width"] <= box["x"] + box["width"]
    page.mouse.move(0, 0)
    expect(tip).to_have_count(0)

    slider.focus()
    newest = slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    expect(tip).to_be_visible()
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowLeft")
    said = slider.get_attribute("aria-valuetext")
    assert said
    assert said != newest
    assert re.fullmatch(r"\d.*: 2,\d{3} connections; 2026.11.4 \d+%, 2026.11.3 \d+%, .*", said)
    assert said.startswith(tip.locator("b").inner_text())
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuenow", "0")
    page.keyboard.press("Escape")
    expect(tip).to_have_count(0)


def test_a_stranger_sees_a_log_in_and_nothing_else(page: Page) -> None:
    page.goto("/__skew/dashboard")
    assert page.url.endswith("/dashboard/")
    expect(page.get_by_role("heading", name="Not authorised for live stats")).to_be_visible()
    page.get_by_label("Admin token").fill("a guess")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(re.compile("not the admin token"))
    expect(page.locator(".figure")).to_have_count(0)


def test_log_in_keeps_a_cookie_that_is_not_the_token_and_log_out_ends_it(page: Page, context: BrowserContext) -> None:
    log_in(page)
    (cookie,) = context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        *("headcount_admin", True, "Strict", "/__skew"),
    )
    assert TOKEN not in cookie["value"]
    page.reload()
    expect(page.locator(".figure")).to_have_text("3,000")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Not authorised for live stats")).to_be_visible()
    assert context.cookies() == []


def test_a_keyboard_goes_on_where_the_figures_are_after_the_log_in_and_at_the_log_in_after_the_log_out(
    page: Page,
) -> None:
    page.goto(DASHBOARD)
    page.get_by_label("Admin token").focus()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Rollout of 2026.11.4")).to_be_focused()
    page.get_by_role("button", name="Log out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Not authorised for live stats")).to_be_focused()
    expect(page.get_by_label("Admin token")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Admin token")).to_be_focused()


def test_what_is_typed_at_the_log_in_stays_when_the_stream_ends_before_the_log_out_is_answered(page: Page) -> None:
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/log-out", lambda route: held.append((route, route.fetch())))
    log_in(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Not authorised for live stats")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    token = page.get_by_label("Admin token")
    token.type("half a token")
    page.evaluate("document.querySelector('#token').marked = true")
    with page.expect_websocket() as stream:
        ((route, answer),) = held
        route.fulfill(response=answer)
    stream.value.wait_for_event("framereceived", lambda frame: "unauthorized" in str(frame))
    page.wait_for_timeout(100)  # A form that is made anew is made within a turn of the page's loop.
    expect(token).to_be_focused()
    expect(token).to_have_value("half a token")
    assert page.evaluate("document.querySelector('#token').marked")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_log_out_that_does_not_reach_the_server_says_so(page: Page) -> None:
    log_in(page)
    page.route("**/log-out", lambda route: route.abort("connectionrefused"))
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("alert")).to_have_text(
        "Log-out failed: the server did not answer. You are still logged in; try again."
    )
    page.unroute("**/log-out")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Not authorised for live stats")).to_be_visible()


def test_it_shows_the_figures_that_the_server_has(page: Page, crowd: Server) -> None:
    log_in(page)
    stats = crowd.stats()
    expect(page.locator(".figure")).to_have_text("3,000")
    current = stats["versions"]["2026.11.4"]
    expect(page.locator(".legend .current")).to_contain_text("2026.11.4")
    expect(page.locator(".legend .current .number")).to_have_text(f"{current:,}")
    expect(page.locator(".legend .current .badge")).to_have_text("current")
    expect(page.locator(".migration dd").first).to_contain_text(f"{current:,}")
    expect(page.locator(".migration .to-go")).to_contain_text(re.compile(r"about \d+ (minutes|hours|days)"))
    expect(page.locator(".migration h2")).to_have_text("Rollout of 2026.11.4 settled: every node serves it")
    expect(page.locator(".total canvas")).to_be_visible()
    expect(page.locator(".versions canvas")).to_be_visible()
    route, most = max(stats["routes"].items(), key=lambda item: item[1])
    first = page.locator(".routes .space .row").first
    expect(first.locator(".route")).to_have_text(route)
    expect(first.locator(".open")).to_have_text(f"{most:,}")
    expect(first.locator(".share")).to_contain_text("%")
    expect(page.locator(".state")).to_have_text("Live. 1 node is reporting.")


def test_connections_are_paged_filtered_and_sorted(page: Page, crowd: Server) -> None:
    log_in(page)
    table = page.get_by_role("table", name="Connections")
    expect(table).to_have_attribute("aria-rowcount", "3001")
    assert page.locator(".connections .space .row").count() < 60, "only the rows in sight exist"
    stats = crowd.stats()
    page.get_by_role("combobox", name="Version").select_option("2026.11.2")
    expect(table).to_have_attribute("aria-rowcount", str(stats["versions"]["2026.11.2"] + 1))
    assert set(cells(page, "connections", "version")) == {"2026.11.2"}
    expect(page.locator("#connections-heading")).to_contain_text(
        f"{stats['versions']['2026.11.2']} connections of 3,000"
    )
    page.get_by_role("combobox", name="Version").select_option("")
    page.get_by_role("combobox", name="Route").fill("/account")
    page.keyboard.press("Enter")
    expect(table).to_have_attribute("aria-rowcount", str(stats["routes"]["/account"] + 1))
    assert set(cells(page, "connections", "route")) == {"/account"}
    expect(page.locator(".connections .space .row .ip").first).to_have_text(re.compile(r"192\.0\.2\.\d+"))
    page.get_by_role("combobox", name="Route").fill("no/such")
    page.keyboard.press("Enter")
    expect(page.locator(".connections .none")).to_have_text("No connections match.")
    expect(page.locator("#connections-heading")).to_contain_text("0 connections of 3,000")


def test_a_click_on_a_version_or_a_route_filters_and_a_reload_keeps_it(page: Page, crowd: Server) -> None:
    log_in(page, f"{DASHBOARD}?other=kept")
    table = page.get_by_role("table", name="Connections")
    heading = page.locator("#connections-heading")
    stats = crowd.stats()
    page.locator(".legend").get_by_role("button", name="2026.11.2").click()
    for _ in range(2):
        expect(table).to_have_attribute("aria-rowcount", str(stats["versions"]["2026.11.2"] + 1))
        expect(page.get_by_role("combobox", name="Version")).to_have_value("2026.11.2")
        expect(page.locator(".legend [aria-pressed=true]")).to_have_text("2026.11.2")
        assert page.url.endswith("?other=kept&version=2026.11.2")
        page.reload()
    page.locator(".legend").get_by_role("button", name="2026.11.2").click()
    page.get_by_role("table", name="Routes").get_by_role("button", name="/", exact=True).click()
    expect(table).to_have_attribute("aria-rowcount", str(stats["routes"]["/"] + 1))
    eventually(lambda: set(cells(page, "connections", "route")) == {"/"}, "the rows are of that route alone")
    page.get_by_role("button", name="Show all").click()
    expect(heading).to_contain_text("3,000 connections")
    assert page.url.endswith("?other=kept")


def test_the_route_filter_takes_a_part_and_needs_no_enter(page: Page, crowd: Server) -> None:
    log_in(page)
    counts = crowd.stats()["routes"]
    part = "account/"
    expected = sum(count for route, count in counts.items() if part in route)
    assert 0 < expected < 3000
    assert part not in counts
    page.get_by_role("combobox", name="Route").fill(part)
    table = page.get_by_role("table", name="Connections")
    eventually(lambda: all(part in route for route in cells(page, "connections", "route")), "all rows match")
    for _ in range(2):
        table.focus()
        page.keyboard.press("End")
        expect(table).to_have_attribute("aria-rowcount", str(expected + 1))
        expect(page.locator("#connections-heading")).to_contain_text(f"{expected:,} connections of 3,000")
        assert page.url.endswith("?contains=account%2F")
        page.reload()


def test_an_id_shows_its_end_and_is_copied_whole(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    log_in(page)
    first = page.locator(".connections .space .row > .id button").first
    expect(first).to_be_visible()
    whole = ids(page)[0]
    assert len(whole) > 8
    expect(first).to_have_text(whole[-8:])
    expect(first).to_have_accessible_name(f"{whole[-8:]}: copy {whole}")
    first.click()
    expect(page.locator(".connections .row .badge")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == whole
    # A page that is not on https has no clipboard.
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.locator(".connections .space .row > .id button").nth(1).click()
    expect(page.locator(".connections .row .badge").last).to_have_text("copied")


@pytest.mark.parametrize("column", ["Route", "Address", "Connection"])
def test_the_server_sorts_all_connections_and_not_only_those_that_are_loaded(
    page: Page, crowd: Server, column: str
) -> None:
    field = {"Route": "route", "Address": "ip", "Connection": "id"}[column]
    everybody = all_connections(crowd)
    assert len(everybody) == 3000
    log_in(page)
    expect(page.locator(".connections .space .row button").first).to_be_visible()
    header = page.get_by_role("columnheader", name=column).last
    for order, reverse in (("ascending", False), ("descending", True)):
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", order)
        in_order = sorted(everybody, key=lambda row: (row[field], row["id"]), reverse=reverse)
        expect(page.locator(".connections .space .row > .id button").first).to_have_attribute(
            "title", in_order[0]["id"]
        )
        assert ids(page)[:10] == [row["id"] for row in in_order[:10]]
        page.get_by_role("table", name="Connections").focus()
        page.keyboard.press("End")
        expect(page.locator('.connections [aria-rowindex="3001"] .id button')).to_have_attribute(
            "title", in_order[-1]["id"]
        )
        page.keyboard.press("Home")


def all_connections(crowd: Server) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    cursor: str | None = "0"
    while cursor is not None:
        found = httpx.get(
            f"{crowd.url}/__skew/admin/connections?limit=1000&cursor={cursor}",
            headers={"authorization": f"Bearer {TOKEN}"},
        ).json()
        rows += found["connections"]
        cursor = found["cursor"]
    return rows


def test_only_what_is_looked_at_is_asked_for(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/admin/connections" in request.url else None)
    log_in(page)
    expect(page.locator(".connections .space .row button").first).to_be_visible()
    table = page.get_by_role("table", name="Connections")
    expect(table).to_have_attribute("aria-rowcount", "3001")
    assert len(asked) == 1
    table.focus()
    page.keyboard.press("End")
    expect(page.locator('.connections [aria-rowindex="3001"] .id button')).to_be_visible()
    assert len(asked) == 3
    # The rows in sight, and no others, are asked for again; a page that began elsewhere by now begins there.
    with page.expect_request(re.compile("cursor=.*"), timeout=15_000) as again:
        pass
    assert again.value.url == asked[2]


def test_who_moved_between_two_pages_stands_once_and_where_he_is_now(page: Page) -> None:
    """Pages are of different moments: forty of the first have moved on by the time the last is asked for."""
    first: list[dict[str, Any]] = []

    def later(route: Route) -> None:
        if "cursor=moved" in route.request.url:
            moved = [{**row, "route": "/moved"} for row in first[:40]]
            route.fulfill(json={"connections": moved, "cursor": None})
        else:
            answer = route.fetch().json()
            first.extend(answer["connections"])
            route.fulfill(json={**answer, "cursor": answer["cursor"] or "moved"})

    page.route("**/admin/connections*", later)
    log_in(page)
    expect(page.locator(".connections .space .row button").first).to_be_visible()
    page.get_by_role("table", name="Connections").focus()
    page.keyboard.press("End")
    expect(page.locator('.connections [aria-rowindex="3001"] .route')).to_have_text("/moved")
    expect(page.locator(".connections .coming")).to_have_count(0)
    assert ids(page)[-1] == first[39]["id"]
    expect(page.locator("#connections-heading")).to_contain_text("3,000 connections")


def test_a_dashboard_that_is_counted_lists_itself(page: Page) -> None:
    log_in(page)
    expect(page.locator(".figure")).to_have_text("3,000")
    page.get_by_role("link", name="Count it").click()
    expect(page.locator(".figure")).to_have_text("3,001")
    expect(page.get_by_role("link", name="Do not count it")).to_be_visible()
    page.get_by_role("combobox", name="Route").fill("/__skew/dashboard/")
    page.keyboard.press("Enter")
    expect(page.locator(".connections .row.marked .badge")).to_have_text("you", timeout=15_000)


def altered(page: Page, **fields: Any) -> None:
    """Let the server's figures come with other fields."""

    def handle(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(text: str | bytes) -> None:
            message = json.loads(text)
            socket.send(json.dumps({**message, **fields}) if message["type"] == "stats" else text)

        server.on_message(forward)

    page.route_web_socket(re.compile("/ws"), handle)


def overheard(page: Page) -> list[tuple[WebSocketRoute, dict[str, Any]]]:
    """Each snapshot that comes, and the socket on which the page can be told more."""
    streams: list[tuple[WebSocketRoute, dict[str, Any]]] = []

    def handle(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(text: str | bytes) -> None:
            if json.loads(text)["type"] == "stats":
                streams.append((socket, json.loads(text)))
            socket.send(text)

        server.on_message(forward)

    page.route_web_socket(re.compile("/ws"), handle)
    return streams


def test_what_is_typed_stays_while_figures_come(page: Page, crowd: Server) -> None:
    streams = overheard(page)
    log_in(page)
    socket, stats = streams[-1]
    route = page.get_by_role("combobox", name="Route")
    route.focus()
    for number, key in enumerate("/account", start=1):
        page.keyboard.press(key)
        socket.send(json.dumps({**stats, "total": 3000 + number}))
        expect(page.locator(".figure")).to_have_text(f"{3000 + number:,}")
    expect(route).to_have_value("/account")
    page.keyboard.press("Enter")
    table = page.get_by_role("table", name="Connections")
    expect(table).to_have_attribute("aria-rowcount", str(crowd.stats()["routes"]["/account"] + 1))
    assert set(cells(page, "connections", "route")) == {"/account"}


def test_the_most_of_the_last_hour_is_not_less_than_what_is_open_now(page: Page) -> None:
    streams = overheard(page)
    log_in(page)
    most = page.locator(".total .note")
    expect(most).to_have_text(re.compile(r"^Peak in the last hour: 3,0\d\d, at .*\.$"))
    socket, stats = streams[-1]
    socket.send(json.dumps({**stats, "total": 9000}))
    expect(page.locator(".figure")).to_have_text("9,000")
    expect(most).to_have_text("Peak in the last hour: 9,000, now.")


def test_a_right_without_connections_and_routes_is_told_so(page: Page) -> None:
    altered(page, connections=[], connectionsTruncated=False, routes={})
    page.goto(DASHBOARD)
    page.get_by_label("Admin token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".figure")).to_have_text("3,000")
    expect(page.locator(".connections")).to_contain_text("You may not see the connection list.")
    expect(page.locator(".table")).to_have_count(0)


def test_whoever_is_denied_again_is_told_why(page: Page, context: BrowserContext) -> None:
    page.goto(DASHBOARD)
    page.get_by_role("button", name="try again").click()
    expect(page.get_by_role("alert")).to_have_text("The application still denies access.")
    # A browser that keeps no cookies.
    page.route("**/log-in", lambda route: route.fulfill(json={"ok": True}))
    page.get_by_label("Admin token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text(re.compile("did not send the log-in cookie"))


def swatches(page: Page) -> dict[str, str]:
    """Return the class of each version's colour, by its name."""
    return {
        row.locator(".name").inner_text(): row.locator(".swatch").get_attribute("class") or ""
        for row in page.locator(".legend li").all()
    }


def test_a_release_is_the_current_version_also_for_who_looks_later(page: Page) -> None:
    server = Server(
        *("uvicorn", "crowd_app:app", "--port", "{port}", "--log-level", "warning"),
        env={"CROWD": "50", "CROWD_ROUTES": "5", "CROWD_MOVES": "0"},
    )
    try:
        log_in(page, server.url + DASHBOARD)
        expect(page.locator(".legend .current")).to_contain_text("2026.11.4")
        colours = swatches(page)
        assert colours["unknown"] == "swatch series-grey"
        assert len(set(colours.values())) == len(colours) == 5
        answer = page.request.post(
            f"{server.url}/__skew/admin/release",
            headers={"authorization": f"Bearer {TOKEN}"},
            data={"version": "2026.11.3"},
        )
        assert answer.ok
        counted = server.stats()["versions"]["2026.11.3"]
        for _ in range(2):
            expect(page.locator(".legend .current")).to_contain_text("2026.11.3")
            expect(page.locator(".legend .current .number")).to_have_text(str(counted))
            expect(page.locator("header")).to_contain_text("Current version 2026.11.3")
            assert swatches(page) == colours, "a version keeps its colour"
            page.reload()
    finally:
        server.stop()


def test_without_a_release_nobody_is_called_outdated_while_nodes_serve_several_versions(page: Page) -> None:
    altered(page, nodes={"reporting": 3, "expected": 3, "versions": {"v1": 1, "v2": 2}}, currentVersion=None)
    log_in(page)
    expect(page.locator("header")).to_contain_text("Current version not known")
    expect(page.locator(".migration")).to_contain_text(
        "The current version is not known. Served: v2 (2 nodes), v1 (1 node)."
    )
    expect(page.locator(".migration")).to_contain_text("headcount release VERSION URL")
    expect(page.locator(".migration progress, .migration dl, .legend .current, .old")).to_have_count(0)


def test_it_shows_which_version_each_node_serves(page: Page) -> None:
    altered(page, nodes={"reporting": 3, "expected": 3, "versions": {"v1": 1, "v2": 2}}, currentVersion="v2")
    log_in(page)
    line = page.get_by_text("Nodes serve v2 (2 nodes), v1 (1 node).")
    expect(line).to_be_visible()
    assert is_seen(line)


def test_a_declared_version_that_no_node_serves_is_named(page: Page) -> None:
    altered(
        page,
        nodes={"reporting": 3, "expected": 3, "versions": {"v1": 2}},
        currentVersion=None,
        release={"state": "orphaned", "version": "v2"},
    )
    log_in(page)
    expect(page.locator(".migration")).to_contain_text(
        "No node serves v2, which was declared. Served: v1 (2 nodes), unknown (1 node)."
    )
    expect(page.locator(".migration")).to_contain_text("headcount release VERSION URL")
    expect(page.locator(".migration progress, .migration dl")).to_have_count(0)


def test_the_rollout_comes_first_says_when_it_was_declared_and_how_fast_pages_leave(page: Page) -> None:
    declared = 1_795_876_920_000
    altered(page, release={"state": "declared", "version": "2026.11.4", "number": declared})
    minute = 60_000
    samples = [
        {
            "at": declared + step * minute // 6,
            "total": 3000,
            "versions": {"v1": round(3000 * 0.9**step), "2026.11.4": 0},
        }
        for step in range(1, 7)
    ]
    page.route("**/admin/history", lambda route: route.fulfill(json={"samples": samples}))
    page.clock.install(time=(declared + 2 * minute) / 1000)
    log_in(page)
    strip = page.locator("main > section").first
    heading = page.get_by_role("region", name="Rollout of 2026.11.4")
    expect(heading).to_be_visible()
    time = page.evaluate(f"new Date({declared}).toLocaleTimeString([], {{ hour: 'numeric', minute: '2-digit' }})")
    expect(strip.locator("h2")).to_have_text(f"Rollout of 2026.11.4 declared {time}")
    expect(strip.locator(".to-go")).to_contain_text(re.compile(r"about \d.*[\d,]+/min"))
    box, main = strip.bounding_box(), page.locator(".connections").bounding_box()
    assert box
    assert main
    assert box["width"] > main["width"], "the full width"
    assert is_seen(strip.locator(".to-go dd"))


def test_partial_figures_are_called_so(page: Page) -> None:
    altered(page, partial=True, nodes={"reporting": 2, "expected": 3})
    log_in(page)
    expect(page.locator(".state")).to_have_text(
        "Figures are partial: some connections are missing. 2 of 3 nodes are reporting."
    )
    expect(page.locator(".migration h2 .badge")).to_have_text("partial")
    expect(page.locator(".migration .unaccounted")).to_have_count(0)


def test_connections_that_are_unaccounted_for_are_named(page: Page) -> None:
    absences = [
        {"node": "3f2a", "total": 120, "versions": {"v1": 120}, "state": "cut-off", "since": 0},
        {"node": "77", "total": 1, "versions": {"v1": 1}, "state": "vanished", "since": 1_764_338_531_000},
        {"node": "a1", "total": 2, "versions": {"v1": 2}, "state": "unanswered", "since": 0},
    ]
    altered(page, partial=True, nodes={"reporting": 2, "expected": 2}, unaccounted=123, absences=absences)
    answer = {"shares": [], "nodes": {"reporting": 2, "expected": 2}, "partial": True, "absences": absences}
    page.route(re.compile("/admin/nodes"), lambda route: route.fulfill(json=answer))
    log_in(page)
    since = page.evaluate("new Date(1764338531000).toLocaleTimeString()")
    expect(page.locator(".state")).to_have_text(
        "Figures are partial: 123 connections are unaccounted for: node 3f2a (stopped or cut off), "
        f"77 (since {since}), a1 (pages do not answer). "
        "All 2 nodes are reporting."
    )
    expect(page.locator(".migration .unaccounted dd")).to_have_text("123 may be on any version")


def test_a_limit_that_ends_streams_is_named_with_what_to_do(page: Page) -> None:
    line = page.get_by_text("Something between browsers and the server ends streams")
    log_in(page)
    expect(page.locator(".figure")).to_have_text("3,000")
    expect(line).to_have_count(0)

    def limited(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "cutAfterMs": 14_960})

    page.route(re.compile("/admin/nodes"), limited)
    page.reload()
    expect(line).to_have_text(
        "Something between browsers and the server ends streams after 15 s. Raise its limit; see "
        '"A proxy that ends streams" in docs/deployment.md.'
    )
    assert "### A proxy that ends streams" in (Path(__file__).parents[2] / "docs/deployment.md").read_text("utf-8")


def test_a_limit_that_a_proxy_has_is_named_as_soon_as_pages_have_noticed_it(browser: Browser, server: Server) -> None:
    life = 2.5
    with proxy_in_front_of(server, life=life) as origin, closing(browser.new_context(base_url=origin)) as context:
        for route in "abc":  # three pages that prove it
            context.new_page().goto(f"/{route}?v=v1&strategy=sse")

        def limit() -> float | None:
            answer = httpx.get(f"{server.url}/__skew/admin/nodes", headers={"authorization": f"Bearer {TOKEN}"})
            milliseconds: float | None = answer.raise_for_status().json().get("cutAfterMs")
            return milliseconds

        eventually(limit, "the pages have proven the limit", 90)
        page = context.new_page()
        log_in(page)
        line = page.get_by_text("Something between browsers and the server ends streams after")
        expect(line).to_be_visible()
        named = re.search(r"after ([\d.]+) s", line.inner_text())
        assert named
        assert float(named[1]) == pytest.approx(life, abs=0.5), "as the pages have measured it"


def test_old_figures_are_called_so_and_heal(page: Page, browser: Browser) -> None:
    server = Server(
        *("uvicorn", "crowd_app:app", "--port", "{port}", "--log-level", "warning"),
        env={"CROWD": "5", "CROWD_ROUTES": "5", "CROWD_MOVES": "0"},
    )
    try:
        page.clock.install()
        log_in(page, server.url + DASHBOARD)
        expect(page.locator(".figure")).to_have_text("5")
        expect(page.locator(".adoption")).to_be_visible()  # no request is on its way any more
        expect(page.locator(".migration .to-go")).to_be_visible()
        colour = "getComputedStyle(document.querySelector('.figure')).color"
        live = page.evaluate(colour)
        # Nothing has happened for a long time, and they are true all the same until the server is gone.
        page.clock.set_system_time(datetime(2035, 1, 1, 12, 30))
        server.stop()
        expect(page.locator(".state")).to_have_text(re.compile("Figures as of 12:30:.*; reconnecting"))
        expect(page.locator(".figure")).to_have_text("5")
        expect(page.locator(".migration .to-go")).to_have_count(0)
        assert page.evaluate(colour) != live, "figures that may be old do not look like those of now"
        server.start()
        expect(page.locator(".state")).to_have_text("Live. 1 node is reporting.", timeout=15_000)
        assert page.evaluate(colour) == live
    finally:
        server.stop()


def test_this_rollout_is_shown_against_the_last_five(page: Page) -> None:
    log_in(page)
    section = page.get_by_role("region", name="Adoption against the last 5 rollouts")
    expect(section).to_contain_text("2026.11.4: running, 6")
    expect(section.get_by_role("img")).to_be_visible()
    rows = [
        [cell.strip() for cell in row.locator("th, td").all_inner_texts()] for row in section.locator("tbody tr").all()
    ]
    assert [row[0] for row in rows] == ["2026.11.4", "2026.11.3", *(f"2026.10.{number}" for number in (9, 8, 7, 6))]
    assert rows[0][2:4] == ["–", "–"], "neither 90 nor 99 % are reached"
    assert rows[1][1].startswith("<"), "figures were partial when half of them were reached"
    assert rows[5][1:] == ["90 s", "4.7 min", "9.3 min", "90 s"]


def test_a_rollout_whose_newest_figures_are_partial_says_so_and_without_one_there_is_no_section(page: Page) -> None:
    answer: dict[str, Any] = {"rollouts": []}
    page.route("**/admin/history/rollouts", lambda route: route.fulfill(json=answer))
    log_in(page)
    expect(page.locator(".versions")).to_be_visible()
    assert page.locator(".adoption").count() == 0
    curve = [{"afterMs": 0, "on": 1, "total": 3}]
    rollout = {"version": "v2", "at": 1, "declared": True, "state": "running", "reached": [], "curve": curve}
    answer["rollouts"] = [{**rollout, "partial": True}]
    page.reload()
    expect(page.locator(".adoption")).to_contain_text("v2: running, 33.3% of connections are on it.")
    expect(page.locator(".adoption .note")).to_contain_text("Partial: the newest figures lack connections")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390])
def test_axe_finds_no_violation(browser: Browser, crowd: Server, scheme: Any, width: int) -> None:
    context = browser.new_context(
        base_url=crowd.url, color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True
    )
    page = context.new_page()
    try:
        page.goto(DASHBOARD)
        page.get_by_label("Admin token").wait_for()
        assert violations(page) == []
        log_in(page)
        wait(page, "document.querySelectorAll('.connections .space .row').length > 3")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
        for header in page.locator(".connections .head [role=columnheader]:visible").all():
            cell, arrow = header.bounding_box(), header.locator("[aria-hidden]").bounding_box()
            assert cell is not None
            if arrow is None:  # a narrow head has room for the titles, and for the arrow of the sorted column
                assert width < 500
                header.get_by_role("button").click()
                arrow = header.locator("[aria-hidden]").bounding_box()
            assert arrow is not None
            assert arrow["x"] + arrow["width"] <= cell["x"] + cell["width"], "how it is sorted is seen"
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [f"{each['impact']} {each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


def test_addresses_that_are_missing_have_a_reason(browser: Browser) -> None:
    """The page's own address stands in X-Forwarded-For, as uvicorn leaves it behind a local proxy."""
    server = Server(
        *("headcount", "serve", "--port", "{port}", "--ip-tracking", "true"),
        # Chromium adds these headers to no WebSocket.
        env={"HEADCOUNT_VERSION": "v1", "HEADCOUNT_ADMIN_TOKEN": TOKEN, "HEADCOUNT_UPDATE_STRATEGY": "sse"},
    )
    context = browser.new_context(base_url=server.url, extra_http_headers={"x-forwarded-for": "127.0.0.1"})
    try:
        page = context.new_page()
        log_in(page, f"{DASHBOARD}?counted")
        note = page.get_by_text("Client addresses are unknown. The server replaces client addresses")
        expect(note).to_contain_text("trusted_proxies='server'")
    finally:
        context.close()
        server.stop()


def test_a_staged_release_is_watched(browser: Browser) -> None:
    server = Server(
        *("headcount", "serve", "--version", "v2", "--port", "{port}", "--admin-token", TOKEN),
        env={"HEADCOUNT_STATS_INTERVAL": "0.1"},
    )
    with closing(browser.new_context(base_url=server.url, bypass_csp=True)) as context:
        pages = [context.new_page() for _ in range(4)]
        for page in pages:
            page.goto("/__skew/health")
            page.evaluate(
                "(async () => { const { createHeadcount } = await import('/__skew/client.js');"
                " createHeadcount({ version: 'v1' }).connect() })()"
            )
        eventually(lambda: server.stats()["total"] == 4, "four pages are open")
        dashboard = context.new_page()
        log_in(dashboard)
        section = dashboard.get_by_role("region", name="Pages asked to come to v2")
        expect(section).to_have_count(0)
        headers = {"authorization": f"Bearer {TOKEN}"}

        def declare(**body: Any) -> None:
            assert httpx.post(f"{server.url}/__skew/admin/release", json=body, headers=headers).is_success

        declare(version="v2", over=3600)
        expect(section).to_contain_text("Pages are asked in stages until")
        expect(section).to_contain_text("4 wait for a turn.")
        declare(change="pause")
        expect(section).to_contain_text(re.compile("the release is paused: (<1|0)% so far"))
        declare(change="abort")
        expect(section).to_contain_text("The staged release was aborted")
        declare(version="v2")
        expect(section).to_contain_text("All pages were asked at once.")
        expect(section).to_contain_text("4 pages asked: 0 accepted, 4 without an answer.")
        assert is_seen(section.get_by_text("4 pages asked"))
        if folder := os.environ.get("SCREENSHOTS"):
            dashboard.screenshot(path=f"{folder}/staged.png", full_page=True)
        assert violations(dashboard) == []
    server.stop()
