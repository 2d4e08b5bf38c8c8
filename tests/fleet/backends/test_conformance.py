"""
What every backend must do, run by all of them: memory, the workers of one machine, Redis, Valkey, and a cluster.

First the bytes (`Backend`), then whole nodes on top of it: `FleetView` with registries of their own, whose figures
must be the sum, whatever is lost.
"""

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import msgspec
import pytest

from headcount.config import Config
from headcount.core import fleet_messages
from headcount.core.away_pages import AwayPages
from headcount.core.departures import Departures
from headcount.core.known_versions import KnownVersions
from headcount.core.registry import Registry
from headcount.core.stats import Stats
from headcount.core.tallies import Tally
from headcount.fleet.backends import Backend, Receiver, TallyStore
from headcount.fleet.backends.local import LocalBackend
from headcount.fleet.backends.redis import RedisBackend
from headcount.fleet.border import border_of
from headcount.fleet.view import FleetView
from kit.pages import until
from kit.stores import PROGRAMS, Store

from .memory_backend import Hub, MemoryBackend

pytestmark = pytest.mark.anyio
Make = Callable[[str], Backend]

KINDS = ("memory", "local", *PROGRAMS, "cluster", "sealed")


@pytest.fixture(scope="module")
def stores() -> Iterator[Callable[[str], Store]]:
    """Start each server when it is first asked for."""
    running: dict[str, Store] = {}
    with ExitStack() as stack:

        def store(kind: str) -> Store:
            if kind not in running:
                clustered = kind == "cluster"
                options: dict[str, Any] = {"cluster_enabled": "yes"} if clustered else {}
                running[kind] = stack.enter_context(Store("valkey" if clustered else kind, **options))
                if clustered:
                    _form(running[kind])
            return running[kind]

        yield store


def _form(cluster: Store) -> None:
    """Give a cluster of one node all slots."""
    assert cluster.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK"
    deadline = time.monotonic() + 20
    while b"ok" not in cluster.lines("CLUSTER", "INFO")[0].partition(b"\r\n")[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(params=KINDS)
def make(
    request: pytest.FixtureRequest,
    stores: Callable[[str], Store],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: Any,
) -> Make:
    """Make backends of one fleet that nobody else is in."""
    fleet = os.urandom(4).hex()
    match request.param:
        case "memory":
            hub = Hub()
            return lambda node: MemoryBackend(node, hub, heartbeat=1.0)
        case "local":
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
            return lambda node: LocalBackend(node, fleet, "inet:127.0.0.1:8000")
        case "sealed":
            url = stores("valkey").url
            return lambda node: RedisBackend(
                node, url, fleet, url, border=border_of(fleet, fleet, node, ("a secret of the fleet",), None)
            )
        case store:
            url = stores(store).url
            return lambda node: RedisBackend(node, url, fleet, url)


def named() -> str:
    """Make up a node's name."""
    return os.urandom(6).hex()


class Ear:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.there: set[str] = set()
        self.gone: list[str] = []
        self.connected = False

    def received(self, message: bytes) -> None:
        self.messages.append(message)

    def joined(self, node: str) -> None:
        self.there.add(node)

    def left(self, node: str) -> None:
        self.there.discard(node)
        self.gone.append(node)

    def leave_message(self) -> bytes:
        return b"leave"

    def tally(self, *, leaving: bool) -> Tally:
        return Tally(left=leaving)

    def page_list(self) -> bytes:
        return b""

    def on_own_heartbeat(self) -> None:
        pass

    def connectivity_changed(self, *, connected: bool) -> None:
        self.connected = connected


class Three:
    """Three nodes' backends, all connected."""

    def __init__(self, make: Make) -> None:
        self.names = [named() for _ in range(3)]
        self.backends = [make(name) for name in self.names]
        self.ears = [Ear() for _ in range(3)]

    async def __aenter__(self) -> Self:
        for backend, ear in zip(self.backends, self.ears, strict=True):
            backend.start(ear)
        await until(lambda: all(ear.connected for ear in self.ears), "all are connected")
        for number, backend in enumerate(self.backends):
            others = set(self.names) - {self.names[number]}
            await _eventually(backend.members, lambda found, others=others: found is not None and set(found) == others)  # type: ignore[misc]
        return self

    async def __aexit__(self, *_: object) -> None:
        for backend in self.backends:
            await backend.stop()


async def _eventually(ask: Callable[[], Awaitable[Any]], condition: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(15):
        while not condition(answer := await ask()):
            await asyncio.sleep(0.01)
        return answer


async def test_announcements_reach_everybody_else(make: Make) -> None:
    async with Three(make) as three:
        three.backends[0].announce(b"to all")
        for ear in three.ears[1:]:
            await until(lambda ear=ear: b"to all" in ear.messages)  # type: ignore[misc]


async def test_what_is_published_reaches_those_who_listen(make: Make) -> None:
    async with Three(make) as three:
        one, two, deaf = three.backends
        two.listen(on=True)
        number = 0

        def heard() -> bool:
            nonlocal number
            number += 1
            one.publish(b"figures %d" % number)  # what is published before it listens may be missed
            return any(message.startswith(b"figures") for message in three.ears[1].messages)

        await until(heard)
        assert not any(message.startswith(b"figures") for message in three.ears[2].messages)
        two.listen(on=False)
        deaf.listen(on=True)
        await until(lambda: heard() and any(message.startswith(b"figures") for message in three.ears[2].messages))
        one.send(three.names[1], b"last")
        await until(lambda: b"last" in three.ears[1].messages)
        three.ears[1].messages.clear()
        one.publish(b"figures after")
        one.send(three.names[1], b"very last")
        await until(lambda: b"very last" in three.ears[1].messages)
        assert b"figures after" not in three.ears[1].messages


async def test_a_message_to_one_node_reaches_only_it(make: Make) -> None:
    async with Three(make) as three:
        failed: list[int] = []
        large = os.urandom(3 * 2**20)
        for message in (b"", b"\0\r\n", b"small", large):
            three.backends[0].send(three.names[1], message, lambda: failed.append(1))
        await until(lambda: three.ears[1].messages[-4:] == [b"", b"\0\r\n", b"small", large])
        assert not failed
        assert large not in three.ears[2].messages
        assert large not in three.ears[0].messages


async def test_messages_of_one_node_to_another_keep_their_order(make: Make) -> None:
    async with Three(make) as three:
        for number in range(500):
            three.backends[0].send(three.names[1], b"%d" % number)
        await until(lambda: b"499" in three.ears[1].messages)
        assert [message for message in three.ears[1].messages if message.isdigit()] == [b"%d" % n for n in range(500)]


async def test_a_message_to_nobody_fails(make: Make) -> None:
    async with Three(make) as three:
        failed: list[int] = []
        three.backends[0].send(named(), b"lost", lambda: failed.append(1))
        await until(lambda: failed == [1])


async def test_nodes_that_are_there_are_known_and_others_are_not(make: Make) -> None:
    async with Three(make) as three:
        for node in three.names[1:]:
            assert await three.backends[0].knows(node)
        assert not await three.backends[0].knows(named())
        assert not any(await asyncio.gather(*(three.backends[0].knows(named()) for _ in range(200))))
        fourth, ear = named(), Ear()
        backend = make(fourth)
        backend.start(ear)
        await until(lambda: ear.connected)
        assert await three.backends[0].knows(fourth), "a node that has just come, too"
        await backend.stop()


async def test_a_node_that_is_forgotten_and_lives_is_there_again_a_heartbeat_later(make: Make) -> None:
    three = Three(make)
    for backend in three.backends:
        backend.heartbeat = 0.3
    async with three:
        one, two, _ = three.names
        three.backends[0].remove_sign_of_life(two)
        await _eventually(three.backends[2].members, lambda found: found is not None and set(found) == {one, two})
        assert await three.backends[0].knows(two)


async def test_a_node_that_stops_publishes_its_leave_message_and_is_gone_at_once(make: Make) -> None:
    async with Three(make) as three:
        one, two, _ = three.backends
        one.listen(on=True)

        def heard() -> bool:
            two.publish(b"ping")
            return b"ping" in three.ears[0].messages

        await until(heard)
        started = time.monotonic()
        await two.stop()
        await two.stop()
        await until(lambda: b"leave" in three.ears[0].messages or three.names[1] in three.ears[0].gone)
        assert time.monotonic() - started < 2
        await _eventually(one.members, lambda found: found is not None and set(found) == {three.names[2]})
        failed: list[int] = []
        one.send(three.names[1], b"too late", lambda: failed.append(1))
        await until(lambda: failed == [1])


async def test_it_leaves_no_task_behind(make: Make) -> None:
    before = asyncio.all_tasks()
    async with Three(make) as three:
        three.backends[0].announce(b"x")
    await until(lambda: asyncio.all_tasks() <= before, "tasks are left")


def test_a_loop_that_ends_without_a_word_takes_the_node_out(make: Make) -> None:
    there, ear = named(), Ear()
    ready, over = threading.Event(), threading.Event()

    async def stays() -> None:
        backend = make(there)
        backend.start(ear)
        backend.listen(on=True)
        await until(lambda: ear.connected)
        ready.set()
        while not over.is_set():
            await asyncio.sleep(0.005)
        await until(lambda: b"leave" in ear.messages or ear.gone, "it is gone", 5)
        await backend.stop()

    async def ends() -> None:
        backend, other = make(named()), Ear()
        backend.start(other)
        await until(lambda: other.connected)
        assert await backend.knows(there)

    if isinstance(make("0"), MemoryBackend):
        return  # its nodes are in one loop, by definition
    thread = threading.Thread(target=lambda: asyncio.run(stays()))
    thread.start()
    try:
        assert ready.wait(15)
        asyncio.run(ends())
    finally:
        over.set()
        thread.join(20)
    assert b"leave" in ear.messages or ear.gone


TRANSIT = 0.3
"""Seconds for which the pages of a node that leaves are on their way to others."""


class Site:
    """One node with connections, on top of a backend."""

    def __init__(self, make: Make, **settings: Any) -> None:
        self.id = named()
        self.config = Config.load({"version": "v1", "stats_interval": 0.02, **settings}, {})
        self.lock = threading.RLock()
        self.known = KnownVersions(("v1",))
        self.registry = Registry(
            max_listed=self.config.max_listed_connections,
            max_versions=self.config.max_versions,
            known_versions=self.known.names,
        )
        self.departures = Departures(TRANSIT)
        self.away_pages = AwayPages()
        self.remembers = True
        self.view = FleetView(
            self.id,
            self.config,
            self.registry,
            self.lock,
            self.now,
            releases=self,
            known_versions=self,
            mark_dirty=self._changed,
            shows_rows=lambda: True,
            run_command=self._run_command,
            departures=self.departures,
            away_pages=self.away_pages,
            refresh_departed=self._refresh_departed,
            return_key=b"k" * 16,
            own_cut=lambda: self.cut,
        )
        self.cut: float | None = None
        """Seconds after which something ends the streams of its pages."""
        self.released: fleet_messages.Declaration | None = None
        self.ahead = 0.0
        """Seconds that its clock is ahead of the real one."""
        self.asked: list[fleet_messages.Command] = []
        self.open: dict[str, tuple[str, str]] = {}
        self.total_seen: list[int] = []
        self._make = make
        self._number = 0

    def start(self) -> None:
        self.view.start(self._make(self.id))

    def watch(self) -> None:
        with self.lock:
            self.view.note_changes(on=True)

    def unwatch(self) -> None:
        with self.lock:
            self.view.note_changes(on=False)

    @property
    def figures(self) -> Stats:
        with self.lock:
            self.view.sync()
            return self.view.snapshot()

    def open_page(self, version: str = "v1", route: str = "/") -> str:
        self._number += 1
        connection_id = f"{self.id}{self._number:020x}"
        self.registry.open(connection_id, version, route)
        self.open[connection_id] = (version, route)
        self.flush()
        return connection_id

    def break_off(self, connection_id: str) -> None:
        """Let a page's stream end without a farewell."""
        with self.lock:
            self.away_pages.add(connection_id, self.open[connection_id][0], connection_id, self.now())
            self.go(connection_id)

    def now(self) -> float:
        return time.monotonic() + self.ahead

    def _refresh_departed(self) -> None:
        self.away_pages.set_known_versions(self.known.names)
        self.registry.set_away(self.away_pages.counts(self.now()), known=self.remembers)

    def go(self, connection_id: str) -> None:
        self.registry.close(connection_id)
        del self.open[connection_id]
        self.flush()

    def navigate(self, connection_id: str, route: str) -> None:
        self.registry.navigate(connection_id, route)
        self.open[connection_id] = (self.open[connection_id][0], route)
        self.flush()

    def flush(self) -> None:
        """Do what the node does after a change."""
        with self.lock:
            self.view.publish_soon()
            self.view.sync()
            self.view.pop_changes()

    def _changed(self) -> None:
        self.total_seen.append(self.view.snapshot().total)

    def learn(self, released: fleet_messages.Declaration) -> None:
        if self.released is None or self.released < released:
            self.released = released

    @property
    def known_versions(self) -> frozenset[str]:
        return self.known.names

    def learn_versions(self, versions: Iterable[str]) -> None:
        with self.lock:
            if self.known.learn(versions):
                self.registry.set_known_versions(self.known.names)
                self.view.set_known_versions(self.known.names)

    async def _run_command(self, command: fleet_messages.Command) -> fleet_messages.Answer:
        self.asked.append(command)
        return fleet_messages.Answer(node=self.id, re=command.re, count=len(self.open))


@pytest.fixture
async def sites(make: Make) -> AsyncIterator[Callable[..., Site]]:
    """Make nodes that end with the test."""
    made: list[Site] = []

    def site(
        released: fleet_messages.Declaration | None = None, program: "Program | None" = None, **settings: Any
    ) -> Site:
        made.append(Site(make if program is None else lambda node: program(make(node)), **settings))
        made[-1].released = released
        made[-1].start()
        return made[-1]

    yield site
    for one in made:
        await one.view.stop()


def is_sum(viewer: Site, *sites: Site) -> bool:
    """Compare a node's figures with a count of its own."""
    pages = [page for site in sites for page in site.open.values()]
    figures = viewer.figures
    return (
        (figures.total, figures.partial, figures.nodes.reporting) == (len(pages), False, len(sites))
        and figures.versions == Counter(version for version, _ in pages)
        and figures.routes == Counter(route for _, route in pages)
        and {row.id: (row.version, row.route) for row in figures.connections}
        == {connection_id: page for site in sites for connection_id, page in site.open.items()}
    )


async def test_a_viewer_sees_the_sum_of_all_and_every_change(sites: Callable[..., Site]) -> None:
    one, two, three = sites(), sites(), sites()
    for number in range(10):
        (one, two, three)[number % 3].open_page(f"v{number % 2}", f"/{number % 4}")
    one.watch()
    await until(lambda: is_sum(one, one, two, three), "one sees all")
    page = two.open_page("v9", "/new")
    await until(lambda: is_sum(one, one, two, three))
    two.navigate(page, "/moved")
    await until(lambda: is_sum(one, one, two, three))
    two.go(page)
    await until(lambda: is_sum(one, one, two, three))
    three.watch()
    await until(lambda: is_sum(three, one, two, three), "and so does another")
    one.open_page()
    await until(lambda: is_sum(three, one, two, three) and is_sum(one, one, two, three))


@pytest.mark.parametrize("busy", [True, False])
async def test_a_limit_that_a_node_learns_of_or_forgets_is_known_to_all(sites: Callable[..., Site], busy: bool) -> None:
    one, two = sites(), sites()
    one.watch()
    await until(lambda: is_sum(one, one, two))
    for limit in (15.0, 60.0, None):
        two.cut = limit

        def is_known(expected: float | None = limit) -> bool:
            if busy:  # it says so by deltas, and needs no heartbeats
                two.go(two.open_page())
            with one.lock:
                return one.view.shortest_cut == expected

        await until(is_known)


async def test_pages_that_broke_off_are_a_sum_of_their_own_until_they_are_back(sites: Callable[..., Site]) -> None:
    one, two = sites(), sites()
    page, other = two.open_page("old"), two.open_page("old")
    one.open_page("old")
    one.watch()
    await until(lambda: is_sum(one, one, two), "all are counted")
    assert one.figures.away_known
    two.break_off(page)
    two.break_off(other)
    await until(lambda: (one.figures.total, dict(one.figures.away)) == (1, {"old": 2}))
    assert not one.figures.partial
    with two.lock:
        two.away_pages.discard(page)
        two._refresh_departed()
    two.flush()
    await until(lambda: dict(one.figures.away) == {"old": 1}, "one came back")
    two.ahead = 50.0
    await until(lambda: dict(one.figures.away) == {}, "the time of the other is over, and nothing else happened")


async def test_one_node_that_was_there_before_is_enough_to_know_who_broke_off(sites: Callable[..., Site]) -> None:
    one, two = sites(), sites()
    one.remembers = two.remembers = False
    one.watch()
    await until(lambda: is_sum(one, one, two))
    assert not one.figures.away_known
    two.remembers = True
    await until(lambda: one.figures.away_known, "time alone brings it")
    await two.view.stop()
    await until(lambda: not one.figures.away_known)


async def test_a_change_does_not_wait_for_the_pushes_of_its_own_node(sites: Callable[..., Site]) -> None:
    one, two = sites(stats_interval=30.0), sites(stats_interval=30.0)
    page = two.open_page()
    one.watch()
    await until(lambda: is_sum(one, one, two))
    for number in range(20):
        two.navigate(page, f"/{number}")
        await until(lambda: is_sum(one, one, two), "long before the next push", 5)


async def test_fresh_figures_are_there_when_asked_for_with_nobody_watching(sites: Callable[..., Site]) -> None:
    one, two, three = sites(), sites(), sites()
    pages = [site.open_page() for site in (two, three) for _ in range(5)]
    async with asyncio.timeout(15):
        await one.view.refresh()
        while not is_sum(one, one, two, three):  # a node that has just been started may still be on its way
            await asyncio.sleep(0.01)
            await one.view.refresh()
    for number in range(20):
        two.navigate(pages[0], f"/{number}")
        await one.view.refresh()
        assert is_sum(one, one, two, three), "exact at once, however little time has passed"


async def test_a_random_history_ends_exact(sites: Callable[..., Site]) -> None:
    chance = random.Random(7)
    all_sites = [sites(max_listed_connections=10_000) for _ in range(4)]
    all_sites[0].watch()
    all_sites[1].watch()
    for step in range(600):
        site = chance.choice(all_sites)
        if not site.open or chance.random() < 0.5:
            site.open_page(f"v{chance.randrange(5)}", f"/{chance.randrange(20)}")
        elif chance.random() < 0.5:
            site.navigate(chance.choice(list(site.open)), f"/{chance.randrange(20)}")
        else:
            site.go(chance.choice(list(site.open)))
        if step % 20 == 0:
            await asyncio.sleep(0.005)
        if step % 150 == 75:
            all_sites[1].unwatch()
        elif step % 150 == 120:
            all_sites[1].watch()
    all_sites[1].watch()
    for viewer in all_sites[:2]:
        await until(lambda viewer=viewer: is_sum(viewer, *all_sites), "exact")  # type: ignore[misc]
        assert min(viewer.total_seen) >= 0


async def test_lost_messages_heal_within_a_heartbeat(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites(), sites()
    one.watch()
    two.open_page()
    await until(lambda: is_sum(one, one, two))
    backend = two.view.backend
    assert backend is not None
    with monkeypatch.context() as lossy:
        lossy.setattr(backend, "publish", lambda _: None)
        for _ in range(20):
            two.open_page()
            await asyncio.sleep(0.002)
    await until(lambda: is_sum(one, one, two), "healed", backend.heartbeat * 1.5 + 1)


async def test_who_has_not_found_back_to_an_emptied_store_yet_is_expected() -> None:
    hub = Hub()
    one, two = sites = [Site(lambda node: MemoryBackend(node, hub)) for _ in range(2)]
    for site in sites:
        site.start()
        site.open_page()
    one.watch()
    await until(lambda: is_sum(one, *sites))
    lost = hub.backends.pop(two.id)  # as a store that was emptied does not list it
    one.view.connectivity_changed(connected=False)
    with one.lock:
        one.view._figures.expire(time.monotonic() + 20)
    one.view.connectivity_changed(connected=True)
    await one.view._collector.learn_members()
    assert (one.figures.total, one.figures.partial, one.figures.nodes.expected) == (1, True, 2)
    hub.backends[two.id] = lost
    two.view.connectivity_changed(connected=True)
    await until(lambda: is_sum(one, *sites))
    for site in sites:
        await site.view.stop()


async def test_a_node_that_leaves_is_out_at_once_and_one_that_comes_is_in(sites: Callable[..., Site]) -> None:
    one, two = sites(), sites()
    one.watch()
    two.open_page()
    await until(lambda: is_sum(one, one, two))
    await two.view.stop()
    await until(lambda: is_sum(one, one), "gone", 6)
    three = sites()
    three.open_page()
    await until(lambda: is_sum(one, one, three), "here", 5)


async def test_nobody_listens_or_publishes_while_nobody_watches(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites(), sites()
    one.watch()
    await until(lambda: is_sum(one, one, two))
    monkeypatch.setattr("headcount.fleet.report_collector.LINGER", 0.0)
    one.unwatch()
    await until(lambda: not one.view._collector.listening and not two.view._publisher.schedule.interests)
    assert not two.registry.noting, "changes are not even noted"
    two.open_page()
    two.flush()
    await until(lambda: not one.view._ticker.running and not two.view._ticker.running, "no timer is left")
    one.watch()
    await until(lambda: is_sum(one, one, two))


async def test_nothing_is_kept_for_a_node_that_is_gone(sites: Callable[..., Site]) -> None:
    one, two = sites(), sites()
    one.watch()
    two.open_page()
    await until(lambda: is_sum(one, one, two))
    await one.view.stop()
    await until(lambda: not two.registry.noting, "changes are noted for nobody")
    await until(lambda: not two.view._ticker.running)


async def test_rows_told_to_a_node_that_is_gone_are_not_told_to_the_next(sites: Callable[..., Site]) -> None:
    one, two = sites(), sites()
    one.watch()
    two.watch()
    page = two.open_page()
    await until(lambda: is_sum(one, one, two) and is_sum(two, one, two))
    await one.view.stop()
    await until(lambda: is_sum(two, two))
    two.go(page)
    two.open_page("v2", "/new")
    three = sites()
    three.watch()
    await until(lambda: is_sum(three, two, three), "it has the rows that there are")


async def test_who_watches_again_after_a_while_waits_for_the_slow(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites(), sites()
    two.open_page()
    one.watch()
    await until(lambda: is_sum(one, one, two))
    monkeypatch.setattr("headcount.fleet.report_collector.LINGER", 0.0)
    one.unwatch()
    await until(lambda: not one.view._collector.listening)
    one.ahead = 60.0
    backend = two.view.backend
    assert backend is not None
    wanted: list[bytes] = []
    with monkeypatch.context() as slow:
        slow.setattr(backend, "send", lambda _, message: wanted.append(message))
        slow.setattr(backend, "publish", lambda _: None)
        one.watch()
        partial: set[bool] = set()

        def asked_twice() -> bool:
            partial.add(one.figures.partial)
            return len(wanted) > 1

        await until(asked_twice)
        assert partial == {True}
    await until(lambda: is_sum(one, one, two))


async def test_who_looks_now_and_then_is_told_in_between(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scrape of an application's own registry does, which cannot wait for others."""
    one, two = sites(), sites()
    monkeypatch.setattr("headcount.fleet.report_collector.LINGER", 0.0)
    monkeypatch.setattr(one.view._collector, "_shows_rows", lambda: False)
    with one.lock:
        one.view.keep_listening(rows=True, linger=60.0)
        one.view.keep_listening(rows=True)
    ticks = 0
    tick = one.view._ticker._tick

    def ticked(now: float) -> bool:
        nonlocal ticks
        ticks += 1
        return tick(now)

    monkeypatch.setattr(one.view._ticker, "_tick", ticked)
    await until(lambda: is_sum(one, one, two))
    await until(lambda: ticks > 2, "at each of which it could have stopped to listen")
    two.open_page()
    await until(lambda: is_sum(one, one, two))
    await until(lambda: len(one.figures.connections) == 1)


async def test_reports_are_requested_under_the_lock_whichever_loop_a_viewer_is_in(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites(), sites()
    one.watch()
    await until(lambda: is_sum(one, one, two))
    locked: list[bool] = []
    monkeypatch.setattr(one.view._collector, "_row_quota", lambda: 3)
    monkeypatch.setattr(one.view._collector, "_request", lambda _: locked.append(one.lock._is_owned()))  # type: ignore[attr-defined]

    def see_more() -> None:
        with one.lock:
            one.view.viewers_changed()

    await asyncio.to_thread(see_more)
    await until(lambda: locked)
    assert all(locked)


async def test_looking_again_does_not_shorten_the_silence_of_those_who_cannot_be_reached(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites(), sites()
    monkeypatch.setattr("headcount.fleet.report_collector.LINGER", 0.0)
    one.view.keep_listening(rows=True, linger=60.0)
    await until(lambda: is_sum(one, one, two))
    one.view.connectivity_changed(connected=False)
    one.view._collector._lingers_until = 0.0
    await until(lambda: not one.view._collector.listening)
    before = one.view.report_age
    one.view.keep_listening(rows=True)
    assert one.view.report_age >= before > 0


async def test_rows_are_told_as_many_as_are_shown(sites: Callable[..., Site]) -> None:
    one, two, three = (sites(max_listed_connections=10) for _ in range(3))
    for _ in range(20):
        two.open_page()
        three.open_page()
    one.watch()
    await until(lambda: (one.figures.total, one.figures.partial) == (40, False))
    await until(lambda: len(one.figures.connections) == 10)
    assert one.figures.connections_truncated
    for site in (two, three):
        for connection_id in list(site.open)[2:]:
            site.go(connection_id)
    await until(lambda: is_sum(one, one, two, three), "the four that are left are all listed")


async def test_limits_beyond_what_one_message_holds_cost_rows_and_no_figures(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_messages, "MAX_BYTES", 4_000)
    one, two = (sites(max_listed_connections=200_000) for _ in range(2))
    for number in range(200):
        two.open_page(f"v{number % 3}")
    one.watch()
    await until(lambda: (one.figures.total, one.figures.partial) == (200, False))
    await until(lambda: 10 < len(one.figures.connections) < 200, "rows may come after the counts")
    for page in list(two.open)[:-1]:
        two.go(page)
    await until(lambda: is_sum(one, one, two), "and the next that fits is whole")


async def test_a_command_is_answered_by_its_owner(sites: Callable[..., Site]) -> None:
    one, two = sites(), sites()
    two.open_page()
    answer = await _answered(
        one, two.id, lambda re: fleet_messages.Navigate(node=one.id, re=re, handle="h", route="/r")
    )
    assert (answer.node, answer.count) == (two.id, 1)
    assert [type(command) for command in two.asked] == [fleet_messages.Navigate]
    await until(lambda: not one.view.calls._open)


async def test_what_concerns_all_is_told_to_all_however_many(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headcount.fleet.calls.MAX_OPEN", 2)
    monkeypatch.setattr("headcount.fleet.calls.MAX_CONCURRENT_CALLS", 2)
    one, *others = [sites() for _ in range(6)]
    names = {site.id for site in others}
    await _eventually(one.view.calls.other_nodes, lambda found: set(found) == names)
    found = await one.view.calls.call_all(
        lambda re: fleet_messages.Broadcast(node=one.id, re=re, message=b"{}"), timeout=10
    )
    assert {answer.node for answer in found.answers} == names
    assert [len(site.asked) for site in others] == [1] * 5


async def test_the_wall_clock_may_jump(sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = sites(), sites()
    two.open_page()
    one.watch()
    await until(lambda: is_sum(one, one, two))
    chance, real = random.Random(7), time.time
    monkeypatch.setattr(time, "time", lambda: real() + chance.choice((-86_400, 0, 86_400)))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    assert one.view.backend is not None
    before = len(one.total_seen)
    heartbeats = time.monotonic() + 2 * one.view.backend.heartbeat
    while time.monotonic() < heartbeats:
        two.open_page()
        await until(lambda: is_sum(one, one, two), "at once, as ever", 1)
    assert min(one.total_seen[before:]) > 0, "nobody was dropped meanwhile"


async def test_the_newest_release_is_learnt_by_all_whenever_they_join(sites: Callable[..., Site]) -> None:
    one, two = sites(), sites()
    await _eventually(one.view.calls.other_nodes, lambda found: set(found) == {two.id})
    one.released = two.released = fleet_messages.Declaration(5, "v2")
    late = sites()
    await until(lambda: late.released == fleet_messages.Declaration(5, "v2"), "nobody watches, and it asks")
    old = sites(fleet_messages.Declaration(4, "v1"))
    await until(lambda: old.released == fleet_messages.Declaration(5, "v2"))
    assert one.released == two.released == late.released == fleet_messages.Declaration(5, "v2")
    new = sites(fleet_messages.Declaration(6, "v3"))  # as if it had been out of touch when that was declared
    await until(lambda: all(site.released == new.released for site in (one, two, late, old)))


async def test_who_watches_learns_of_a_release_from_reports_and_tells_all(sites: Callable[..., Site]) -> None:
    one, two, three = sites(), sites(), sites()
    for site in (one, two, three):
        await _eventually(site.view.calls.other_nodes, lambda found: len(found) == 2)
    await asyncio.gather(*(task for site in (one, two, three) for task in site.view.link.tasks))
    two.released = fleet_messages.Declaration(5, "v2")  # all messages about it were lost
    one.watch()
    await until(lambda: one.released == three.released == two.released)


class Next:
    """A backend whose node runs a later version: it says more than others understand."""

    heartbeat: float
    detects_failures: bool

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.heartbeat, self.detects_failures = backend.heartbeat, backend.detects_failures

    def start(self, receiver: Receiver) -> None:
        self._backend.start(self.hearing(receiver))

    async def stop(self) -> None:
        await self._backend.stop()

    def listen(self, *, on: bool) -> None:
        self._backend.listen(on=on)

    def publish(self, message: bytes) -> None:
        for said in self.say(message):
            self._backend.publish(said)

    def announce(self, message: bytes) -> None:
        for said in self.say(message):
            self._backend.announce(said)

    def send(self, node: str, message: bytes, failed: Callable[[], None] | None = None) -> None:
        for said in self.say(message):
            self._backend.send(node, said, failed)

    async def members(self) -> Collection[str] | None:
        return await self._backend.members()

    async def knows(self, node: str) -> bool | None:
        return await self._backend.knows(node)

    def remove_sign_of_life(self, node: str) -> None:
        self._backend.remove_sign_of_life(node)

    @property
    def tallies(self) -> TallyStore:
        return self._backend.tallies

    def write_tally(self) -> None:
        self._backend.write_tally()

    def hearing(self, receiver: Receiver) -> Receiver:
        return receiver

    def say(self, message: bytes) -> list[bytes]:
        told = msgspec.msgpack.decode(message)
        told["mood"] = {"good": [1, None, "x"]}
        if isinstance(rows := told.get("rows"), list):
            told["rows"] = [{**row, "mood": 7} for row in rows]
        weather = {"t": "weather", "node": told["node"], "sunny": True}
        return [msgspec.msgpack.encode(each) for each in (weather, told, {**weather, "re": 1})]


class Previous(Next):
    """A backend whose node runs the version before there were releases in messages, tabs, and streams that replace."""

    def say(self, message: bytes) -> list[bytes]:
        told = msgspec.msgpack.decode(message)
        for field in ("released", "number", "malformed", "away", "transit"):
            told.pop(field, None)
        return [] if told["t"] in NEW else [msgspec.msgpack.encode(told)]

    def hearing(self, receiver: Receiver) -> Receiver:
        return Deaf(receiver)


NEW = ("current", "tabs", "replace", "away", "forget")


class Deaf:
    """Does not understand what is new."""

    def __init__(self, receiver: Receiver) -> None:
        self.joined, self.left, self.leave_message = receiver.joined, receiver.left, receiver.leave_message
        self.connectivity_changed, self.on_own_heartbeat = receiver.connectivity_changed, receiver.on_own_heartbeat
        self._receiver = receiver

    def tally(self, *, leaving: bool) -> Tally:
        return msgspec.structs.replace(self._receiver.tally(leaving=leaving), pages=0)

    def page_list(self) -> bytes:
        return b""

    def received(self, message: bytes) -> None:
        if msgspec.msgpack.decode(message)["t"] not in NEW:
            self._receiver.received(message)


Program = type[Next]


@pytest.mark.parametrize("program", [Next, Previous])
async def test_two_versions_of_the_program_are_one_fleet(sites: Callable[..., Site], program: Program) -> None:
    one, other, three = sites(), sites(program=program), sites()
    for site in (one, other, three):
        site.open_page()
    one.watch()
    await until(lambda: is_sum(one, one, other, three))
    other.watch()
    await until(lambda: is_sum(other, one, other, three))
    page = other.open_page("v2", "/new")
    gone = three.open_page("v2", "/new")
    await until(lambda: is_sum(one, one, other, three) and is_sum(other, one, other, three))
    other.navigate(page, "/moved")
    three.go(gone)
    await until(lambda: is_sum(one, one, other, three) and is_sum(other, one, other, three))
    for asking, asked in ((one, other), (other, one)):
        make = partial(fleet_messages.Navigate, node=asking.id, handle="h", route="/r")
        answer = await _answered(asking, asked.id, lambda re: make(re=re))  # noqa: B023  awaited at once
        assert (answer.node, answer.ok) == (asked.id, True)
    await other.view.refresh()
    assert is_sum(other, one, other, three)
    await other.view.stop()
    await until(lambda: is_sum(one, one, three))


async def _answered(site: Site, node: str, make: Callable[[int], fleet_messages.Command]) -> fleet_messages.Answer:
    """Call a node that may have been started only now."""
    await _eventually(site.view.calls.other_nodes, lambda others: node in others)
    return await site.view.calls.call(node, make)
