"""
A node's place in its fleet: which backend it joins, and when it joins and leaves.

Tests: tests/server/test_workers.py, tests/fleet/backends/test_two_sites.py.
"""

import logging
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..config import without_password
from ..errors import ConfigError
from .border import border_of
from .calls import NotJoined
from .local_node import ListeningSocket, LocalListing, LocalNode, LocalSockets
from .no_fleet import NoFleet
from .node_view import NodeView
from .remote_commands import RemoteCommands
from .view import FleetView

if TYPE_CHECKING:
    from .backends.local import LocalBackend

LISTENER_INTERVAL: Final = 0.05
"""Seconds between two checks of the listening socket while there is no page."""

RETRY_AFTER: Final = 1.0
"""Seconds after which a node that could not meet the other workers tries again, with the next request; then twice as
many each time, because a try looks at all open files."""

logger = logging.getLogger("headcount")


class Membership:
    """
    Joins the fleet by the first request, and leaves it when the process ends.

    Args:
        node: This node.
        sockets: Where this process listens.
        listing: The node's connections as pages.
        make_view: Makes the node's view of the fleet, when there are other nodes.
        refresh_departed: Lets the registry say which pages of this node may come back. The lock is held.
    """

    def __init__(
        self,
        node: LocalNode,
        sockets: LocalSockets,
        listing: LocalListing,
        make_view: Callable[[], FleetView],
        refresh_departed: Callable[[], None],
    ) -> None:
        self.view: NodeView = NoFleet(refresh_departed)
        """The fleet as this node sees it."""
        self.among_workers = False
        """The starter of this process says that it is one of several workers, should that not be visible."""
        self._listener_checks: object = None
        """Identifies the running series of listener checks; a new join replaces it."""
        self._node = node
        self._sockets = sockets
        self._make_view = make_view
        self._refresh_departed = refresh_departed
        self.remote = RemoteCommands(node.id, listing, node.config.authorize_timeout)
        """What other nodes do for this one."""
        self._seen: dict[Any, ListeningSocket | None] = {}
        """`server` values of the requests so far, and the listening socket that was found behind each."""
        self._lock = threading.Lock()
        """Held by the request that joins: others may come at the same time, in other loops."""
        self._retry_at: float | None = None
        """When to try again to meet the other workers; None: they were met, or nobody has tried."""
        self._retry_after = RETRY_AFTER
        backend = node.config.backend
        self._single = backend == "memory" or not node.config.connection_tracking
        if not self._single and backend not in ("auto", "local"):
            # Now, not at the first request: a server with a wrong setting should not start.
            try:
                from .backends.redis_address import check
            except ImportError:
                raise ConfigError("The backend needs redis; run: pip install 'headcount[redis]'") from None
            check(backend, without_password(backend))
        if not self._single and (backend != "auto" or several_workers()):
            self.remote.calls = NotJoined()

    @property
    def join_pending(self) -> bool:
        """There are other nodes, and no request has shown yet how to join them."""
        return isinstance(self.remote.calls, NotJoined)

    def join(self, server: Any) -> None:
        """
        Find the other nodes, by the first request that shows where this process listens. In the request's loop.

        Args:
            server: The ASGI scope's value.
        """
        if self._single:
            return
        key = tuple(server or ())
        if (key in self._seen and self.view.active) or self._nothing_to_do(key):
            return
        with self._lock:
            if not self._nothing_to_do(key):
                self._join(key)

    def _nothing_to_do(self, key: Any) -> bool:
        """Say whether a request that came in by this address changes nothing about this node's place in the fleet."""
        if key not in self._seen or self._loop_closed():
            return False
        if self.view.active:
            return True
        if self._retry_at is not None and self._node.clock() >= self._retry_at:
            return False
        return not self._listens_anew(key)

    def _loop_closed(self) -> bool:
        return self.view.loop is not None and self.view.loop.is_closed()

    def _join(self, key: Any) -> None:
        if self._loop_closed():
            self._seen.clear()
        listener = self._sockets.find_listener(key)
        if self._node.config.backend in ("auto", "local"):
            self._join_workers(self._sockets.addresses(key))
        elif not self.view.active:
            self._join_redis()
        self._seen[key] = listener  # last: who comes meanwhile waits until this node has joined

    async def leave(self) -> None:
        """Leave the fleet."""
        await self.view.leave()

    def leave_if_ending(self) -> None:
        """Leave the fleet, now that there is no stream, if the process is about to end. Does not wait for it."""
        if self.view.active and self._is_ending():
            self.view.leave_soon()

    def _join_workers(self, addresses: list[str]) -> None:
        """Meet the workers that listen on the same addresses, in the running loop."""
        from .backends.history_folder import HistoryFolder
        from .backends.local import LocalBackend

        try:
            if not addresses:
                if self.view.active:
                    return  # it met the others at another address; perhaps a proxy made this one up
                raise OSError("the listening socket of this process could not be found")
            if not hasattr(socket, "AF_UNIX"):
                raise OSError("this system has no Unix sockets")
            view = self._ensure_view()
            backend = view.backend
            if not view.active or not isinstance(backend, LocalBackend):
                # The same code makes the same objects in the same order in every worker.
                name = f"{self._fleet_name}\n{self._node.ordinal}"
                state_file = self._node.config.state_file
                copy = None if state_file is None else HistoryFolder(state_file)
                backend = LocalBackend(self._node.id, name, addresses[0], history_copy=copy)
                view.start(backend)
                self._node.use_figures(view)
            self._retry_at, self._retry_after = None, RETRY_AFTER
            for address in addresses:
                view.link.call(partial(self._meet, backend, address))
        except OSError as error:
            self._cannot_meet(error)
            self._retry_at = self._node.clock() + self._retry_after
            self._retry_after *= 2

    def _meet(self, backend: "LocalBackend", address: str) -> None:
        """Meet the workers of another address, in the backend's loop."""
        try:
            backend.meet(address)
        except OSError as error:
            if self._cannot_meet(error):
                backend.meet_later(address)

    def _cannot_meet(self, error: OSError) -> bool:
        """Mark the figures partial if other workers may be missing from them. Returns whether they may."""
        if self._node.config.backend != "local" and not (self.among_workers or several_workers()):
            logger.debug("Fleet: not looking for other workers: %s", error)
            if isinstance(self.view, FleetView) and not self.view.active:
                self.view.abandon()
                self._set_view(NoFleet(self._refresh_departed))
                self._node.use_figures(None)
            return False
        if self._retry_at is None:  # else that was said at the first try
            logger.error(
                "Fleet: the workers of this machine cannot find one another (%s), so each counts only its own pages "
                "and marks its figures partial. Give them a directory that they share, by XDG_RUNTIME_DIR or TMPDIR; "
                "or set backend='redis://…'; or, if there is only one worker, backend='memory'.",
                error,
            )
        view = self._ensure_view()
        view.mark_disconnected()
        self._node.use_figures(view)
        return True

    def _join_redis(self) -> None:
        from .backends.redis import RedisBackend
        from .backends.redis_address import channel_prefix

        config, name = self._node.config, self._fleet_name
        view = self._ensure_view()
        prefix = channel_prefix(config.backend, name)
        border = border_of(name, prefix, self._node.id, config.fleet_secret, config.admin_token)
        shown = without_password(config.backend)
        view.start(RedisBackend(self._node.id, config.backend, name, shown, border=border), border)
        self._node.use_figures(view)
        self._listener_checks = object()
        self._check_listener(self._listener_checks)

    @property
    def _fleet_name(self) -> str:
        return self._node.config.fleet_name or self._node.config.base_path

    def _ensure_view(self) -> FleetView:
        if isinstance(self.view, FleetView):
            return self.view
        view = self._make_view()
        self._set_view(view)
        return view

    def _set_view(self, view: NodeView) -> None:
        self.view = view
        self.remote.calls = view.calls

    def _is_ending(self) -> bool:
        """Say whether no server of this process accepts connections any more."""
        if self._sockets.draining:
            return True
        # Asked anew: a server may have been started again at the address of one that stopped.
        listeners = [each for each in map(self._sockets.find_listener, list(self._seen)) if each is not None]
        return bool(listeners) and not any(each.still_listens() for each in listeners)

    def _listens_anew(self, key: Any) -> bool:
        """Say whether a new server listens at the address of the one that stopped when this node left the fleet."""
        listener = self._sockets.find_listener(key)
        return listener is not None and listener is not self._seen[key] and not self._sockets.draining

    def _check_listener(self, series: object) -> None:
        # While pages are open, their timers notice that the server stops. Without pages nothing says so, and the
        # process ends a tenth of a second later.
        if not self.view.active or self.view.loop is None:
            return
        if series is not self._listener_checks:
            return
        if self._node.is_idle:
            self.leave_if_ending()
        self.view.loop.call_later(LISTENER_INTERVAL, self._check_listener, series)


def several_workers() -> bool:
    """Say whether this process is visibly one of several workers."""
    concurrency = os.environ.get("WEB_CONCURRENCY", "")
    return (
        multiprocessing.parent_process() is not None
        or (concurrency.isdecimal() and int(concurrency) > 1)
        or os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
        or "gunicorn.arbiter" in sys.modules
    )
