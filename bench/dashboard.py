"""
Does the dashboard stay smooth? 10,000 connections on 1,000 routes, four updates a second, in Chromium.

Prints the long tasks (over 50 ms) that the browser itself reports while somebody scrolls both tables, from one end to
the other and sorted anew in between, and fails when there is one. On a machine with other work to do tasks take longer
than they should: see that it is idle.

    python bench/dashboard.py [seconds]
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from e2e.chromium import find  # noqa: E402
from kit.ports import free_port  # noqa: E402

TOKEN = "the tests' own door"
WATCH = """
window.long = [];
new PerformanceObserver((list) => long.push(...list.getEntries().map(({ duration }) => duration)))
  .observe({ type: 'longtask' });
"""
LEAST_UPDATES = 3.5
"""A second, of the four that the server sends: with fewer nothing was measured."""
SAME_WAY = 12
"""Turns of the wheel before it is turned back."""


def main(seconds: float) -> int:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "crowd_app:app", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(command, cwd=ROOT / "tests/e2e", env={**os.environ, "CROWD": "10000"})
    try:
        wait_for(url)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find(), args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            page.add_init_script(WATCH)
            updates: list[None] = []

            def heard(frame: str | bytes) -> None:
                if '"type":"stats' in str(frame[:20]):
                    updates.append(None)

            page.on("websocket", lambda socket: socket.on("framereceived", heard))
            page.goto(f"{url}/__skew/dashboard/")
            page.get_by_label("Admin token").fill(TOKEN)
            page.get_by_role("button", name="Log in").click()
            table = page.locator(".connections [role=table]")
            while int(table.get_attribute("aria-rowcount") or 0) < 9_900:  # some leave and come meanwhile
                page.wait_for_timeout(50)
            page.locator(".connections .space .row .id .cut").first.wait_for()
            return report(page, seconds, updates)
    finally:
        server.terminate()
        server.wait(timeout=10)


def report(page: Page, seconds: float, updates: list[None]) -> int:
    route = page.locator(".connections .head .route button")
    for _ in range(3):  # once round all orders: what drives the browser is loaded by then, and not measured
        route.click()
        page.hover(".routes [role=table]")
    loading: list[float] = page.evaluate("long.splice(0)")
    updates.clear()
    start = time.monotonic()
    turns, direction = 0, 1
    while time.monotonic() < start + seconds:
        for table in (".routes", ".connections"):
            page.hover(f"{table} [role=table]")
            page.mouse.wheel(0, 3000 * direction)
        page.wait_for_timeout(200)
        turns += 1
        if turns % SAME_WAY == 0:
            direction = -direction
            if direction > 0:
                route.click()
    often = len(updates) / (time.monotonic() - start)
    tasks: list[float] = page.evaluate("long")
    print(f"while loading: {describe(loading)}")
    print(f"in {seconds:g} s, with {often:.1f} updates a second, scrolling and sorting: {describe(tasks)}")
    if often < LEAST_UPDATES:
        print("The figures did not come as often as they should; nothing was measured.")
        return 1
    return 1 if tasks else 0


def describe(tasks: list[float]) -> str:
    if not tasks:
        return "no task over 50 ms"
    return f"{len(tasks)} tasks over 50 ms, the longest {max(tasks):.0f} ms"


def wait_for(url: str) -> None:
    for _ in range(100):
        try:
            httpx.get(f"{url}/__skew/health", timeout=1)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError("The server did not start within 10 s.")


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 30))
