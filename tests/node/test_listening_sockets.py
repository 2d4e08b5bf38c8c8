"""The listening socket of a server, found from inside; real servers are in tests/server/test_unix_sockets.py."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headcount.fleet.backends.meeting_directory import meeting_directory
from headcount.node.listening_sockets import Listeners, addresses_of, servers_of_process


@pytest.fixture
def listening() -> Iterator[tuple[socket.socket, str]]:
    """A Unix socket that listens, and its path."""
    with tempfile.TemporaryDirectory(prefix="headcount-test-") as folder, socket.socket(socket.AF_UNIX) as sock:
        path = str(Path(folder, "socket"))
        sock.bind(path)
        sock.listen()
        yield sock, path


def test_a_scope_without_server_means_the_unix_socket(listening: tuple[socket.socket, str]) -> None:
    sock, path = listening
    assert f"unix:{os.path.realpath(path)}" in addresses_of(())
    listener = Listeners(None).find(None)
    assert listener is not None
    assert sock.fileno() in [each.fd for each in listener.sockets]


def test_a_meeting_place_of_workers_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as sock:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        path = meeting_directory("inet:127.0.0.1:80", "fleet") / "node"
        sock.bind(str(path))
        sock.listen()
        assert f"unix:{os.path.realpath(path)}" not in addresses_of(())


def test_where_descriptors_cannot_be_listed_the_first_ones_are_tried(
    listening: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: str) -> list[str]:
        raise FileNotFoundError(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    sock, path = listening
    assert sock.fileno() < 1_024
    assert f"unix:{os.path.realpath(path)}" in addresses_of((path, None))
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        listeners = Listeners(10.0)
        listener = listeners.find(tcp.getsockname())
        assert listener is not None
        assert listener.still_listens()
    assert not listener.still_listens()


def test_a_socket_that_was_not_found_is_searched_for_again_at_growing_intervals(
    listening: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is out of file descriptors finds nothing; the stop of its server would never be noticed."""
    now, searches, dup = 100.0, 0, os.dup

    def refuse(fd: int) -> int:
        nonlocal searches
        searches += fd == listening[0].fileno()
        raise OSError("Too many open files")

    monkeypatch.setattr(os, "dup", refuse)
    listeners = Listeners(None, lambda: now)
    for _ in range(1_000):
        assert listeners.find((listening[1], None)) is None
        now += 1.0
    assert searches == 10
    monkeypatch.setattr(os, "dup", dup)
    now += 1_000.0
    found = listeners.find((listening[1], None))
    assert found is not None
    assert found.still_listens()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what an event loop waits for")
def test_the_servers_of_a_process_are_the_sockets_that_a_loop_accepts_from(
    listening: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> list[tuple[object, ...]]:
        _, path = listening
        before = servers_of_process()
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as tcp:
            port = tcp.sockets[0].getsockname()[1]
            one = servers_of_process()
            Path(path).unlink()
            async with await asyncio.start_unix_server(lambda *_: None, path):
                two = servers_of_process()
                with tempfile.TemporaryDirectory() as folder:
                    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
                    place = str(meeting_directory("inet:127.0.0.1:80", "fleet") / "node")
                    async with await asyncio.start_unix_server(lambda *_: None, place):
                        three = servers_of_process()
        assert one == [*before, ("127.0.0.1", port)]
        assert sorted(two, key=str) == sorted([*one, (path, None)], key=str)
        assert sorted(three, key=str) == sorted(two, key=str)
        return before

    assert asyncio.run(look()) == [], "a socket that no loop waits for is no server of this process"
