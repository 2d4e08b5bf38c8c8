"""What strangers who make versions up can do to `headcount wait`: real streams, a real server, the command itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kit.pages import Sse, WebSocket, all_of, ask, everybody_leaves

from .processes import TOKEN, Serve
from .running import Command

pytestmark = pytest.mark.anyio

MAX_VERSIONS = 30
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def shared() -> Iterator[Serve]:
    with Serve(version="v2", stats_interval=0.02, max_versions=MAX_VERSIONS) as server:
        yield server


@pytest.fixture
async def server(shared: Serve) -> AsyncIterator[Serve]:
    yield shared
    await everybody_leaves(politely=True)
    async with asyncio.timeout(20):
        while (await stats(shared))["total"]:
            await asyncio.sleep(0.01)


async def stats(server: Serve, query: str = "") -> dict[str, Any]:
    figures: dict[str, Any] = (await ask(server.origin, "GET", f"/__skew/admin/stats{query}", None, AUTH))[1]
    return figures


async def wait(server: Serve, *arguments: str) -> tuple[int, dict[str, Any]]:
    with Command("wait", server.url, "--token", TOKEN, "--json", *arguments) as command:
        code = await asyncio.to_thread(command.end)
        return code, json.loads(next(line for line in command.output.splitlines() if line.startswith("{")))


async def fill(server: Serve, streams: int = 8, prefix: str = "made-up") -> list[WebSocket]:
    """Open streams whose tabs are of as many versions as one stream may name."""
    opened = await all_of([WebSocket.open(server.origin, shared=1) for _ in range(streams)])
    for number, stream in enumerate(opened):
        tabs = [
            {"key": f"key-of-the-tab-{prefix}-{number}-{each}", "version": f"{prefix}-{number}-{each}", "route": "/"}
            for each in range(8)
        ]
        stream.send({"type": "tabs", "set": tabs, "remove": []})
        await stream.until(lambda one: bool(one.of_type("tabs")))
    return opened


async def pages(server: Serve, version: str, count: int) -> list[Sse]:
    return await all_of([Sse.open(server.origin, version=version) for _ in range(count)])


async def test_strangers_who_fill_all_counts_do_not_open_the_gate(server: Serve) -> None:
    strangers = await fill(server)
    real = await pages(server, "v0", 20)
    assert "v0" not in (await stats(server))["versions"], "they are counted under (other)"
    # One place becomes free, and one page of that version takes it: "1 left".
    strangers[0].send_close()
    async with asyncio.timeout(20):
        while (await stats(server))["total"] != 20 + 7 * 8:
            await asyncio.sleep(0.05)
    [bait] = await pages(server, "v0", 1)
    assert (await stats(server))["versions"]["v0"] == 1
    for arguments in (("--below", "1"), ("--below", "1%"), ("--below", "1%", "--of", "100")):
        code, result = await wait(server, "--version", "v0", *arguments, "--for", "1s", "--timeout", "3s")
        assert (code, result["left"]) == (3, 21)
    for page in (*real, bait):
        await page.leave()
    code, result = await wait(server, "--version", "v0", "--for", "1s", "--timeout", "20s")
    assert (code, result["left"]) == (0, 0), "nor do they hold it shut"
    assert (await stats(server))["versions"]["(other)"] > 0, "though they are still there"


async def test_the_server_counts_the_version_that_is_waited_for_apart_from_then_on(server: Serve) -> None:
    await fill(server, prefix="others")
    await pages(server, "v-1", 3)
    before = await stats(server)
    assert "v-1" not in before["versions"]
    figures = await stats(server, "?version=v-1")
    assert figures["ofVersion"] == {"version": "v-1", "least": 3, "most": 3}
    assert figures["versions"]["v-1"] == 3
    assert figures["versions"]["(other)"] == before["versions"]["(other)"] - 3
    await pages(server, "v-1", 2)
    assert (await stats(server))["versions"]["v-1"] == 5
    viewer = await WebSocket.open(server.origin, token=TOKEN, viewer=1)
    await viewer.subscribe(server.origin)
    await viewer.until(lambda one: one.figures is not None)
    await pages(server, "v-2", 4)
    assert (await stats(server, "?version=v-2"))["ofVersion"]["least"] == 4
    await viewer.until(lambda one: one.figures is not None and one.figures["versions"].get("v-2") == 4)
    assert viewer.figures is not None
    assert sum(viewer.figures["versions"].values()) == viewer.figures["total"]


async def test_pages_of_the_current_version_do_not_dilute_the_outdated_ones(server: Serve) -> None:
    real = await pages(server, "v1", 20)
    await pages(server, "v2", 400)
    code, result = await wait(server, "--outdated", "--below", "1%", "--for", "1s", "--timeout", "3s")
    assert (code, result["left"], result["of"]) == (3, 20, 20)
    for page in real:
        await page.leave()
    assert (await wait(server, "--outdated", "--for", "1s", "--timeout", "20s"))[0] == 0


async def test_the_label_of_the_rest_is_no_version_of_a_page(server: Serve) -> None:
    code, answer = await ask(server.origin, "GET", "/__skew/sse?version=(other)")
    assert code == 400
    assert "stands for versions without a count" in answer["detail"]
    cookie = await Sse.open(server.origin, headers={"Cookie": "__nkpv=(other)"})
    assert (await stats(server))["versions"] == {"unknown": 1}
    assert (await wait(server, "--version", "no-such-build", "--for", "0s", "--timeout", "5s"))[0] == 0
    await cookie.leave()


async def test_a_version_that_cannot_be_one_is_an_error_of_the_command(server: Serve) -> None:
    with Command("wait", server.url, "--token", TOKEN, "--version", "v1\u200b", "--timeout", "5s") as command:
        assert await asyncio.to_thread(command.end) == 1
        assert "U+200B" in command.output


async def test_with_known_versions_only_what_the_fleet_knows_has_a_count(server: Serve) -> None:
    with Serve(version="v2", known_versions="fleet,v0") as strict:
        for version in ("v0", "v1", "v2", "made-up"):
            await pages(strict, version, 2)
        assert (await stats(strict))["versions"] == {"v0": 2, "v2": 2, "unknown": 4}
        assert (await wait(strict, "--version", "made-up-too", "--for", "0s", "--timeout", "5s"))[0] == 0
        await ask(strict.origin, "POST", "/__skew/admin/release", {"version": "v1"}, AUTH)
        assert (await stats(strict))["versions"] == {"v0": 2, "v1": 2, "v2": 2, "unknown": 2}
        await everybody_leaves()


async def test_one_page_keeps_the_gate_shut_until_the_timeout(server: Serve) -> None:
    await pages(server, "v-old", 1)
    code, result = await wait(server, "--version", "v-old", "--for", "0s", "--timeout", "2s")
    assert (code, result["left"]) == (3, 1)
