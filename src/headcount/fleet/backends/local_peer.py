"""
One connection between two workers of one machine: frames, how much may wait, and the end of the other worker.

A frame is a length (4 bytes, of what follows), a kind (1 byte), and a body. Kinds that are not known are passed over.

Source: docs/adr/0013-workers-meet-in-a-directory.md

Tests: tests/fleet/backends/test_local.py.
"""

import asyncio
import logging
import os
import socket
import struct
from typing import Final, Protocol, cast

from ...core.fleet_messages import MAX_BYTES
from ...core.identity import is_node_id
from . import Receiver

HIGH_WATER: Final = 2**20
"""Bytes on their way to a worker above which published messages are dropped for it; it asks for the whole later."""

MAX_BUFFERED: Final = 2 * MAX_BYTES
"""Bytes on their way to a worker above which nothing more is sent to it."""

HELLO, MESSAGE, LISTEN, DEAF = range(4)
"""The kinds of frames."""

_HEAD = struct.Struct("!IB")
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group."""
_FORMAT = b"headcount-1 "

logger = logging.getLogger("headcount")


class PeerOwner(Protocol):
    """What a peer needs of the backend that holds it."""

    node: str
    receiver: Receiver | None

    def connected(self, peer: "LocalPeer") -> None:
        """Keep a connection whose other end has not said who it is."""

    def identified(self, peer: "LocalPeer", node: str) -> None:
        """Use a connection whose other end has said who it is."""

    def lost(self, peer: "LocalPeer") -> None:
        """Learn that a connection has ended."""


class LocalPeer(asyncio.Protocol):
    """
    One connection to another worker.

    Args:
        backend: Learns of the connection.
        expected: The id that the other end must have; None: any.
    """

    def __init__(self, backend: PeerOwner, expected: str | None) -> None:
        self.node: str | None = None
        """Who is at the other end, once it has said so."""
        self.listens = False
        self.slow = False
        self.transport: asyncio.Transport
        self._backend = backend
        self.expected = expected
        self.dead = False
        """The worker at the other end has ended."""
        self._buffer = bytearray()
        self._process: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self._backend.connected(self)
        self._check_process()
        self.transport.write(frame(HELLO, _FORMAT + self._backend.node.encode()))

    def write(self, kind: int, body: bytes = b"") -> bool:
        """Send a frame. Returns False when it is too large, or too much waits for the other end already."""
        if len(body) > MAX_BYTES or self.transport.is_closing():
            return False
        if self.transport.get_write_buffer_size() > MAX_BUFFERED:
            return False
        self.transport.write(frame(kind, body))
        return True

    def pause_writing(self) -> None:
        """Learn that the other end does not keep up."""
        self.slow = True

    def resume_writing(self) -> None:
        """Learn that it does again."""
        self.slow = False

    def data_received(self, data: bytes) -> None:
        """Take frames out of what came."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEAD.size:
            size, kind = _HEAD.unpack_from(buffer, start)
            if not 1 <= size <= MAX_BYTES + 1:
                self.transport.abort()
                return
            end = start + 4 + size
            if len(buffer) < end:
                break
            self._onframe(kind, bytes(buffer[start + _HEAD.size : end]))
            start = end
        del buffer[:start]

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Tell that the other end is gone."""
        if self._process is not None:
            asyncio.get_running_loop().remove_reader(self._process)
            os.close(self._process)
            self._process = None
        self._backend.lost(self)

    def _check_process(self) -> None:
        """
        Refuse a process of another user, and learn of the end of the worker itself, where the kernel tells that.

        A process that the application forked from it has inherited its sockets, and may outlive it: then no connection
        ends, and its listening socket still takes new ones.
        """
        if not hasattr(socket, "SO_PEERCRED"):
            return
        try:
            with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as sock:
                process, user, _ = _CREDENTIALS.unpack(
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                )
            if user != os.geteuid():
                logger.error(
                    "Fleet: refused a connection of another user (%d) to this worker, which runs as user %d. Run all "
                    "workers as one user.",
                    user,
                    os.geteuid(),
                )
                self.transport.abort()
                return
            if process in (0, os.getpid()):
                return  # in a container of its own, or a test
            if not hasattr(os, "pidfd_open"):
                return
            self._process = os.pidfd_open(process)
            asyncio.get_running_loop().add_reader(self._process, self._ended)
        except ProcessLookupError:
            self._ended()
        except (OSError, NotImplementedError):
            return  # not allowed here, or not by this event loop

    def _ended(self) -> None:
        self.dead = True
        self.transport.abort()

    def _onframe(self, kind: int, body: bytes) -> None:
        if kind == HELLO and self.node is None:
            node = body.removeprefix(_FORMAT).decode("ascii", "replace")
            if not body.startswith(_FORMAT) or not is_node_id(node) or self.expected not in (None, node):
                self.transport.abort()
                return
            self.node = node
            self._backend.identified(self, node)
        elif self.node is None:
            self.transport.abort()
        elif kind == MESSAGE:
            if self._backend.receiver is not None:
                self._backend.receiver.received(body)
        elif kind in (LISTEN, DEAF):
            self.listens = kind == LISTEN


def frame(kind: int, body: bytes) -> bytes:
    """Return a frame of this kind."""
    return _HEAD.pack(len(body) + 1, kind) + body
