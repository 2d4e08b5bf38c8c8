"""A server that stops always leaves its fleet: no process ends before its leave message is out."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from headcount.core.tallies import Tally, decode_tally
from kit.pages import Sse, WebSocket, all_of
from kit.stores import Store

from .serving import Server, daphne_packages

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("LEAVING_ROUNDS", "1"))
"""How often each server is stopped; `make chaos` says 20."""
KINDS = {
    "uvicorn": 1,
    "uvicorn-plain": 1,
    "uvicorn-takeover": 1,
    "uvicorn-hasty": 1,
    "uvicorn-hasty-takeover": 1,
    "hypercorn": 1,
    "granian": 1,
    "daphne": 1,
    "gunicorn": 1,
    "uvicorn-workers": 4,
    "headcount-two-workers": 2,
}
"""By server, how many processes serve."""


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store("valkey") as running:
        yield running


def _tallies(store: Store, fleet: str) -> list[Tally]:
    found = store.lines("HVALS", f"{{headcount:{fleet}}}:tallies")
    return [tally for data in found if (tally := decode_tally(data)) is not None]


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_stops_hands_its_pages_over(kind: str, round_: int, store: Store) -> None:
    fleet, workers = f"{kind}-{round_}", KINDS[kind]
    with ExitStack() as stack:
        packages = daphne_packages() if kind == "daphne" else None
        server = stack.enter_context(
            Server(kind, packages=packages, backend=store.url, fleet_name=fleet, reconnect_spread=30)
        )
        await asyncio.to_thread(server.wait_ready)
        await all_of([(Sse if n % 2 else WebSocket).open(server.url, version="v1", route="/") for n in range(24)])
        nodes = store.lines("SMEMBERS", f"{{headcount:{fleet}}}:nodes")
        async with asyncio.timeout(20):
            while sum(tally.versions.get("v1", 0) for tally in _tallies(store, fleet)) < 24:
                await asyncio.sleep(0.05)
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait, 30)
        async with asyncio.timeout(5):  # the bytes are out; Redis may be busy
            while store.lines("SMEMBERS", f"{{headcount:{fleet}}}:nodes") != []:
                await asyncio.sleep(0.05)
        tallies = _tallies(store, fleet)
        assert len(nodes) <= workers
        assert all(tally.left for tally in tallies), f"{tallies}; {server.log[-2000:]}"
        assert sum(tally.departed.get("v1", 0) for tally in tallies) == 24, "every page is on its way"
