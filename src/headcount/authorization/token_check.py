"""
The right of a viewer whom the admin token authorised at another node: the verdict travels, and the token does not.

The other node says that the request had the token, or a ticket that was made with it, and until when that ticket is
good. What it says names the token by a fingerprint, so a node whose token is another one denies.

Tests: tests/authorization/test_token_check.py, tests/fleet/backends/test_two_sites.py.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import HTTPConnection

from ..core import sealing, ticket
from .authorizer import Authorizer, Grant
from .tokens import SECURE_TICKET_COOKIE, TICKET_COOKIE

_TICKET: Final = TICKET_COOKIE.encode()
_NAMES: Final = (_TICKET, SECURE_TICKET_COOKIE.encode())


class TokenVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one node tells another about a request that the admin token authorised."""

    fingerprint: bytes
    """Of the token."""
    expires: int = 0
    """When the ticket ends, in seconds since 1970; 0: the request had the token itself."""
    nonce: str = ""
    """Of the ticket, in hexadecimal digits."""


def verdict_of(authorizer: Authorizer, headers: list[tuple[bytes, bytes]]) -> TokenVerdict | None:
    """Return the verdict on a request that has the admin token or a ticket; None: it has neither."""
    request = HTTPConnection({"type": "http", "headers": headers})
    token = authorizer.token
    if token is None or not authorizer.has_token(request):
        return None
    bearer = HTTPConnection({"type": "http", "headers": [line for line in headers if line[0] != b"cookie"]})
    if authorizer.tickets is None or authorizer.has_token(bearer):
        return TokenVerdict(_fingerprint(token))
    last = max(authorizer.tickets.read(request.cookies), key=lambda each: each.expires, default=None)
    return None if last is None else TokenVerdict(_fingerprint(token), last.expires, last.nonce.hex())


def without_ticket(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without the cookie of a ticket: it did not authorise the request, and may be good elsewhere."""
    found = []
    for name, value in headers:
        kept = value
        if name == b"cookie" and _TICKET in value:
            parts = value.split(b";")
            kept = b";".join(part for part in parts if part.partition(b"=")[0].strip() not in _NAMES).strip()
        if kept or not value:
            found.append((name, kept))
    return found


class TokenCheck:
    """
    Checks again what another node has checked; an `AuthorizationCheck`.

    Args:
        authorizer: Knows the admin token.
        verdict: The other node's.
        clock: Seconds since 1970.
    """

    def __init__(self, authorizer: Authorizer, verdict: TokenVerdict, clock: Callable[[], float] = time.time) -> None:
        self._authorizer = authorizer
        self._verdict = verdict
        self._clock = clock

    async def __call__(self) -> Grant | None:
        """Return what the token allows; None: the ticket has expired or was ended, or the token is another one here."""
        token, verdict = self._authorizer.token, self._verdict
        if token is None or verdict.fingerprint != _fingerprint(token):
            return None
        if verdict.expires and not self._clock() < verdict.expires <= self._clock() + ticket.LIFETIME:
            return None
        if verdict.nonce and self._authorizer.tickets is not None and self._authorizer.tickets.has_ended(verdict.nonce):
            return None
        return Grant(release=True)

    def contains(self, nonce: bytes) -> bool:
        """Say whether the right stands on the ticket with this nonce, which is in hexadecimal digits."""
        return self._verdict.nonce.encode() == nonce

    def visitor(self) -> tuple[bytes, str]:
        """Return the fingerprint of the token in place of the token."""
        return self._verdict.fingerprint, ""

    def question(self) -> TokenVerdict:
        """Return the verdict: it is all that is known."""
        return self._verdict

    def describe(self) -> dict[str, Any] | None:
        """Return nothing: a verdict is handed on once."""
        return None


def check_from_verdict(authorizer: Authorizer, described: Mapping[str, Any]) -> TokenCheck | None:
    """Make the check of a request that another node described by a verdict. None: the description is malformed."""
    try:
        return TokenCheck(authorizer, msgspec.convert(described, TokenVerdict))
    except msgspec.ValidationError:
        return None


def _fingerprint(token: str) -> bytes:
    return sealing.derive(token, "admin token").fingerprint
