"""
Tickets: a browser keeps one after a log-in with the admin token.

`<expires>.<nonce>.<hash>`, the hash keyed with the token. So the server remembers nothing, every worker and node with
the same token accepts every ticket, a new token ends them all, and a ticket does not reveal the token.
"""

from base64 import urlsafe_b64encode
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

LIFETIME: Final = 12 * 3600
"""Seconds that a ticket is good for: a working day."""

MAX_LENGTH: Final = 128
"""Characters; longer ones are none."""


def make(token: str, now: int, nonce: bytes) -> str:
    """Make a ticket. `now` in whole seconds since 1970, `nonce` 16 fresh random bytes."""
    signed = f"{now + LIFETIME}.{nonce.hex()}"
    return f"{signed}.{_mac(signed, token)}"


def is_good(ticket: str, token: str, now: float) -> bool:
    """Say whether a ticket was made with this token and has not expired. Takes the same time whatever the guess."""
    if len(ticket) > MAX_LENGTH:
        return False
    signed, _, mac = ticket.rpartition(".")
    if not compare_digest(mac.encode("utf-8", "surrogatepass"), _mac(signed, token).encode()):
        return False
    return now < int(signed.partition(".")[0])


def _mac(signed: str, token: str) -> str:
    # Hashed first: a token may be longer than a key can be.
    key = blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32, person=b"headcount ticket").digest()
    digest = blake2b(signed.encode("utf-8", "surrogatepass"), key=key, digest_size=24).digest()
    return urlsafe_b64encode(digest).decode("ascii")
