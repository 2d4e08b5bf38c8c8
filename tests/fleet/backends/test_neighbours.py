"""
A neighbour on the same Redis: another environment by mistake, or somebody who means harm.

It reads and writes what it likes. With a `fleet_secret` it can stop figures from being complete, and nothing else.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest
import redis.asyncio
from redis.exceptions import NoPermissionError

from asgi.asgi_client import ADMIN, Site, asynchronous, turn_until
from headcount import Busy, UnknownConnection
from headcount.core import fleet_messages, sealing, tallies, ticket
from headcount.core.fleet_messages import (
    Broadcast,
    Declaration,
    DeclareRelease,
    Forget,
    Join,
    Leave,
    Report,
    Revoke,
    Send,
)
from headcount.core.history import encode_sample, sample
from headcount.core.tallies import SeenAlive, Tally
from headcount.fleet.backends.redis import RedisBackend
from headcount.node.releases import timestamp
from kit.stores import Store

SECRET = "the secret of the fleet"
OLD_SECRET = "the secret that it had before"
TOKEN = "the admin token of production"
BEARER = {"authorization": f"Bearer {TOKEN}"}
STRANGER = "feedfeedfeed"
_names = count()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store("valkey") as store:
        yield store


class Neighbour:
    """Somebody else on the same Redis, who listens to everything and can write everything."""

    def __init__(self, store: Store, fleet: str) -> None:
        self.prefix = f"{{headcount:{fleet}}}"
        self.heard: list[tuple[str, bytes]] = []
        self.redis = redis.asyncio.Redis.from_url(store.url)
        self._channels = self.redis.pubsub()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._channels.psubscribe("*")
        self._task = asyncio.ensure_future(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._channels.aclose()  # type: ignore[no-untyped-call]
        await self.redis.aclose()

    async def _listen(self) -> None:
        async for message in self._channels.listen():
            if message["type"] == "pmessage":
                self.heard.append((message["channel"].decode(), message["data"]))

    async def say(self, *messages: fleet_messages.FleetMessage, channel: str = "all") -> None:
        """Publish messages in the clear."""
        for message in messages:
            assert await self.redis.publish(f"{self.prefix}:1:{channel}", fleet_messages.encode(message))

    async def repeat(self, heard: list[tuple[str, bytes]]) -> None:
        """Publish again what was heard, where it was, and elsewhere."""
        channels = {channel for channel, _ in heard}
        for _, data in heard:
            for each in channels:
                await self.redis.publish(each, data)

    async def stored(self) -> dict[str, bytes]:
        """Return everything that is stored, by key."""
        found: dict[str, bytes] = {}
        async for key in self.redis.scan_iter(f"{self.prefix}*"):
            kind: Any = await self.redis.type(key)
            read: Any = {
                b"string": self.redis.get,
                b"hash": self.redis.hgetall,
                b"set": self.redis.smembers,
                b"list": lambda name: self.redis.lrange(name, 0, -1),
            }[kind]
            found[key.decode()] = repr(await read(key)).encode()
        return found

    async def all_bytes(self) -> bytes:
        """Return all that can be read in one piece."""
        return b"\n".join([data for _, data in self.heard] + [*(await self.stored()).values()])


def site(store: Store, fleet: str, *secrets: str, **settings: Any) -> Site:
    arguments = {"stats_interval": 0.01, "backend": store.url, "fleet_name": fleet, "fleet_secret": secrets, **settings}
    return Site("mounted", **arguments)


def name() -> str:
    return f"fleet-{next(_names)}"


@asynccontextmanager
async def joined(*sites: Site, reporting: int | None = None, expected: int | None = None) -> AsyncIterator[None]:
    """Let sites find one another; each sees so many nodes."""
    for each in sites:
        assert (await each.stranger.get("/health")).status == 200
    try:
        async with asyncio.timeout(25):
            for each in sites:
                while (stats := await each.headcount.stats()).nodes.reporting != (
                    reporting or len(sites)
                ) or stats.nodes.expected != (expected or reporting or len(sites)):
                    await asyncio.sleep(0.02)
        yield
    finally:
        for each in sites:
            await each.node.leave()


async def watched_across(owner: Site, other: Site, headers: dict[str, str]) -> Any:
    """Subscribe a page of one site by a POST to the other, and wait until the owner has checked again."""
    page = await owner.stranger.open("sse", "?version=v1&route=/customers/7", headers)
    answer = await other.stranger.post("/subscribe-stats", {"connectionId": page.handle, "deltas": True}, headers)
    assert answer.status == 200
    return page


@pytest.mark.parametrize("secrets", [(), (SECRET,)], ids=["without a secret", "with a secret"])
def test_no_admin_token_or_ticket_is_handed_to_another_node(secrets: tuple[str, ...], store: Store) -> None:
    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = (
            site(store, fleet, *secrets, admin_token=TOKEN, hook=None, reauthorize_interval=0.1) for _ in range(2)
        )
        async with Neighbour(store, fleet) as neighbour, joined(one, two):
            ticket_made = ticket.make(ticket.derive_key(TOKEN, fleet), int(time.time()), b"n" * 16)
            for headers in (BEARER, {"cookie": f"headcount_admin={ticket_made}"}):
                page = await watched_across(one, two, headers)
                await page.next("stats")
                assert len(one.node.viewers.subscriptions) == 1
                await asyncio.sleep(0.5)  # several checks at the owner, each of which may withdraw the right
                assert one.node.viewers.subscriptions, "the owner checks the right without the token"
                await page.leave()
                await turn_until(lambda: not one.node.viewers.subscriptions)
            read = await neighbour.all_bytes()
            assert neighbour.heard
            assert TOKEN.encode() not in read
            assert ticket_made.rpartition(".")[2].encode() not in read

    check()


def test_with_a_secret_a_neighbour_reads_no_cookie_no_route_no_version_and_no_message(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = (site(store, fleet, SECRET, reauthorize_interval=0.1, ip_tracking=True) for _ in range(2))
        async with Neighbour(store, fleet) as neighbour, joined(one, two):
            page = await watched_across(one, two, ADMIN)
            there = await two.stranger.open("sse", "?version=a-secret-build&route=/merger")
            figures = await page.figures()
            await figures.until(lambda now: now["versions"].get("a-secret-build") == 1)
            assert await one.headcount.broadcast({"type": "notice", "text": "between us"}) == 2
            await there.next("notice")
            await one.headcount.release("a-secret-build")
            one.node.membership.view.backend.write_tally()  # type: ignore[attr-defined]
            await asyncio.sleep(0.1)
            read = await neighbour.all_bytes()
            assert len(neighbour.heard) > 10
            for words in (ADMIN["cookie"], "a-secret-build", "merger", "customers", "between us", "192.0.2"):
                assert words.encode() not in read, words
            assert two.node.id.encode() in read, "ids of nodes are no secret"

    check()


def attacks(victim: Site, fleet: Site, connection: str) -> list[fleet_messages.FleetMessage]:
    """Return what a neighbour would like nodes to do, in the name of a node of the fleet and of none."""
    far = Declaration(2**53, "zzz-evil")
    near = Declaration(timestamp() + 80_000_000, "evil")
    found: list[fleet_messages.FleetMessage] = []
    for node in (fleet.node.id, STRANGER):
        found += [
            Broadcast(node=node, re=1, message=b'{"type":"notice","html":"<img>"}'),
            Send(node=node, re=2, id=connection, message=b'{"type":"notice"}'),
            DeclareRelease(node=node, re=3, version="evil"),
            DeclareRelease(node=node, re=4, version="evil", number=near.number),
            Join(node=node, released=far),
            Join(node=node, released=near),
            Revoke(node=node, re=5, id=connection),
            Report(node=node, sequence=2**40, total=0, versions={}, routes={}, released=near),
            Leave(node=node, sequence=2**40),
            Forget(node=node, gone=victim.node.id),
        ]
    return found


def test_with_a_secret_nothing_that_a_neighbour_says_has_any_effect(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = (site(store, fleet, SECRET) for _ in range(2))
        async with Neighbour(store, fleet) as neighbour, joined(one, two):
            page = await one.admin.open("sse", "?version=v1")
            assert (await one.admin.post("/subscribe-stats", {"connectionId": page.handle})).status == 200
            figures = await page.figures()
            await two.stranger.open("sse", "?version=v1")
            await figures.until(lambda now: now["total"] == 2)
            heard = list(neighbour.heard)
            public = page.handle.partition(".")[0]
            ignored = one.node.border.ignored
            for message in attacks(one, two, public):
                await neighbour.say(message)
                await neighbour.say(message, channel="figures")
                await neighbour.say(message, channel=f"to:{one.node.id}")
            await neighbour.repeat(heard)
            # What is said afterwards is heard afterwards.
            assert await two.headcount.broadcast({"type": "the end"}) == 2
            await page.next("the end")
            assert not [each for each in page.unread if each.get("type") in ("notice", "version")]
            assert one.node.releases.released is None
            assert one.node.viewers.subscriptions
            stats = await one.headcount.stats()
            assert (stats.total, stats.nodes.reporting, stats.partial) == (2, 2, False)
            assert one.node.border.ignored - ignored >= 60
            metrics = (await one.admin.get("/metrics")).body.decode()
            assert "headcount_ignored_fleet_messages_total" in metrics
            assert f'headcount_stranger_nodes{{node="{one.node.id}"}} 0.0' in metrics
            assert await two.headcount.release("v2") == 2
            assert one.node.releases.current == "v2"

    check()


def test_a_recording_means_nothing_to_a_node_that_comes_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SLACK", 0.0)

    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = (site(store, fleet, SECRET) for _ in range(2))
        async with Neighbour(store, fleet) as neighbour, joined(one, two):
            await one.headcount.broadcast({"type": "notice"})
            await turn_until(lambda: len(neighbour.heard) > 4)
            await asyncio.sleep(0.05)
            late = site(store, fleet, SECRET)
            async with joined(one, two, late):
                page = await late.stranger.open("sse")
                for channel, data in list(neighbour.heard):
                    await neighbour.redis.publish(channel, data)
                    await neighbour.redis.publish(f"{neighbour.prefix}:1:to:{late.node.id}", data)
                await one.headcount.broadcast({"type": "the end"})
                await page.next("the end")
                assert not [each for each in page.unread if each.get("type") == "notice"]

    check()


def test_with_a_secret_no_stored_value_of_a_neighbour_settles_a_connection(store: Store) -> None:
    """Tallies that say that a node left or was forgotten, and pages that came back, would open the gate."""

    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = (site(store, fleet, SECRET) for _ in range(2))
        async with Neighbour(store, fleet) as neighbour, joined(one, two):
            pages = [await two.stranger.open("sse", "?version=v1") for _ in range(3)]
            assert pages
            prefix, gone, red = neighbour.prefix, two.node.id, neighbour.redis
            early = await red.hget(f"{prefix}:tallies", gone)
            two.node.membership.view.backend.write_tally()  # type: ignore[attr-defined]
            tallies_of_one = one.node.membership.view.backend.tallies  # type: ignore[attr-defined]
            async with asyncio.timeout(10):
                while (await tallies_of_one.entries())[gone].tally.versions != {"v1": 3}:
                    await asyncio.sleep(0.02)
            # It dies without a word.
            backend = two.node.membership.view.backend  # type: ignore[attr-defined]
            two.node.membership.view.abandon()  # type: ignore[attr-defined]
            backend._receiver = None
            await backend.stop()
            await red.delete(f"{prefix}:node:{gone}")
            now = timestamp()
            forged = [
                early,
                tallies.encode(Tally(at=now, left=True)),
                tallies.encode(Tally(at=now, forgotten=True)),
                tallies.encode(Tally(at=1)),
                await red.hget(f"{prefix}:tallies", one.node.id),
                b"noise",
                None,
            ]
            for data in forged:
                if data is None:
                    await red.hdel(f"{prefix}:tallies", gone)
                else:
                    await red.hset(f"{prefix}:tallies", gone, data)
                for number in range(3):
                    await red.hset(f"{prefix}:back:{gone}", f"{gone}{number}", "v1")
                await red.hset(f"{prefix}:doubts", gone, b"noise")
                entries = await tallies_of_one.entries()
                assert entries[gone].tally.versions == {"v1": 3}, data
                assert not entries[gone].back
                written = await red.hget(f"{prefix}:tallies", gone)
                assert written not in forged[:-1], "what this node had read is written back"
            # A node that comes only now, and has read nothing before, knows nothing and says so.
            await red.hset(f"{prefix}:tallies", gone, forged[1])
            await one.node.leave()
            late = site(store, fleet, SECRET)
            async with joined(late):
                stats = await late.headcount.stats()
                assert stats.partial
                assert gone in {absence.node for absence in stats.absences if absence.total is None}

    check()


def test_more_tallies_than_a_fleet_can_have_hide_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headcount.fleet.backends.redis_tallies.MAX_NODES", 20)

    @asynchronous
    async def check() -> None:
        fleet = name()
        one = site(store, fleet)
        async with Neighbour(store, fleet) as neighbour, joined(one):
            assert not (await one.headcount.stats()).partial
            nothing_follows = tallies.encode(Tally(at=timestamp(), forgotten=True))
            rows: dict[Any, Any] = {f"{number:012x}": nothing_follows for number in range(30)}
            await neighbour.redis.hset(f"{neighbour.prefix}:tallies", mapping=rows)
            async with asyncio.timeout(20):
                while not (await one.headcount.stats()).partial:
                    await asyncio.sleep(0.05)

    check()


MIXES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"fleet_secret": SECRET}, {"fleet_secret": OLD_SECRET}),
    ({"fleet_secret": SECRET}, {}),
    ({"fleet_secret": SECRET, "admin_token": TOKEN}, {"admin_token": TOKEN}),
    ({"admin_token": TOKEN}, {"admin_token": "the admin token of staging"}),
]


@pytest.mark.parametrize(("mine", "theirs"), MIXES)
def test_nodes_of_two_environments_do_not_mix_and_say_so(
    mine: dict[str, Any], theirs: dict[str, Any], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Figures stay partial, so that the gate of a deploy stays shut: they may be ours, with a secret being changed."""

    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = site(store, fleet, **mine), site(store, fleet, **theirs)
        async with joined(one, two, reporting=1, expected=2):
            page = await one.stranger.open("sse", "?version=prod&route=/customers/7")
            other = await two.stranger.open("sse", "?version=staging")
            for each, version in ((one, "prod"), (two, "staging")):
                async with asyncio.timeout(20):
                    while not each.node.border.strangers or (await each.headcount.stats()).versions != {version: 1}:
                        await asyncio.sleep(0.02)
                stats = await each.headcount.stats()
                assert (stats.partial, stats.nodes.reporting, stats.nodes.expected) == (True, 1, 2)
                answer = (await each.admin.get("/admin/nodes")).json
                assert answer["strangers"] == [({one, two} - {each}).pop().node.id]
                metrics = (await each.admin.get("/metrics")).body.decode()
                assert f'headcount_stranger_nodes{{node="{each.node.id}"}} 1.0' in metrics
                connections = (await each.admin.get("/admin/connections")).json
                assert (len(connections["connections"]), connections["partial"]) == (1, True)
            outcome = await two.node.commands.release("staging-7")
            assert (outcome.streams, outcome.reached, outcome.expected, outcome.partial) == (1, 1, 2, True)
            await two.headcount.broadcast({"type": "notice"})
            with pytest.raises((UnknownConnection, Busy)):
                await two.headcount.send(page.handle.partition(".")[0], {"type": "notice"})
            with pytest.raises((UnknownConnection, Busy)):
                await two.headcount.revoke(page.handle.partition(".")[0])
            assert (await two.admin.post("/subscribe-stats", {"connectionId": page.handle})).status == 404
            assert one.node.releases.released is None
            assert not page.unread
            # They are kept for as long as they live, and do not come and go.
            for _ in range(120):
                assert (await one.headcount.stats()).partial
                await asyncio.sleep(0.1)
            assert other

    check()
    lines = [record for record in caplog.records if "another fleet_secret or admin_token" in record.getMessage()]
    assert len(lines) == 2, "each process once"


def test_while_the_admin_token_is_changed_pages_are_served_by_either_node(store: Store) -> None:
    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = site(store, fleet, admin_token=TOKEN), site(store, fleet, admin_token="the next admin token")
        async with joined(one, two, reporting=1, expected=2):
            page = await one.stranger.open("sse", "?version=v1&route=/")
            await turn_until(lambda: bool(two.node.border.strangers), patience=20)
            answer = await two.stranger.post("/route", {"connectionId": page.handle, "route": "/next"})
            assert answer.status == 200
            assert one.node.figures.local_stats().routes == {"/next": 1}

    check()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"fleet_secret": [OLD_SECRET, SECRET]}, {"fleet_secret": [SECRET, OLD_SECRET]}),
        ({"fleet_secret": [OLD_SECRET, SECRET]}, {"fleet_secret": OLD_SECRET}),
        ({"fleet_secret": f"{SECRET},{OLD_SECRET}"}, {"fleet_secret": SECRET}),
        (
            {"fleet_secret": SECRET, "admin_token": TOKEN},
            {"fleet_secret": SECRET, "admin_token": "the next token of it"},
        ),
        ({"admin_token": TOKEN}, {}),
    ],
)
def test_who_belongs_together_stays_together_while_a_secret_is_changed(
    one: dict[str, Any], two: dict[str, Any], store: Store
) -> None:
    @asynchronous
    async def check() -> None:
        fleet = name()
        sites = [site(store, fleet, **one), site(store, fleet, **two)]
        async with joined(*sites):
            page = await sites[0].stranger.open("sse", "?version=v1&route=/")
            assert (await sites[1].stranger.post("/route", {"connectionId": page.handle, "route": "/n"})).status == 200
            for each in sites:
                async with asyncio.timeout(10):
                    while (stats := await each.headcount.stats()).routes != {"/n": 1} or stats.partial:
                        await asyncio.sleep(0.02)
            assert await sites[1].headcount.release("v2") == 1
            assert sites[0].node.releases.current == "v2"
            assert not sites[0].node.border.strangers

    check()


def test_a_stranger_that_dies_may_have_had_connections_of_ours(store: Store) -> None:
    """The last node with the former secret may be gone, and its pages are on their way."""

    @asynchronous
    async def check() -> None:
        fleet = name()
        one, two = site(store, fleet, SECRET), site(store, fleet, OLD_SECRET, unaccounted_grace=1.0)
        async with joined(one, two, reporting=1, expected=2):
            await two.stranger.open("sse", "?version=v1")
            await one.node.leave()
            one = site(store, fleet, SECRET, unaccounted_grace=2.0)
            async with joined(one, reporting=1, expected=2):
                await asyncio.sleep(2.5)  # so that the grace after the start of this node is over
                await two.node.leave()
                async with asyncio.timeout(20):
                    while (stats := await one.headcount.stats()).nodes.expected != 1:
                        assert stats.partial
                        await asyncio.sleep(0.02)
                assert stats.partial
                assert [absence.total for absence in stats.absences] == [None]
                async with asyncio.timeout(20):
                    while (await one.headcount.stats()).partial:
                        await asyncio.sleep(0.05)

    check()


def test_a_redis_that_tells_no_time_is_refused_with_a_secret(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Without its clock nobody could tell a recording from news."""
    assert store.ask("ACL", "SETUSER", "timeless", "on", ">pw", "~*", "&*", "+@all", "-time") == b"+OK"

    @asynchronous
    async def check() -> None:
        url = store.url.replace("redis://", "redis://timeless:pw@")
        one = Site("mounted", backend=url, fleet_name=name(), fleet_secret=SECRET)
        assert (await one.stranger.get("/health")).status == 200
        await turn_until(lambda: "TIME" in caplog.text, patience=10)
        assert "lists the permissions that its user needs" in caplog.text
        assert (await one.headcount.stats()).partial
        await one.node.leave()

    check()


PAGE = (Path(__file__).parents[3] / "docs/deployment.md").read_text()


def documented_rights(fleet: str) -> list[str]:
    """Return what docs/deployment.md says that an ACL user needs."""
    section = PAGE.partition("An ACL user needs:")[2].partition("A complete example")[0]
    words = " ".join(re.findall(r"`([^`]+)`", section)).replace("NAME", fleet).split()
    return [word for word in words if word.startswith(("~{headcount:" + fleet, "&{headcount:" + fleet, "+"))]


@pytest.mark.parametrize("secrets", [(), (SECRET,)], ids=["without a secret", "with a secret"])
def test_the_documented_rights_are_enough_and_open_no_other_fleet(secrets: tuple[str, ...], store: Store) -> None:
    fleet = name()
    assert store.ask("ACL", "SETUSER", fleet, "reset", "on", ">pw", *documented_rights(fleet)) == b"+OK"
    assert store.ask("ACL", "LOG", "RESET") == b"+OK"
    url = store.url.replace("redis://", f"redis://{fleet}:pw@")

    @asynchronous
    async def check() -> None:
        one, two = (site(store, fleet, *secrets, backend=url) for _ in range(2))
        async with joined(one, two):
            await one.stranger.open("sse", "?version=v1")
            stored = one.node.membership.view.backend.tallies  # type: ignore[attr-defined]
            gone = "0123456789ab"
            await stored.note_returned(gone, {"page": "v1"})
            await stored.keep_seen_alive(gone, SeenAlive(1))
            assert await stored.forget(gone)
            assert await stored.pages(gone) is None
            await stored.drop(gone)
            assert await stored.claim_sample(7)
            line = encode_sample(sample(1_000, {"v1": 1}))
            await stored.add_sample(line, minute=line)
            await stored.keep_rollouts(b"rollouts")
            assert await stored.history() == ([line], [line], b"rollouts")
            assert not (await two.headcount.stats()).partial
        operator, other = (redis.asyncio.Redis.from_url(each) for each in (store.url, url))
        refused: Any = await operator.acl_log()  # redis-py says its name unasked, and bears that it may not
        assert [each for each in refused if "setinfo" not in str(each["object"])] == []
        with pytest.raises(NoPermissionError):
            await other.get("{headcount:other}:store")
        with pytest.raises(NoPermissionError):
            await other.publish("{headcount:other}:1:all", "x")
        await operator.aclose()
        await other.aclose()

    check()


def test_the_same_name_in_two_databases_is_two_fleets_also_for_the_secret(store: Store) -> None:
    url = store.url.removesuffix("/0")
    backends = [RedisBackend("ab", f"{url}/{number}", "shop", "") for number in (0, 1)]
    assert [each._channel("all") for each in backends] == ["{headcount:shop}:1:all", "{headcount:shop}:1@1:all"]

    @asynchronous
    async def check() -> None:
        fleet = name()
        sites = [
            Site("mounted", backend=f"{url}/{number}", fleet_name=fleet, fleet_secret=SECRET, stats_interval=0.01)
            for number in (0, 1)
        ]
        async with joined(*sites, reporting=1):
            keys = {each.node.membership.view.link.border._sealer._key.fingerprint for each in sites}  # type: ignore[attr-defined]
            assert len(keys) == 2

    check()
