"""
What other nodes were told and a node may have missed: which version was declared current, which versions are known, and
which tickets log-outs ended.

Tests: tests/fleet/backends/test_conformance.py, tests/fleet/backends/test_two_sites.py.
"""

import random
from typing import Final, Protocol

from ..core import fleet_messages
from .calls import Calls
from .link import FleetLink
from .local_node import KnownState, LocalTickets, ReleaseState

FANOUT: Final = 3
"""Nodes that are asked at the same time, of which one is enough."""

MAX_ASKED: Final = 9
"""Nodes that are asked at most."""

TIMEOUT: Final = 2.0
"""Seconds in which they must answer."""


class Agreements(Protocol):
    """For how long all nodes have served the same version."""

    def note_joined(self, serves: str) -> None:
        """Note which version a node serves that has just joined. The lock is held."""

    def agreement(self) -> tuple[str, float]:
        """Return the version that all live nodes serve, empty if they differ, and for how many seconds they have."""

    def adopt_agreement(self, version: str, seconds: float) -> None:
        """Learn from another node for how long all have served a version."""


class StateExchange:
    """
    Compares releases, known versions and ended tickets with those of other nodes. In the backend's loop.

    Args:
        link: To the other nodes.
        calls: Questions to them.
        releases: Which version was declared current, as far as it is known here.
        tickets: Those that were ended, as far as is known here.
        known_versions: Which versions are known here.
        version: The version that this node serves.
        agreements: For how long all nodes have served the same version.
    """

    def __init__(
        self,
        link: FleetLink,
        calls: Calls,
        releases: ReleaseState,
        tickets: LocalTickets,
        known_versions: KnownState,
        version: str,
        agreements: Agreements,
    ) -> None:
        self._link = link
        self._calls = calls
        self._releases = releases
        self._tickets = tickets
        self._known_versions = known_versions
        self._version = version
        self._agreements = agreements

    def announce(self) -> None:
        """Say that this node is there, and ask what it may have missed. The lock is held."""
        self._link.announce(
            fleet_messages.Join(
                node=self._link.node,
                released=self._releases.released,
                serves=self._version,
                known=tuple(self._known_versions.known_versions),
            )
        )
        self.announce_ended()
        self._link.start_task(self.ask())

    def on_message(self, message: fleet_messages.FleetMessage) -> None:
        """Receive what a message says about versions. The lock is held."""
        if isinstance(message, fleet_messages.Report | fleet_messages.Join | fleet_messages.Interest):
            self.on_released(message.released)
            self._known_versions.learn_versions(message.known)
        if isinstance(message, fleet_messages.Report | fleet_messages.Join):
            self._known_versions.learn_versions((message.serves,))
            self._agreements.note_joined(message.serves)
        elif isinstance(message, fleet_messages.FlushRequest):
            self._known_versions.learn_versions(message.known)

    def on_released(self, released: fleet_messages.Declaration | None) -> None:
        """Receive the newest release that another node knows."""
        known = self._releases.released
        if released is not None and (known is None or known < released) and self._link.loop is not None:
            # Not in place: the node's lock is held, and what learns of a release takes others.
            self._link.loop.call_soon(self._releases.learn, released)

    def on_release_request(self, request: fleet_messages.ReleaseRequest) -> None:
        """Send another node the newest release that is known here."""
        agreed, seconds = self._agreements.agreement()
        self._link.send(
            request.node,
            fleet_messages.Answer(
                node=self._link.node,
                re=request.re,
                released=self._releases.released,
                ended=self._tickets.ended(),
                known=tuple(self._known_versions.known_versions),
                agreed=agreed,
                agreed_for=seconds,
            ),
        )

    def announce_ended(self) -> None:
        """Send all other nodes the tickets that are known to be ended: this node may have been out of touch."""
        if ended := self._tickets.ended():
            self._link.announce(fleet_messages.EndTickets(node=self._link.node, re=0, tickets=ended))

    async def keep(self) -> None:
        """Have the backend keep the newest release that is known here, unless it has that one or a newer one."""
        backend, known = self._link.backend, self._releases.released
        if backend is None or known is None:
            return
        data = await backend.tallies.kept_release()
        kept = None if data is None else fleet_messages.decode_declaration(data)
        if kept is None or kept < known:
            await backend.tallies.keep_release(fleet_messages.encode(known))

    async def ask(self) -> None:
        """Learn what the backend keeps and a few other nodes know, of whom one must answer. Then have it kept."""
        backend = self._link.backend
        data = None if backend is None else await backend.tallies.kept_release()
        if data is not None:
            self.on_released(fleet_messages.decode_declaration(data))
        await self._ask_others()
        await self.keep()

    async def _ask_others(self) -> None:
        others = await self._calls.other_nodes() or []
        random.shuffle(others)
        for begin in range(0, min(len(others), MAX_ASKED), FANOUT):
            answers = await self._calls.call_some(
                others[begin : begin + FANOUT],
                lambda re: fleet_messages.ReleaseRequest(node=self._link.node, re=re),
                TIMEOUT,
            )
            for answer in answers:
                self.on_released(answer.released)
                if answer.ended:
                    await self._tickets.end_here(answer.ended)
                self._known_versions.learn_versions(answer.known)
                self._agreements.adopt_agreement(answer.agreed, answer.agreed_for)
            if answers:
                return
