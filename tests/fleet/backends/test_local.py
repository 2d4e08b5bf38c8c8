"""What only workers of one machine can meet: sockets of the dead, directories of others, peers that send nonsense."""

import asyncio
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headcount.core.fleet_messages import MAX_BYTES
from headcount.core.tallies import Tally
from headcount.fleet.backends import local, local_peer
from headcount.fleet.backends.local import LocalBackend
from headcount.fleet.backends.local_peer import HIGH_WATER, MAX_BUFFERED
from headcount.fleet.backends.meeting_directory import meeting_directory
from kit.pages import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: with the folder of a worker of pytest-xdist in it, it is too long for the address of a socket.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder, f"headcount-{os.geteuid()}")


class Ear:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.there: list[str] = []
        self.gone: list[str] = []
        self.connected = False

    def received(self, message: bytes) -> None:
        self.messages.append(message)

    def joined(self, node: str) -> None:
        self.there.append(node)

    def left(self, node: str) -> None:
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


def backend(node: str, address: str = "inet:127.0.0.1:8000", **options: Any) -> tuple[LocalBackend, Ear]:
    made, ear = LocalBackend(node, "fleet", address, **options), Ear()
    made.start(ear)
    return made, ear


def meeting_place(runtime: Path) -> Path:
    (place,) = runtime.iterdir()
    return place


async def test_sockets_of_dead_workers_are_removed_and_those_of_live_ones_are_not(runtime: Path) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    place = meeting_place(runtime)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(place / "dddddddddddd"))
    dead.close()
    (place / "no-socket").write_text("somebody's")
    two, other = backend("bbbbbbbbbbbb")
    await until(lambda: other.connected)
    assert {path.name for path in place.iterdir() if path.suffix != ".tally"} == {
        *("aaaaaaaaaaaa", "bbbbbbbbbbbb", "no-socket")
    }
    assert set(await two.members() or ()) == {"aaaaaaaaaaaa"}
    await one.stop()
    await two.stop()
    assert {path.name for path in place.iterdir()} == {"no-socket"}


async def test_nothing_is_left_when_all_have_left(runtime: Path) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    await one.stop()
    assert list(runtime.iterdir()) == []


async def test_a_directory_that_others_may_enter_is_refused(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    runtime.chmod(0o750)
    with pytest.raises(PermissionError, match="only this user can open"):
        backend("aaaaaaaaaaaa")


async def test_a_link_in_place_of_the_directory_is_refused(runtime: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    runtime.symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        backend("aaaaaaaaaaaa")
    assert list(elsewhere.iterdir()) == []


async def test_another_address_is_another_fleet_and_one_worker_may_have_two() -> None:
    one, first = backend("aaaaaaaaaaaa", "inet:127.0.0.1:8000")
    two, second = backend("bbbbbbbbbbbb", "inet:127.0.0.1:8001")
    await until(lambda: first.connected and second.connected)
    assert await one.members() == set()
    one.meet("inet:127.0.0.1:8001")
    await until(lambda: "bbbbbbbbbbbb" in first.there and "aaaaaaaaaaaa" in second.there)
    one.announce(b"both")
    await until(lambda: second.messages == [b"both"])
    await one.stop()
    await two.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!IB", 2**31, 1),
        struct.pack("!IB", 0, 1),
        struct.pack("!IB", 6, 1) + b"hello",  # before it has said who it is
        struct.pack("!IB", 14, 0) + b"another-kind!",
        struct.pack("!IB", 16, 0) + b"headcount-1 ../",
    ],
)
async def test_a_peer_that_sends_nonsense_is_dropped_and_nobody_else_notices(data: bytes, runtime: Path) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    two, other = backend("bbbbbbbbbbbb")
    await until(lambda: ear.connected and other.connected)
    reader, writer = await asyncio.open_unix_connection(str(meeting_place(runtime) / "aaaaaaaaaaaa"))
    writer.write(data)
    while await reader.read(65_536):  # its hello, and the end
        pass
    writer.close()
    assert ear.messages == []
    assert "bbbbbbbbbbbb" not in ear.gone
    two.announce(b"still here")
    await until(lambda: ear.messages == [b"still here"])
    await one.stop()
    await two.stop()


async def test_frames_of_a_kind_of_the_next_version_are_passed_over(runtime: Path) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    reader, writer = await asyncio.open_unix_connection(str(meeting_place(runtime) / "aaaaaaaaaaaa"))
    hello = b"headcount-1 cccccccccccc"
    writer.write(struct.pack("!IB", len(hello) + 1, 0) + hello)
    writer.write(struct.pack("!IB", 4, 99) + b"new" + struct.pack("!IB", 4, 1) + b"old")
    await until(lambda: ear.messages == [b"old"])
    writer.close()
    await until(lambda: ear.gone == ["cccccccccccc"])
    await one.stop()
    assert reader.at_eof() or await reader.read() is not None


async def test_for_a_worker_that_does_not_read_only_so_much_is_kept(runtime: Path) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    reader, writer = await asyncio.open_unix_connection(str(meeting_place(runtime) / "aaaaaaaaaaaa"), limit=1)
    for kind, body in ((0, b"headcount-1 cccccccccccc"), (2, b"")):
        writer.write(struct.pack("!IB", len(body) + 1, kind) + body)
    await until(lambda: "cccccccccccc" in ear.there and one.peers["cccccccccccc"][0].listens)
    transport = one.peers["cccccccccccc"][0].transport
    chunk = os.urandom(100_000)
    for _ in range(200):
        one.publish(chunk)
    assert transport.get_write_buffer_size() < HIGH_WATER + 2 * len(chunk)
    failed: list[int] = []
    for _ in range(1_000):
        one.send("cccccccccccc", chunk, lambda: failed.append(1))
    assert failed
    assert transport.get_write_buffer_size() <= MAX_BUFFERED + 2 * len(chunk)
    writer.close()
    await one.stop()
    assert reader is not None


async def test_a_message_that_is_too_large_fails_and_costs_nobody_the_connection(runtime: Path) -> None:
    one, _ = backend("aaaaaaaaaaaa")
    two, other = backend("bbbbbbbbbbbb")
    # One is there as soon as its socket is found; it can be sent messages once it has said who it is.
    await until(lambda: "bbbbbbbbbbbb" in one.peers and "aaaaaaaaaaaa" in two.peers)
    failed: list[int] = []
    one.send("bbbbbbbbbbbb", bytes(MAX_BYTES + 1), lambda: failed.append(1))
    assert failed == [1]
    one.announce(b"still here")
    await until(lambda: other.messages == [b"still here"])
    assert other.gone == []
    await one.stop()
    await two.stop()


async def test_who_does_not_listen_any_more_is_published_to_on_none_of_two_connections() -> None:
    one, _ = backend("aaaaaaaaaaaa")
    two, ear = backend("bbbbbbbbbbbb")
    two.listen(on=True)
    await until(lambda: len(one.peers.get("bbbbbbbbbbbb", ())) == 2)  # each found the other
    await until(lambda: any(peer.listens for peer in one.peers["bbbbbbbbbbbb"]))
    two.listen(on=False)
    await until(lambda: not any(peer.listens for peer in one.peers["bbbbbbbbbbbb"]))
    one.publish(b"figures")
    one.announce(b"to all")
    await until(lambda: ear.messages == [b"to all"])
    await one.stop()
    await two.stop()


_WITH_A_CHILD = """
import asyncio, os, time
from headcount.fleet.backends.local import LocalBackend
from fleet.backends.test_conformance import Ear

async def main():
    ear = Ear()
    LocalBackend("cccccccccccc", "fleet", "inet:127.0.0.1:8000").start(ear)
    while not ear.connected:
        await asyncio.sleep(0.01)
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="elsewhere than on Linux nothing tells of such an end")
async def test_a_killed_worker_is_gone_although_a_child_of_it_holds_its_sockets(runtime: Path) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    worker = subprocess.Popen(
        [sys.executable, "-c", _WITH_A_CHILD],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert worker.stdout is not None
    child = int(await asyncio.to_thread(worker.stdout.readline))
    try:
        await until(lambda: "cccccccccccc" in one.peers)
        worker.kill()
        await until(lambda: "cccccccccccc" in ear.gone)
        worker.wait(5)
        assert await one.members() == set()
        assert not (meeting_place(runtime) / "cccccccccccc").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        worker.kill()
        worker.wait(5)
        worker.stdout.close()
        await one.stop()


async def test_a_socket_that_was_cleaned_away_is_put_back(runtime: Path) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    place = meeting_place(runtime)
    (place / "aaaaaaaaaaaa").unlink()
    await one.members()
    assert (place / "aaaaaaaaaaaa").exists()
    two, other = backend("bbbbbbbbbbbb")
    await until(lambda: other.connected)
    assert await two.knows("aaaaaaaaaaaa")
    await one.stop()
    await two.stop()


async def test_a_directory_that_the_last_worker_takes_away_at_that_moment_is_made_anew(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def make_and_lose(address: str, fleet: str) -> Path:
        nonlocal made
        directory = meeting_directory(address, fleet)
        made += 1
        if made < local.BIND_ATTEMPTS:
            directory.rmdir()
        return directory

    monkeypatch.setattr(local, "meeting_directory", make_and_lose)
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    assert (meeting_place(runtime) / "aaaaaaaaaaaa").exists()
    await one.stop()


async def test_members_may_be_asked_for_while_a_worker_of_two_addresses_leaves(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    one.meet("inet:127.0.0.1:8001")
    await one.members()
    connect_all = one._connect_all

    async def connect_and_leave(directory: Path) -> list[Any]:
        one._leave()
        return await connect_all(directory)

    monkeypatch.setattr(one, "_connect_all", connect_and_leave)
    assert await one.members() == set()
    await one.stop()


async def test_an_address_that_could_not_be_met_is_met_once_whoever_asks_and_gives_up() -> None:
    second = "inet:127.0.0.1:8001"
    one, ear = backend("aaaaaaaaaaaa")
    two, _ = backend("bbbbbbbbbbbb", second)
    await until(lambda: ear.connected)
    one.meet_later(second)
    asked = asyncio.ensure_future(one.members())
    await asyncio.sleep(0)
    asked.cancel()
    await until(lambda: "bbbbbbbbbbbb" in one.peers)
    sockets = {address: sock for address, (_, sock, _) in one._meeting_places.items()}
    one.meet_later(second)
    await one.members()
    assert {address: sock for address, (_, sock, _) in one._meeting_places.items()} == sockets
    await one.stop()
    await two.stop()


async def test_a_socket_that_cannot_be_put_back_makes_figures_partial_until_it_can(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, ear = backend("aaaaaaaaaaaa")
    await until(lambda: ear.connected)
    (meeting_place(runtime) / "aaaaaaaaaaaa").unlink()
    with monkeypatch.context() as full:

        def no_space(self: LocalBackend, address: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(LocalBackend, "_bind", no_space)
        for _ in range(2):
            await one.members()
            assert not ear.connected
    await one.members()
    await until(lambda: ear.connected)
    two, other = backend("bbbbbbbbbbbb")
    await until(lambda: other.connected)
    assert await two.knows("aaaaaaaaaaaa")
    await one.stop()
    await two.stop()


async def test_a_process_of_another_user_is_refused_and_named(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The directory keeps other users out; this is for a directory that was opened by mistake."""
    one, ear = backend("0a")
    await until(lambda: ear.connected)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    _, writer = await asyncio.open_unix_connection(str(meeting_place(runtime) / "0a"))
    writer.write(local_peer.frame(local_peer.HELLO, b"headcount-1 0b"))
    await until(lambda: "another user" in caplog.text)
    monkeypatch.undo()
    assert f"({user}) to this worker, which runs as user {user + 1}" in caplog.text
    assert not one.peers
    assert not one._unidentified
    writer.close()
    await one.stop()
