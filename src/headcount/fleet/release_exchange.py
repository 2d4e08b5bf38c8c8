"""
Which version was declared current, learnt from other nodes by a node that may have missed it.

Tests: tests/fleet/backends/test_conformance.py, tests/fleet/backends/test_two_sites.py.
"""

import random
from typing import Final

from ..core import fleet_messages
from .calls import Calls
from .link import FleetLink
from .local_node import ReleaseState

FANOUT: Final = 3
"""Nodes that are asked at the same time, of which one is enough."""

MAX_ASKED: Final = 9
"""Nodes that are asked at most."""

TIMEOUT: Final = 2.0
"""Seconds in which they must answer."""


class ReleaseExchange:
    """
    Compares the newest release that is known here with that of other nodes. In the backend's loop.

    Args:
        link: To the other nodes.
        calls: Questions to them.
        releases: What is known here.
    """

    def __init__(self, link: FleetLink, calls: Calls, releases: ReleaseState) -> None:
        self._link = link
        self._calls = calls
        self._releases = releases

    def on_released(self, released: fleet_messages.Released | None) -> None:
        """Receive the newest release that another node knows."""
        known = self._releases.released
        if released is not None and (known is None or known < released) and self._link.loop is not None:
            # Not in place: the node's lock is held, and what learns of a release takes others.
            self._link.loop.call_soon(self._releases.learn, released)

    def on_release_request(self, request: fleet_messages.ReleaseRequest) -> None:
        """Send another node the newest release that is known here."""
        self._link.send(
            request.node,
            fleet_messages.Answer(node=self._link.node, re=request.re, released=self._releases.released),
        )

    async def ask(self) -> None:
        """Ask a few other nodes, until one answers."""
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
            if answers:
                return
