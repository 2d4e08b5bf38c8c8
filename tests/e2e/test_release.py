"""`headcount-client/release` in a real browser: a release comes, and nobody loses anything by it."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import BrowserContext, Dialog, Error, Page, expect

from kit.processes import BIN

from .conftest import TESTS, Server, eventually, wait
from .release_page import PLAY

TOKEN = "the tests' own door"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
OFFER = "A new version is available."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("uvicorn", "e2e.release_app:app", "--port", "{port}", "--log-level", "warning", cwd=TESTS)
    yield server
    server.stop()


@pytest.fixture
def context(server: Server, new_context: Callable[[], BrowserContext]) -> BrowserContext:
    serve(server, "v1")
    release(server, "v1")
    return new_context()


def serve(server: Server, *versions: str) -> None:
    """Serve documents of these versions in turn from now on."""
    assert httpx.post(f"{server.url}/serve", json=versions).is_success


def served(server: Server) -> Any:
    return httpx.get(f"{server.url}/served").json()


def release(server: Server, version: str, **stage: float) -> None:
    answer = httpx.post(
        f"{server.url}/__skew/admin/release",
        json={"version": version, **stage},
        headers=ADMIN,
    )
    assert answer.is_success, answer.text


def open_page(context: BrowserContext, mode: str, path: str = "/") -> Page:
    page = context.new_page()
    page.goto(f"{path}?mode={mode}")
    wait(page, "window.release?.outdated === false")
    return page


def open_each_kind(server: Server, context: BrowserContext, shared: str) -> list[Page]:
    """Two pages of each kind of stream; `shared`: the kind of the stream that two of them share."""
    kinds = ("strategy=sse", "strategy=ws", f"strategy={shared}&shared=1")
    pages = [open_page(context, f"immediate&{kind}") for kind in kinds for _ in range(2)]
    eventually(lambda: server.stats()["total"] == 6, "all pages are counted")
    return pages


@pytest.mark.parametrize(("dirty", "shared"), [(0, "ws"), (3, "sse"), (4, "sse"), (5, "sse"), (5, "ws")])
def test_pages_of_a_staged_release_say_what_they_do(
    server: Server, context: BrowserContext, dirty: int, shared: str
) -> None:
    pages = open_each_kind(server, context, shared)
    pages[dirty].get_by_label("Name").press_sequentially("Ada")
    serve(server, "v2")
    release(server, "v2", over=1)

    def said() -> Any:
        found = httpx.get(f"{server.url}/__skew/admin/rollout", headers=ADMIN).json()
        return {name: found[name] for name in ("invited", "accepted", "deferred", "refused", "silent", "gone")}

    want = {"invited": 6, "accepted": 5, "deferred": {"form": 1}, "refused": 0, "silent": 0, "gone": 0}
    eventually(lambda: said() == want, f"five accept, one defers: {said()}")
    for number, page in enumerate(pages):
        expect(page).to_have_title("v1" if number == dirty else "v2")
    eventually(lambda: server.stats()["versions"] == {"v1": 1, "v2": 5}, "five have come")
    assert said() == want
    pages[dirty].get_by_label("Name").evaluate("field => field.form.reset()")
    expect(pages[dirty]).to_have_title("v2")
    eventually(lambda: said() == want | {"accepted": 6, "deferred": {}}, "the last one accepts")


@pytest.mark.parametrize("shared", ["sse", "ws"])
def test_pages_of_each_kind_of_stream_acknowledge_a_message(
    server: Server, context: BrowserContext, shared: str
) -> None:
    pages = open_each_kind(server, context, shared)
    for page in pages:
        page.evaluate("void headcount.onMessage((message) => { window.heard = message.text })")
    message = '{"type":"sale","text":"Everything must go"}'
    options = ["--message", message, "--token", TOKEN, "--wait", "20s"]
    done = subprocess.run(
        [BIN / "headcount", "notify", server.url, *options], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Sent to 6 pages; 6 acknowledged it.\n"
    for page in pages:
        assert page.evaluate("window.heard") == "Everything must go"


def deploy(server: Server) -> None:
    serve(server, "v2")
    release(server, "v2")


@pytest.mark.parametrize("mode", ["immediate", "next-navigation"])
def test_a_half_filled_form_is_never_lost(server: Server, context: BrowserContext, mode: str) -> None:
    page = open_page(context, mode)
    page.get_by_label("Name").press_sequentially("Ada")
    deploy(server)
    if mode == "immediate":
        wait(page, "release.reason === 'form'")
    else:
        eventually(lambda: served(server)["checks"], "the page has checked whether v2 is served")
        page.get_by_role("link", name="Orders").click()
        expect(page).to_have_url(f"{server.url}/orders?open=1#last")
    expect(page.get_by_label("Name")).to_have_value("Ada")
    assert served(server)["loads"] == []
    page.evaluate("document.querySelector('form').reset()")
    if mode == "next-navigation":
        page.evaluate("history.pushState(null, '', '/elsewhere')")
    expect(page).to_have_title("v2")


def test_a_page_that_plays_something_is_not_reloaded_until_it_pauses(server: Server, context: BrowserContext) -> None:
    page = open_page(context, "immediate")
    page.evaluate(PLAY)
    deploy(server)
    wait(page, "release.reason === 'media'")
    assert served(server) == {"loads": [], "checks": 0}
    page.evaluate("document.querySelector('audio').pause()")
    expect(page).to_have_title("v2")


@pytest.mark.parametrize(
    "listener",
    [
        "addEventListener('beforeunload', (event) => event.preventDefault())",
        "addEventListener('beforeunload', (event) => { event.returnValue = 'unsaved' })",
        "window.onbeforeunload = () => 'unsaved'",
    ],
)
def test_a_page_that_asks_before_it_is_left_stays_and_nobody_is_asked(
    server: Server, context: BrowserContext, listener: str
) -> None:
    page = open_page(context, "immediate")
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", answer)
    page.evaluate(listener)
    # The browser asks only on pages that somebody has touched.
    page.mouse.click(5, 5)
    deploy(server)
    wait(page, "release.reason === 'beforeunload'")
    assert (served(server)["loads"], asked) == ([], [])


def test_a_dialog_that_is_open_keeps_its_page_until_it_closes(server: Server, context: BrowserContext) -> None:
    page = open_page(context, "immediate")
    page.evaluate("document.body.appendChild(document.createElement('dialog')).showModal()")
    deploy(server)
    wait(page, "release.reason === 'dialog'")
    page.keyboard.press("Escape")
    expect(page).to_have_title("v2")


def test_a_balancer_that_alternates_costs_three_reloads_and_then_the_page_says_so(
    server: Server, context: BrowserContext
) -> None:
    page = context.new_page()
    page.clock.install()
    page.goto("/?mode=immediate")
    wait(page, "window.release?.outdated === false")
    # Each check finds v2, and each reload brings v1.
    serve(server, "v2", "v1")
    release(server, "v2")

    def gave_up() -> bool:
        try:
            page.clock.fast_forward(20_000)
            return bool(page.evaluate("window.release?.reason === 'exhausted'"))
        except Error:
            return False  # it reloads just now

    eventually(gave_up, "the page has given up")
    assert served(server)["loads"] == ["v1", "v1", "v1"]
    for _ in range(50):
        page.clock.fast_forward(600_000)
    wait(page, "release.reason === 'exhausted'")
    assert served(server)["loads"] == ["v1", "v1", "v1"]
    expect(page.get_by_text("Three reloads brought an old version.")).to_be_visible()


def test_a_page_waits_for_a_rolling_update_without_a_reload(server: Server, context: BrowserContext) -> None:
    page = context.new_page()
    page.clock.install()
    page.goto("/?mode=immediate")
    wait(page, "window.release?.outdated === false")
    serve(server, "v1")
    release(server, "v2")

    def later() -> Any:
        page.clock.fast_forward(30_000)
        return served(server)

    eventually(lambda: later()["checks"] >= 5, "the page has checked again and again")
    assert served(server)["loads"] == []
    serve(server, "v2")
    eventually(lambda: later()["loads"], "the page has been reloaded")
    expect(page).to_have_title("v2")
    assert served(server)["loads"] == ["v2"]


@pytest.mark.parametrize("claim", ["cookie", "query"])
def test_a_page_whose_requests_are_refused_as_outdated_still_finds_the_new_version(
    server: Server, context: BrowserContext, claim: str
) -> None:
    # The application answers outdated pages with 409, and knows them by the cookie or by the page's own address.
    if claim == "cookie":
        context.add_cookies([{"name": "__nkpv", "value": "v1", "url": server.url}])
    page = context.new_page()
    page.goto("/?mode=prompt" + ("&version=v1" if claim == "query" else ""))
    wait(page, "window.release?.outdated === false")
    deploy(server)
    expect(page.get_by_text(OFFER)).to_be_visible()
    requests = "[fetch('/api?version=v1'), fetch('/?version=v1', { method: 'POST', headers: { accept: 'text/html' } })]"
    assert page.evaluate(f"Promise.all({requests}).then((all) => all.map((one) => one.status))") == [409, 409]
    page.get_by_role("button", name="Reload").click()
    expect(page).to_have_title("v2")
    assert served(server)["loads"] == ["v2"]


def test_tabs_dismiss_together_and_reload_each_for_itself(server: Server, context: BrowserContext) -> None:
    one, two = open_page(context, "prompt"), open_page(context, "prompt")
    deploy(server)
    for page in (one, two):
        expect(page.get_by_text(OFFER)).to_be_visible()
    one.get_by_role("button", name="Reload").click()
    expect(one).to_have_title("v2")
    expect(one.get_by_text(OFFER)).not_to_be_visible()
    expect(two.get_by_text(OFFER)).to_be_visible()
    three = open_page(context, "prompt")
    serve(server, "v3")
    release(server, "v3")
    for page in (one, two, three):
        expect(page.get_by_text(OFFER)).to_be_visible()
    two.get_by_role("button", name="Not now").click()
    for page in (one, two, three):
        expect(page.get_by_text(OFFER)).not_to_be_visible()
    assert served(server)["loads"] == []
    assert two.title() == "v1"


def test_the_next_navigation_goes_to_its_whole_target(server: Server, context: BrowserContext) -> None:
    page = open_page(context, "next-navigation")
    deploy(server)
    eventually(lambda: served(server)["checks"], "the page has checked whether v2 is served")
    wait(page, "release.outdated")
    page.get_by_role("link", name="Orders").click()
    expect(page).to_have_title("v2")
    expect(page).to_have_url(f"{server.url}/orders?open=1#last")
    page.go_back()
    expect(page).to_have_url(f"{server.url}/?mode=next-navigation")


def test_a_part_that_is_gone_brings_its_user_to_where_they_wanted_to_go(
    server: Server, context: BrowserContext
) -> None:
    page = open_page(context, "next-navigation")
    # Without a release: the part is gone, and the document is of another version.
    serve(server, "v2")
    page.get_by_role("link", name="Parts").click()
    expect(page).to_have_title("v2")
    expect(page).to_have_url(f"{server.url}/parts/v1?deep=1")
    assert served(server)["loads"] == ["v2"]


def test_the_page_of_the_docs_offers_a_release(server: Server, context: BrowserContext) -> None:
    release(server, "2026.11.3")
    page = context.new_page()
    page.goto("/plain")
    eventually(lambda: server.stats()["versions"] == {"2026.11.3": 1}, "the page is counted")
    expect(page.get_by_role("button", name="Reload")).not_to_be_visible()
    release(server, "2026.11.4")
    expect(page.get_by_text(OFFER)).to_be_visible()
    page.get_by_role("button", name="Reload").click()
    # The document still says 2026.11.3.
    expect(page.get_by_text("The new version is not available here yet.")).to_be_visible()


def test_a_page_without_a_stream_asks_the_server(server: Server, context: BrowserContext) -> None:
    context.route("**/__skew/ws*", lambda route: route.abort())
    context.route("**/__skew/sse*", lambda route: route.abort())
    context.route_web_socket("**/__skew/ws*", lambda socket: socket.close())
    page = context.new_page()
    page.clock.install()
    page.goto("/?mode=prompt")
    deploy(server)
    # It gives the stream half a minute.
    page.clock.fast_forward(31_000)
    expect(page.get_by_text(OFFER)).to_be_visible()
