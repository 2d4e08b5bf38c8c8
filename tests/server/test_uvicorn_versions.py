"""
Streams are taken over from every minor version of uvicorn that choose.py says they are, and from no other.

Each version is installed in a folder of its own, once, and goes before the one that is installed here. A few versions
are tried each time: the oldest, the newest, and those that changed what our class inherits. `make uvicorn-versions`
tries all. Without a package index there is nothing to try, and the test fails rather than say that all is well.
"""

import asyncio
import itertools
import json
import re
import socket
from pathlib import Path

import pytest

from headcount.asgi.takeover.choose import TESTED
from kit.packages import installed
from kit.pages import Sse, WebSocket, ask

from .serving import Server

pytestmark = pytest.mark.anyio

NAMED = 36
"""The first minor version whose command line takes a protocol by name. An application can give it to any."""
A_FEW = sorted({TESTED[0], NAMED, 43, 50, TESTED[-1]})
EXTRA = re.compile(r'"(httptools|websockets)>=([\d.]+)"')
"""As pyproject.toml names what the extra needs."""


async def test_streams_are_taken_over_from_this_version(minor: int) -> None:
    command = "uvicorn-run-takeover" if minor < NAMED else "uvicorn-takeover"
    with Server(command, packages=installed(f"uvicorn==0.{minor}.*")) as server:
        server.wait_ready()
        assert f"uvicorn/0.{minor}." in server.debug()["server"]
        await _live(server, taken_over=True)
        assert "over ASGI" not in server.log


async def test_streams_are_taken_over_with_the_oldest_of_all_that_it_takes() -> None:
    oldest = dict(EXTRA.findall((Path(__file__).parents[2] / "pyproject.toml").read_text()))
    packages = installed(
        f"uvicorn==0.{TESTED[0]}.0", f"httptools=={oldest['httptools']}", f"websockets=={oldest['websockets']}"
    )
    with Server("uvicorn-run-takeover", packages=packages) as server:
        server.wait_ready()
        await _live(server, taken_over=True)


async def test_streams_stay_on_asgi_with_a_version_that_is_not_known() -> None:
    with Server("uvicorn-run-takeover", packages=installed("uvicorn==0.33.*")) as server:
        server.wait_ready()
        assert "not with 0.33.0. Streams are served over ASGI" in server.log
        await _live(server, taken_over=False)


async def _live(server: Server, *, taken_over: bool) -> None:
    """Open, navigate, watch, ping, close in every way, and stop the server below what is left."""
    url, cookie = server.url, server.sign_in()
    pages: list[Sse | WebSocket] = [
        *[await Sse.open(url, cookie=cookie, version="v1", route="/a") for _ in range(3)],
        *[await WebSocket.open(url, cookie=cookie, version="v2", route="/b") for _ in range(4)],
    ]
    assert server.debug()["taken_over"] == (7 if taken_over else 0)
    for viewer in (pages[0], pages[-1]):
        await viewer.subscribe(url, cookie)
        await viewer.until_figures([*[("v1", "/a")] * 3, *[("v2", "/b")] * 4])
    for page in pages:
        await page.navigate(url, "/c")
    for viewer in (pages[0], pages[-1]):
        await viewer.until_figures([*[("v1", "/c")] * 3, *[("v2", "/c")] * 4])
    assert isinstance(pages[0], Sse)
    await _declined_upgrade(server, pages[0], taken_over=taken_over)
    talks = pages[-2]
    assert isinstance(talks, WebSocket)
    talks.send({"type": "ping"})
    await talks.until(lambda s: bool(s.of_type("pong")))
    talks.send(["no message"])
    await talks.until(lambda s: s.ended)
    assert talks.close_code == 4400
    leaves = pages[-3]
    assert isinstance(leaves, WebSocket)
    leaves.send_close()
    await leaves.until(lambda s: s.ended)
    assert leaves.close_code == 1000
    pages[1].rst()
    pages[2].fin()
    for viewer in (pages[0], pages[-1]):
        await viewer.until_figures([("v1", "/c"), *[("v2", "/c")] * 2])
    status, told = await ask(url, "GET", "/__skew/admin/stats", headers={"Cookie": cookie})
    assert (status, told["total"]) == (200, 3)

    server.process.terminate()
    await asyncio.to_thread(server.wait, 5)
    await pages[0].until(lambda s: s.ended)
    assert len(pages[0].of_type("drain")) == 1
    await pages[-1].until(lambda s: s.ended)
    assert pages[-1].close_code == 1012
    assert server.marks == ["started", "stopped"]
    assert "Traceback" not in server.log, server.log[-3000:]


async def _declined_upgrade(server: Server, page: Sse, *, taken_over: bool) -> None:
    """Send route updates that ask for HTTP/2, in packets that end anywhere, and see that our class loses no body."""
    body = json.dumps({"connectionId": page.handle, "route": "/c"}).encode()
    head = (
        f"POST /__skew/route HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    ).encode()
    data = (head + body) * 2
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if taken_over:
            for start, end in itertools.pairwise([0, 30, len(head), len(head) + 9, len(data) - len(body), len(data)]):
                writer.write(data[start:end])
                await asyncio.sleep(0.01)
            for _ in range(2):
                assert (await reader.readuntil(b'{"ok":true}')).startswith(b"HTTP/1.1 200 ")
        else:
            writer.write(head + body)
            answer = await reader.read()
            assert b"The body is missing: the server dropped it" in answer
            assert b"connection: close" in answer
        writer.close()
