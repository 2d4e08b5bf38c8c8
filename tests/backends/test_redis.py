"""What only Redis can do to a node: lose some of what it stores, and hold what no node put there."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from headcount.backends.redis import RedisBackend

from .stores import Store
from .test_conformance import Ear, named, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store("valkey") as store:
        yield store


class Nodes:
    """Two backends of one fleet, sighted."""

    def __init__(self, url: str) -> None:
        self.fleet = os.urandom(4).hex()
        self.names = [named(), named()]
        self.one, self.two = (RedisBackend(name, url, self.fleet, url) for name in self.names)
        self.ears = [Ear(), Ear()]

    def key(self, name: str) -> str:
        return f"{{headcount:{self.fleet}}}:{name}"


@asynccontextmanager
async def nodes(url: str) -> AsyncIterator[Nodes]:
    made = Nodes(url)
    for backend, ear in zip((made.one, made.two), made.ears, strict=True):
        backend.start(ear)
    try:
        await until(lambda: all(ear.can_see for ear in made.ears))
        yield made
    finally:
        await made.one.stop()
        await made.two.stop()


@pytest.mark.parametrize("command", ["SREM", "DEL"])
async def test_a_node_that_the_store_forgot_is_known_again_although_its_sign_of_life_stayed(
    command: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took its name out saw no sign of life, which came in between; or the set was evicted, but the key not."""
    monkeypatch.setattr(RedisBackend, "heartbeat", 0.1)
    async with nodes(store.url) as both:
        arguments = [both.key("nodes"), *([both.names[1]] if command == "SREM" else [])]
        assert store.ask(command, *arguments) == b":1"
        async with asyncio.timeout(10):
            while not await both.one.knows(both.names[1]):
                await asyncio.sleep(0.02)


async def test_while_the_store_is_away_nobody_waits_to_hear_that_nobody_is_known() -> None:
    with Store("valkey") as store:
        async with nodes(store.url) as both:
            store.kill()
            await until(lambda: not both.ears[0].can_see)
            async with asyncio.timeout(2):
                assert await both.one.members() is None
                await asyncio.gather(*(both.one.knows(named()) for _ in range(100)))
            store.start()
            await until(lambda: both.ears[0].can_see and both.ears[1].can_see)
            async with asyncio.timeout(10):
                while not await both.one.knows(both.names[1]):
                    await asyncio.sleep(0.02)
