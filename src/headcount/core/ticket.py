"""
Tickets: a browser keeps one after a log-in with the admin token, until it expires or a log-out ends it.

`<expires>.<nonce>.<hash>`, the hash keyed with a key that is derived from the token and from the name of the
application. So the server remembers no ticket that is good: every worker and node of the application accepts every
ticket, a new token ends them all, and a ticket neither reveals the token nor is good in another application.

A ticket that was ended is remembered until it would have expired, by its nonce. Nodes prove to one another by a second
hash that they had the ticket, and do not send the ticket itself: whoever listens to them cannot use it.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b, scrypt
from hmac import compare_digest
from typing import Annotated, Final

import msgspec

LIFETIME: Final = 12 * 3600
"""Seconds that a ticket is good for: a working day."""

MAX_LENGTH: Final = 128
"""Characters; longer ones are none."""

NONCE_BYTES: Final = 16

MAX_ENDED: Final = 4_096
"""Log-outs of `LIFETIME` that are remembered. Only whoever knows the token can make tickets to end."""

_CLOCK_SKEW: Final = 3_600
"""Seconds by which the clock of another node may be ahead."""

_MAC_BYTES: Final = 24


class EndedTicket(msgspec.Struct, frozen=True):
    """A ticket that a log-out ended. `proof` is made with the key of the tickets, so only its owners can make one."""

    expires: Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    proof: Annotated[bytes, msgspec.Meta(min_length=_MAC_BYTES, max_length=_MAC_BYTES)]


def derive_key(token: str, application: str) -> bytes:
    """
    Derive the key of an application's tickets. Takes about 60 ms and 16 MiB, on purpose.

    Tickets lie in browsers, and a stolen one can be used to try tokens without asking the server. A random token cannot
    be found that way; for one that a person thought up, each try costs as much as this.
    """
    salt = b"headcount ticket\0" + application.encode("utf-8", "surrogatepass")
    return scrypt(token.encode("utf-8", "surrogatepass"), salt=salt, n=2**14, r=8, p=1, dklen=32)


def make(key: bytes, now: int, nonce: bytes) -> str:
    """Make a ticket. `now` in whole seconds since 1970, `nonce` 16 fresh random bytes."""
    signed = f"{now + LIFETIME}.{nonce.hex()}"
    return f"{signed}.{_text(_mac(signed, key))}"


def read(ticket: str, key: bytes, now: float) -> EndedTicket | None:
    """
    Read a ticket. Takes the same time whatever the guess.

    Returns:
        What would end it; None: it was not made with this key, or has expired.
    """
    if len(ticket) > MAX_LENGTH:
        return None
    signed, _, mac = ticket.rpartition(".")
    if not compare_digest(mac.encode("utf-8", "surrogatepass"), _text(_mac(signed, key)).encode()):
        return None
    expires, _, nonce = signed.partition(".")
    if now >= int(expires):
        return None
    return EndedTicket(int(expires), bytes.fromhex(nonce), _proof(int(expires), bytes.fromhex(nonce), key))


class EndedTickets:
    """
    The tickets that log-outs ended, until they would have expired. At most `MAX_ENDED`.

    Args:
        key: Of the tickets.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._ended: dict[bytes, EndedTicket] = {}
        """By nonce."""

    def __contains__(self, ticket: EndedTicket) -> bool:
        """Say whether a ticket was ended."""
        return ticket.nonce in self._ended

    def has(self, nonce: str) -> bool:
        """Say whether the ticket with this nonce, in hexadecimal digits, was ended."""
        try:
            return bytes.fromhex(nonce) in self._ended
        except ValueError:  # no nonce that a node makes
            return False

    def add(self, tickets: Iterable[EndedTicket], now: float) -> list[EndedTicket]:
        """
        Add tickets. Those that are not proved, known already or expired are ignored.

        Returns:
            Those that are new.
        """
        new = [ticket for ticket in tickets if ticket.nonce not in self._ended and self._is_proved(ticket, now)]
        if new:
            self._ended = {nonce: ticket for nonce, ticket in self._ended.items() if ticket.expires > now}
            self._ended.update((ticket.nonce, ticket) for ticket in new)
            if len(self._ended) > MAX_ENDED:
                newest = sorted(self._ended.values(), key=lambda ticket: ticket.expires)[-MAX_ENDED:]
                self._ended = {ticket.nonce: ticket for ticket in newest}
        return new

    def all(self) -> tuple[EndedTicket, ...]:
        """Return all of them."""
        return tuple(self._ended.values())

    def _is_proved(self, ticket: EndedTicket, now: float) -> bool:
        if not now < ticket.expires <= now + LIFETIME + _CLOCK_SKEW:
            return False
        return compare_digest(ticket.proof, _proof(ticket.expires, ticket.nonce, self._key))


def _mac(signed: str, key: bytes) -> bytes:
    return blake2b(signed.encode("utf-8", "surrogatepass"), key=key, digest_size=_MAC_BYTES).digest()


def _proof(expires: int, nonce: bytes, key: bytes) -> bytes:
    return _mac(f"ended {expires}.{nonce.hex()}", key)


def _text(mac: bytes) -> str:
    return urlsafe_b64encode(mac).decode("ascii")
