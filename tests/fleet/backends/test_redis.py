"""What only Redis can do to a node: lose some of what it stores, and hold what no node put there."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from headcount.fleet.backends.redis import RedisBackend
from headcount.fleet.backends.redis_address import database
from headcount.fleet.backends.redis_timing import DEFAULT_TIMING, Timing
from kit.listener import Listener
from kit.pages import until
from kit.stores import Store

from .test_conformance import Ear, named

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store("valkey") as store:
        yield store


class Nodes:
    """Two backends of one fleet, connected."""

    def __init__(self, url: str, timing: Timing) -> None:
        self.fleet = os.urandom(4).hex()
        self.names = [named(), named()]
        self.one, self.two = (RedisBackend(name, url, self.fleet, url, timing) for name in self.names)
        self.ears = [Ear(), Ear()]

    def key(self, name: str) -> str:
        return f"{{headcount:{self.fleet}}}:{name}"


@asynccontextmanager
async def nodes(url: str, timing: Timing = DEFAULT_TIMING) -> AsyncIterator[Nodes]:
    made = Nodes(url, timing)
    for backend, ear in zip((made.one, made.two), made.ears, strict=True):
        backend.start(ear)
    try:
        await until(lambda: all(ear.connected for ear in made.ears))
        yield made
    finally:
        await made.one.stop()
        await made.two.stop()


@pytest.mark.parametrize("command", ["SREM", "DEL"])
async def test_a_node_that_the_store_forgot_is_known_again_although_its_sign_of_life_stayed(
    command: str, store: Store
) -> None:
    """Whoever took its name out saw no sign of life, which came in between; or the set was evicted, but the key not."""
    async with nodes(store.url, Timing(heartbeat=0.1)) as both:
        arguments = [both.key("nodes"), *([both.names[1]] if command == "SREM" else [])]
        assert store.ask(command, *arguments) == b":1"
        async with asyncio.timeout(10):
            while not await both.one.knows(both.names[1]):
                await asyncio.sleep(0.02)


async def test_fleets_of_one_name_in_two_databases_do_not_hear_one_another(store: Store) -> None:
    """Redis's channels belong to no database: pages of production were told a release of staging."""
    fleet = os.urandom(4).hex()
    ears = [Ear(), Ear(), Ear()]
    urls = [store.url, store.url.removesuffix("/0") + "/1", store.url.removesuffix("/0") + "/1"]
    backends = [RedisBackend(named(), url, fleet, url) for url in urls]
    for backend, ear in zip(backends, ears, strict=True):
        backend.start(ear)
        backend.listen(on=True)
    try:
        await until(lambda: all(ear.connected for ear in ears))
        backends[1].announce(b"a release")
        await until(lambda: b"a release" in ears[2].messages)
        backends[0].announce(b"another release")
        await until(lambda: b"another release" in ears[0].messages)
        assert b"a release" not in ears[0].messages
        assert b"another release" not in ears[2].messages
    finally:
        for backend in backends:
            await backend.stop()


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("redis://host:6379", 0),
        ("redis://host:6379/3", 3),
        ("redis://host?db=2", 2),
        ("unix:///run/redis.sock?db=4", 4),
        ("redis+sentinel://one:26379,[::1]:26379/shop/5", 5),
        ("redis+sentinel://one:26379/shop", 0),
    ],
)
def test_the_database_of_a_url(url: str, number: int) -> None:
    assert database(url) == number


async def test_while_the_store_is_away_nobody_waits_to_hear_that_nobody_is_known() -> None:
    with Store("valkey") as store:
        async with nodes(store.url) as both:
            store.kill()
            await until(lambda: not both.ears[0].connected)
            async with asyncio.timeout(2):
                assert await both.one.members() is None
                await asyncio.gather(*(both.one.knows(named()) for _ in range(100)))
            store.start()
            await until(lambda: both.ears[0].connected and both.ears[1].connected)
            async with asyncio.timeout(10):
                while not await both.one.knows(both.names[1]):
                    await asyncio.sleep(0.02)


REFUSALS = {
    "nothing there": ("redis://127.0.0.1:1/0", "Check that it runs and can be reached from here."),
    "password": ("redis://:wrong@127.0.0.1:{port}/0", "Correct the user and password in its URL."),
    "no password": ("redis://127.0.0.1:{secret}/0", "Correct the user and password in its URL."),
    "rights": ("redis://few:pw@127.0.0.1:{port}/0", "docs/deployment.md lists the permissions that its user needs."),
    "replica": ("redis://127.0.0.1:{replica}/0", "This is a replica; give the address of the primary"),
    "database": ("redis://127.0.0.1:{port}/99", "This database does not exist"),
    "no TLS": ("rediss://127.0.0.1:{port}/0", "if it does not use TLS, write redis://."),
    "TLS only": ("redis://127.0.0.1:{tls}/0", "If it accepts only TLS, write rediss://."),
    "too old": ("redis://127.0.0.1:{old}/0", "Headcount needs Redis 7 or Valkey 7, or newer."),
}


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a server in front of which a client that does not speak TLS is nobody."""
    await reader.read(100)
    writer.close()


async def _be_old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a Redis 6 in what matters: SET takes no GET beside PX."""
    while line := await reader.readline():
        words = [(await reader.readline(), await reader.readline())[1].strip() for _ in range(int(line[1:]))]
        if words[0] in (b"SUBSCRIBE", b"SSUBSCRIBE"):
            for number, name in enumerate(words[1:], 1):
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:%d\r\n" % (len(name), name, number))
        elif words[0] in (b"SET", b"CLUSTER"):
            writer.write(b"-ERR syntax error\r\n")
        else:
            writer.write(b"+OK\r\n")
    writer.close()


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_store_that_cannot_be_used_is_told_with_what_to_do(
    kind: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    url, advice = REFUSALS[kind]
    with (
        Store("valkey", requirepass="p") as secret,
        Store("valkey", replicaof=f"127.0.0.1 {store.port}") as replica,
    ):
        assert store.ask("ACL", "SETUSER", "few", "on", ">pw", "+ping") == b"+OK"
        async with Listener(_refuse) as tls, Listener(_be_old) as old:
            ports = {
                "port": store.port,
                "secret": secret.port,
                "replica": replica.port,
                "tls": tls.port,
                "old": old.port,
            }
            url = url.format(**ports)
            backend = RedisBackend(named(), url, "shop", url)
            backend.start(Ear())
            try:
                await until(lambda: "cannot be used" in caplog.text)
            finally:
                await backend.stop()
    assert advice in caplog.text


async def test_a_store_that_comes_back_with_another_password_is_told_once_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Store("valkey") as store:
        async with nodes(store.url) as both:
            store.kill()
            await until(lambda: caplog.text.count("Check that it runs and can be reached from here.") == 2)
            with Store("valkey", port=store.port, requirepass="another"):
                await until(lambda: caplog.text.count("Correct the user and password in its URL.") == 2)
                assert not any(ear.connected for ear in both.ears)
    assert "rediss://" not in caplog.text, "it could be used before, so that is not it"


@pytest.mark.parametrize("turns", range(8))
def test_a_node_that_is_leaving_as_its_loop_ends_still_leaves(turns: int, store: Store) -> None:
    """A server ends its loop as soon as its last stream is closed, which is when its node begins to leave."""
    made = Nodes(store.url, DEFAULT_TIMING)

    async def ends() -> None:
        made.one.start(made.ears[0])
        await until(lambda: made.ears[0].connected)
        leaving = asyncio.get_running_loop().create_task(made.one.stop())
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not leaving.cancelled()

    async def check() -> None:
        made.two.start(made.ears[1])
        made.two.listen(on=True)
        await until(lambda: made.ears[1].connected)
        await asyncio.to_thread(asyncio.run, ends())
        await until(lambda: b"leave" in made.ears[1].messages, "it left", 3)
        await made.two.stop()

    asyncio.run(check())
