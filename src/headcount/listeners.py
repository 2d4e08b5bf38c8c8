"""
The server's listening socket, found from inside the application.

ASGI tells an application neither that its server is stopping (uvicorn waits for open streams first, and would wait for
ever) nor gives it the socket of a peer whose cable was pulled. Both follow from the listening socket, whichever server
it is and without touching that server's code:

- a server that stops closes it first, so when it is gone, it is time to drain;
- TCP_USER_TIMEOUT set on it is inherited by every connection it accepts (tcp(7)), and makes the kernel give up a peer
  that acknowledges nothing for that long. Keepalives see to it that there is something to acknowledge.

Where file descriptors cannot be listed, or the application is not reached over TCP, nothing is found and nothing done.
"""

import logging
import os
import socket
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

logger = logging.getLogger("headcount")


class _Listener(NamedTuple):
    fd: int
    inode: int


class Listeners:
    """
    The listening sockets of this process that streams came in by.

    Args:
        peer_timeout: Seconds for TCP_USER_TIMEOUT, or None to leave sockets alone.
    """

    def __init__(self, peer_timeout: float | None) -> None:
        self._peer_timeout = peer_timeout
        self._known: dict[Any, list[_Listener]] = {}

    def adopt(self, server: Any) -> None:
        """
        Find the listener behind an ASGI scope's `server` value, `(host, port)` or `(path, None)`, once.

        O(open file descriptors) for the first stream of an address, O(1) after that.
        """
        if not server or tuple(server) in self._known:
            return
        key = tuple(server)
        found = self._known[key] = []
        try:
            for fd in _socket_descriptors():
                self._consider(fd, key, found)
        except OSError as error:
            logger.debug("File descriptors cannot be listed here: %s", error)

    def closed(self) -> bool:
        """Say whether an address that streams came in by has no listener any more."""
        return any(found and not any(map(_is_open, found)) for found in self._known.values())

    def _consider(self, fd: int, server: tuple[Any, ...], found: list[_Listener]) -> None:
        try:
            inode = os.fstat(fd).st_ino
            with socket.socket(fileno=os.dup(fd)) as sock:
                name = sock.getsockname()
                # As text: granian tells the port as a string.
                mine = str(name[1]) == str(server[1]) if isinstance(name, tuple) else name == server[0]
                if not mine or sock.type != socket.SOCK_STREAM:
                    return
                if self._peer_timeout is not None and isinstance(name, tuple) and hasattr(socket, "TCP_USER_TIMEOUT"):
                    # On streams that were accepted before us, too: they do not inherit any more.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._peer_timeout * 1000))
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(_Listener(fd, inode))
        except OSError:
            return  # closed meanwhile, or no socket that answers such questions


def _socket_descriptors() -> Iterator[int]:
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            continue  # the descriptor of the listing itself


def _is_open(listener: _Listener) -> bool:
    try:
        # The number may be in use again, for another file.
        return os.fstat(listener.fd).st_ino == listener.inode
    except OSError:
        return False
