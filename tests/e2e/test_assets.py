"""Lazy chunks of an old tab in a real browser: they load while its build is kept, which goes when the tab has left."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from kit.processes import BIN

from .conftest import Server, eventually

INDEX = """import {{ createHeadcount }} from "/__skew/client.js"
createHeadcount({{ version: "{version}", updateStrategy: "{strategy}" }}).connect()
document.querySelector("button").onclick = async () => {{
  const cart = await import("./cart-{version}Zk81Qm.js").catch(() => ({{ text: "The cart could not be loaded." }}))
  document.querySelector("p").textContent = cart.text
}}"""


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def server(builds: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    deploy(builds, "v1", request.param)
    arguments = ("uvicorn", "asset_app:app", "--port", "{port}", "--log-level", "warning")
    server = Server(*arguments, env={"BUILDS": str(builds), "HEADCOUNT_VERSION": "v1"})
    yield server
    server.stop()


def deploy(builds: Path, version: str, strategy: str) -> None:
    folder = builds / version / "assets"
    folder.mkdir(parents=True)
    (folder / f"index-{version}aB3xY9.js").write_text(INDEX.format(version=version, strategy=strategy))
    (folder / f"cart-{version}Zk81Qm.js").write_text(f'export const text = "The cart of {version}."')


def prune(builds: Path, server: Server) -> dict[str, Any]:
    """Prune, and return what became of each build."""
    words = ["assets", "prune", str(builds), "--url", server.url, "--keep", "1", "--min-age", "0", "--json"]
    done = subprocess.run(
        [BIN / "headcount", *words],
        env={**os.environ, "HEADCOUNT_TOKEN": "the tests' own door"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    return {build["build"]: "deleted" if build["deleted"] else build["detail"] for build in found["builds"]}


def open_page(context: BrowserContext, version: str) -> Page:
    page = context.new_page()
    page.goto("/")
    expect(page).to_have_title(version)
    return page


@pytest.mark.parametrize("server", ["sse", "ws"], indirect=True)
def test_an_old_tab_loads_its_lazy_chunk_until_it_has_left(
    server: Server, builds: Path, new_context: Callable[[], BrowserContext], request: pytest.FixtureRequest
) -> None:
    context = new_context()
    old = open_page(context, "v1")
    eventually(lambda: server.stats()["versions"] == {"v1": 1}, "the old tab is counted")
    server.stop()
    deploy(builds, "v2", request.node.callspec.params["server"])
    server.env["HEADCOUNT_VERSION"] = "v2"
    server.start()
    new = open_page(context, "v2")
    eventually(lambda: prune(builds, server).get("v1") == "1 page is open", "the old tab keeps its build")
    assert sorted(os.listdir(builds)) == ["v1", "v2"]
    old.get_by_role("button").click()
    expect(old.get_by_text("The cart of v1.")).to_be_visible()
    new.get_by_role("button").click()
    expect(new.get_by_text("The cart of v2.")).to_be_visible()
    old.close()
    eventually(lambda: prune(builds, server).get("v1") == "deleted", "the build of the old tab goes")
    assert os.listdir(builds) == ["v2"]
    chunk = httpx.get(f"{server.url}/assets/cart-v1Zk81Qm.js")
    assert (chunk.status_code, chunk.headers["cache-control"]) == (404, "no-store")
    assert httpx.get(f"{server.url}/assets/cart-v2Zk81Qm.js").is_success


@pytest.mark.parametrize("server", ["sse"], indirect=True)
def test_without_its_build_an_old_tab_loses_its_lazy_chunk(
    server: Server, builds: Path, new_context: Callable[[], BrowserContext]
) -> None:
    """What the other test would look like if builds were not kept."""
    page = open_page(new_context(), "v1")
    (builds / "v1").rename(builds / ".v1")
    page.get_by_role("button").click()
    expect(page.get_by_text("The cart could not be loaded.")).to_be_visible()
