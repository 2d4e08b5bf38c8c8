"""
The workers of one machine, without any other service.

Workers are the same application if they listen on the same address of the same network namespace: no two applications
can. So each binds a Unix socket, named by its node id, in a private directory that is named by that address:

    {runtime directory}/headcount-{uid}/{hash of namespace, address and fleet}/{node id}

A newcomer connects to every socket that it finds there, which makes a full mesh, and the end of a connection is the end
of a worker, however it died. A socket that nobody answers is a dead worker's, and removed. Beside the sockets lie the
workers' tallies (local_tallies.py). What a connection carries: local_peer.py.

Source: docs/adr/0013-workers-meet-in-a-directory.md
"""

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ...core.identity import is_node_id
from ...loops import Tasks
from . import Receiver
from .local_history import HistoryCopy
from .local_peer import DEAF, LISTEN, MESSAGE, LocalPeer, frame
from .local_tallies import TallyFiles, remove_abandoned_files
from .meeting_directory import meeting_directory, remove

BIND_ATTEMPTS: Final = 5

HELLO_TIMEOUT: Final = 0.5
"""Seconds that a newcomer waits for those it found to say who they are; one that is stopped cannot."""

KNOWS_TIMEOUT: Final = 4.0
"""Seconds that a worker which is there, and has not said who it is, is waited for; it may be busy."""

RESCAN_AFTER: Final = 0.2
"""Seconds after the end of a connection, in which a dying worker's socket goes away."""

_guards: Final = Tasks()
"""
Tasks that wait for the end of their event loop. They are held here, because a backend that nobody holds any more must
leave all the same when its loop ends.
"""

logger = logging.getLogger("headcount")


class LocalBackend:
    """
    Implements `Backend`.

    Args:
        node: Id of this node.
        fleet: What tells this application from others in the same process.
        address: Of the listening socket, as `listening_sockets.addresses_of` returns it.
        heartbeat: Seconds between two signs of life.
        history_copy: Keeps the history while no worker runs; None: nothing does.
    """

    detects_failures = True

    def __init__(
        self, node: str, fleet: str, address: str, heartbeat: float = 1.0, history_copy: HistoryCopy | None = None
    ) -> None:
        self.heartbeat = heartbeat
        self.peers: dict[str, list[LocalPeer]] = {}
        """Connections by node; two workers that found one another at once have two."""
        self.listens = False
        self.node = node
        self.receiver: Receiver | None = None
        self._fleet = fleet
        self._first = address
        self._meeting_places: dict[str, tuple[Path, socket.socket, Any]] = {}
        self._unmet: set[str] = set()
        """Addresses whose workers cannot be met yet."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = Tasks()
        self._opening: set[asyncio.Task[None]] = set()
        self._rescan: asyncio.TimerHandle | None = None
        self._guard: asyncio.Task[None] | None = None
        self._awaited: dict[str, list[asyncio.Future[None]]] = {}
        """By node: who waits for it to say who it is."""
        self._unidentified: set[LocalPeer] = set()
        """Connections whose other end has not said who it is."""
        self.tallies = TallyFiles(node, self._directories, self._peer_ids, history_copy)
        self._heartbeat_timer: asyncio.TimerHandle | None = None

    def start(self, receiver: Receiver) -> None:
        """
        Begin to reach and to be reached.

        Raises:
            OSError: There is no directory to meet in.
        """
        self.receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._bind(self._first)
        self._open_soon(self._first)
        self._guard = _guards.start(self._leave_with_the_loop(), self._loop)
        remove_abandoned_files(self._directories()[0].parent, time.time())
        self.tallies.clear_own()
        self._send_heartbeat()

    def meet(self, address: str) -> None:
        """
        Meet the workers of another address, too.

        Raises:
            OSError: There is no directory to meet in.
        """
        if address not in self._meeting_places:
            self._bind(address)
            self._open_soon(address)
        self._unmet.discard(address)

    def meet_later(self, address: str) -> None:
        """Try to meet the workers of another address whenever `members` is called; until then some are out of reach."""
        self._unmet.add(address)

    async def stop(self) -> None:
        """Publish a last message and be gone."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.cancel()
            await asyncio.wait([guard])
        self._leave()

    async def _leave_with_the_loop(self) -> None:
        """Wait for the loop's end, which cancels this: nobody else would tell, and sockets outlive their loop."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self.receiver is None:
            return
        # To all, also to those that do not listen: to them the end of a connection without it is a death.
        self.announce(self.receiver.leave_message())
        self.tallies.leave(self.receiver.tally(leaving=True), self.receiver.page_list())
        self.receiver = None
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
        if self._rescan is not None:
            self._rescan.cancel()
        for task in self._tasks:
            task.cancel()
        for path, sock, server in self._meeting_places.values():
            if server is not None:
                server.close()
            sock.close()
            remove(path)
            with suppress(OSError):  # others are still there
                path.parent.rmdir()
        self._meeting_places.clear()
        for peer in [*self._unidentified, *(peer for peers in self.peers.values() for peer in peers)]:
            peer.transport.close()  # what was written is still sent
        self.peers.clear()
        self._unidentified.clear()

    def listen(self, *, on: bool) -> None:
        """Receive what others publish, or no more."""
        if on != self.listens:
            self.listens = on
            for peers in self.peers.values():
                for peer in peers:
                    peer.write(LISTEN if on else DEAF)

    def publish(self, message: bytes) -> None:
        """Hand a message to all that listen and keep up."""
        data = frame(MESSAGE, message)
        for peers in self.peers.values():
            if any(peer.listens for peer in peers) and not peers[0].slow:
                peers[0].transport.write(data)

    def announce(self, message: bytes) -> None:
        """Hand a message to all."""
        for peers in self.peers.values():
            peers[0].write(MESSAGE, message)

    def send(self, node: str, message: bytes, failed: Callable[[], None] | None = None) -> None:
        """Hand a message to one node."""
        peers = self.peers.get(node)
        if not (peers and peers[0].write(MESSAGE, message)) and failed is not None:
            failed()

    async def members(self) -> Collection[str] | None:
        """Return the ids of all others, and see to it that newcomers find us."""
        await self._opened()
        for address in list(self._unmet):
            with suppress(OSError):
                # A task of its own: whoever asks for the members may be cancelled, and others would wait in vain.
                self.meet(address)
        await self._opened()
        for address, (path, _, _) in list(self._meeting_places.items()):
            if address not in self._meeting_places:  # closed meanwhile
                continue
            if not path.exists():  # whatever cleans up temporary files took it away
                self._close_place(address)
                try:
                    self._bind(address)
                except OSError as error:
                    logger.warning(
                        "Fleet: new workers cannot find this worker (%s). Figures are partial until they can. Check "
                        "that this user may write to %s and that its disk is not full; the worker tries again by "
                        "itself.",
                        error,
                        path.parent,
                    )
                    self.meet_later(address)
                    if self.receiver is not None:
                        self.receiver.connectivity_changed(connected=False)
                    continue
                await self._open(address)
            # Somebody may have come whose connection waits to be accepted here.
            await self._connect_all(path.parent)
        # Those that have not said who they are yet are busy or stopped, and there all the same.
        return self._peer_ids()

    async def knows(self, node: str) -> bool:
        """Say whether there is a worker of that id."""
        await self._opened()
        if node in self.peers:
            return True
        if not any((path.parent / node).exists() for path, _, _ in self._meeting_places.values()):
            return False
        # It has come just now, and has not said yet who it is.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(node, []).append(future)
        try:
            for path, _, _ in list(self._meeting_places.values()):
                await self._connect_all(path.parent)
            await asyncio.wait_for(future, KNOWS_TIMEOUT)
        except TimeoutError:
            pass
        finally:
            futures = self._awaited[node]
            futures.remove(future)
            if not futures:
                del self._awaited[node]
        return node in self.peers

    def remove_sign_of_life(self, node: str) -> None:
        """Nothing outlives a worker here: its connections are the sign that it lives."""

    def write_tally(self) -> None:
        """Write this worker's tally now."""
        if self.receiver is not None:
            self.tallies.write(self.receiver.tally(leaving=False), self.receiver.page_list())

    def identified(self, peer: LocalPeer, node: str) -> None:
        """Use a connection whose other end has said who it is."""
        self._unidentified.discard(peer)
        if node == self.node or self.receiver is None:
            peer.transport.close()
            return
        self.peers.setdefault(node, []).append(peer)
        if self.listens:
            peer.write(LISTEN)
        self.receiver.joined(node)
        for future in self._awaited.get(node, ()):
            if not future.done():
                future.set_result(None)

    def lost(self, peer: LocalPeer) -> None:
        """Learn that a connection has ended."""
        self._unidentified.discard(peer)
        peers = self.peers.get(peer.node or "", [])
        if peer in peers:
            peers.remove(peer)
            if not peers and peer.node is not None:
                del self.peers[peer.node]
                if self.receiver is not None:
                    self.receiver.left(peer.node)
        if self.receiver is not None and self._rescan is None and self._loop is not None:
            self._rescan = self._loop.call_later(RESCAN_AFTER, self._scan_again)

    def _send_heartbeat(self) -> None:
        """Write a new tally, which is this worker's sign of life, and do what is due with it."""
        if self.receiver is not None and self._loop is not None:
            self._heartbeat_timer = self._loop.call_later(self.heartbeat, self._send_heartbeat)
            self.write_tally()
            self.receiver.on_own_heartbeat()

    def _directories(self) -> list[Path]:
        return [path.parent for path, _, _ in self._meeting_places.values()]

    def _peer_ids(self) -> set[str]:
        """Return the workers that there is a connection to, those included that have not said who they are."""
        return set(self.peers) | {peer.expected for peer in self._unidentified if peer.expected is not None}

    def _bind(self, address: str) -> None:
        for _ in range(BIND_ATTEMPTS - 1):
            # The last worker of before removes the directory, which may be between the making of it and its use.
            with suppress(FileNotFoundError):
                return self._bind_in(meeting_directory(address, self._fleet), address)
        return self._bind_in(meeting_directory(address, self._fleet), address)

    def _bind_in(self, directory: Path, address: str) -> None:
        path = directory / self.node
        # Whoever sees a socket must be able to connect to it, or would take it for a dead worker's: it gets its name
        # only when it listens.
        unnamed = directory / f".{self.node}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            remove(unnamed)
            sock.bind(str(unnamed))
            sock.listen(1_024)
            unnamed.rename(path)
        except OSError:
            sock.close()
            remove(unnamed)
            raise
        self._meeting_places[address] = (path, sock, None)

    def _close_place(self, address: str) -> None:
        _, sock, server = self._meeting_places.pop(address)
        if server is not None:
            server.close()
        sock.close()

    async def _open(self, address: str) -> None:
        assert self._loop is not None
        path, sock, _ = self._meeting_places[address]
        server = await self._loop.create_unix_server(lambda: LocalPeer(self, None), sock=sock)
        if self.receiver is None or address not in self._meeting_places:
            server.close()
            return
        self._meeting_places[address] = (path, sock, server)
        found = await self._connect_all(path.parent)
        waited = 0.0
        while waited < HELLO_TIMEOUT and any(peer in self._unidentified for peer in found):
            await asyncio.sleep(0.005)
            waited += 0.005
        if address == self._first:
            await self.tallies.files.begin(alone=not (self.peers or self._unidentified))
        if len(self._opening) > 1:
            return  # the last one says it for all
        if self.receiver is not None:
            self.receiver.connectivity_changed(connected=True)
        if self.receiver is not None and self._unmet:
            # The workers that were met have been greeted; figures are partial without the others.
            self.receiver.connectivity_changed(connected=False)

    def _open_soon(self, address: str) -> None:
        task = self._run(self._open(address))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _opened(self) -> None:
        if self._opening:
            await asyncio.wait(self._opening)

    async def _connect_all(self, directory: Path) -> list[LocalPeer]:
        """Connect to every worker in a directory that there is no connection to yet."""
        assert self._loop is not None
        found: list[LocalPeer] = []
        try:
            names = os.listdir(directory)
        except OSError:
            return found
        for name in names:
            if name == self.node or not is_node_id(name) or name in self.peers:
                continue
            if any(peer.expected == name for peer in self._unidentified):
                continue
            path = directory / name
            try:
                _, protocol = await self._loop.create_unix_connection(lambda: LocalPeer(self, name), str(path))  # noqa: B023  called at once
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    remove(path)
                continue
            if protocol.dead:
                remove(path)
                continue
            found.append(protocol)
            if self.receiver is not None:
                self.receiver.joined(name)
        return found

    def connected(self, peer: LocalPeer) -> None:
        """Keep a connection whose other end has not said who it is."""
        self._unidentified.add(peer)

    def _scan_again(self) -> None:
        self._rescan = None
        for path, _, _ in self._meeting_places.values():
            self._run(self._rescan_directory(path.parent))

    async def _rescan_directory(self, directory: Path) -> None:
        await self._connect_all(directory)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop is not None
        return self._tasks.start(coroutine, self._loop)
