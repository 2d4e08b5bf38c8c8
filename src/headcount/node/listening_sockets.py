"""
The server's listening socket, found from inside the application.

ASGI does not tell an application that its server is stopping (uvicorn first waits for open streams, for ever), and does
not give it the socket of a peer whose cable was pulled. The listening socket helps with both, for any server and
without touching the server's code:

- a server that stops closes it first, so when it is closed, it is time to drain;
- TCP_USER_TIMEOUT set on it is inherited by every connection it accepts (tcp(7)), and makes the kernel give up a peer
  that acknowledges nothing for that long. Keepalives see to it that there is something to acknowledge.

A process may hold the socket without accepting from it: uvicorn --fd keeps the one that it was given, and listens on a
copy. Where the kernel shows it (Linux), only the copy that an event loop waits for counts.

For a Unix socket, some servers leave `server` out of the scope (uvicorn before 0.41, hypercorn). Then the named Unix
sockets that this process listens on count, other than those by which the workers of one machine meet.

Tests: tests/node/test_listening_sockets.py, tests/server/test_stopping.py, tests/server/test_unix_sockets.py.
"""

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..fleet.backends.meeting_directory import is_meeting_place

HIGHEST_GUESSED: Final = 1_024
"""File descriptors that are tried where the open ones cannot be listed. One takes about a microsecond."""

SEARCH_AGAIN_AFTER: Final = 1.0
"""Seconds after which a socket that was not found is searched for again, because the process may have been out of file
descriptors; then twice as many each time, because some are never found."""


class _Socket(NamedTuple):
    fd: int
    inode: int


class Listener:
    """The listening sockets of one address: one, or those of servers that share a port."""

    __slots__ = ("closed", "sockets")

    def __init__(self, sockets: tuple[_Socket, ...]) -> None:
        self.sockets = sockets
        self.closed = False
        """What the last look said, which `Listeners.find` or `still_listens()` took; it may be out of date."""

    def still_listens(self) -> bool:
        """
        Look whether a socket still listens, and note it in `closed`.

        If none does, its server is stopping; other servers of this process may still run.
        """
        self.closed = True
        for fd, inode in self.sockets:
            try:
                found = os.fstat(fd).st_ino
            except OSError:
                continue
            if found == inode:  # else the number is in use again, for another file
                self.closed = False
                break
        return not self.closed


class Listeners:
    """
    The listening sockets of this process that requests for Headcount came in by.

    Args:
        peer_timeout: Seconds for TCP_USER_TIMEOUT, or None to leave sockets alone.
        clock: Monotonic seconds.
    """

    def __init__(self, peer_timeout: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._peer_timeout = peer_timeout
        self._clock = clock
        self._lock = threading.Lock()
        """Held while a socket is searched for: requests may come in several threads."""
        self._search_at = 0.0
        """When sockets that were not found are searched for again."""
        self._search_after = SEARCH_AGAIN_AFTER
        self._known: dict[Any, Listener | None] = {}
        self._waited_for: set[int] = set()
        """Inodes of the sockets that an event loop has waited for."""

    def find(self, server: Any) -> Listener | None:
        """
        Find the listener behind an ASGI scope's `server` value, `(host, port)`, `(path, None)` or None.

        O(open file descriptors) for the first request by an address, after its server has stopped, and now and then
        for an address that is not found; O(1) otherwise.

        Returns:
            None when no socket is found. A closed one when it was closed and no other server replaced it.
        """
        key = tuple(server or ())
        known = self._known.get(key, _NEVER_SEEN)
        if known is not None and known.still_listens():  # nearly always
            return known
        with self._lock:
            known = self._known.get(key, _NEVER_SEEN)
            return known if self._is_settled(known) else self._find(key, known)

    def _is_settled(self, known: Listener | None) -> bool:
        if known is None:
            return self._clock() < self._search_at
        return known is not _NEVER_SEEN and known.still_listens()

    def _find(self, key: Any, known: Listener | None) -> Listener | None:
        found = self._search(key)
        if found:
            # One that listens on all addresses may be known by another of them.
            known = next((each for each in self._known.values() if each and each.sockets == found), Listener(found))
        elif known is _NEVER_SEEN or known is None:
            known = None
            self._search_at = self._clock() + self._search_after
            self._search_after *= 2
        self._known[key] = known
        return known

    def any_closed(self) -> bool:
        """Say whether a listener that requests came in by is closed now, and no other server replaced it."""
        return any(known is not None and not known.still_listens() for known in list(self._known.values()))

    def _search(self, server: tuple[Any, ...]) -> tuple[_Socket, ...]:
        found: list[_Socket] = []
        for fd in _socket_descriptors():
            self._consider(fd, server, found)
        if not found:
            return ()
        waiting = _waited_for()
        self._waited_for.update(sock.inode for sock in found if sock.fd in waiting)
        return tuple(sock for sock in found if sock.fd in waiting or sock.inode not in self._waited_for)

    def _consider(self, fd: int, server: tuple[Any, ...], found: list[_Socket]) -> None:
        try:
            inode = os.fstat(fd).st_ino
            with socket.socket(fileno=os.dup(fd)) as sock:
                if not _is_behind(sock, server):
                    return
                is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
                if self._peer_timeout is not None and is_tcp and hasattr(socket, "TCP_USER_TIMEOUT"):
                    # On streams that were accepted before us, too: they do not inherit any more.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._peer_timeout * 1000))
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(_Socket(fd, inode))
        except OSError:
            return  # closed meanwhile, or no socket that answers such questions


def _socket_descriptors() -> Iterator[int]:
    for fd in _descriptors():
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            continue  # it is closed


def _descriptors() -> Iterable[int]:
    for folder in ("/dev/fd", "/proc/self/fd"):
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    # A sandbox without both: servers open their sockets early, when the numbers are low.
    return range(HIGHEST_GUESSED)


def _waited_for() -> set[int]:
    """Return the file descriptors that an event loop of this process waits for; none where the kernel hides them."""
    found: set[int] = set()
    with suppress(OSError):
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError, ValueError):
                if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]":
                    lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
                    found.update(int(line.split()[1]) for line in lines if line.startswith("tfd:"))
    return found


def addresses_of(server: Any) -> list[str]:
    """
    Return the addresses of this process's listening sockets that are behind an ASGI scope's `server` value.

    One for each: `inet:0.0.0.0:8000`, `inet6:::1:8000` or `unix:/run/app.sock`. O(open file descriptors).
    """
    found: list[str] = []
    for fd in _socket_descriptors():
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and _is_behind(sock, server):
                    found.append(address_of(sock))
        except OSError:
            continue  # closed meanwhile, or no socket that answers such questions
    return sorted(set(found))


def servers_of_process() -> list[tuple[Any, ...]]:
    """
    Return the `server` value of the ASGI scopes for each server of this process, by port or Unix socket.

    Only sockets count that an event loop waits for, so there are none where the kernel does not show that. O(open file
    descriptors).
    """
    found: dict[Any, tuple[Any, ...]] = {}
    for fd in _waited_for():
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                name = sock.getsockname()
                if isinstance(name, tuple):
                    found[name[1]] = (name[0], name[1])
                elif isinstance(name, str) and name and not is_meeting_place(name):
                    found[name] = (name, None)
        except OSError:
            continue  # closed meanwhile, or no socket
    return list(found.values())


def address_of(sock: socket.socket) -> str:
    """Return the address that a socket is bound to, as text."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{os.path.realpath(name)}" if name else ""
    kind = "inet6" if sock.family == socket.AF_INET6 else "inet"
    return f"{kind}:{name[0]}:{name[1]}"


def _is_behind(sock: socket.socket, server: Any) -> bool:
    if sock.type != socket.SOCK_STREAM:
        return False
    name = sock.getsockname()
    if isinstance(name, tuple):
        # As text: granian gives the port as a string. An unknown address comes from a header that a proxy wrote.
        return bool(server) and str(name[1]) == str(server[1])
    if sock.family != getattr(socket, "AF_UNIX", None) or not isinstance(name, str) or not name:
        return False
    return name == server[0] if server else not is_meeting_place(name)


_NEVER_SEEN: Final = Listener(())
