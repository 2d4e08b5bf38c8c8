"""
Which version a fleet of real processes and a real store takes for current while nodes of two versions come and go.

Covers core/current_version.py, fleet/accounting.py and fleet/state_exchange.py.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from headcount import client
from headcount.errors import Refused
from kit.pages import BASE, Sse, ask
from kit.stores import Store

from .serving import Server

pytestmark = pytest.mark.anyio
SECRET = "s3cret-of-the-tests"
TOKEN = {"Authorization": f"Bearer {SECRET}"}
SETTLE = 3.0


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


def node(store: Store, name: str, version: str, **settings: Any) -> Server:
    return Server(
        "uvicorn",
        admin_token=SECRET,
        backend=store.url,
        fleet_name=name,
        **{"version": version, "settle_time": SETTLE, **settings},
    )


@asynccontextmanager
async def fleet(store: Store, name: str, *versions: str) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        servers = [stack.enter_context(node(store, name, version)) for version in versions]
        for server in servers:
            await asyncio.to_thread(server.wait_ready)
        yield servers


async def leave(server: Server) -> None:
    server.process.terminate()
    await asyncio.to_thread(server.process.wait, 20)


async def release_of(server: Server) -> dict[str, Any]:
    status, stats = await ask(server.url, "GET", BASE + "/admin/stats", None, TOKEN)
    assert status == 200
    found: dict[str, Any] = stats["release"]
    assert stats.get("currentVersion") == (None if found["state"] in ("unsettled", "orphaned") else found["version"])
    return found


async def until_release(server: Server, state: str, version: str | None = None) -> None:
    async with asyncio.timeout(60):
        while ((found := await release_of(server))["state"], found.get("version")) != (state, version):
            await asyncio.sleep(0.1)
    if state == "settled":
        assert found["number"] == 0
    else:
        assert found.get("number") != 0


async def test_while_a_rolling_deploy_alternates_no_page_hears_of_a_version(store: Store) -> None:
    async with AsyncExitStack() as stack:
        old = [stack.enter_context(node(store, "rolling", "v1")) for _ in range(2)]
        for server in old:
            await asyncio.to_thread(server.wait_ready)
            await until_release(server, "settled", "v1")
        new = stack.enter_context(node(store, "rolling", "v2"))
        await asyncio.to_thread(new.wait_ready)
        for server in (*old, new):
            await until_release(server, "unsettled")
        # A page that reconnects through the balancer meets nodes of both versions.
        for server in (new, old[0], new, old[1]):
            page = await Sse.open(server.url, version="v1", route="/")
            assert "currentVersion" not in page.messages[0]
            assert not page.of_type("version")
            page.fin()
        for server in old:
            await leave(server)
        started = asyncio.get_running_loop().time()
        other = stack.enter_context(node(store, "rolling", "v2"))
        await asyncio.to_thread(other.wait_ready)
        await until_release(new, "settled", "v2")
        await until_release(other, "settled", "v2")
        assert asyncio.get_running_loop().time() - started < 60


async def test_a_node_that_joins_a_settled_fleet_is_settled_at_once(store: Store) -> None:
    async with fleet(store, "joins", "v1", "v1") as servers:
        for server in servers:
            await until_release(server, "settled", "v1")
        # It would have to wait for two minutes by itself.
        with node(store, "joins", "v1", settle_time=120) as late:
            await asyncio.to_thread(late.wait_ready)
            await until_release(late, "settled", "v1")


async def test_after_a_roll_back_without_a_word_nobody_is_asked_to_go_to_a_version_that_is_gone(store: Store) -> None:
    async with fleet(store, "back", "v1") as [old]:
        with node(store, "back", "v2") as new:
            await asyncio.to_thread(new.wait_ready)
            await until_release(old, "unsettled")
            assert not (await client.release(new.url, "v2", token=SECRET)).partial
            await until_release(old, "declared", "v2")
            page = await Sse.open(old.url, version="v1", route="/")
            await page.until(lambda one: bool(one.of_type("version")))
            page.fin()
            await leave(new)
        await until_release(old, "orphaned", "v2")
        assert "No node serves version v2, which was declared current" in old.log
        page = await Sse.open(old.url, version="v1", route="/")
        assert "currentVersion" not in page.messages[0]
        await asyncio.sleep(0.5)
        assert not page.of_type("version")
        page.fin()
        await client.release(old.url, "v1", token=SECRET)
        await until_release(old, "declared", "v1")


async def test_a_release_of_a_version_that_no_node_serves_needs_the_operator_s_word(store: Store) -> None:
    async with fleet(store, "typo", "v1", "v1") as servers:
        with pytest.raises(Refused, match="No node serves version v22; nodes serve v1"):
            await client.release(servers[0].url, "v22", token=SECRET)
        for server in servers:
            await until_release(server, "settled", "v1")
        await client.release(servers[0].url, "spa-7", unserved=True, token=SECRET)
        for server in servers:
            await until_release(server, "declared", "spa-7")


async def test_a_release_outlives_all_nodes_and_a_store_that_loses_it() -> None:
    with Store() as store:
        await _declare_and_restart(store)


async def _declare_and_restart(store: Store) -> None:
    async with fleet(store, "kept", "v1", "v2") as servers:
        await client.release(servers[0].url, "v1", token=SECRET)
        await until_release(servers[1], "declared", "v1")
    async with fleet(store, "kept", "v1", "v2") as servers:
        for server in servers:
            await until_release(server, "declared", "v1")
        store.kill()
        store.start()
        async with asyncio.timeout(60):
            while not store.lines("KEYS", "*:release"):
                await asyncio.sleep(0.2)
    async with fleet(store, "kept", "v1", "v2") as servers:
        await until_release(servers[0], "declared", "v1")
