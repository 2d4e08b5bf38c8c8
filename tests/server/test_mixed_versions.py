"""
Nodes of two versions in one fleet, as in a rolling update: which version is current, and who is outdated.

No node may answer by its own version alone. Nodes of which that is not known: tests/core/test_current_version.py.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from headcount.client import fetch_stats, use_active_connections
from kit.pages import BASE, Sse, WebSocket, ask
from kit.processes import BIN, run
from kit.stores import Store

from .serving import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

TOKEN = {"Authorization": "Bearer s3cret-of-the-tests"}
CLOCK = "0.3"
MIXED = "nodes serve v1 and v2, and no release was declared; declare one: headcount release VERSION URL"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store("valkey") as store:
        yield store


def node(store: Store, name: str, version: str) -> Server:
    return Server(
        "uvicorn-takeover",
        version=version,
        backend=store.url,
        admin_token="s3cret-of-the-tests",
        fleet_name=name,
        environment={"FLEET_CLOCK": CLOCK},
    )


@asynccontextmanager
async def fleet(store: Store, *versions: str, name: str = "") -> AsyncIterator[list[Server]]:
    """Start a node of each version, in a fleet of its own."""
    with ExitStack() as stack:
        name = name or uuid4().hex
        servers = [stack.enter_context(node(store, name, version)) for version in versions]
        for server in servers:
            await asyncio.to_thread(server.wait_ready)
        for server in servers:
            await until_figures(server, lambda stats: stats["nodes"]["reporting"] == len(versions))
        yield servers


async def figures(server: Server) -> dict[str, Any]:
    status, stats = await ask(server.url, "GET", BASE + "/admin/stats", None, TOKEN)
    assert status == 200
    found: dict[str, Any] = stats
    return found


async def until_figures(server: Server, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(40):
        while not condition(stats := await figures(server)):
            await asyncio.sleep(0.05)
    return stats


async def wait_outdated(server: Server, *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [str(BIN / "headcount"), "wait", server.url, "--token", "s3cret-of-the-tests", "--outdated", "--json"]
    command += arguments if "--for" in arguments else ("--for", "0s", *arguments)
    done = await asyncio.to_thread(run, command, timeout=60)
    return done.returncode, json.loads(done.stdout)


async def command(*words: str) -> str:
    line = [str(BIN / "headcount"), *words, "--token", "s3cret-of-the-tests"]
    done = await asyncio.to_thread(run, line, timeout=60)
    done.check_returncode()
    return done.stdout


async def test_no_node_of_a_mixed_fleet_lets_the_gate_pass_before_a_release(store: Store) -> None:
    async with fleet(store, "v1", "v2") as servers:
        pages = [await Sse.open(servers[0].url, version="v1", route="/") for _ in range(5)]
        for server in servers:
            await until_figures(server, lambda stats: stats["total"] == 5)
        late = [wait_outdated(server, "--timeout", "8s", *hold) for server in servers for hold in ((), ("--for", "1s"))]
        lost = [wait_outdated(server, "--lost-after", "6s") for server in servers]
        for code, answer in await asyncio.gather(*late):
            assert (code, answer["left"], answer["reason"]) == (3, None, f"Timed out: {MIXED}.")
        for code, answer in await asyncio.gather(*lost):
            assert (code, answer["left"]) == (4, None)
            assert re.fullmatch(rf"Gave up after \d+ s: {re.escape(MIXED)}\.", answer["reason"])
        for server in servers:
            stats = await figures(server)
            assert stats["nodes"] == {"reporting": 2, "expected": 2, "versions": {"v1": 1, "v2": 1}}
            assert "currentVersion" not in stats
            assert f"Current version not known: {MIXED}." in await command("stats", server.url)
            _, text = await ask(server.url, "GET", BASE + "/metrics", None, TOKEN)
            assert not re.search(r"^headcount_(outdated|current)", str(text), re.MULTILINE)
        # The declaration decides from then on: 5 of 5 are left of v2's point of view, and none of v1's.
        for version, left, code in (("v2", 5, 3), ("v1", 0, 0)):
            await command("release", version, servers[0].url)
            for server in servers:
                assert (await figures(server))["currentVersion"] == version
            for found, answer in await asyncio.gather(*(wait_outdated(one, "--timeout", "8s") for one in servers)):
                assert (found, answer["left"]) == (code, left)
        assert all(not page.ended for page in pages)


async def test_a_fleet_of_one_version_knows_it_and_follows_nodes_that_come_and_go(store: Store) -> None:
    async with fleet(store, "v1", "v1", name="follows") as servers:
        viewer = await WebSocket.open(servers[0].url, viewer="1", token="s3cret-of-the-tests")
        viewer.send({"type": "subscribe-stats", "deltas": True})
        await viewer.until(lambda one: one.figures is not None and one.figures.get("currentVersion") == "v1")
        assert (await wait_outdated(servers[1], "--timeout", "20s"))[0] == 0
        with node(store, "follows", "v2") as third:
            await asyncio.to_thread(third.wait_ready)
            await viewer.until(lambda one: one.figures is not None and one.figures.get("currentVersion") is None)
            assert viewer.figures is not None
            assert viewer.figures["nodes"]["versions"] == {"v1": 2, "v2": 1}
            # Whoever comes now, to whichever node, is not told that the node's own version is current.
            for server in (*servers, third):
                async with use_active_connections(server.url, token="s3cret-of-the-tests") as live:
                    await live.wait_for(lambda stats: stats.nodes.versions is not None)
                    await live.wait_for(lambda stats: stats.nodes.reporting == 3)
                    assert live.current_version.value is None
                page = await Sse.open(server.url, version="v1", route="/")
                assert "currentVersion" not in page.messages[0]
                page.fin()
            third.process.terminate()
            await viewer.until(lambda one: one.figures is not None and one.figures.get("currentVersion") == "v1")
        stats = await fetch_stats(servers[1].url, token="s3cret-of-the-tests")
        assert (stats.current_version, stats.nodes.versions) == ("v1", {"v1": 2})


async def test_a_version_that_no_node_serves_stays_current_if_the_operator_insists(store: Store) -> None:
    """Pages may come from elsewhere, so the nodes' own versions are no reason to refuse it."""
    async with fleet(store, "v1", "v1") as servers:
        await Sse.open(servers[0].url, version="v1", route="/")
        await command("release", "v9", servers[1].url, "--unserved")
        for code, answer in await asyncio.gather(*(wait_outdated(one, "--timeout", "8s") for one in servers)):
            assert (code, answer["left"]) == (3, 1)
        assert [(await figures(server))["currentVersion"] for server in servers] == ["v9", "v9"]


async def test_without_a_viewer_nodes_learn_of_a_mix_within_some_seconds(store: Store) -> None:
    async with fleet(store, "v1", "v2") as servers:
        for server in servers:

            async def told(server: Server = server) -> dict[str, Any]:
                page = await Sse.open(server.url, version="v1", route="/")
                page.fin()
                return page.messages[0]

            async with asyncio.timeout(60):
                while "currentVersion" in await told():
                    await asyncio.sleep(0.2)
