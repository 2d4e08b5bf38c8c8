"""
A node's place in its fleet: which backend it joins, and when it joins and leaves.

Tests: tests/server/test_workers.py, tests/fleet/backends/test_two_sites.py.
"""

import logging
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..config import without_password
from ..errors import ConfigError
from .calls import CommandHandler
from .command_handlers import CommandHandlers
from .local_node import ListeningSocket, LocalNode
from .no_fleet import NoFleet
from .remote_commands import PendingChecks, RemoteCommands
from .view import FleetView

if TYPE_CHECKING:
    from .backends.local import LocalBackend

LISTENER_INTERVAL: Final = 0.05
"""Seconds between two looks at the listening socket while there is no page."""

logger = logging.getLogger("headcount")


class Membership:
    """
    Joins the fleet by the first request, and leaves it when the process ends.

    Args:
        node: This node.
        make_view: Makes the node's view of the fleet, when there are other nodes.
    """

    def __init__(self, node: LocalNode, make_view: Callable[[CommandHandler], FleetView]) -> None:
        self.view: FleetView | NoFleet = NoFleet()
        """The fleet as this node sees it."""
        self.among_workers = False
        """The starter of this process says that it is one of several workers, should that not be visible."""
        self._node = node
        self._make_view = make_view
        pending = PendingChecks()
        self.remote = RemoteCommands(node, node.config.authorize_timeout, pending)
        """What other nodes do for this one."""
        self._handlers = CommandHandlers(node, self.remote, pending, node.check_from_description)
        self._seen: dict[Any, ListeningSocket | None] = {}
        """`server` values of the requests so far, and the listening socket that was found behind each."""
        backend = node.config.backend
        self._single = backend == "memory" or not node.config.connection_tracking
        if not self._single and backend not in ("auto", "local"):
            # Now, not at the first request: a server with a wrong setting should not start.
            try:
                from .backends.redis_address import check
            except ImportError:
                raise ConfigError("The backend needs redis; run: pip install 'headcount[redis]'") from None
            check(backend, without_password(backend))

    def join(self, server: Any) -> None:
        """
        Find the other nodes, by the first request that shows where this process listens. In the request's loop.

        Args:
            server: The ASGI scope's value.
        """
        if self._single:
            return
        key = tuple(server) if server else None
        loop_closed = isinstance(self.view, FleetView) and self.view.loop is not None and self.view.loop.is_closed()
        if key in self._seen and not loop_closed and (self.view.active or not self._listens_anew(key)):
            return
        if loop_closed:
            self._seen.clear()
        self._seen[key] = self._node.admission.adopt(key)
        if self._node.config.backend in ("auto", "local"):
            self._join_workers(self._node.admission.addresses(key) if key is not None else [])
        elif not self.view.active:
            self._join_redis()

    async def leave(self) -> None:
        """Leave the fleet."""
        await self.view.leave()

    def leave_if_ending(self) -> None:
        """Leave the fleet, now that there is no stream, if the process is about to end. Does not wait for it."""
        if self.view.active and self._is_ending():
            self.view.leave_soon()

    def _join_workers(self, addresses: list[str]) -> None:
        """Meet the workers that listen on the same addresses, in the running loop."""
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
                backend = LocalBackend(self._node.id, name, addresses[0])
                view.start(backend)
                self._node.use(view)
            for address in addresses:
                view.channel.call(partial(self._meet, backend, address))
        except OSError as error:
            self._cannot_meet(error)

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
                self._set_view(NoFleet())
                self._node.use(None)
            return False
        logger.error(
            "Fleet: the workers of this machine cannot find one another, so each counts its own pages only and marks "
            "its figures partial: %s. Give them a directory that they share, by XDG_RUNTIME_DIR or TMPDIR; or set "
            "backend='redis://…'; or, if there is only one worker, backend='memory'.",
            error,
        )
        view = self._ensure_view()
        view.cut_off()
        self._node.use(view)
        return True

    def _join_redis(self) -> None:
        from .backends.redis import RedisBackend

        config = self._node.config
        view = self._ensure_view()
        view.start(RedisBackend(self._node.id, config.backend, self._fleet_name, without_password(config.backend)))
        self._node.use(view)
        self._watch_listener()

    @property
    def _fleet_name(self) -> str:
        return self._node.config.fleet_name or self._node.config.base_path

    def _ensure_view(self) -> FleetView:
        if isinstance(self.view, FleetView):
            return self.view
        view = self._make_view(self._handlers.handle_command)
        self._set_view(view)
        return view

    def _set_view(self, view: FleetView | NoFleet) -> None:
        self.view = view
        self.remote.calls = view.calls

    def _is_ending(self) -> bool:
        """Say whether no server of this process accepts connections any more."""
        if self._node.admission.draining:
            return True
        # Asked anew: a server may have been started again at the address of one that stopped.
        listeners = [each for each in map(self._node.admission.adopt, list(self._seen)) if each is not None]
        return bool(listeners) and not any(each.open for each in listeners)

    def _listens_anew(self, key: Any) -> bool:
        """Say whether another server listens where the one did that this node left the fleet with."""
        listener = self._node.admission.adopt(key)
        return listener is not None and listener is not self._seen[key] and not self._node.admission.draining

    def _watch_listener(self) -> None:
        # With pages, their timers notice. Without any, a server that stops gives no sign, and a tenth of a second.
        if not isinstance(self.view, FleetView) or not self.view.active or self.view.loop is None:
            return
        if not self._node.sessions:
            self.leave_if_ending()
        self.view.loop.call_later(LISTENER_INTERVAL, self._watch_listener)


def several_workers() -> bool:
    """Say whether this process is visibly one of several workers."""
    concurrency = os.environ.get("WEB_CONCURRENCY", "")
    return (
        multiprocessing.parent_process() is not None
        or (concurrency.isdecimal() and int(concurrency) > 1)
        or os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
        or "gunicorn.arbiter" in sys.modules
    )
