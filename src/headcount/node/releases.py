"""
Which version is current: the one that was declared last, and when that was.

One object that the node and its view of the fleet are given: an operator declares a version here or on another node,
and whichever of two declarations is newer wins on all nodes.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ..core import messages
from ..core.fleet_messages import MAX_NUMBER, Released
from ..core.labels import parse_version
from ..core.payload import Payload
from ..errors import Malformed


def timestamp() -> int:
    """Return wall-clock milliseconds since 1970, for clients and other nodes; nothing is measured with it."""
    return time.time_ns() // 1_000_000


class ReleaseOutcome(NamedTuple):
    """
    What came of a declaration.

    Attributes:
        streams: How many it was sent to; 0 if the version was current already.
        reached: Nodes that declared it, this one included.
        expected: Nodes of the fleet, as far as is known.
        partial: A node was not reached, or it is not known which nodes there are.
        already_current: The version had been declared before, so that no stream had to be told.
    """

    streams: int
    reached: int
    expected: int
    partial: bool
    already_current: bool


class Releases:
    """
    The versions that were declared current.

    Args:
        own_version: The server's, which is current until one is declared.
        announce: Declares a version that another node declared, and sends it to every stream of this node.
        clock: Returns milliseconds since 1970.
    """

    def __init__(
        self, own_version: str, announce: Callable[[str, int], object], clock: Callable[[], int] = timestamp
    ) -> None:
        self.released: Released | None = None
        """The last declaration; None: there was none."""
        self._own_version = own_version
        self._clock = clock
        self._announce = announce

    @property
    def current(self) -> str:
        """The version that was declared last, else the server's own."""
        return self._own_version if self.released is None else self.released.version

    def message(self) -> Payload:
        """Return the message that tells a page which version is current."""
        return Payload(messages.version(self.current, self._clock()))

    def declare(self, version: str, number: int = 0) -> bool:
        """
        Declare a version current. To be called with the node's lock held.

        Args:
            version: From `parse_version`.
            number: When that was, as `Released` has it; 0: just now.

        Returns:
            Whether another version is current now, which must be sent to every stream. False for a declaration that is
            older than the last.
        """
        before = self.released
        if not number:
            number = max(self._clock(), 0 if before is None else before.number + 1)
        declared = Released(min(number, MAX_NUMBER), version)
        if before is not None and declared <= before:
            return False
        self.released = declared
        return before is None or before.version != version

    def learn(self, released: Released) -> None:
        """Apply what another node declared, unless it is older. A version that is malformed is ignored."""
        with suppress(Malformed):
            self._announce(parse_version(released.version), released.number)
