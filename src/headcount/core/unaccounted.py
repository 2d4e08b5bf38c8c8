"""
Which connections are unaccounted for: those of nodes that are gone, and have not come back yet.

    claims    what this node knows by itself: a node fell silent, the connection to a worker ended, a leave message came
    board     what the backend's store says (core/tallies.py), when it was read last

A claim bridges the time until the store has been asked, so that a figure never goes down without a word. The store then
decides, because it knows of pages that came back elsewhere, and of what happened before this node came. A claim about a
node that the store does not know (it was emptied, or the node wrote no tally) stands until the grace is over.

Time is an argument, in seconds of the caller's own clock.

Tests: tests/core/test_fleet_figures.py.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from .liveness import MAX_NODES
from .stats import ENDED_STATES, Absence, AbsenceState
from .tallies import limited

_SAME: Final = 2_000
"""Milliseconds by which two readings of the store may differ about the same moment."""


class _Claim(NamedTuple):
    absence: Absence
    made: float
    ends: float


class StoredAbsence(NamedTuple):
    """What the store says of one node."""

    absence: Absence | None
    """What is unaccounted for; None: nothing."""
    remaining: float
    """Seconds for which it is, if nothing happens."""
    has_heartbeat: bool = False
    """The node's sign of life has not expired."""
    serves: str = ""
    """The version that the node serves; empty: it has not said."""


class Unaccounted:
    """
    The absences as one node knows them. Not thread-safe.

    Args:
        grace: Seconds after which connections of a node that vanished count as gone.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._claims: dict[str, _Claim] = {}
        self._board: dict[str, _Claim] = {}

    def __bool__(self) -> bool:
        return bool(self._claims or self._board)

    def vanished(self, node: str, versions: Mapping[str, int] | None, now: float, heard: float, wall: int) -> None:
        """
        Note that a node is gone without a word.

        Args:
            node: Its id.
            versions: Its connections by version; None: they are not known.
            now: Seconds.
            heard: When it was heard last.
            wall: The same in ms since 1970.
        """
        self._claim(node, versions, "vanished", now, heard + self._grace, wall)

    def cut_off(self, node: str, versions: Mapping[str, int] | None, now: float, wall: int) -> None:
        """Note that a node is silent and known to live. See `vanished`."""
        self._claim(node, versions, "cut-off", now, float("inf"), wall)

    def note_leave(
        self,
        node: str,
        departed: Mapping[str, int],
        transit: float,
        now: float,
        wall: int,
        state: AbsenceState = "leaving",
    ) -> None:
        """Note that a node left properly, or ended streams, and that its pages may come back for `transit` seconds."""
        self.end_absence(node)
        if any(departed.values()) and transit > 0:
            self._claim(node, departed, state, now, now + transit, wall)

    def end_absence(self, node: str) -> None:
        """End the claims about a node: it lives, or it is gone for certain."""
        self._claims.pop(node, None)
        self._board.pop(node, None)

    def apply_tallies(self, found: Mapping[str, StoredAbsence], asked: float) -> None:
        """
        Replace the board by what follows from the tallies in the store.

        Args:
            found: What is unaccounted for of each node that the store knows.
            asked: When the store was asked; claims that were made since then stay.
        """
        board: dict[str, _Claim] = {}
        for node, what in found.items():
            absence, claim = what.absence, self._claims.get(node)
            if absence is not None and len(board) < MAX_NODES:
                before = self._board.get(node) or claim
                board[node] = _Claim(_steady(absence, before and before.absence), asked, asked + what.remaining)
            # A sign of life outlasts its node. While there is one, only what the node says itself ends its silence.
            silent = claim is not None and claim.absence.state not in ENDED_STATES
            if claim is not None and claim.made <= asked and not (what.has_heartbeat and silent):
                del self._claims[node]
        self._board = board

    def expire(self, now: float) -> None:
        """Drop what is over. O(absences)."""
        for claims in (self._claims, self._board):
            for node in [node for node, claim in claims.items() if now >= claim.ends]:
                del claims[node]

    def absences(self) -> dict[str, Absence]:
        """Return what is unaccounted for, by node."""
        return {node: claim.absence for node, claim in (self._board | self._claims).items()}

    def _claim(
        self,
        node: str,
        versions: Mapping[str, int] | None,
        state: AbsenceState,
        now: float,
        ends: float,
        wall: int,
    ) -> None:
        if node not in self._claims and len(self._claims) >= MAX_NODES:
            del self._claims[next(iter(self._claims))]
        counts = {} if versions is None else limited({v: n for v, n in versions.items() if n})
        if versions is not None and not counts:
            self._claims.pop(node, None)
            return  # it had no page
        total = None if versions is None else sum(counts.values())
        known = self._board.get(node) or self._claims.get(node)
        since = wall if known is None else known.absence.since
        self._claims[node] = _Claim(Absence(node, total, counts, state, since), now, ends)


def _steady(absence: Absence, before: Absence | None) -> Absence:
    """Keep the moment that was named before, unless it is another one: no look is exact to the millisecond."""
    if before is None:
        return absence
    # A node that lives writes again and again which streams it ended.
    again = absence.state in ENDED_STATES and absence.state == before.state
    if not again and abs(before.since - absence.since) >= _SAME:
        return absence
    return Absence(absence.node, absence.total, absence.versions, absence.state, before.since)
