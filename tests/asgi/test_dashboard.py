"""The dashboard's files, its policy, and the hour that it shows."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from headcount.asgi import dashboard

from .asgi_client import WAYS, Site, asynchronous, problem

every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dashboard as the build leaves it."""
    folder = tmp_path / "static" / "dashboard"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text('<meta name="headcount" content="%HEADCOUNT%"><title>Headcount</title>')
    (folder / "assets" / "index-1a2b.js").write_text("//")
    (folder / "assets" / "index-1a2b.css").write_text("a{}")
    (folder / "assets" / "index-1a2b.js.map").write_text("{}")
    (folder / "secret.txt").write_text("no")
    monkeypatch.setattr(dashboard, "resources", SimpleNamespace(files=lambda _: tmp_path))
    return folder


@every_way
@asynchronous
async def test_it_is_served_with_a_strict_policy_and_without_figures(way: str, built: Path) -> None:
    site = Site(way, version='v"1<', admin_token="correct horse battery staple")
    answer = await site.stranger.get("/dashboard/")
    assert answer.status == 200
    assert answer.header("content-type") == "text/html; charset=utf-8"
    policy = answer.header("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.header("cache-control") == "no-store"
    text = answer.body.decode()
    assert "&quot;version&quot;:&quot;v\\&quot;1&lt;&quot;" in text
    assert "correct horse" not in text


@every_way
@asynchronous
async def test_assets_are_kept_by_browsers(way: str, built: Path) -> None:
    site = Site(way)
    script = await site.stranger.get("/dashboard/assets/index-1a2b.js")
    assert (script.status, script.header("content-type")) == (200, "text/javascript; charset=utf-8")
    # One of them only: of two, browsers take the stricter one.
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (await site.stranger.get("/dashboard/assets/index-1a2b.css")).header(
        "content-type"
    ) == "text/css; charset=utf-8"


@every_way
@asynchronous
async def test_without_the_slash_it_sends_there(way: str, built: Path) -> None:
    answer = await Site(way).stranger.get("/dashboard")
    assert (answer.status, answer.header("location")) == (308, "dashboard/")
    answer = await Site(way).stranger.get("/dashboard?counted")
    assert (answer.status, answer.header("location")) == (308, "dashboard/?counted")


BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@every_way
@asynchronous
async def test_the_base_path_leads_browsers_to_the_dashboard_and_nobody_else(way: str, built: Path) -> None:
    client = Site(way).stranger
    answer = await client.get("/", BROWSER)
    assert (answer.status, answer.header("location")) == (307, "dashboard/")
    assert "accept" in (answer.header("vary") or "")
    problem(await client.get("/"), 404, "/dashboard/")
    problem(await client.get("/", {"accept": "application/json"}), 404)
    problem(await client.request("POST", "/", b"", BROWSER), 404)
    for path in ("//", "/.", "/%2f", "/./"):
        problem(await client.get(path, BROWSER), 404)
    link = {**BROWSER, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await client.get("/", link)).status == 307
    problem(await client.get("/", {**link, "sec-fetch-dest": "iframe"}), 403)


@asynchronous
async def test_the_base_path_without_its_slash_leads_there_too(built: Path) -> None:
    answer = await Site("wrapped").stranger.get("?", BROWSER)
    assert (answer.status, answer.header("location")) == (307, "__skew/dashboard/")


@pytest.mark.parametrize(
    "path",
    [
        "secret.txt",
        "assets/index-1a2b.js.map",
        "../client.js",
        "assets/../secret.txt",
        "%2e%2e/secret.txt",
        "assets/",
        "x",
    ],
)
@asynchronous
async def test_nothing_else_can_be_had_by_it(path: str, built: Path) -> None:
    problem(await Site().stranger.get(f"/dashboard/{path}"), 404)


@asynchronous
async def test_a_clone_that_was_not_built_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "resources", SimpleNamespace(files=lambda _: tmp_path))
    problem(await Site().stranger.get("/dashboard/"), 404, "make web")
