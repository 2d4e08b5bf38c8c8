"""
The checks of rights that the owners of connections will ask this node for.

Tests: tests/fleet/backends/test_two_sites.py.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from ..authorization.authorizer import AuthorizationCheck

MAX_PENDING: Final = 256
"""Requests to watch that came here for connections of other nodes, and are not decided yet."""


class _Pending(NamedTuple):
    owner: str
    make_check: Callable[[], AuthorizationCheck]


class PendingChecks:
    """Checks for connections of other nodes, by the number of the `Subscribe` that went to the owner. Bounded."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}

    def add(self, number: int, owner: str, make_check: Callable[[], AuthorizationCheck]) -> None:
        """Remember how to check the request, until its owner asks for it. The oldest gives way."""
        while len(self._pending) >= MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        self._pending[number] = _Pending(owner, make_check)

    def pop(self, number: int, owner: str) -> AuthorizationCheck | None:
        """Return the check for a request that went to this owner, once; None: there is none."""
        pending = self._pending.get(number)
        if pending is None or pending.owner != owner:
            return None
        del self._pending[number]
        return pending.make_check()

    def discard(self, number: int) -> None:
        """Forget a request."""
        self._pending.pop(number, None)
