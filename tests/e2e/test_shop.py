"""The example shop in a real browser: the Vue composable, on both transports, through a deploy."""

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from .conftest import Server

SHOP = Path(__file__).parents[2] / "examples" / "shop"
START = (
    "import sys, uvicorn; from shop import create_app; "
    "uvicorn.run(create_app('v1', update_strategy=sys.argv[2]), port=int(sys.argv[1]), log_level='warning')"
)


SSE_SHOP = """
from functools import partial
from shop import create_app
create_app = partial(create_app, update_strategy="sse")
"""
WORKERS = (
    *("uvicorn", "--factory", "sse_shop:create_app", "--port", "{port}", "--workers", "4"),
    *("--timeout-worker-healthcheck", "60"),  # a worker that is not up within five seconds would be killed
)


@pytest.fixture(params=["sse", "ws", "workers"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    env = {"SHOP_ADMIN_PASSWORD": "open sesame"}
    if request.param == "workers":
        # With event streams, whose POSTs may reach another worker than the stream's.
        (tmp_path / "sse_shop.py").write_text(SSE_SHOP)
        more = {"SHOP_DATABASE": str(tmp_path / "shop.db"), "PYTHONPATH": str(tmp_path)}
        server = Server(*WORKERS, cwd=SHOP, env=env | more)
    else:
        server = Server("python", "-c", START, "{port}", request.param, cwd=SHOP, env=env)
    yield server
    server.stop()


@pytest.fixture
def admin(browser: Browser, shop: Server) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=shop.url)
    yield context
    context.close()


@pytest.fixture
def visitor(browser: Browser, shop: Server) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=shop.url)
    yield context
    context.close()


def log_in(page: Page) -> None:
    page.goto("/admin")
    expect(page.get_by_text("Not authorised for live stats")).to_be_visible()
    page.get_by_label("Admin password").fill("open sesame")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Active users: 1")).to_be_visible()


def test_admin_sees_who_is_where_and_log_out_ends_it(
    request: pytest.FixtureRequest, admin: BrowserContext, visitor: BrowserContext
) -> None:
    page = admin.new_page()
    log_in(page)
    guest = visitor.new_page()
    requests: list[str] = []
    guest.on("request", lambda sent: requests.append(sent.url))
    guest.goto("/products")
    expect(page.get_by_role("heading", name="Active users: 2")).to_be_visible()
    streams = [url for url in requests if "/__skew/sse" in url]
    assert len(streams) == (request.node.callspec.params["shop"] != "ws"), "the stream is of the kind that is set"
    active = page.get_by_role("region", name="Active users")
    expect(active.get_by_text("2 (100%)")).to_be_visible()
    expect(active.get_by_text("/products", exact=True)).to_be_visible()
    guest.get_by_role("link", name="Checkout").or_(guest.locator("a[href='/checkout']")).first.click()
    expect(active.get_by_text("/checkout", exact=True)).to_be_visible()
    expect(active.get_by_text("/products", exact=True)).not_to_be_visible()
    own = page.locator("tr.own")
    expect(own).to_have_count(1)
    expect(own.locator("td.route")).to_have_text("/admin")
    guest.close()
    expect(page.get_by_role("heading", name="Active users: 1")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("Not authorised for live stats")).to_be_visible()
    expect(page.get_by_role("heading", name="Active users")).not_to_be_visible()


def test_log_out_in_one_tab_ends_the_right_in_the_other(admin: BrowserContext) -> None:
    page = admin.new_page()
    log_in(page)
    other = admin.new_page()
    other.goto("/admin")
    expect(other.get_by_role("heading", name="Active users: 2")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(other.get_by_text("Not authorised for live stats")).to_be_visible(timeout=65_000)


def test_migration_is_seen_from_the_deploy_to_the_last_page(admin: BrowserContext, visitor: BrowserContext) -> None:
    page = admin.new_page()
    log_in(page)
    guest = visitor.new_page()
    guest.goto("/")
    expect(page.get_by_role("heading", name="Active users: 2")).to_be_visible()
    expect(page.get_by_text("All users migrated to the latest version")).to_be_visible()
    # A page that plays something is not reloaded, so that the figures are seen before the first page has moved.
    page.evaluate("navigator.mediaSession.playbackState = 'playing'")
    with guest.expect_response(f"{guest.url}") as check:
        page.get_by_role("button", name="Deploy v2").click()
    assert check.value.request.resource_type == "fetch", "the page checks whether v2 is served"
    expect(page.get_by_text("users are on old versions")).to_be_visible()
    expect(page.get_by_text("0% up to date")).to_be_visible()
    # The admin's own page follows by itself, some seconds after the release; a visitor's at the next click.
    page.evaluate("navigator.mediaSession.playbackState = 'none'")
    expect(page.get_by_text("1 user is on an old version")).to_be_visible(timeout=30_000)
    expect(guest.get_by_text("There is a new version of this shop (v2)")).to_be_visible()
    guest.get_by_role("link", name="Pots", exact=True).click()
    expect(page.get_by_text("All users migrated to the latest version")).to_be_visible()
    expect(page.get_by_text("100% up to date")).to_be_visible()
    expect(page.get_by_role("region", name="Active users").get_by_text("v2")).to_be_visible()


def test_a_page_with_a_cart_stays_on_its_build_until_the_cart_is_empty(visitor: BrowserContext, shop: Server) -> None:
    page = visitor.new_page()
    page.goto("/products/1")
    page.get_by_role("button", name="Add to the cart").click()
    # From then on, the next navigation would load v2.
    with page.expect_response(page.url):
        deploy(shop, "v2")
    expect(page.get_by_text("Finish your order first")).to_be_visible()
    expect(page.get_by_role("button", name="Reload")).not_to_be_visible()
    page.get_by_role("link", name="Pots", exact=True).click()
    page.get_by_role("link", name="Cart").click()
    expect(page.locator("footer code")).to_have_text("v1")
    page.get_by_role("button", name="Remove one").click()
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("footer code")).to_have_text("v2")
    expect(page).to_have_url(f"{shop.url}/checkout")


def deploy(shop: Server, version: str) -> None:
    with httpx.Client(base_url=shop.url, headers={"origin": shop.url}) as operator:
        assert operator.post("/api/login", json={"password": "open sesame"}).is_success
        assert operator.post("/api/deploy", json={"version": version}).is_success
