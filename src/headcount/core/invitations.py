"""
Which pages were asked to come to a new version, which wait for their turn, and what they said.

Every page draws a turn, a number from 0 to 1, and is asked when the share of the stage has reached it (core/stage.py).
A page whose stream opens while the share is `s` draws from `s` to 1: it is never asked at once, and with the same
chance as all that have not been asked yet. So when a server stops, its pages do not come all together where they
reconnect.

Tests: tests/core/test_invitations.py.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from .invitation_counts import InvitationCounts

MAX_AWAY: Final = 20_000
"""Pages that were asked, whose streams ended, and that are known again if they come back."""

AWAY: Final = 48.0
"""Seconds for which they are, as pages that are away (core/away_pages.py)."""

Reply: TypeAlias = Literal["accepted", "deferred", "refused"]
"""What a page says to an invitation: it reloads; a guard keeps it, for now; or its user does not want to."""

REASONS: Final = frozenset(
    {"guard", "form", "media", "dialog", "beforeunload", "storage", "early", "exhausted", "unserved"}
)
"""Why pages are kept, by the names of headcount-client/release. Others are counted as `other`."""


class Invitations:
    """
    The invitations of one node to one version: who has a turn, who was asked, and what they said.

    Memory is bounded by the open pages and `MAX_AWAY`. Not thread-safe, and without a clock.

    Args:
        random: Returns a number from 0 to 1, the latter excluded.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._start_over("")

    def _start_over(self, version: str) -> None:
        self.version = version
        self._turns: list[tuple[float, str]] = []
        """A heap. Pages that left stay in it until their turn, unless they are more than half of it."""
        self._waiting: dict[str, float] = {}
        """Pages that were not asked, with their turns."""
        self._elsewhere: set[str] = set()
        """Those of them whose turn has come, but that are on another route."""
        self._moved: set[str] = set()
        """Those of them that have navigated since."""
        self._asked: dict[str, Reply | str] = {}
        """What each open page that was asked said last: a `Reply`; `deferred:` and a reason; or nothing yet."""
        self._away: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """What pages that were asked had said when their streams ended, and when that was."""
        self._invited = 0
        self._final: Counter[str] = Counter()
        """How pages ended that are not open any more."""

    def begin(self, version: str) -> None:
        """Start anew for a version, unless it is the one that pages are asked to come to already."""
        if version != self.version:
            self._start_over(version)

    @property
    def is_idle(self) -> bool:
        """No page waits for its turn."""
        return not self._waiting

    def was_asked(self, page: str) -> bool:
        """Say whether an open page was asked already."""
        return page in self._asked

    def add(self, page: str, share: float) -> None:
        """Give an outdated page a turn, while the share has reached `share`, unless it has one or was asked."""
        if page in self._waiting or page in self._asked:
            return
        turn = share + (1.0 - share) * self._random()
        self._waiting[page] = turn
        heapq.heappush(self._turns, (turn, page))

    def due(self, share: float, is_on_route: Callable[[str], bool]) -> list[str]:
        """
        Return the pages that are to be asked now, and count them as asked.

        Args:
            share: That has been reached.
            is_on_route: Says whether a page is on the route of the stage.
        """
        came = [page for page in self._moved if page in self._elsewhere and is_on_route(page)]
        self._moved.clear()
        while self._turns and (self._turns[0][0] < share or share >= 1.0):
            turn, page = heapq.heappop(self._turns)
            if self._waiting.get(page) != turn:
                continue
            if is_on_route(page):
                came.append(page)
            else:
                self._elsewhere.add(page)
        for page in came:
            self._waiting.pop(page, None)
            self._elsewhere.discard(page)
            self._asked[page] = ""
        self._invited += len(came)
        return came

    def ask_now(self, page: str, share: float, is_on_route: Callable[[str], bool]) -> bool:
        """Count a page as asked if it is due. Returns whether it is. O(1)."""
        turn = self._waiting.get(page)
        if turn is None or not (turn < share or share >= 1.0):
            return False
        if not is_on_route(page):
            self._elsewhere.add(page)
            return False
        del self._waiting[page]
        self._elsewhere.discard(page)
        self._asked[page] = ""
        self._invited += 1
        self._trim()
        return True

    def note_asked(self, page: str) -> None:
        """Note that a page was asked before by another node, or by this one before it was started anew."""
        if page not in self._asked:
            self._waiting.pop(page, None)
            self._elsewhere.discard(page)
            self._asked[page] = ""
            self._invited += 1

    def navigated(self, page: str) -> None:
        """Note that a page is on another route now. O(1)."""
        if page in self._elsewhere:
            self._moved.add(page)

    def consider_again(self) -> None:
        """Give pages that were on another route their turns again: the stage has another route now."""
        for page in self._elsewhere:
            heapq.heappush(self._turns, (self._waiting[page], page))
        self._elsewhere.clear()

    def reply(self, page: str, reply: Reply, reason: str = "") -> bool:
        """Note what a page says. Returns False if it was not asked."""
        if page not in self._asked:
            return False
        if reply == "deferred":
            self._asked[page] = f"deferred:{reason if reason in REASONS else 'other'}"
        else:
            self._asked[page] = reply
        return True

    def discard(self, page: str, now: float, *, farewell: bool) -> None:
        """
        Forget a page whose stream ended.

        Args:
            page: Its id.
            now: Monotonic seconds.
            farewell: It will not come back.
        """
        if self._waiting.pop(page, None) is not None:
            self._elsewhere.discard(page)
            self._moved.discard(page)
            self._trim()
            return
        said = self._asked.pop(page, None)
        if said is None:
            return
        if farewell:
            self._end(said)
            return
        self._away[page] = said, now
        while len(self._away) > MAX_AWAY:
            self._end(self._away.popitem(last=False)[1][0])

    def came_back(self, before: str, page: str) -> None:
        """Note that a page, which is not added yet, has a new stream: it is still the one that was asked, or waited."""
        said = self._asked.pop(before, None)
        if said is None and (away := self._away.pop(before, None)) is not None:
            said = away[0]
        if said is not None:
            self._asked[page] = said
        elif (turn := self._waiting.pop(before, None)) is not None:
            self._elsewhere.discard(before)
            self._moved.discard(before)
            self._waiting[page] = turn
            heapq.heappush(self._turns, (turn, page))
            self._trim()

    def expire(self, now: float) -> None:
        """Count pages as gone that have not come back. O(pages that are gone)."""
        while self._away:
            page, (said, since) = next(iter(self._away.items()))
            if now - since < AWAY:
                return
            del self._away[page]
            self._end(said)

    def counts(self, number: int = 0) -> InvitationCounts:
        """Return what came of the invitations to the declaration with this number. O(pages that were asked)."""
        said = Counter(self._asked.values()) + Counter(reply for reply, _ in self._away.values())
        deferred = {name.partition(":")[2]: count for name, count in said.items() if name.startswith("deferred:")}
        return InvitationCounts(
            number,
            invited=self._invited,
            accepted=said["accepted"] + self._final["accepted"],
            refused=said["refused"] + self._final["refused"],
            deferred=deferred,
            silent=said[""],
            gone=self._final["gone"],
            waiting=len(self._waiting),
        )

    def _trim(self) -> None:
        """Drop turns of pages that are gone, once they are most of them."""
        if len(self._turns) > 2 * len(self._waiting) + 64:
            self._turns = [(turn, each) for each, turn in self._waiting.items() if each not in self._elsewhere]
            heapq.heapify(self._turns)

    def _end(self, said: str) -> None:
        self._final[said if said in ("accepted", "refused") else "gone"] += 1
