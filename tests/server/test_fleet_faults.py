"""
Faults of Redis or Valkey, and of the network before it, that end healed: one fleet bears one after the other.

Its nodes run with a fast clock. With the real one, nodes die in test_fleet.py, Redis in test_cut_off.py and
test_chaos.py.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from kit.pages import everybody_leaves
from kit.stores import Store

from .fleet import CLOCK, Fleet, three_nodes

pytestmark = pytest.mark.anyio

VALKEY = pytest.mark.parametrize("running", ["valkey"], indirect=True)
"""For faults that Redis and Valkey show in the same way; the others meet both, because most of this is waiting."""
SLOW = 8 * CLOCK
"""Seconds for which Redis does not answer: longer than a node waits."""


@pytest.fixture
def _no_stream_is_left() -> None:
    """Instead of the fixture of all tests in this folder: pages stay from one fault to the next."""


@pytest.fixture(scope="module", params=["redis", "valkey"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with three_nodes(request.param, CLOCK) as fleet:
        yield fleet
    await everybody_leaves()


@pytest.fixture
async def fleet(running: Fleet) -> AsyncIterator[Fleet]:
    await running.until_exact()
    running.mark_logs()
    yield running
    running.assert_never_wrong()


async def test_redis_killed_and_started_empty(fleet: Fleet) -> None:
    fleet.store.kill()
    await fleet.until_each_is_partial()
    fleet.store.start()
    await fleet.until_exact()
    for log in fleet.logs():
        assert log.count("cannot be used") == 1, "said once"
        assert log.count("can be used again") == 1


@VALKEY
async def test_redis_emptied_while_it_runs(fleet: Fleet) -> None:
    assert fleet.store.ask("FLUSHALL") == b"+OK"
    await fleet.open_page(0)
    await fleet.until_exact()
    await fleet.until_all_listed()


@VALKEY
async def test_clients_killed_again_and_again(fleet: Fleet) -> None:
    for kind in ("normal", "pubsub") * 2:
        fleet.store.ask("CLIENT", "KILL", "TYPE", kind)
        await fleet.open_page(1)  # so that it takes a connection to be exact again
        await fleet.until_exact()


@VALKEY
@pytest.mark.parametrize(
    "how",
    [("DEBUG", "SLEEP", f"{SLOW:g}"), ("CLIENT", "PAUSE", f"{1_000 * SLOW:.0f}", "WRITE")],
    ids=["debug sleep", "client pause write"],
)
async def test_redis_too_slow_to_be_of_use(fleet: Fleet, how: tuple[str, ...]) -> None:
    sleeping = asyncio.ensure_future(asyncio.to_thread(fleet.store.ask, *how))
    await fleet.until_each_is_partial()
    assert await sleeping == b"+OK"
    await fleet.until_exact()
    for log in fleet.logs():
        assert log.count("cannot be used (it did") + log.count("cannot be used (nothing") == 1, log


async def test_redis_out_of_memory(fleet: Fleet) -> None:
    assert fleet.store.ask("CONFIG", "SET", "maxmemory", "1") == b"+OK"
    await fleet.until_each_is_partial()
    assert fleet.store.ask("CONFIG", "SET", "maxmemory", "0") == b"+OK"
    await fleet.until_exact()


@VALKEY
async def test_redis_became_a_replica(fleet: Fleet) -> None:
    with Store("valkey") as other:
        assert fleet.store.ask("REPLICAOF", "127.0.0.1", str(other.port)) == b"+OK"
        await fleet.until_each_is_partial()
        assert fleet.store.ask("REPLICAOF", "NO", "ONE") == b"+OK"
        await fleet.until_exact()


@VALKEY
async def test_redis_that_has_too_few_replicas_to_be_written_to(fleet: Fleet) -> None:
    assert fleet.store.ask("CONFIG", "SET", "min-replicas-to-write", "1") == b"+OK"
    await fleet.until_each_is_partial()
    assert fleet.store.ask("CONFIG", "SET", "min-replicas-to-write", "0") == b"+OK"
    await fleet.until_exact()


@VALKEY
async def test_a_slow_network(fleet: Fleet) -> None:
    for proxy in fleet.proxies:
        proxy.delay = 0.3 * CLOCK
    try:
        for number in range(3):
            await fleet.open_page(number)
        await fleet.until_exact()
    finally:
        for proxy in fleet.proxies:
            proxy.delay = 0.0
