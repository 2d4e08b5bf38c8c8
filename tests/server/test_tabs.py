"""Tabs of one browser share one cookie jar, and still are on different versions."""

from itertools import permutations

import pytest

from kit.pages import Sse, WebSocket

from .serving import Server

pytestmark = pytest.mark.anyio

STEPS = [("old", "open"), ("old", "close"), ("new", "open"), ("new", "close")]


@pytest.mark.parametrize("kind", [Sse, WebSocket], ids=["sse", "ws"])
async def test_two_tabs_on_two_versions_are_told_apart_in_whatever_order_they_reconnect(
    kind: type[Sse] | type[WebSocket],
) -> None:
    with Server("uvicorn") as server:
        server.wait_ready()
        cookie = server.sign_in()
        viewer = await WebSocket.open(server.url, cookie=cookie, viewer=1)
        await viewer.subscribe(server.url)
        # The tab that was opened last wrote the cookie; the old tab's page still runs the old bundle.
        jar = "__nkpv=new"
        open_now = {version: await kind.open(server.url, cookie=jar, version=version) for version in ("old", "new")}
        await viewer.until_figures([("old", "/"), ("new", "/")])
        for order in permutations(STEPS):
            # Each tab reconnects once, before or after its old stream is gone.
            opened, before = {}, dict(open_now)
            for version, step in order:
                if step == "open":
                    opened[version] = await kind.open(server.url, cookie=jar, version=version)
                else:
                    before[version].fin()
            open_now = opened
            await viewer.until_figures([("old", "/"), ("new", "/")])
        for page in open_now.values():
            page.fin()
        await viewer.until_figures([])
        viewer.fin()


async def test_a_page_without_a_stamp_is_counted_by_its_cookie_and_one_without_either_as_unknown() -> None:
    with Server("uvicorn") as server:
        server.wait_ready()
        viewer = await WebSocket.open(server.url, cookie=server.sign_in(), viewer=1)
        await viewer.subscribe(server.url)
        pages = [
            await Sse.open(server.url, cookie="a=b; __nkpv=2026.10.1"),
            await WebSocket.open(server.url, cookie="__nkpv=2026.10.1"),
            await Sse.open(server.url),
        ]
        await viewer.until_figures([("2026.10.1", "/"), ("2026.10.1", "/"), ("unknown", "/")])
        for page in [*pages, viewer]:
            page.fin()
