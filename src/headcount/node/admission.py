"""
Which streams a node admits, and how it turns the others away.

Tests: tests/asgi/test_streams.py, tests/asgi/test_abuse.py, tests/server/test_stopping.py.
"""

import random
from collections.abc import Callable
from typing import Any

from ..config import Config
from ..core.ends import FULL, GOING_AWAY, End
from .listening_sockets import Listener, Listeners, addresses_of


class Admission:
    """
    The listening sockets of a node, its limit, and whether it drains.

    Args:
        config: Checked settings.
        open_streams: Returns the number of streams that are open.
    """

    def __init__(self, config: Config, open_streams: Callable[[], int]) -> None:
        self.draining = False
        """The application drains all streams. A server that stops is known by its listener, which is closed."""
        self._limit = config.max_connections
        self._reconnect_spread = config.reconnect_spread
        self._open_streams = open_streams
        self._listeners = Listeners(config.peer_timeout)

    def find_listener(self, server: Any) -> Listener | None:
        """Return the listening socket behind an ASGI scope's `server` value, if it can be found."""
        return self._listeners.find(server)

    def addresses(self, server: Any) -> list[str]:
        """Return the addresses of the listening sockets behind an ASGI scope's `server` value."""
        return addresses_of(server)

    def is_stopping(self, listener: Listener | None) -> bool:
        """
        Say whether the server of a stream stops.

        Args:
            listener: The stream came in by it; None: not known, so any server of this process may be its own.
        """
        return self.draining or (self._listeners.any_closed() if listener is None else not listener.still_listens())

    def refusal(self, listener: Listener | None) -> End | None:
        """
        Say why a stream cannot be opened now.

        Args:
            listener: The stream came in by it, from `find_listener`; None: not known.

        Returns:
            `GOING_AWAY` or `FULL`; None: it is admitted.
        """
        if self.draining or (listener is not None and listener.closed):
            return GOING_AWAY
        if self._limit is not None and self._open_streams() >= self._limit:
            return FULL
        return None

    def going_away(self) -> End:
        """Make the end of one stream of a server that stops; each gets another delay."""
        return GOING_AWAY.after(self.reconnect_delay())

    def reconnect_delay(self) -> int:
        """Draw the delay after which one client should reconnect, in ms."""
        return round(random.uniform(0, self._reconnect_spread) * 1000)  # noqa: S311  not a secret
