"""
Machines and one Redis or Valkey, and everything that can happen to either: real processes, real faults.

Here with the real clock. test_fleet_faults.py has the faults of Redis that end healed, test_cut_off.py cut cables.
"""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from headcount.core.page_lists import MARK_BYTES, decode
from kit.pages import BASE, Sse, all_of, ask, history, until
from kit.ports import free_port
from kit.programs import make_certificate
from kit.stores import PROGRAMS, Store

from .fleet import TOKEN, Fleet, figures, node_counts, three_nodes
from .serving import Server

pytestmark = pytest.mark.anyio

HEARTBEAT = 3.0
"""Seconds between two tallies of a node."""
EXPIRED = 11.0
"""Seconds in which a node that died must be out: 10, and one for this machine."""
RIGHTS = (
    *("~{headcount:/__skew}:*", "&{headcount:/__skew}:*", "-@all"),
    *("+set", "+get", "+mget", "+del", "+sadd", "+srem", "+smembers"),
    *("+publish", "+subscribe", "+unsubscribe", "+ping", "+select"),
)
"""What docs/deployment.md says that a user needs."""
STOPPED = float(os.environ.get("STOPPED_SECONDS", "0"))
"""Seconds that a stopped node stands still at least; `make chaos` says a minute."""


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with three_nodes("valkey") as fleet:
        yield fleet


async def test_a_killed_node_is_gone_within_ten_seconds_and_its_handles_are_nobodys(fleet: Fleet) -> None:
    rest, lost = fleet.without(2), fleet.pages[2]
    started = time.monotonic()
    fleet.servers[2].process.kill()
    for viewer in fleet.viewers[:2]:
        await viewer.until(lambda s: figures(s)["total"] == rest and not figures(s)["partial"], EXPIRED)
    assert time.monotonic() - started < EXPIRED
    status, _ = await ask(
        fleet.servers[0].url, "POST", BASE + "/route", {"connectionId": lost[0].handle, "route": "/x"}
    )
    assert status == 404


async def test_a_node_stopped_and_continued(fleet: Fleet) -> None:
    process = fleet.servers[2].process.pid
    rest = fleet.without(2)
    await asyncio.sleep(HEARTBEAT + 0.5)  # so that its last tally has its pages
    started = time.monotonic()
    os.kill(process, signal.SIGSTOP)
    try:

        async def partial_then_without(viewer: Sse) -> None:
            await viewer.until(lambda s: figures(s)["partial"] is True, EXPIRED)
            # It lives, so its pages are not taken for gone.
            await viewer.until(
                lambda s: (figures(s)["total"], bool(figures(s).get("unaccounted"))) == (rest, True), EXPIRED
            )

        await asyncio.gather(*map(partial_then_without, fleet.viewers[:2]))
        # What happens meanwhile must be known to it afterwards, and what it knew before must not be told again.
        gone = fleet.pages[2].pop()
        gone.fin()
        for node in (0, 1):
            await fleet.open_page(node)
        await asyncio.sleep(max(0.0, started + STOPPED - time.monotonic()))
        before = len(list(history(fleet.viewers[2])))
    finally:
        os.kill(process, signal.SIGCONT)
    await fleet.until_exact()
    for _, told in list(history(fleet.viewers[2]))[before:]:
        assert told["partial"] or told["total"] == fleet.total, "what it knew before it was stopped is not the whole"
    fleet.pages[2].append(gone)  # for the highest total that was right


async def test_clocks_that_jump_change_nothing(tmp_path: Path) -> None:
    day = 86_400
    clocks = [tmp_path / str(number) for number in range(3)]

    def jump(node: int, ahead: int) -> None:
        new = clocks[node].with_suffix(".new")
        new.write_text(str(ahead))
        new.rename(clocks[node])

    with Store("valkey") as store, ExitStack() as stack:
        servers = []
        for node, clock in enumerate(clocks):
            jump(node, 0)
            server = Server(
                "uvicorn",
                admin_token="s3cret-of-the-tests",
                backend=store.url,
                fleet_name="test",
                packages=Path(__file__).parent / "clock",
                environment={"WALL_CLOCK": str(clock)},
            )
            servers.append(stack.enter_context(server))
        for server in servers:
            server.wait_ready()
        fleet = Fleet(store, servers, [])
        await fleet.fill()

        # Forwards, and backwards. All keys have expired, as when Redis's own clock jumps forwards.
        seen = [len(list(history(viewer))) for viewer in fleet.viewers]
        jump(0, day)
        jump(1, -day)
        keys = [key.decode() for key in store.lines("KEYS", "{headcount:test}:node:*")]
        assert store.ask("DEL", *keys) == b":3"
        for node, ahead in enumerate((day, -day, 0)):
            page = await fleet.open_page(node)
            told = page.messages[0]["timestamp"] / 1_000 - time.time()
            assert abs(told - ahead) < 60, "its clock did jump"
        await fleet.until_exact()
        await until(lambda: len(store.lines("KEYS", "{headcount:test}:node:*")) == 3)
        for viewer, before in zip(fleet.viewers, seen, strict=True):
            assert not any(told["partial"] for _, told in list(history(viewer))[before:])

        # A node dies, and Redis's own clock jumps backwards: the sign that it lives would stay for a day.
        rest = fleet.without(2)
        started = time.monotonic()
        servers[2].process.kill()
        for key in keys:
            store.ask("PEXPIRE", key, str(day * 1_000))
        for viewer in fleet.viewers[:2]:
            await viewer.until(lambda s: figures(s)["total"] == rest and not figures(s)["partial"], EXPIRED)
        assert time.monotonic() - started < EXPIRED
        seen = [len(viewer.messages) for viewer in fleet.viewers]
        asked = _commands(store)["smembers"]
        await until(lambda: _commands(store)["smembers"] >= asked + 3)  # both have looked again who is there
        for viewer, before in zip(fleet.viewers[:2], seen, strict=False):
            assert not figures(viewer)["partial"]
            assert len(viewer.messages) == before, "nor was it for a moment"
        fleet.assert_never_wrong()


async def test_a_node_that_is_told_to_stop_is_gone_at_once(fleet: Fleet) -> None:
    rest = fleet.without(2)
    started = time.monotonic()
    fleet.servers[2].process.terminate()
    for viewer in fleet.viewers[:2]:
        await viewer.until(lambda s: figures(s)["total"] == rest and node_counts(figures(s)) == (2, 2), 5)
    assert time.monotonic() - started < 4
    assert len(fleet.store.lines("KEYS", "{headcount:test}:node:*")) == 2


async def test_a_node_without_a_page_that_is_told_to_stop_is_gone_at_once() -> None:
    with Store("valkey") as store, Server("uvicorn", backend=store.url, fleet_name="test") as server:
        server.wait_ready()
        await until(lambda: len(store.lines("KEYS", "{headcount:test}:node:*")) == 1)
        server.process.terminate()
        # Its last word stays for those who remember it, and so does the mark of the store.
        kept = {b"{headcount:test}:tallies", b"{headcount:test}:store"}
        await until(lambda: set(store.lines("KEYS", "{headcount:test}:*")) == kept, timeout=3)
        assert 0 < int(store.ask("TTL", "{headcount:test}:tallies")[1:]) <= 24 * 3_600


async def test_posts_land_anywhere_and_messages_arrive(fleet: Fleet) -> None:
    for number, page in enumerate(pages[0] for pages in fleet.pages):
        for server in fleet.servers:
            status, _ = await ask(
                server.url, "POST", BASE + "/route", {"connectionId": page.handle, "route": f"/{number}"}
            )
            assert status == 200
    for viewer in fleet.viewers:
        await viewer.until(lambda s: {figures(s)["routes"].get(f"/{number}") for number in range(3)} == {1})
    stranger = fleet.pages[0][1]
    for server in fleet.servers:
        status, _ = await ask(server.url, "POST", BASE + "/subscribe-stats", {"connectionId": stranger.handle})
        assert status == 200
    await stranger.until(lambda s: len(s.of_type("stats-unauthorized")) == 3)
    assert not stranger.of_type("stats")
    admin = fleet.pages[0][2]
    status, _ = await ask(
        fleet.servers[1].url, "POST", BASE + "/subscribe-stats", {"connectionId": admin.handle}, TOKEN
    )
    assert status == 200
    await admin.until(lambda s: s.figures is not None)
    status, _ = await ask(fleet.servers[2].url, "POST", BASE + "/unsubscribe-stats", {"connectionId": admin.handle})
    assert status == 200


async def test_nothing_personal_is_ever_stored() -> None:
    with Store("valkey") as store, ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server(
                    "uvicorn",
                    admin_token="s3cret-of-the-tests",
                    backend=store.url,
                    fleet_name="test",
                    ip_tracking="true",
                )
            )
            for _ in range(2)
        ]
        for server in servers:
            server.wait_ready()
        fleet = Fleet(store, servers, [])
        await fleet.fill()
        assert figures(fleet.viewers[0])["connections"][0]["ip"] == "127.0.0.1"
        keys = {key.decode() for key in store.lines("KEYS", "*") if b":turn:" not in key and b":history" not in key}
        keys -= {f"{{headcount:test}}:{name}" for name in ("minutes", "rollouts", "store")}
        nodes = {node.decode() for node in store.lines("SMEMBERS", "{headcount:test}:nodes")}
        lists = {f"{{headcount:test}}:pages:{node}" for node in nodes}
        assert keys - lists == {
            "{headcount:test}:nodes",
            "{headcount:test}:tallies",
            *(f"{{headcount:test}}:node:{node}" for node in nodes),
        }
        assert [store.lines("GET", key)[0] for key in keys if ":node:" in key] == [b"1", b"1"]
        key = "{headcount:test}:tallies"
        await until(lambda: [b"v1" in tally for tally in store.lines("HVALS", key)] == [True, True])
        handles = [page.handle.encode() for pages in fleet.pages for page in pages]
        for tally in store.lines("HVALS", key):
            assert not any(word in tally for word in (b"127.0.0.1", b"route", *handles))
        # Four bytes of each public id, which prove nothing; so there is no room for anything else.
        whole = {"v1": MARK_BYTES * len(fleet.pages[0])}
        await until(lambda: all(_sizes_of_list(store.lines("GET", key)[0]) == whole for key in lists))


def _sizes_of_list(data: bytes) -> dict[str, int]:
    pages = decode(data)
    return {} if pages is None else {version: len(marks) for version, marks in pages.open.items()}


async def _have_met(store: Store) -> dict[str, int]:
    """Wait until nodes that nobody watches have said all that they say when they meet; returns the store's commands."""
    found = _commands(store)
    while True:
        await asyncio.sleep(1)
        before, found = found, _commands(store)
        if found.get("publish") == before.get("publish"):
            return found


async def test_a_node_on_which_nobody_watches_does_not_listen() -> None:
    with Store("valkey") as store, ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server("uvicorn", admin_token="s3cret-of-the-tests", backend=store.url, fleet_name="test")
            )
            for _ in range(2)
        ]
        for server in servers:
            server.wait_ready()
        await until(lambda: len(store.lines("SMEMBERS", "{headcount:test}:nodes")) == 2)
        pages = [await Sse.open(server.url) for server in servers]
        before = await _have_met(store)
        for _ in range(5):
            await all_of([page.navigate(servers[0].url, "/x") for page in pages[:1]])
        await asyncio.sleep(4)
        after = _commands(store)
        assert store.ask("PUBSUB", "CHANNELS", "*figures*") == b"*0", "nobody listens"
        assert after.get("publish", 0) == before.get("publish", 0), "nothing is published that nobody reads"
        # Four seconds, which are more on a busy machine.
        assert after["set"] - before["set"] <= 2 * 6, "a sign of life every three seconds"


async def test_two_applications_on_one_redis_are_two_fleets() -> None:
    with Store("valkey") as store, ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server("uvicorn", admin_token="s3cret-of-the-tests", backend=store.url, fleet_name=name)
            )
            for name in ("one", "two")
        ]
        for server in servers:
            server.wait_ready()
        await Sse.open(servers[0].url)
        for server, total in zip(servers, (1, 0), strict=True):
            _, told = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
            assert told["total"] == total


async def test_workers_of_two_machines_are_one_fleet() -> None:
    with Store("redis") as store, ExitStack() as stack:
        servers = [stack.enter_context(Server("headcount-workers", backend=store.url)) for _ in range(2)]
        for server in servers:
            server.wait_ready()
        pages = await all_of([Sse.open(servers[n % 2].url, version=f"v{n % 3}") for n in range(60)])
        for server in servers * 2:
            async with asyncio.timeout(15):
                while True:
                    _, told = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
                    if node_counts(told) == (8, 8) and not told["partial"]:
                        break
            assert (told["total"], told["versions"]) == (60, {"v0": 20, "v1": 20, "v2": 20})
        for page in pages:
            page.fin()


@pytest.mark.parametrize("kind", ["password", "user", "cluster", "sentinel", "unix", "tls"])
async def test_every_kind_of_address_works(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if kind == "password":
        options = {"requirepass": "p@ss"}
    elif kind == "cluster":
        options = {"cluster_enabled": "yes"}
    elif kind == "unix":
        options = {"unixsocket": str(tmp_path / "store")}
    elif kind == "tls":
        options = _with_tls(tmp_path)
    with ExitStack() as stack:
        # The Valkey that comes as a Python package is built without TLS.
        store = stack.enter_context(Store("redis" if kind == "tls" else "valkey", **options))
        if kind == "user":
            assert store.ask("ACL", "SETUSER", "headcount", "on", ">pw", *RIGHTS) == b"+OK"
        if kind == "cluster":
            assert store.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK"
            await until(lambda: b"cluster_state:ok" in store.lines("CLUSTER", "INFO")[0])
        url = {
            "password": f"redis://:p%40ss@127.0.0.1:{store.port}/0",
            "user": f"redis://headcount:pw@127.0.0.1:{store.port}/1",
            "unix": f"unix://{tmp_path}/store?db=1",
            "tls": f"rediss://127.0.0.1:{options.get('tls_port')}/0?ssl_ca_certs={tmp_path}/cert.pem",
        }.get(kind, store.url)
        if kind == "sentinel":
            configuration = tmp_path / "sentinel.conf"
            port = free_port()
            configuration.write_text(f"port {port}\nsentinel monitor shop 127.0.0.1 {store.port} 1\n")
            stack.enter_context(Sentinel(configuration, port))
            url = f"redis+sentinel://127.0.0.1:{port}/shop/0"
        servers = [
            stack.enter_context(Server("uvicorn", admin_token="s3cret-of-the-tests", backend=url)) for _ in range(2)
        ]
        for server in servers:
            server.wait_ready()
        await all_of([Sse.open(server.url) for server in servers])
        for server in servers:
            async with asyncio.timeout(15):
                while True:
                    _, told = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
                    if told["total"] == 2 and not told["partial"]:
                        break
                    await asyncio.sleep(0.1)
            assert "p%40ss" not in server.log


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(tmp_path: Path) -> None:
    options = _with_tls(tmp_path)
    with Store("redis", **options) as store:
        url = f"rediss://127.0.0.1:{options['tls_port']}/0"
        with Server("uvicorn", admin_token="s3cret-of-the-tests", backend=url) as server:
            server.wait_ready()
            page = await Sse.open(server.url)
            await until(lambda: "cannot be used" in server.log)
            assert "CERTIFICATE_VERIFY_FAILED" in server.log
            _, told = await ask(server.url, "GET", BASE + "/admin/stats", headers=TOKEN)
            assert (told["total"], told["partial"]) == (1, True)
            assert store.ask("KEYS", "*") == b"*0"
            page.fin()


def _with_tls(folder: Path) -> dict[str, Any]:
    """Make a certificate; return the options of a store that shows it."""
    certificate, key = make_certificate(folder, "IP:127.0.0.1")
    return {
        "tls_port": free_port(),
        "tls_cert_file": certificate,
        "tls_key_file": key,
        "tls_ca_cert_file": certificate,
        "tls_auth_clients": "no",
    }


class Sentinel:
    """A sentinel, running."""

    def __init__(self, configuration: Any, port: int) -> None:
        self._process = subprocess.Popen(
            [str(PROGRAMS["valkey"] or PROGRAMS["redis"]), str(configuration), "--sentinel"],
            stdout=subprocess.DEVNULL,
            cwd=configuration.parent,
        )
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)


def _commands(store: Store) -> dict[str, int]:
    """Return how often each command was called."""
    found = store.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): int(value.partition(",")[0].removeprefix("calls="))
        for name, value in found.items()
    }
