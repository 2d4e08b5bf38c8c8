"""A page that Chromium prerenders is counted when somebody sees it, and not before."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest

from . import chromium
from .conftest import Server, eventually, every_total

WATCHED = 1.0
"""Seconds for which a prerendered page must not be counted; the stream of a shown one opens in a tenth of that."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(
        *("uvicorn", "page_app:app", "--port", "{port}", "--log-level", "warning"), env={"SESSION_SECRET": "s"}
    )
    yield server
    server.stop()


@contextmanager
def browser(profile: Path, url: str) -> Iterator[None]:
    """Show a page in a browser without a driver: Chromium prerenders nothing while DevTools are attached."""
    command = [chromium.or_skip(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("query", ["strategy=sse", "strategy=ws", "strategy=sse&shared=1"])
def test_a_prerendered_page_is_counted_when_it_is_shown(server: Server, tmp_path: Path, query: str) -> None:
    state = f"{server.url}/prerendering"
    with every_total(server) as seen, browser(tmp_path, f"{server.url}/prerenders?to={quote(f'/next?v=v1&{query}')}"):
        eventually(lambda: httpx.get(state).json()["runs"], "the page is prerendered, and has called connect()")
        time.sleep(WATCHED)
        assert set(seen) == {0}
        httpx.post(f"{state}?activate=true")
        eventually(lambda: server.stats()["routes"] == {"/next": 1}, "the page is shown, and counted")
    eventually(lambda: server.stats()["total"] == 0, "the browser is gone")
