"""Health, the browser client as a module, and whether a request comes from an outdated page."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from headcount import Headcount
from headcount.asgi import client_js
from headcount.core.current_version import CurrentRelease
from headcount.node.figures import FigureReader

from .asgi_client import HOST, WAYS, Client, Clock, Site, asynchronous, problem

every_way = pytest.mark.parametrize("way", WAYS)


@every_way
@asynchronous
async def test_health_says_version_and_uptime_and_no_figure(way: str) -> None:
    clock = Clock()
    site = Site(way, clock=clock, uptime=0, version="2026.11.3")
    await site.stranger.open("ws", "?version=secret-version&route=/secret-route")
    clock.advance(12.5)
    answer = await site.stranger.get("/health")
    assert answer.json == {"ok": True, "version": "2026.11.3", "uptime": 12.5}
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"


@every_way
@asynchronous
async def test_health_tells_a_page_without_a_stream_which_version_is_current(way: str) -> None:
    site = Site(way, version="v1")
    assert "outdated" not in (await site.stranger.get("/health")).json, "nobody asked"

    async def told(version: str) -> tuple[object, object]:
        answer = (await site.stranger.get(f"/health?version={version}")).json
        return answer.get("currentVersion"), answer["outdated"]

    assert await told("v1") == ("v1", False)
    await site.headcount.release("v2", unserved=True)
    assert await told("v1") == ("v2", True)
    assert await told("v2") == ("v2", False)
    assert (await site.stranger.get("/health")).json["version"] == "v1", "what this server serves"
    problem(await site.stranger.get(f"/health?version={'v' * 129}"), 400)


@asynchronous
async def test_health_says_unknown_while_no_version_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a rolling update, in which a page must be told nothing."""
    monkeypatch.setattr(FigureReader, "release", CurrentRelease("unsettled"))
    answer = (await Site(version="v1").stranger.get("/health?version=v2")).json
    assert answer["outdated"] is None
    assert not {"currentVersion", "release"} & answer.keys()
    monkeypatch.setattr(FigureReader, "release", CurrentRelease("orphaned", "v3", 7))
    answer = (await Site(version="v1").stranger.get("/health?version=v2")).json
    assert (answer["outdated"], answer["release"]) == (None, {"state": "orphaned", "version": "v3", "number": 7})
    assert "currentVersion" not in answer


@asynchronous
async def test_health_may_be_read_by_pages_of_allowed_origins_only() -> None:
    site = Site(allowed_origins=["https://www.example.com"])
    for origin, named in (("https://www.example.com", "https://www.example.com"), ("https://evil.example", None)):
        answer = await site.stranger.get("/health?version=v1", {"origin": origin})
        assert (answer.status, answer.header("access-control-allow-origin")) == (200, named)


@every_way
@asynchronous
async def test_health_answers_head_without_a_body(way: str) -> None:
    site = Site(way, clock=Clock())
    head, get = await site.stranger.request("HEAD", "/health"), await site.stranger.get("/health")
    assert (head.status, head.body) == (200, b"")
    assert head.headers == get.headers
    assert int(head.headers["content-length"]) == len(get.body)


SOURCE = 'const served = { settings: "__HEADCOUNT_DEFAULTS__" }; export const text = "é\u2028";'


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a small client in the place of the built one, which may not be there."""
    script = tmp_path / "static" / "client.js"
    script.parent.mkdir()
    script.write_text(SOURCE, "utf-8")
    monkeypatch.setattr(client_js, "resources", SimpleNamespace(files=lambda _: tmp_path))
    return script


def settings_in(body: bytes) -> Any:
    """Read what was put in the placeholder's place."""
    text = body.decode()
    before, after = SOURCE.split('"__HEADCOUNT_DEFAULTS__"')
    assert text.startswith(before)
    assert text.endswith(after)
    return json.loads(text[len(before) : len(text) - len(after)])


@every_way
@asynchronous
async def test_client_is_told_where_its_server_is_and_what_it_would_like(way: str, built: Path) -> None:
    site = Site(way, base_path="/__hc", update_strategy="auto", route_tracking=False)
    answer = await site.stranger.get("/client.js")
    assert answer.status == 200
    assert answer.header("content-type") == "text/javascript; charset=utf-8"
    assert answer.header("x-content-type-options") == "nosniff"
    assert settings_in(answer.body) == {"basePath": "/__hc", "updateStrategy": "auto", "routeTracking": False}


@asynchronous
async def test_client_holds_no_secret(built: Path) -> None:
    """A bug that the system this comes from had: secrets of the server in the bundle."""
    site = Site(
        admin_token="very-secret-of-this-test",
        hook=None,
        trusted_proxies=["10.0.0.0/8"],
        allowed_origins=["https://internal.example"],
    )
    body = (await site.stranger.get("/client.js")).body.decode()
    assert not any(secret in body for secret in ("very-secret-of-this-test", "10.0.0.0", "internal.example"))


@asynchronous
async def test_path_by_which_one_page_came_does_not_decide_for_the_others(built: Path) -> None:
    """Whoever asks first, by whatever path, must not tell all other pages where the server is."""
    headcount = Headcount(version="v1")
    odd = await Client(headcount, base="").get("/client.js")
    usual = await Client(headcount).get("/client.js")
    again = await Client(headcount, base="").get("/client.js")
    assert settings_in(odd.body)["basePath"] == ""
    assert settings_in(usual.body)["basePath"] == "/__skew"
    assert again == odd
    assert odd.header("etag") != usual.header("etag")
    for number in range(50):
        assert (await Client(headcount, base=f"/p{number}").get("/client.js")).status in (200, 404)
    assert len(headcount._endpoints._client_script._made) <= 16


@every_way
@asynchronous
async def test_client_that_is_known_is_not_sent_again(way: str, built: Path) -> None:
    site = Site(way)
    first = await site.stranger.get("/client.js")
    etag = first.headers["etag"]
    assert etag.startswith('"')
    assert first.header("cache-control") == "no-cache"
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await site.stranger.get("/client.js", {"if-none-match": known})
        assert (again.status, again.body, again.header("etag")) == (304, b"", etag)
    for other in ('"other"', etag[:-2] + '"', "", etag.strip('"')):
        assert (await site.stranger.get("/client.js", {"if-none-match": other})).status == 200
    head = await site.stranger.request("HEAD", "/client.js")
    assert (head.status, head.body, head.headers) == (200, b"", first.headers)


@asynchronous
async def test_client_may_be_loaded_by_a_page_of_an_allowed_origin(built: Path) -> None:
    site = Site(allowed_origins=["https://www.example.com"])
    answer = await site.stranger.get("/client.js", {"origin": "https://www.example.com"})
    assert answer.header("access-control-allow-origin") == "https://www.example.com"
    other = await site.stranger.get("/client.js", {"origin": "https://evil.example"})
    assert other.status == 200, "it is no secret"
    assert other.header("access-control-allow-origin") is None


@asynchronous
async def test_client_that_was_not_built_is_missed_with_a_hint_and_found_once_it_is(built: Path) -> None:
    built.unlink()
    site = Site()
    problem(await site.stranger.get("/client.js"), 404, "make web")
    built.write_text(SOURCE, "utf-8")
    assert (await site.stranger.get("/client.js")).status == 200


@pytest.mark.parametrize(
    ("headers", "outdated"),
    [
        ({"x-headcount-version": "v2"}, False),
        ({"x-headcount-version": "v1"}, True),
        ({"cookie": "__nkpv=v2"}, False),
        ({"cookie": "__nkpv=v1"}, True),
        ({"cookie": "a=b; __nkpv=v1; c=d"}, True),
        ({"x-headcount-version": "v2", "cookie": "__nkpv=v1"}, False),
        ({"x-headcount-version": "v1", "cookie": "__nkpv=v2"}, True),
        ({}, False),
        ({"x-headcount-version": ""}, False),
        ({"x-headcount-version": "unknown"}, False),
        ({"cookie": "__nkpv="}, False),
        ({"cookie": "__nkpv=" + "x" * 200}, False),
        ({"cookie": "other=v1"}, False),
    ],
    ids=str,
)
def test_page_is_outdated_when_it_says_another_version(headers: dict[str, str], outdated: bool) -> None:
    headcount = Headcount(version="v2")
    request = HTTPConnection(Client(headcount, headers).scope("GET", f"http://{HOST}/"))
    assert headcount.is_client_outdated(request) is outdated


def test_without_a_cookie_only_the_header_tells() -> None:
    headcount = Headcount(version="v2", cookie=False)
    for headers, outdated in (({"cookie": "__nkpv=v1"}, False), ({"x-headcount-version": "v1"}, True)):
        request = HTTPConnection(Client(headcount, headers).scope("GET", "/"))
        assert headcount.is_client_outdated(request) is outdated


@asynchronous
async def test_the_version_that_all_nodes_serve_is_declared_without_naming_it() -> None:
    site = Site(version="v2")
    await site.headcount.release("v1")
    answer = await site.admin.post("/admin/release", {"settled": True})
    assert (answer.status, answer.json["version"], answer.json["alreadyCurrent"]) == (200, "v2", False)
    assert site.node.releases.current == "v2"
    problem(await site.admin.post("/admin/release", {"settled": True, "version": "v2"}), 400, "send one of the two")
    problem(await site.admin.post("/admin/release", {"settled": False}), 400, "version")
    problem(await site.admin.post("/admin/release", {}), 400, "version")
