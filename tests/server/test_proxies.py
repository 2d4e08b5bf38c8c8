"""Pages through real proxies, each with its configuration of docs/proxies.md or docs/browser.md word for word."""

import ast
import asyncio
import os
import re
import subprocess
import xml.etree.ElementTree
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.docs import Block, blocks
from kit.pages import Sse, WebSocket, ask, until
from kit.ports import free_port
from kit.processes import BIN
from kit.proxies import PRODUCTS, RunningProxy, program

from .serving import HERE, Server

TOKEN = "s3cret-of-the-tests"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
CLIENT = "127.0.0.9"
"""Where the pages come from. Proxies reach the server from 127.0.0.1, which is all that it trusts."""

FORGED = {"X-Forwarded-For": "6.6.6.6", "CF-Connecting-IP": "6.6.6.7", "X-Real-IP": "6.6.6.8"}

BLOCKS = blocks("proxies.md", "deployment.md")
CONFIGURATIONS = [
    (product, block)
    for product in PRODUCTS.values()
    for block in (*BLOCKS, *blocks("browser.md"))
    if product.match(block)
]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with Server("headcount-serve", ip_tracking="true", trusted_proxies="127.0.0.1") as started:
        await asyncio.to_thread(started.wait_ready)
        yield started


@pytest.fixture
def proxy(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> RunningProxy:
    product, block = request.param
    if product.missing:
        pytest.skip(product.missing)
    return RunningProxy(product, block.code, tmp_path, server.port)


each_proxy = pytest.mark.parametrize(
    "proxy",
    CONFIGURATIONS,
    indirect=True,
    ids=[f"{product.name}-{number}" for number, (product, _) in enumerate(CONFIGURATIONS)],
)


def test_each_proxy_has_a_configuration() -> None:
    assert {product.name for product, _ in CONFIGURATIONS} == set(PRODUCTS)


@pytest.mark.anyio
@each_proxy
async def test_pages_are_counted_navigate_watch_and_are_sent_away(proxy: RunningProxy, server: Server) -> None:
    with proxy:
        origin = proxy.origin
        # As browsers send them on plain HTTP: Origin with POSTs and handshakes, and no Sec-Fetch-Site.
        page = {"Origin": origin, **FORGED}
        sse = await Sse.open(origin, version="v1", route="/", headers=FORGED, source=CLIENT)
        socket = await WebSocket.open(origin, version="v2", route="/", headers={**page, **AUTH}, source=CLIENT)
        body = {"connectionId": sse.handle}
        assert await ask(origin, "POST", "/__skew/route", {**body, "route": "/a"}, page) == (200, {"ok": True})
        await socket.navigate(origin, "/b")
        assert await ask(origin, "POST", "/__skew/subscribe-stats", body, {**page, **AUTH}) == (200, {"ok": True})
        await socket.subscribe(origin)
        pages = [("v1", "/a"), ("v2", "/b")]
        for viewer in (sse, socket):
            await viewer.until_figures(pages)
            assert viewer.figures is not None
            if proxy.product.sends_addresses:
                assert [row["ip"] for row in viewer.figures["connections"]] == [CLIENT, CLIENT]
        foreign = {"Origin": "http://evil.example"}
        assert (await ask(origin, "POST", "/__skew/route", {**body, "route": "/x"}, foreign))[0] == 403
        refused = await WebSocket.start(origin, headers=foreign)
        await refused.until(lambda stream: stream.status is not None)
        assert refused.status == 403
        refused.transport.abort()
        server.process.terminate()
        for stream in (sse, socket):
            await stream.until(lambda stream: bool(stream.of_type("drain")))
            await stream.until(lambda stream: stream.ended or stream.finished or stream.close_code == 1012)


SITE = "http://shop.example:8080"
"""Origin of pages whose proxy sends another Host to the server."""


@pytest.mark.anyio
@pytest.mark.skipif(PRODUCTS["nginx"].missing is not None, reason=str(PRODUCTS["nginx"].missing))
@pytest.mark.parametrize(
    ("settings", "passed_on", "sent"),
    [
        ({}, "", {"Sec-Fetch-Site": "same-origin"}),
        ({}, "X-Forwarded-Host $http_host", {}),
        ({"public_origins": SITE}, "", {}),
    ],
    ids=["Sec-Fetch-Site", "X-Forwarded-Host", "public_origins"],
)
async def test_behind_a_proxy_that_changes_the_host_pages_are_counted_navigate_and_watch(
    settings: dict[str, str], passed_on: str, sent: dict[str, str], tmp_path: Path
) -> None:
    page = {"Host": "shop.example:8080", "Origin": SITE, **sent}
    with host_changing_nginx(tmp_path, passed_on, **settings) as (nginx, _):
        sse = await Sse.open(nginx.origin, version="v1", route="/", headers=page)
        socket = await WebSocket.open(nginx.origin, version="v2", route="/", headers={**page, **AUTH})
        body = {"connectionId": sse.handle}
        assert await ask(nginx.origin, "POST", "/__skew/route", {**body, "route": "/a"}, page) == (200, {"ok": True})
        await socket.navigate(nginx.origin, "/b")
        assert (await ask(nginx.origin, "POST", "/__skew/subscribe-stats", body, {**page, **AUTH}))[0] == 200
        await socket.subscribe(nginx.origin)
        for viewer in (sse, socket):
            await viewer.until_figures([("v1", "/a"), ("v2", "/b")])


@pytest.mark.anyio
@pytest.mark.skipif(PRODUCTS["nginx"].missing is not None, reason=str(PRODUCTS["nginx"].missing))
async def test_behind_a_proxy_that_changes_the_host_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    page = {"Host": "shop.example:8080", "Origin": SITE}
    with host_changing_nginx(tmp_path) as (nginx, server):
        body = {"connectionId": "x.y", "route": "/a"}
        for refused in (
            await ask(nginx.origin, "GET", "/__skew/sse?version=v1", None, page),
            await ask(nginx.origin, "POST", "/__skew/route", body, page),
        ):
            assert refused[0] == 403
            assert f"from another site, {SITE}." in refused[1]["detail"]
            assert "under that origin, add it to public_origins" in refused[1]["detail"]
        socket = await WebSocket.start(nginx.origin, version="v1", headers=page)
        await socket.until(lambda stream: stream.status is not None)
        assert socket.status == 403
        socket.transport.abort()
        # The log knows more: which Host arrived.
        told = f"Refused a cross-site request from '{SITE}': Host is '127.0.0.1:{server.port}'"
        await until(lambda: told in server.log, "the log says it")
        assert "(nginx: proxy_set_header Host $http_host), or add the origin to public_origins" in server.log


@contextmanager
def host_changing_nginx(folder: Path, passed_on: str = "", **settings: Any) -> Iterator[tuple[RunningProxy, Server]]:
    """Run nginx with its configuration of the docs but for the line that passes Host on, before a server."""
    product, block = next(pair for pair in CONFIGURATIONS if pair[0].name == "nginx")
    line = f"proxy_set_header {passed_on};" if passed_on else ""
    config, changed = re.subn(r"proxy_set_header Host \$http_host;", line, block.code)
    assert changed
    with Server("headcount-serve", admin_token=TOKEN, route_tracking="true", **settings) as server:
        server.wait_ready()
        with RunningProxy(product, config, folder, server.port) as nginx:
            yield nginx, server


@pytest.mark.anyio
@pytest.mark.skipif(PRODUCTS["nginx"].missing is not None, reason=str(PRODUCTS["nginx"].missing))
async def test_behind_uvicorn_as_it_comes_addresses_are_right_or_have_a_reason(tmp_path: Path) -> None:
    product, block = next(pair for pair in CONFIGURATIONS if pair[0].name == "nginx")
    for trusted, expected in (("server", [CLIENT]), (None, [None])):
        settings: dict[str, Any] = {} if trusted is None else {"trusted_proxies": trusted}
        folder = tmp_path / str(trusted)
        folder.mkdir()
        with Server("uvicorn", ip_tracking="true", admin_token=TOKEN, **settings) as uvicorn:
            await asyncio.to_thread(uvicorn.wait_ready)
            with RunningProxy(product, block.code, folder, uvicorn.port) as nginx:
                await Sse.open(nginx.origin, version="v1", headers=FORGED, source=CLIENT)
                _, stats = await ask(nginx.origin, "GET", "/__skew/admin/stats", None, AUTH)
                assert [row.get("ip") for row in stats["connections"]] == expected
                assert ("ipsUnknown" in stats) is (trusted is None)
                if trusted is None:
                    assert "trusted_proxies='server'" in stats["ipsUnknown"]
                    await until(lambda: "Client addresses are unknown." in uvicorn.log, "the log says it")


@pytest.mark.anyio
@pytest.mark.skipif(PRODUCTS["nginx"].missing is not None, reason=str(PRODUCTS["nginx"].missing))
@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
async def test_requests_that_ask_for_http_2_arrive_as_ordinary_ones(name: str, tmp_path: Path) -> None:
    product, block = next(pair for pair in CONFIGURATIONS if pair[0].name == "nginx")
    h2c = {"Connection": "close, Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAAB"}
    with Server(name) as server:
        await asyncio.to_thread(server.wait_ready)
        with RunningProxy(product, block.code, tmp_path, server.port) as nginx:
            page = await Sse.open(nginx.origin, version="v1", headers=h2c)
            body = {"connectionId": page.handle, "route": "/a"}
            assert await ask(nginx.origin, "POST", "/__skew/route", body, h2c) == (200, {"ok": True})
            assert (await ask(nginx.origin, "GET", "/__skew/health", None, h2c))[0] == 200
            page.fin()


@pytest.mark.anyio
@pytest.mark.skipif(PRODUCTS["nginx"].missing is not None, reason=str(PRODUCTS["nginx"].missing))
@pytest.mark.parametrize(("trusted", "address"), [("*", CLIENT), ("", None)])
async def test_behind_a_unix_socket_addresses_are_right_or_have_a_reason(
    trusted: str, address: str | None, tmp_path: Path
) -> None:
    product, block = next(pair for pair in CONFIGURATIONS if pair[0].name == "nginx")
    path = tmp_path / "socket"
    environment = {
        **os.environ,
        "HEADCOUNT_VERSION": "v1",
        "HEADCOUNT_ADMIN_TOKEN": TOKEN,
        "HEADCOUNT_IP_TRACKING": "true",
        "HEADCOUNT_TRUSTED_PROXIES": trusted,
        "PYTHONPATH": str(HERE),
    }
    with (tmp_path / "uvicorn.log").open("wb") as log:
        uvicorn = subprocess.Popen(
            [BIN / "uvicorn", "apps:mounted", "--uds", path], env=environment, stdout=log, stderr=log
        )
    try:
        await until(path.exists, "uvicorn listens")
        config = block.code.replace("http://127.0.0.1:8000", f"http://unix:{path}")
        with RunningProxy(product, config, tmp_path, 0) as nginx:
            page = await Sse.open(nginx.origin, version="v1", headers=FORGED, source=CLIENT)
            _, stats = await ask(nginx.origin, "GET", "/__skew/admin/stats", None, AUTH)
            assert [row.get("ip") for row in stats["connections"]] == [address]
            assert ("trusted_proxies='*'" in stats.get("ipsUnknown", "")) is (address is None)
            page.fin()
    finally:
        uvicorn.terminate()
        uvicorn.wait(20)
    told = "Client addresses are unknown. Connections arrive over a Unix socket"
    assert (told in (tmp_path / "uvicorn.log").read_text()) is (address is None)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_every_block_of_the_pages_is_run_or_checked(block: Block, tmp_path: Path) -> None:
    match block.language:
        case "nginx" | "haproxy" | "caddyfile":
            assert any(product.match(block) for product in PRODUCTS.values())
        case "yaml":
            assert any(product.match(block) for product in PRODUCTS.values())
        case "python":
            tree = compile(block.code, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
            if block.code.startswith("# worker.py"):  # gunicorn runs it in test_servers.py, with another application
                code = ast.unparse(tree).replace("app:headcount.", "apps:mounted_headcount.")
                assert code in ast.unparse(ast.parse((HERE / "worker.py").read_text("utf-8")))
        case "sh":
            subprocess.run(["sh", "-n"], input=block.code, text=True, check=True)
        case "xml":  # IIS runs on Windows only
            root = xml.etree.ElementTree.fromstring(block.code)
            assert root.find(".//action[@type='Rewrite']") is not None
        case "bat":
            for line in block.code.splitlines():
                assert line.startswith("appcmd set config -section:system.webServer/proxy /")
                assert line.endswith(" /commit:apphost")
        case "ts":
            assert PRODUCTS["vite"].match(block)
        case "conf":  # directives of nginx that belong to several places
            assert "limit_conn_zone" in block.code, "test_nginx_understands_the_limits_of_the_page"
        case other:
            raise AssertionError(f"{block.page} has a block of {other!r}; say here how it is checked")


def test_nginx_understands_the_limits_of_the_page(tmp_path: Path) -> None:
    product = PRODUCTS["nginx"]
    if product.missing:
        pytest.skip(product.missing)
    (limits,) = (block.code for block in BLOCKS if block.language == "conf" and "limit_conn_zone" in block.code)
    directives, _, location = limits.partition("location ")
    config = f"{directives}\nserver {{\nlisten 80;\nlocation {location}\n}}"
    arguments = product.prepare(tmp_path, config, free_port())
    done = subprocess.run([str(program("nginx")), *arguments, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
