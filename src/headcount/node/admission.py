"""
Which streams a node admits, and how it turns the others away.

Tests: tests/asgi/test_streams.py, tests/asgi/test_abuse.py, tests/server/test_stopping.py.
"""

import random
from collections.abc import Callable
from typing import Any

from ..config import Config
from ..core.ends import FULL, FULL_ADDRESS, GOING_AWAY, TOO_MANY_OPENS, End
from .address_limit import AddressLimit
from .listening_sockets import Listener, Listeners, addresses_of


class Admission:
    """
    The listening sockets of a node, its limits, and whether it drains.

    Args:
        config: Checked settings.
        clock: Monotonic seconds.
        load: Returns the number of connections that are open, tabs that share a stream included.
    """

    def __init__(self, config: Config, clock: Callable[[], float], load: Callable[[], int]) -> None:
        self.draining = False
        """The application drains all streams. A server that stops is known by its listener, which is closed."""
        self._limit = config.max_connections
        self._reconnect_spread = config.reconnect_spread
        self._load = load
        self._clock = clock
        self._rate = config.max_opens_per_second
        self._opens_left = float(self._rate or 0)
        """A token bucket that holds what may be opened in one second."""
        self._filled = clock()
        limit = config.max_connections_per_address
        self.by_address = None if limit is None else AddressLimit(limit)
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

    def refusal(self, listener: Listener | None, address: bytes | None = None) -> End | None:
        """
        Say why a stream cannot be opened now.

        Args:
            listener: The stream came in by it, from `find_listener`; None: not known.
            address: What stands for the client's address; None: it is not limited.

        Returns:
            `GOING_AWAY` or one of `REFUSALS`; None: it is admitted.
        """
        if self.draining or (listener is not None and listener.closed):
            return GOING_AWAY
        if self._limit is not None and self._load() >= self._limit:
            return FULL
        if address is not None and self.by_address is not None and self.by_address.is_full(address):
            return FULL_ADDRESS
        if self._rate is not None and not self._may_open(1):
            return TOO_MANY_OPENS
        return None

    def tabs_refusal(self, stream_id: str, tabs: int, new: int) -> End | None:
        """
        Say why tabs cannot be added to a stream that they share.

        Args:
            stream_id: Its id.
            tabs: How many it has.
            new: How many would come.

        Returns:
            One of `REFUSALS`; None: they are admitted.
        """
        more = new if tabs else new - 1  # the stream itself counts as one until it has a tab
        if more > 0 and self._limit is not None and self._load() + more > self._limit:
            return FULL
        if new > 0 and self.by_address is not None and not self.by_address.has_room(stream_id, new):
            return FULL_ADDRESS
        if more > 0 and self._rate is not None and not self._may_open(more):
            return TOO_MANY_OPENS
        return None

    def _may_open(self, number: int) -> bool:
        assert self._rate is not None
        now = self._clock()
        self._opens_left = min(self._rate, self._opens_left + max(0.0, now - self._filled) * self._rate)
        self._filled = now
        if self._opens_left < min(number, self._rate):
            return False
        self._opens_left -= number  # below 0 for a report of more tabs than may be opened in a second
        return True

    def going_away(self) -> End:
        """Make the end of one stream of a server that stops; each gets another delay."""
        return GOING_AWAY.after(self.reconnect_delay())

    def reconnect_delay(self) -> int:
        """Draw the delay after which one client should reconnect, in ms."""
        return round(random.uniform(0, self._reconnect_spread) * 1000)  # noqa: S311  not a secret
