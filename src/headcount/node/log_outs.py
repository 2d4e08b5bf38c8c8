"""
Log-outs at the dashboard: they end its tickets on all nodes, and every right that stands on them.

Tests: tests/asgi/test_log_in.py, tests/fleet/backends/test_two_sites.py.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..authorization.tokens import Tickets
from ..core.ticket import EndedTicket
from ..fleet.membership import Membership
from ..loops import catch_up_with
from .fleet_commands import REVOKE_TIMEOUT
from .session import Session
from .viewers import Viewers


class LogOutHost(Protocol):
    """The node. Its membership is read each time, because a fork replaces it."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Open streams, and the tabs of shared ones, by public id."""

    @property
    def membership(self) -> Membership:
        """Its place in the fleet."""


class LogOuts:
    """
    Ends tickets.

    Args:
        host: The node.
        tickets: Of the dashboard.
        viewers: Have rights that may stand on one.
    """

    def __init__(self, host: LogOutHost, tickets: Tickets, viewers: Viewers) -> None:
        self._host = host
        self._viewers = viewers
        self.tickets = tickets

    def ended(self) -> tuple[EndedTicket, ...]:
        """Return all tickets that were ended and have not expired."""
        return self.tickets.ended()

    async def end(self, tickets: Iterable[EndedTicket]) -> None:
        """End tickets on all nodes. No figure follows from this node; the others have two seconds to follow."""
        ended = list(tickets)
        if await self.end_here(ended):
            await self._host.membership.remote.end_tickets(ended)

    async def end_here(self, tickets: Iterable[EndedTicket]) -> int:
        """
        End tickets, and the rights of this node that stand on them. No figure follows the return.

        Returns:
            How many were not ended before. Those that prove nothing are ignored.
        """
        new = self.tickets.end(tickets)
        nonces = [ticket.nonce.hex().encode() for ticket in new]
        withdrawn = [session for session in self._sessions_with(nonces) if self._viewers.revoke(session)] if new else []
        for loop in {session.loop for session in withdrawn}:
            # In another thread, that loop may just be sending what was chosen before.
            await catch_up_with(loop, REVOKE_TIMEOUT)
        return len(new)

    def _sessions_with(self, nonces: Iterable[bytes]) -> list[Session]:
        """Return the viewers, decided or not, that have one of these tickets. The token is checked before the hook."""
        subscriptions, pending = list(self._viewers.subscriptions.items()), list(self._viewers.pending.items())
        checks = [(name, subscription.check) for name, subscription in subscriptions]
        checks += [(name, subscription.check) for name, subscription in pending if subscription is not None]
        found = {name for name, check in checks if any(map(check.contains, nonces))}
        return [session for name in found if (session := self._host.sessions.get(name)) is not None]
