"""Take the pictures of the dashboard in docs/images: `make images`."""

from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from . import chromium
from .conftest import Server

IMAGES = Path(__file__).parents[2] / "docs/images"
TOKEN = "the tests' own door"
SIZES = {"dashboard": (1100, 860), "dashboard-phone": (390, 844)}


def take(browser: Browser, url: str, name: str, scheme: str) -> None:
    """Log in, wait until the figures are there, and keep what is in the window."""
    width, height = SIZES[name]
    context = browser.new_context(
        base_url=url,
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": height},
        locale="en-US",
        timezone_id="UTC",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto("/__skew/dashboard/")
    page.get_by_label("Admin token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".figure")).to_have_text("10,000")
    expect(page.locator(".routes .space .row").first).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=IMAGES / f"{name}-{scheme}.png")
    context.close()


def main() -> None:
    """Show a crowd of 10,000 connections that do not move, an hour after a release."""
    server = Server(
        *("uvicorn", "crowd_app:app", "--port", "{port}", "--log-level", "warning"), env={"CROWD_MOVES": "0"}
    )
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium.find_shell(), args=["--no-sandbox"])
            for name in SIZES:
                for scheme in ("light", "dark"):
                    take(browser, server.url, name, scheme)
            browser.close()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
