"""
Which version is current: the one that was declared last, and when that was.

A number that is far ahead could not be exceeded, and would stay for ever. So a node takes none from others that is more
than a day ahead of its own clock. What an operator declares here has a number above all that this node took.

One object that the node and its view of the fleet are given: an operator declares a version here or on another node,
and whichever of two declarations is newer wins on all nodes.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from ..core import messages
from ..core.current_version import SETTLED_RELEASE, CurrentRelease
from ..core.fleet_messages import Declaration
from ..core.invitation_counts import InvitationCounts
from ..core.labels import parse_build_id, parse_route
from ..core.payload import Payload
from ..core.stage import MAX_OVER
from ..errors import Malformed
from ..log_throttle import LogThrottle

MAX_AHEAD: Final = 86_400_000
"""Milliseconds by which a release of another node may be ahead of this node's clock."""

logger = logging.getLogger("headcount")


def timestamp() -> int:
    """Return wall-clock milliseconds since 1970, for clients and other nodes; nothing is measured with it."""
    return time.time_ns() // 1_000_000


UnreachedReason: TypeAlias = Literal["silent", "refused", "stranger", "disconnected"]
"""
Why a node did not declare a version: it did not answer in time; the release is dated too far ahead of its clock; it has
another secret and was not asked; or the node that was called cannot reach the backend.
"""


class UnreachedNode(NamedTuple):
    """A node that did not declare a version: its id, and why as far as is known."""

    node: str
    reason: UnreachedReason


class ReleaseOutcome(NamedTuple):
    """
    What came of a declaration.

    Attributes:
        version: The version.
        streams: How many it was sent to by now; 0 if the version was current already.
        reached: Nodes that declared it, this one included.
        expected: Nodes of the fleet, as far as is known.
        partial: A node was not reached, or it is not known which nodes there are.
        already_current: The version had been declared before, so that no stream had to be told.
        unreached: Nodes that are known and did not declare it.
    """

    version: str
    streams: int
    reached: int
    expected: int
    partial: bool
    already_current: bool
    unreached: tuple[UnreachedNode, ...] = ()


class Pace(NamedTuple):
    """
    How fast pages are asked to come to a version.

    Attributes:
        over: Milliseconds in which the share of pages that are asked grows to `until`.
        until: From 0 to 1.
        route: Only pages on this route are asked; empty: all.
    """

    over: int
    until: float = 1.0
    route: str = ""


def pace_of(over: float | None, percent: float | None, route: str | None) -> Pace | None:
    """
    Check how fast pages are to be asked.

    Args:
        over: Seconds from the first page to the last.
        percent: Of the outdated pages that are asked in the end.
        route: Only pages on this route are asked.

    Returns:
        None: all at once, which is so if nothing is given.

    Raises:
        Malformed: A value is out of range.
    """
    if over is None and percent is None and route is None:
        return None
    if over is not None and not 0 <= over <= MAX_OVER / 1_000:
        raise Malformed(f"over is {over:g}; send seconds, from 0 to {MAX_OVER // 1_000} (30 days).")
    if percent is not None and not 0 < percent <= 100:
        raise Malformed(f"percent is {percent:g}; send a number above 0 and up to 100.")
    return Pace(round(1_000 * (over or 0.0)), (percent or 100.0) / 100.0, "" if route is None else parse_route(route))


StageChange: TypeAlias = Literal["pause", "resume", "abort"]


class RolloutState(NamedTuple):
    """
    How far a release is.

    Attributes:
        released: The release, with its stage.
        progress: What came of the invitations of all nodes that answered.
        total: Open pages.
        outdated: Those that are not on the version; None: that is not known, because it is not current.
        reached: Nodes whose invitations are in `progress`.
        expected: Nodes of the fleet, as far as is known.
        partial: A node is missing from `progress` or from the figures.
        now: Milliseconds since 1970.
    """

    released: Declaration
    progress: InvitationCounts
    total: int
    outdated: int | None
    reached: int
    expected: int
    partial: bool
    now: int


class Releases:
    """
    The versions that were declared current.

    Args:
        own_version: The server's, which is current until one is declared.
        announce: Declares a version that another node declared, and sends it to every stream of this node.
        clock: Returns milliseconds since 1970.
    """

    def __init__(
        self, own_version: str, announce: Callable[[Declaration], object], clock: Callable[[], int] = timestamp
    ) -> None:
        self.released: Declaration | None = None
        """The last declaration; None: there was none."""
        self._own_version = own_version
        self._clock = clock
        self._announce = announce
        self._log_throttle = LogThrottle()
        self._message: tuple[tuple[int, Declaration | None], Payload] | None = None
        """The last message, with the second and the declaration that it is of."""

    @property
    def current(self) -> str:
        """The version that was declared last, else the server's own."""
        return self._own_version if self.released is None else self.released.version

    def now(self) -> int:
        """Return milliseconds since 1970."""
        return self._clock()

    @property
    def declared_at(self) -> int:
        """When the current release was declared first, in ms since 1970; 0: there was no declaration."""
        return 0 if self.released is None else self.released.release_id

    def message(self) -> Payload:
        """
        Return the message that tells a page which version is current.

        For a second it is the same object, so that the tabs which one report names get it in one message.
        """
        now, released = self._clock(), self.released
        if self._message is None or self._message[0] != (now // 1000, released):
            release = CurrentRelease("settled", self._own_version, SETTLED_RELEASE)
            if released is not None:
                release = CurrentRelease("declared", released.version, released.release_id)
            self._message = ((now // 1000, released), Payload(messages.version(release, now)))
        return self._message[1]

    def declare(self, release: Declaration) -> bool:
        """
        Declare a version current. To be called with the node's lock held.

        Args:
            release: Its version is from `parse_build_id`. Number 0: just now, which wins over all that was declared
                before.

        Returns:
            Whether another version is current now, or pages are asked at another pace. False for a declaration that
            is older than the last, or that `is_acceptable` refuses.
        """
        before = self.released
        number = release.number
        if number and not self.is_acceptable(number):
            return False
        if not number:
            number = max(self._clock(), 0 if before is None else before.number + 1)
        declared = msgspec.structs.replace(release, number=number)
        if before is not None and declared <= before:
            return False
        self.released = declared
        return before is None or before != msgspec.structs.replace(declared, number=before.number)

    def is_acceptable(self, number: int) -> bool:
        """Say whether a number of another node can be that of a release; if not, say so in the log."""
        ahead = number - self._clock()
        if ahead <= MAX_AHEAD:
            return True
        if (suppressed := self._log_throttle.suffix_if_due("ahead")) is not None:
            logger.warning(
                "Ignored a release of another node that is dated %d hours ahead of this machine's clock. Correct the "
                "clock that is wrong, then declare the release again.%s",
                ahead // 3_600_000,
                suppressed,
            )
        return False

    def learn(self, released: Declaration) -> None:
        """Apply what another node declared, unless it is older. A version that is malformed is ignored."""
        with suppress(Malformed):
            self._announce(msgspec.structs.replace(released, version=parse_build_id(released.version)))
