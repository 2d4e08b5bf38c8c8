"""
Secrets that a request may carry: tokens are compared here, and tickets are made, read and ended.

Wrong tokens are answered late, and right ones at once. That keeps honest mistakes apart from floods and floods out of
the log; it is not what protects a token. Who guesses on many connections is not slowed down by it, and what would slow
them down would lock out the owner of the right token. So a token has at least `MIN_SECRET` characters
(core/sealing.py): at 10,000 guesses a second, 16 random hexadecimal digits last for 29 million years on average. So
the workers of a fleet need not count failures together either, and no address of a visitor is kept.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from ..core import ticket
from ..core.ticket import EndedTicket, EndedTickets
from ..log_throttle import LogThrottle

logger = logging.getLogger("headcount")

TICKET_COOKIE: Final = "headcount_admin"
"""Set by `POST /log-in` on a page on http."""

SECURE_TICKET_COOKIE: Final = f"__Secure-{TICKET_COOKIE}"
"""
Set by `POST /log-in` on a page on https. Browsers accept this prefix over TLS only, and only with `Secure`. `__Host-`
would also require the path `/`, and would send the ticket to the whole site.
"""

DELAY: Final = 1.0
"""Seconds after which a wrong token is answered."""

MAX_WAITING: Final = 64
"""Wrong tokens that wait for their answer; further ones get 429 at once."""


def is_same(sent: bytes, secret: bytes) -> bool:
    """Compare a secret. The time it takes tells neither where they differ nor how long the secret is."""
    return compare_digest(sha256(sent).digest(), sha256(secret).digest())


# The same in every Headcount of a process, and in every test.
_derive_key = lru_cache(maxsize=64)(ticket.derive_key)


class Tickets:
    """
    The tickets of one application.

    Args:
        token: The admin token; None: there are no tickets.
        application: Tickets of another application are not accepted: the name of the fleet, or the base path.
    """

    def __init__(self, token: str | None, application: str) -> None:
        self._token = token
        self._application = application
        self._ended_tickets: EndedTickets | None = None
        self._lock = threading.Lock()

    def make(self) -> str:
        """Make a ticket. To be called with the right token in hand."""
        return ticket.make(self._key, int(time.time()), os.urandom(ticket.NONCE_BYTES))

    def read(self, cookies: Mapping[str, str]) -> list[EndedTicket]:
        """Return the good tickets among cookies, as what would end them."""
        if self._token is None:
            return []
        found = [cookies[name] for name in (SECURE_TICKET_COOKIE, TICKET_COOKIE) if name in cookies]
        good = [ticket.read(text, self._key, time.time()) for text in found]
        return [each for each in good if each is not None and each not in self._ended]

    def end(self, tickets: Iterable[EndedTicket]) -> list[EndedTicket]:
        """End tickets, here alone. Those that prove nothing are ignored. Returns those that were not ended before."""
        if self._token is None:
            return []
        with self._lock:
            return self._ended.add(tickets, time.time())

    def has_ended(self, nonce: str) -> bool:
        """Say whether the ticket with this nonce, in hexadecimal digits, was ended."""
        return self._ended_tickets is not None and self._ended_tickets.has(nonce)

    def ended(self) -> tuple[EndedTicket, ...]:
        """Return all tickets that were ended and have not expired."""
        return () if self._ended_tickets is None else self._ended_tickets.all()

    @property
    def _key(self) -> bytes:
        # When it is first needed: programs with the token itself need none, and it takes 60 ms.
        assert self._token is not None
        return _derive_key(self._token, self._application)

    @property
    def _ended(self) -> EndedTickets:
        if self._ended_tickets is None:
            self._ended_tickets = EndedTickets(self._key)
        return self._ended_tickets


class WrongTokens:
    """Answers wrong tokens late, and logs them."""

    def __init__(self) -> None:
        self._waiting = 0
        self._log_throttle = LogThrottle()

    def note(self) -> None:
        """Log that a token was wrong. What it was is written nowhere."""
        if (suppressed := self._log_throttle.suffix_if_due("wrong")) is not None:
            logger.warning(
                "A request with a wrong token was refused. If a program of yours makes it, check its token.%s",
                suppressed,
            )

    async def hold_back(self) -> bool:
        """Wait before a wrong token is answered. Returns False, at once, if too many wait already."""
        if self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            await asyncio.sleep(DELAY)
        finally:
            self._waiting -= 1
        return True
