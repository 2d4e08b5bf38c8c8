"""When a node joins its fleet, is cut off from it, and leaves it, with the workers of one machine."""

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asgi.asgi_client import Site, turn_until
from headcount.fleet.backends.local import LocalBackend
from headcount.fleet.view import FleetView
from headcount.node import listening_sockets
from headcount.node.listening_sockets import address_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, as in test_local.py
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        # The sockets here are in no event loop.
        monkeypatch.setattr(listening_sockets, "_waited_for", set)
        yield Path(folder)


@pytest.fixture
async def sites() -> AsyncIterator[Callable[[], Site]]:
    """Make applications whose nodes leave with the test."""
    made: list[Site] = []

    def make() -> Site:
        made.append(Site(backend="auto", stats_interval=0.001))
        made[-1].node.ordinal = 0  # as if each were in a process of its own
        return made[-1]

    yield make
    for site in made:
        await site.node.leave()


def listen(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


async def test_a_server_that_is_started_again_in_the_same_loop_joins_again(sites: Callable[[], Site]) -> None:
    site, other = sites(), sites()
    sock = listen()
    server = sock.getsockname()
    site.node.join(server)
    other.node.join(server)
    await turn_until(lambda: other.node.id in _peers(site))
    sock.close()
    site.node.membership.leave_if_ending()
    await turn_until(lambda: not site.node.membership.view.active)
    site.node.join(server)
    assert not site.node.membership.view.active, "its server still stops"
    with listen(server[1]):
        site.node.join(server)
        await turn_until(lambda: other.node.id in _peers(site))
        site.node._registry.open("a", "v1", "/")
        assert (await other.headcount.stats()).total == 1
        site.node.membership.leave_if_ending()
        await asyncio.sleep(0)
        assert site.node.membership.view.active, "the new server accepts connections"


async def test_a_node_that_has_left_before_its_server_stops_does_not_join_again(sites: Callable[[], Site]) -> None:
    site = sites()
    with listen() as sock:
        site.node.join(sock.getsockname())
        await site.node.leave()
        site.node.join(sock.getsockname())
        assert not site.node.membership.view.active


async def test_a_server_that_nobody_left_and_that_is_started_again_is_not_ending(sites: Callable[[], Site]) -> None:
    site = sites()
    sock = listen()
    server = sock.getsockname()
    site.node.join(server)
    sock.close()
    with listen(server[1]):
        site.node.join(server)
        site.node.membership.leave_if_ending()
        await asyncio.sleep(0)
        assert site.node.membership.view.active


async def test_workers_meet_whichever_of_two_addresses_each_was_asked_at_first(sites: Callable[[], Site]) -> None:
    one, two = sites(), sites()
    with listen() as first, listen() as second:
        for server in (first, second):
            one.node.join(server.getsockname())
        for server in (second, first):
            two.node.join(server.getsockname())
        await turn_until(lambda: two.node.id in _peers(one))


async def test_an_address_that_a_proxy_made_up_does_not_make_figures_partial(sites: Callable[[], Site]) -> None:
    site = sites()
    site.node.expect_workers()
    with listen() as sock:
        site.node.join(("proxy.example", 1))
        assert (await site.headcount.stats()).partial
        site.node.join(sock.getsockname())
        await turn_until(lambda: not site.node.figures.stats().partial)
        site.node.join(("another.example", 1))
        assert not (await site.headcount.stats()).partial


async def test_figures_are_partial_until_the_workers_of_a_second_address_are_met(
    sites: Callable[[], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, other = sites(), sites()
    site.node.expect_workers()
    full: set[str] = set()
    bind = LocalBackend._bind

    def bind_unless_full(backend: LocalBackend, address: str) -> None:
        if backend.node == site.node.id and address in full:
            raise OSError("No space left on device")
        bind(backend, address)

    monkeypatch.setattr(LocalBackend, "_bind", bind_unless_full)
    with listen() as first, listen() as second:
        full.add(address_of(second))
        other.node.join(second.getsockname())
        other.node._registry.open("a", "v1", "/")
        site.node.join(first.getsockname())
        site.node.join(second.getsockname())
        for _ in range(3):
            assert (await site.headcount.stats()).partial
            await asyncio.sleep(0.01)
        full.clear()
        await turn_until(lambda: not site.node.figures.stats().partial)
        assert (await site.headcount.stats()).total == 1


async def test_the_workers_of_the_first_address_are_met_later_if_they_cannot_be_met_at_once(
    sites: Callable[[], Site], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site, other = sites(), sites()
    site.node.expect_workers()
    bind, full, tries, ahead = LocalBackend._bind, True, 0, 0.0

    def bind_unless_full(backend: LocalBackend, address: str) -> None:
        nonlocal tries
        if backend.node == site.node.id:
            tries += 1
            if full:
                raise OSError("No space left on device")
        bind(backend, address)

    monkeypatch.setattr(LocalBackend, "_bind", bind_unless_full)
    site.node.clock = lambda: time.monotonic() + ahead
    with listen() as sock:
        other.node.join(sock.getsockname())
        other.node._registry.open("a", "v1", "/")
        for _ in range(100):
            site.node.join(sock.getsockname())
        assert tries == 1
        ahead += 1.0
        for _ in range(100):
            site.node.join(sock.getsockname())
        assert tries == 2
        assert (await site.headcount.stats()).partial
        assert site.node.unready_reason(sock.getsockname()) is None, "its figures are all that is wrong"
        assert caplog.text.count("cannot find one another") == 1
        full, ahead = False, ahead + 2.0
        site.node.join(sock.getsockname())
        await turn_until(lambda: other.node.id in _peers(site))
        stats = await site.headcount.stats()
        assert (stats.total, stats.partial) == (1, False)


async def test_of_two_requests_that_come_at_once_in_two_threads_one_joins(
    sites: Callable[[], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites()
    started: list[LocalBackend] = []
    joined: list[bool] = []
    start, find_listener = LocalBackend.start, site.node.admission.find_listener
    inside, done = threading.Barrier(2), threading.Barrier(2)

    def find_together(server: Any) -> Any:
        with suppress(threading.BrokenBarrierError):  # the other one waits outside, as it should
            inside.wait(0.5)
        return find_listener(server)

    def note(backend: LocalBackend, receiver: Any) -> None:
        started.append(backend)
        start(backend, receiver)

    monkeypatch.setattr(site.node.admission, "find_listener", find_together)
    monkeypatch.setattr(LocalBackend, "start", note)
    with listen() as sock:

        async def join() -> None:
            site.node.join(sock.getsockname())
            joined.append(site.node.membership.view.active)
            await asyncio.to_thread(done.wait, 10)

        await asyncio.gather(*(asyncio.to_thread(asyncio.run, join()) for _ in range(2)))
    assert joined == [True, True], "nobody goes on before this node has joined"
    assert len(started) == 1


def test_figures_go_on_where_no_fleet_is_found_after_the_loop_of_the_first_has_closed() -> None:
    site = Site(backend="auto")
    registry = site.node._registry

    async def begin() -> None:
        with listen() as sock:
            site.node.join(sock.getsockname())
            await site.headcount.stats()

    asyncio.run(begin())

    async def go_on() -> None:
        site.node.join(("testserver", 80))
        registry.open("a", "v1", "/")
        assert site.node.figures.stats().total == 1
        registry.close("a")
        assert site.node.figures.stats().total == 0
        assert not registry.noting, "nobody watches, so nothing is noted"

    asyncio.run(go_on())


def _peers(site: Site) -> dict[str, Any]:
    view = site.node.membership.view
    return view.backend.peers if isinstance(view, FleetView) and isinstance(view.backend, LocalBackend) else {}
